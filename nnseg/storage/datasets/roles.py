"""Which files are images and which are label maps: by patterns that were given, by names of folders, or by names of files."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from nnseg.core.dataset import Reading, Unused
from nnseg.core.errors import DatasetError
from nnseg.storage.datasets.names import Named, common_start, read_names
from nnseg.storage.datasets.tree import Item, Tree

BESIDE = "lies beside the images and label maps"
LEFT_OUT = "left out by --images and --labels"


@dataclass(frozen=True, kw_only=True)
class Roles:
    """Which items are images, and which label maps.

    Args:
        by_folder: they lie in different folders.
        unused: items that are neither.
    """

    images: tuple[Named, ...]
    labels: tuple[Named, ...]
    by_folder: bool
    unused: tuple[Unused, ...] = ()


def assign_roles(tree: Tree, reading: Reading) -> Roles:
    """The roles of all items of a folder.

    Raises:
        DatasetError: no item fits a given pattern.
    """
    named = read_all_names(tree)
    if reading.images or reading.labels:
        return _roles_by_pattern(tree.root, named, reading)
    usable, derived = divide(named, lambda one: not one.derived)
    by_role = defaultdict[str, list[Named]](list)
    for one in usable:
        by_role[one.role].append(one)
    if not by_role["label"]:
        images, labels = divide(usable, lambda one: not one.has_label_word)
        return Roles(images=images, labels=labels, by_folder=False, unused=not_used(derived))
    plain, marked = divide(by_role[""], lambda one: not one.has_label_word)
    if images := tuple(by_role["image"] or by_role["weak"]):
        beside = [*(by_role["weak"] if by_role["image"] else ()), *by_role[""]]
        return Roles(
            images=images,
            labels=tuple(by_role["label"]),
            by_folder=True,
            unused=(*not_used(derived), *not_used(beside, BESIDE)),
        )
    return Roles(images=plain, labels=(*by_role["label"], *marked), by_folder=True, unused=not_used(derived))


def read_all_names(tree: Tree) -> list[Named]:
    """What the names of all items tell, without the folders that all of them share."""
    folders = [item.folders for item in tree.items]
    skip = 0
    while folders and len({names[: skip + 1] for names in folders}) == 1 and all(len(names) > skip for names in folders):
        skip += 1
    return [read_names(item, skip=skip) for item in tree.items]


def divide(named: Iterable[Named], first: Callable[[Named], bool]) -> tuple[tuple[Named, ...], tuple[Named, ...]]:
    """Those for which it is true, and the others."""
    ones, others = list[Named](), list[Named]()
    for one in named:
        (ones if first(one) else others).append(one)
    return tuple(ones), tuple(others)


def not_used(named: Iterable[Named], reason: str = "") -> tuple[Unused, ...]:
    """Items that are not used; without a reason for the one in their names."""
    return tuple(Unused(path=path, reason=reason or one.derived) for one in named for path in one.item.images)


def _roles_by_pattern(root: Path, named: Sequence[Named], reading: Reading) -> Roles:
    """Roles by ``--images`` and ``--labels``; where one of them is not given, by names."""
    labels = _fitting(root, named, "labels", reading.labels)
    images = [one for one in _fitting(root, named, "images", reading.images) if one not in labels]
    rest = [one for one in named if one not in labels and one not in images and not one.derived]
    if not reading.images:
        no_labels = [one for one in rest if one.role != "label"]
        images = [one for one in no_labels if one.role] or [one for one in no_labels if not one.has_label_word] or no_labels
    elif not reading.labels:
        labels = [one for one in rest if one.role == "label"] or [one for one in rest if one.has_label_word]
    chosen = {id(one) for one in (*images, *labels)}
    left = [one for one in named if id(one) not in chosen]
    unused = tuple(u for one in left for u in not_used([one], one.derived or LEFT_OUT))
    apart = {one.item.path.parent for one in images}.isdisjoint(one.item.path.parent for one in labels)
    return Roles(images=tuple(images), labels=tuple(labels), by_folder=apart and len(images) > 1, unused=unused)


def _fitting(root: Path, named: Sequence[Named], option: str, pattern: str) -> list[Named]:
    found = [one for one in named if matches(one.item, pattern)] if pattern else []
    found = [one for one in found if not one.derived] or found
    if pattern and not found:
        raise DatasetError.at(root, f'no image fits --{option} "{pattern}"', "a folder or a pattern below it", "correct it")
    return found


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
