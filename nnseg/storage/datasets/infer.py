"""Inference of a dataset from the names of its files and folders: cases, channels, labels, and what is not used."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnseg.core.dataset import AS_FOUND, Case, Finding, Reading, Unused, counted, shown
from nnseg.core.errors import DatasetError
from nnseg.core.label_files import OBJECT, LabelFiles, LabelSource
from nnseg.core.labels import Labels
from nnseg.storage.datasets.channels import Channels, find_channels, same_name
from nnseg.storage.datasets.dataset_json import Description
from nnseg.storage.datasets.label_sets import LabelSets, choose_label_maps
from nnseg.storage.datasets.names import Named, is_role_word, split_words, stem_start
from nnseg.storage.datasets.pairing import Group, pair
from nnseg.storage.datasets.roles import Roles, assign_roles, divide, not_used
from nnseg.storage.datasets.tree import Tree

PICTURES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".gif"))
"""Suffixes of pictures, which are no scans where these are volumes."""

NNUNET_FOLDERS = (("imagesTr",), ("labelsTr",))


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


def infer(tree: Tree, description: Description | None, reading: Reading) -> FoundDataset | None:
    """The dataset that names of files and folders show; None if none of them marks a label map.

    Raises:
        DatasetError: the names can be read in several ways; the message has the options that decide.
    """
    roles = assign_roles(tree, reading)
    if not roles.labels or not roles.images:
        return None
    pairing = pair(roles.images, roles.labels, by_folder=roles.by_folder)
    if not pairing.groups and not roles.by_folder:
        return None
    return assemble(tree, roles, pairing.groups, (pairing.images, pairing.labels), description, reading)


def assemble(
    tree: Tree,
    roles: Roles,
    groups: Sequence[Group],
    loose: tuple[Sequence[Named], Sequence[Named]],
    description: Description | None,
    reading: Reading,
    *,
    layout: str = "",
) -> FoundDataset:
    """The dataset of groups.

    Args:
        loose: images and label maps that are in no group.
        layout: its name; "" for one made of the names of the folders.
    """
    declared = description.channels if description else ()
    sets = choose_label_maps(tree.root, groups)
    without = not_used((one for group in groups if id(group) not in sets.maps for one in group.images), "no label map")
    groups = [group for group in groups if id(group) in sets.maps]
    channels = find_channels(tree.root, groups, wanted=reading.channels, count=len(declared) or None)
    labels = mask_labels(sets, description)
    names = dict(zip(map(id, groups), case_names(groups, channels), strict=True))
    problems = {**sets.problems, **channels.problems}
    findings = [_error(p, case=names[k], file=_first_file(groups, k)) for k, p in problems.items()]
    more, unused = _loose_findings(tree, roles, loose, channels)
    splits = _splits(groups)
    cases = [
        Case(
            name=names[id(group)],
            images=tuple(path for one in channels.images[id(group)] for path in one.item.images),
            labels=_source(sets, sets.maps[id(group)], labels),
            subject=_subject(group),
            split=splits[group.split],
        )
        for group in groups
        if id(group) not in problems
    ]
    findings += more
    findings += [
        _missing_masks(names[key], maps, sets.kinds)
        for key, maps in sets.maps.items()
        if sets.kinds and len(maps) < len(sets.kinds)
    ]
    if description:
        training = sum(group.split in ("", "training") for group in groups)
        findings += wrong_count(description, training + len({f.case for f in more if "no label map" in f.message}))
    return FoundDataset(
        layout=layout or _layout(roles, groups, sets, description),
        cases=tuple(cases),
        findings=tuple(findings),
        description=description,
        labels=labels,
        channels=() if channels.numbered else channels.names,
        inferred=_inferred(groups, channels, sets, cases),
        unused=(*roles.unused, *without, *channels.unused, *sets.unused, *unused, *tree.unused()),
    )


def mask_labels(sets: LabelSets, description: Description | None) -> Labels | None:
    """The labels of masks: those of a description, or else numbered by their sorted names.

    Raises:
        DatasetError: the description does not name one of them.
    """
    if sets.coding == "values":
        return None
    if not (description and description.labels):
        names = sets.kinds or (OBJECT,)
        return Labels(names=("background", *names), values=tuple(range(len(names) + 1)))
    missing = [kind for kind in sets.kinds if kind not in description.labels.names]
    if missing:
        found = f'"labels" does not name {shown(missing, 4)}, of which there are masks'
        raise DatasetError.at(description.path, found, f"the {len(sets.kinds)} names of the masks", 'complete "labels"')
    return description.labels


def _source(sets: LabelSets, maps: dict[str, Named], labels: Labels | None) -> LabelSource:
    """The label map of a case, of one file or of masks."""
    paths = tuple(one.item.path for one in maps.values())
    if labels is None:
        return paths[0]
    if sets.coding == "instances":
        return LabelFiles(paths=tuple(sorted(paths)), coding="instances", values={OBJECT: labels.values[1]})
    kinds = sorted(maps, key=str.casefold)
    values = {str(i): labels.values[labels.names.index(kind)] for i, kind in enumerate(kinds)}
    return LabelFiles(paths=tuple(maps[kind].item.path for kind in kinds), coding="masks", values=values)


def case_names(groups: Sequence[Group], channels: Channels) -> list[str]:
    """A name of each case: of its only image, of the words that its files share, or of its folder; unique."""
    short = [_short_name(group, len(channels.names)) for group in groups]
    places = ["_".join(group.place or group.images[0].place) for group in groups]
    counts = Counter(name.casefold() for name in short)
    longer = [
        name if counts[name.casefold()] == 1 else "_".join(filter(None, (place if name not in place else "", name))) or place
        for name, place in zip(short, places, strict=True)
    ]
    counts = Counter(name.casefold() for name in longer)
    return [
        name if counts[name.casefold()] == 1 else "_".join(filter(None, (group.split, place, name)))
        for name, place, group in zip(longer, places, groups, strict=True)
    ]


def _short_name(group: Group, channels: int) -> str:
    first = group.images[0]
    if group.name:
        return group.name
    if not group.base:
        return group.place[-1] if group.place else first.item.stem
    if channels < 2 and len(group.images) == 1 and not _numbered(first, len(group.base)):
        return first.item.stem
    return stem_start(first.item.stem, len(group.base))


def _numbered(image: Named, words: int) -> bool:
    last = image.words[words:]
    return len(last) == 1 and len(last[0]) == 4 and last[0].isdecimal()


def _subject(group: Group) -> str:
    """The folder of a case, if its files bear the folder's name or no other."""
    if group.subject:
        return group.subject
    first, place = group.images[0], group.place or group.images[0].place
    folder = place[-1] if place else ""
    return folder if folder and (not group.base or first.item.stem.startswith(folder)) else ""


