"""What the stages of finding cases hand to each other: items of a folder, what names tell of them, groups, the dataset found."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from nnseg.core.dataset import AS_FOUND, Case, Finding, Reading, Unused
from nnseg.core.errors import coded, split_code
from nnseg.core.labels import Labels
from nnseg.storage.datasets.dataset_json import Description

Role = Literal["", "image", "weak", "label"]
"""Of the files in a folder; weak for perhaps images."""

NUMBER = re.compile(r"\d{4}")
"""nnU-Net's numbers of channels."""

OFTEN = 0.5
"""Share of the cases in which a word must occur to name a channel or a label."""

LEFT_OUT = "left out by --images and --labels"
"""Why an image is not used."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """An image: a file of a known suffix, the folder of a series, or those files of one that belong to one volume.

    Args:
        path: of the file or folder.
        folders: names of the folders between the root and it.
        stem: its name without suffix.
        suffix: "" for a folder.
        files: of one volume, where a folder holds several.
        is_label: a label map by its format, such as DICOM-SEG.
        is_localiser: all its files are no scans by their format, as localisers; it may be used where there is nothing else.
    """

    path: Path
    folders: tuple[str, ...]
    stem: str
    suffix: str = ""
    files: tuple[Path, ...] = ()
    is_label: bool = False
    is_localiser: bool = False

    @property
    def images(self) -> tuple[Path, ...]:
        """What is read for it."""
        return self.files or (self.path,)

    @property
    def below(self) -> str:
        """Its path below the root, for patterns and messages."""
        return "/".join((*self.folders, self.path.name)) if not self.files else "/".join((*self.folders, self.stem))


@dataclass(kw_only=True)
class Tree:
    """What lies in a folder and its folders.

    Args:
        items: images, in the order of their paths.
        unread: files that are neither images nor their companions.
        hidden: number of hidden files and folders.
        companions: numbers of texts, tables and the like, by suffix.
        beside: of these, numbers of those that are read with an image, as its voxel size.
        no_scans: files of formats that are a folder of files, such as DICOM, that are no scans, with the reason.
        locked: folders that cannot be listed.
        own: what nnseg predict wrote there, beside label maps.
        passed: links that lead in rings, pipes and devices.
        visits: number of links to each folder that were met.
    """

    root: Path
    items: list[Item] = field(default_factory=list)
    unread: list[Path] = field(default_factory=list)
    hidden: int = 0
    companions: Counter[str] = field(default_factory=Counter)
    beside: Counter[str] = field(default_factory=Counter)
    locked: list[Path] = field(default_factory=list)
    no_scans: dict[Path, str] = field(default_factory=dict)
    own: list[Unused] = field(default_factory=list)
    passed: list[Unused] = field(default_factory=list)
    visits: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, kw_only=True)
class Named:
    """What the names of an image and of the folders above it tell.

    Args:
        role: of its folders.
        source: the words that give the folder this role, to tell "labels" from "masks".
        split: the part of a split that its folders name.
        place: the other words of its folders, folder by folder.
        words: of its name.
        rest: words without those of a role.
        has_label_word: one of its words marks a label map.
        observer: number of the observer that its name or folder gives; 0 if it gives none.
        derived: why it is neither scan nor label map; "" if it may be one.
    """

    item: Item
    role: Role
    source: str
    split: str
    place: tuple[str, ...]
    words: tuple[str, ...]
    rest: tuple[str, ...]
    has_label_word: bool
    observer: int
    derived: str


@dataclass(frozen=True, kw_only=True)
class Roles:
    """Which items are images, and which label maps.

    Args:
        by_folder: they lie in different folders.
        unused: items that are neither.
        views: of these, masks of fields of view.
        numbers: of these, numbers of the objects in label maps.
    """

    images: tuple[Named, ...]
    labels: tuple[Named, ...]
    by_folder: bool
    unused: tuple[Unused, ...] = ()
    views: tuple[Named, ...] = ()
    numbers: tuple[Named, ...] = ()


@dataclass(kw_only=True, eq=False)
class Group:
    """The images and label maps of what may be a case.

    Args:
        split: the part of a split that they lie in.
        base: the words that they share; () if they share a folder alone.
        place: that folder.
        name, subject: of the case and its patient, if the layout gives them.
    """

    split: str
    base: tuple[str, ...]
    images: list[Named] = field(default_factory=list)
    labels: list[Named] = field(default_factory=list)
    place: tuple[str, ...] = ()
    name: str = ""
    subject: str = ""


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """Images and label maps in groups, and those without a partner.

    Args:
        inferred: what was concluded besides, in one line each.
    """

    groups: tuple[Group, ...]
    images: tuple[Named, ...]
    labels: tuple[Named, ...]
    inferred: tuple[str, ...] = ()


@dataclass(kw_only=True)
class Channels:
    """The channels of a dataset, and each case's images in their order.

    Args:
        names: in order; () where every case has one file.
        images: by the ``id`` of the group.
        problems: of groups that cannot be used.
    """

    names: tuple[str, ...] = ()
    images: dict[int, tuple[Named, ...]] = field(default_factory=dict)
    problems: dict[int, str] = field(default_factory=dict)
    unused: list[Unused] = field(default_factory=list)

    @property
    def numbered(self) -> bool:
        """The names are nnU-Net's numbers."""
        return bool(self.names) and all(NUMBER.fullmatch(name) for name in self.names)


