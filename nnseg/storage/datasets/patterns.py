"""Patterns of paths, as ``--images`` and ``--labels`` take them, and what paths have in common."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from nnseg.storage.datasets.items import Item


def matches(item: Item, pattern: str) -> bool:
    """True if an item lies in a folder below the root, or its path or name fits a glob pattern; ``**/`` is any folders."""
    wanted = pattern.strip().removeprefix("./").rstrip("/")
    if any("/".join(item.folders[:end]) == wanted for end in range(1, len(item.folders) + 1)):
        return True
    return bool(re.fullmatch(_expression(wanted), item.below)) or ("/" not in wanted and fnmatchcase(item.path.name, wanted))


def _expression(pattern: str) -> str:
    """A regular expression for a glob pattern of paths."""
    parts = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(parts.get(piece, re.escape(piece)) for piece in re.split(r"(\*\*/|\*\*|\*|\?)", pattern))


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