def _splits(groups: Sequence[Group]) -> dict[str, str]:
    """The part of a split that each folder's word means; none if all cases would be in one part."""
    found = {group.split for group in groups}
    meant = {"": "", "training": "", "validation": "validation", "test": "test"}
    return dict.fromkeys(found, "") if not found & {"", "training"} else meant


def _first_file(groups: Sequence[Group], key: int) -> Path:
    return next(group.images[0].item.path for group in groups if id(group) == key)


def _loose_findings(
    tree: Tree, roles: Roles, loose: tuple[Sequence[Named], Sequence[Named]], channels: Channels
) -> tuple[list[Finding], list[Unused]]:
    """Errors for images and label maps without a partner; images of a part without any label map are just not used."""
    images, labels = loose
    labelled = {one.split for one in roles.labels}
    images, others = divide(images, lambda one: one.split in labelled)
    unused = [*not_used(others, f"no label map: {others[0].split or 'other'} scans")] if others else []
    if any(one.item.suffix not in PICTURES for one in roles.images):
        images, pictures = divide(images, lambda one: one.item.suffix not in PICTURES or one.role == "image")
        unused += not_used(pictures, "a picture among volumes")
    by_name = defaultdict[tuple[str, ...], list[Named]](list)
    for one in images:
        by_name[(*one.place, _loose_name(one, channels))].append(one)
    findings = [_no_label_map(tree, name, ones, roles) for (*_, name), ones in by_name.items()]
    findings += [_no_image(tree, one, roles) for one in labels]
    return findings, unused


def _loose_name(one: Named, channels: Channels) -> str:
    """The name that a case of this image would have."""
    for name in channels.names:
        count = len(split_words(name))
        if [w.casefold() for w in one.words[-count:]] == [w.casefold() for w in split_words(name)]:
            return (
                stem_start(one.item.stem, len(one.words) - count)
                if len(one.words) > count
                else one.place[-1]
                if one.place
                else name
            )
    if _numbered(one, len(one.words) - 1):
        return stem_start(one.item.stem, len(one.words) - 1)
    return one.item.stem if one.rest or not one.place else one.place[-1]


def _no_label_map(tree: Tree, name: str, ones: Sequence[Named], roles: Roles) -> Finding:
    first = ones[0].item.path
    paths = [one.item.path for one in ones]
    if len({p.name.casefold().split(".")[0] for p in paths}) == 1 < len(paths) and len({one.words for one in ones}) == 1:
        return _error(same_name(paths), case=name, file=first)
    where = (
        f"{name} in {roles.labels[0].item.path.parent.name}/" if roles.by_folder else "one, named as those of the other cases are"
    )
    return _error(f"image {first} has no label map; expected {where}; add it or remove the image", case=name, file=first)


def _no_image(tree: Tree, one: Named, roles: Roles) -> Finding:
    path = one.item.path
    name = "_".join(one.rest) if not roles.by_folder else one.item.stem
    where = f"{name} in {roles.images[0].item.path.parent.name}/" if roles.by_folder else "one whose name begins alike"
    return _error(f"label map {path} has no image; expected {where}; add the image or remove the label map", case=name, file=path)