@dataclass(kw_only=True)
class LabelSets:
    """The label maps of all cases.

    Args:
        coding: "values" for one label map a case, "masks" for a file of each label, "instances" for a file of each object.
        kinds: of masks, names of the labels.
        maps: of each group, by its ``id``, files by kind.
        problems: of groups that cannot be used.
    """

    coding: Literal["values", "masks", "instances"] = "values"
    kinds: tuple[str, ...] = ()
    maps: dict[int, dict[str, Named]] = field(default_factory=dict)
    problems: dict[int, str] = field(default_factory=dict)
    unused: list[Unused] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class FoundDataset:
    """What a dataset folder holds, before any image was opened.

    Args:
        cases: usable by their names, sorted.
        description: of its dataset.json, if it has one.
        labels: if names of files tell them.
        channels: names, if names of files tell them.
        inferred: what was concluded from names, in one line each.
        unused: what lies there besides.
        reading: the options that it was found with.
    """

    layout: str
    cases: tuple[Case, ...]
    findings: tuple[Finding, ...]
    description: Description | None
    labels: Labels | None = None
    channels: tuple[str, ...] = ()
    inferred: tuple[str, ...] = ()
    unused: tuple[Unused, ...] = ()
    reading: Reading = AS_FOUND

    @property
    def declared(self) -> Labels | None:
        """The labels that a dataset.json or names of files tell."""
        return (self.description.labels if self.description else None) or self.labels


def divide(named: Iterable[Named], first: Callable[[Named], bool]) -> tuple[tuple[Named, ...], tuple[Named, ...]]:
    """Those for which it is true, and the others."""
    ones, others = list[Named](), list[Named]()
    for one in named:
        (ones if first(one) else others).append(one)
    return tuple(ones), tuple(others)


def not_used(named: Iterable[Named], reason: str = "") -> tuple[Unused, ...]:
    """Items that are not used; without a reason for the one in their names."""
    return tuple(Unused(path=path, reason=reason or one.derived) for one in named for path in one.item.images)


def same_name(paths: Iterable[Path]) -> str:
    """The problem of files that have one name, perhaps but for upper and lower case."""
    files = sorted(paths)
    stems = {path.name.split(".")[0] for path in files}
    cased = len(stems) > 1 and len({stem.casefold() for stem in stems}) == 1
    code = "NS-D010" if cased else "NS-D009" if len(stems) == 1 else "NS-D011"
    text = f"{' and '.join(path.name for path in files)} {'differ in upper and lower case only' if cased else 'share one name'}"
    return coded(f"{text}; expected one file per case and channel; remove or rename one", code)


def case_error(kind: str, problem: str, *, case: str, file: Path) -> Finding:
    """What is wrong with a case, which is not used; of a kind, unless the problem ends in another code."""
    message, code = split_code(problem)
    return Finding.of(code or kind, message, case=case, file=file)


def wrong_count(description: Description, count: int) -> list[Finding]:
    """A note if a description gives another number of cases."""
    if description.count in (None, count):
        return []
    message = f"numTraining is {description.count}, but there are {count} cases; the number was ignored"
    return [Finding.of("NS-D022", message, file=description.path)]
