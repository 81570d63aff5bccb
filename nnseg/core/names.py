"""Names from data: whether one can be the name of a file, how it is shown, and how those of two datasets are matched."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, PlainSerializer

LONGEST_NAME = 200
"""Bytes of the name of a case in UTF-8: a file's may have 255, with a suffix, and while it is written with a prefix."""

COMPARED = 100
"""Letters of a misspelt word that are compared with known ones, which takes as long as the product of both lengths."""

_LONGEST_FILE_NAME = 255

_DEVICES = frozenset(
    {"con", "prn", "aux", "nul", *(f"{port}{digit}" for port in ("com", "lpt") for digit in "123456789\u00b9\u00b2\u00b3")}
)
"""Names that mean a device, with any suffix. Source: Microsoft, "Naming Files, Paths, and Namespaces"."""

_UNSHOWN = ("Cc", "Cs", "Zl", "Zp")
"""Unicode's categories of control characters, bytes that are no text, and separators of lines and paragraphs."""

_TURNS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that change the direction of the text after them. Source: Unicode Standard Annex 9."""


def fault_of_name(name: str, longest: int = LONGEST_NAME) -> str:
    """Why a name cannot be that of a case, whose files lie in the folder that they are written to; "" if it can."""
    if not name.isprintable() and any(_is_unshown(letter) for letter in name):
        return "has control characters, or bytes that are no text"
    if not name.strip():
        return "is empty"
    if "/" in name or "\\" in name or name in (".", "..") or re.match(r"[A-Za-z]:", name):
        return "is a path"
    if name.split(".", maxsplit=1)[0].rstrip().casefold() in _DEVICES:
        return "is the name of a device in Windows"
    if (size := len(name.encode())) > longest:
        return f"has {size} bytes, and {longest} are allowed"
    return ""


def fault_of_case(name: str, files: Iterable[Path]) -> str:
    """Why a case cannot have this name and these files, whose paths are recorded as text; "" if it can."""
    texts = (str(file) for file in files)
    readable = all(text.isprintable() or text == text.encode(errors="ignore").decode() for text in texts)
    return fault_of_name(name) or ("" if readable else "is in a folder whose own name has bytes that are no text")


def printable(text: str, *, lines: bool = False) -> str:
    """Text as it can be printed: what would steer a terminal is written as in Python, such as ``\\x1b``.

    Args:
        lines: line feeds and tabs stay.
    """
    kept = "\n\t" if lines else ""
    if text.isprintable():
        return text
    return "".join(ascii(c)[1:-1] if _is_unshown(c) and c not in kept else c for c in text)


def shortened(name: str, longest: int = LONGEST_NAME) -> str:
    """A name of at most so many bytes: itself, or its beginning with a digest of the whole."""
    whole = name.encode(errors="surrogateescape")
    if len(whole) <= longest:
        return name
    return f"{whole[: longest - 17].decode(errors='ignore')}~{hashlib.blake2b(whole, digest_size=8).hexdigest()}"


def nearest_name(word: str, known: Iterable[str]) -> str:
    """The known name that a misspelt word is most likely to mean; "" if none is near."""
    names = {name.casefold(): name for name in known}
    return next((names[near] for near in get_close_matches(word[:COMPARED].casefold(), names, n=1)), "")


def _is_unshown(letter: str) -> bool:
    return unicodedata.category(letter) in _UNSHOWN or letter in _TURNS


def _checked(name: str) -> str:
    return _checked_file(name, LONGEST_NAME)


def _checked_file(name: str, longest: int = _LONGEST_FILE_NAME) -> str:
    if fault := fault_of_name(name, longest):
        raise ValueError(f'the name "{printable(name)}" {fault}')
    return name


CaseName = Annotated[str, AfterValidator(_checked)]
"""The name of a case in a file that is read: it cannot leave the folder that its files are written to."""

FileName = Annotated[str, AfterValidator(lambda name: name and _checked_file(name))]
"""The name of a file in a folder, in a file that is read; "" for none."""


def match_names(names: Sequence[str], known: Sequence[str]) -> tuple[int | None, ...]:
    """The place of each name among known ones: that of the same name, or of the only one that differs in case and separators.

    Example:
        ``match_names(["Left kidney", "tumour"], ["liver", "left_kidney"]) == (1, None)``
    """
    plain = [_plain(name) for name in known]
    counts = Counter(plain)
    of_plain, of_name = ({name: place for place, name in reversed([*enumerate(some)])} for some in (plain, known))
    exact = set(names) & set(known)

    def find(name: str) -> int | None:
        if name in exact:
            return of_name[name]
        place = of_plain[_plain(name)] if counts[_plain(name)] == 1 else None
        return None if place is None or known[place] in exact else place

    found = [find(name) for name in names]
    times = Counter(found)
    return tuple(place if times[place] == 1 or name in exact else None for name, place in zip(names, found, strict=True))


def match_channels(names: Sequence[str], known: Sequence[str]) -> tuple[int | None, ...]:
    """The place of each channel among known ones, as `match_names`; in order if as many are all different: renamed.

    Example:
        ``match_channels(["channel 0", "channel 1"], ["T1", "T2"]) == (0, 1)``
    """
    places = match_names(names, known)
    if tuple(names) == tuple(known) or (len(names) == len(known) and not any(place is not None for place in places)):
        return tuple(range(len(names)))
    return places


def _plain(name: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", name.casefold()))


PrintableText = Annotated[str, AfterValidator(printable)]
"""Text that may have names of files in it."""

PrintablePath = Annotated[Path, PlainSerializer(lambda path: printable(str(path)), return_type=str, when_used="json")]
"""A path for people, which may be no text."""


def split_names(text: str | None) -> tuple[str, ...]:
    """Names separated by commas, without the blanks around them."""
    return tuple(name for part in (text or "").split(",") if (name := part.strip()))
