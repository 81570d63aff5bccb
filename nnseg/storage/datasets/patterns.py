"""Patterns of paths, as ``--images`` and ``--labels`` take them, and what paths have in common."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from nnseg.core.dataset import Reading
from nnseg.core.errors import DatasetError
from nnseg.storage.datasets.items import Item, Tree


def fit_patterns(tree: Tree, reading: Reading) -> Reading:
    """What is asked for, with paths as a shell completes them, ``DATASET/images`` say, as patterns below the folder.

    Raises:
        DatasetError: no item fits a pattern.
    """
    return reading.model_copy(update={name: _fitting(tree, name, getattr(reading, name)) for name in ("images", "labels")})


def _fitting(tree: Tree, option: str, pattern: str) -> str:
    if not pattern or any(_matches(item, pattern) for item in tree.items):
        return pattern
    return ",".join(_below(tree, option, part.strip()) for part in pattern.split(","))


def _below(tree: Tree, option: str, pattern: str) -> str:
    for text in (pattern, Path(os.path.relpath(pattern or ".", tree.root)).as_posix()):
        if any(_matches(item, text) for item in tree.items):
            return text
    expected = 'a folder below it, or a pattern of paths below it, such as "**/name*"'
    first = f"; the first of {len(tree.items)} images is {tree.items[0].below}" if tree.items else ""
    raise DatasetError.at(tree.root, f'no image fits --{option} "{pattern}"', expected, f"correct it{first}")


def matches(item: Item, pattern: str) -> bool:
    """True if an item lies in a folder below the root, or its path or name fits a glob pattern; ``**/`` is any folders.

    Args:
        pattern: or several, separated by commas.
    """
    return _matches(item, pattern) or ("," in pattern and any(_matches(item, part) for part in pattern.split(",")))


def _matches(item: Item, pattern: str) -> bool:
    wanted = pattern.strip().removeprefix("./").rstrip("/")
    if any("/".join(item.folders[:end]) == wanted for end in range(1, len(item.folders) + 1)):
        return True
    return _fits(item.below, wanted) or ("/" not in wanted and fnmatchcase(item.path.name, wanted))


_WILDCARDS = re.compile(r"(\*\*/|\*\*|\*|\?)")


def _fits(path: str, pattern: str) -> bool:
    """True if a glob pattern fits a path: found from left to right, since a regular expression of many wildcards takes for ever."""
    ends, whole = {0}, len(path)  # of the beginnings of the path that the pattern's pieces so far fit
    for piece in _WILDCARDS.split(pattern):
        if not ends:
            return False
        if piece == "**/":
            ends |= {place + 1 for place in range(min(ends), whole) if path[place] == "/"}
        elif piece == "**":
            ends = set(range(min(ends), whole + 1))
        elif piece == "*":
            ends = _ends_in_folder(path, ends)
        elif piece == "?":
            ends = {end + 1 for end in ends if path[end : end + 1] not in ("", "/")}
        else:
            ends = {end + len(piece) for end in ends if path.startswith(piece, end)}
    return whole in ends


def _ends_in_folder(path: str, starts: Collection[int]) -> set[int]:
    """All places from one of the starts to the end of its folder's name."""
    ends, last = set[int](), -1
    for start in sorted(starts):
        if start > last:
            last = path.find("/", start) if "/" in path[start:] else len(path)
            ends.update(range(start, last + 1))
    return ends


def pattern_of(files: Sequence[str]) -> str:
    """A pattern that only the first of some files fits: its folder, the end of its name, or its name."""
    folder, _, name = files[0].rpartition("/")
    others = [file.rpartition("/") for file in files[1:]]
    if folder and all(other != folder for other, _, _ in others):
        return f'"{folder}"'
    end = "*" + name[common_start([tuple(name), *(tuple(other) for _, _, other in others)]) :]
    unique = len(end) < len(name) and not any(fnmatchcase(other, end) for _, _, other in others)
    return f'"{"**/" if folder else ""}{end if unique else name}"'


def common_start(paths: Sequence[tuple[str, ...]]) -> int:
    """Number of first words, without case, that all have."""
    length = 0
    while all(len(path) > length for path in paths) and len({path[length].casefold() for path in paths}) == 1:
        length += 1
    return length