def _missing_masks(case: str, maps: dict[str, Named], kinds: Sequence[str]) -> Finding:
    missing = [kind for kind in kinds if kind not in maps]
    message = f"has no mask of {shown(missing)}, which counts as absent; check it"
    return Finding(level="warning", message=message, case=case, file=str(next(iter(maps.values())).item.path.parent))


def wrong_count(description: Description, count: int) -> list[Finding]:
    """A note if a description gives another number of cases."""
    if description.count in (None, count):
        return []
    message = f"numTraining is {description.count}, but there are {count} cases; the number was ignored"
    return [Finding(level="note", message=message, file=str(description.path))]


def _error(message: str, *, case: str, file: Path) -> Finding:
    return Finding(level="error", message=message, case=case, file=str(file))


def _folder_of(one: Named) -> str:
    """A pattern of the folder of an item, with * for the folders of cases."""
    return "/".join("*" if folder in one.place else folder for folder in one.item.folders)


def _layout(roles: Roles, groups: Sequence[Group], sets: LabelSets, description: Description | None) -> str:
    image, label = roles.images[0], roles.labels[0]
    if groups:
        image, label = groups[0].images[0], next(iter(sets.maps[id(groups[0])].values()))
    images, labels = (one.item.folders for one in (image, label))
    if description and (images, labels) == NNUNET_FOLDERS and description.channels:
        return "nnU-Net raw layout"
    if len({one.place for one in roles.images}) > 1:
        return "layout of a folder for each case"
    if roles.by_folder and images and labels:
        return f"pair of folders layout ({'/'.join(images)}/ and {'/'.join(labels)}/)"
    return "layout of images and label maps in one folder"


def _inferred(groups: Sequence[Group], channels: Channels, sets: LabelSets, cases: Sequence[Case]) -> tuple[str, ...]:
    """What was concluded, one fact a line."""
    lines = _sources(groups, channels, sets) if groups else []
    if sets.coding == "masks":
        lines.append(f"{counted(len(sets.kinds), 'label')} from the names of masks: {shown(sets.kinds, 4)}")
    if sets.coding == "instances":
        lines.append("a label map is several masks, one for each object")
    subjects = {case.subject for case in cases if case.subject}
    if subjects:
        several = f"cases of {counted(len(subjects), 'patient')}" if len(cases) > len(subjects) else "cases, one in each folder"
        lines.append(f"{len(cases)} {several}" if len(cases) > 1 else "1 case")
    parts = Counter(case.split for case in cases if case.split)
    lines += [f"{counted(n, 'case')} for {part} by the names of folders" for part, n in sorted(parts.items())]
    return tuple(lines)


def _sources(groups: Sequence[Group], channels: Channels, sets: LabelSets) -> list[str]:
    """Where images, channels and label maps are; nothing for equal names in two folders, which the layout names."""
    images = [one for group in groups for one in channels.images[id(group)]]
    maps = [one for group in groups for one in sets.maps[id(group)].values()]
    if sets.coding == "values" and len(images) == len(maps) and all(map(_alike, images, maps)):
        return []
    from_maps = f"label maps from {_patterns(maps)}"
    if not channels.names or channels.numbered:
        return [f"images from {_patterns(images)}", from_maps]
    first = channels.images[id(max(groups, key=lambda group: len(channels.images[id(group)])))]
    keep = {word.casefold() for name in channels.names for word in split_words(name)}
    shapes = dict.fromkeys(_pattern(one, keep) for one in first)
    return [f"channels {', '.join(channels.names)} from the names {', '.join(shapes)}", from_maps]


def _alike(image: Named, label: Named) -> bool:
    """True for files of one name in two folders; 3D Slicer's p.seg.nrrd counts as p.nrrd."""
    return not image.place and not label.place and label.role == "label" and image.words in (label.words, label.rest)


def _patterns(items: Sequence[Named]) -> str:
    """Patterns that the paths of items fit, at most three."""
    patterns = Counter(map(_pattern, items))
    listed = [pattern for pattern, _ in patterns.most_common(3)]
    return ", ".join(listed) + (", ..." if len(patterns) > 3 else "")


def _pattern(one: Named, keep: Collection[str] = ()) -> str:
    """The path of an item with * for what tells cases apart.

    Args:
        keep: words, in lower case, that do not.
    """
    if not keep and one.role == "label":
        stem = "*"
    elif not one.rest:
        stem = one.item.stem
    else:
        pieces = re.split(r"([^A-Za-z0-9]+)", one.item.stem)
        stem = "".join(p if i % 2 or p.casefold() in keep or is_role_word(p) else "*" for i, p in enumerate(pieces))
        stem = re.sub(r"\*([^A-Za-z0-9]+\*)+", "*", stem)
    return "/".join(filter(None, (_folder_of(one), f"{stem}{one.item.suffix}")))
