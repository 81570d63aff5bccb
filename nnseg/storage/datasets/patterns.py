"""Patterns of paths, as ``--images`` and ``--labels`` take them, and what paths have in common."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
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
