"""Inference of a dataset from the names of its files and folders: cases, channels, labels, and what is not used.

Each stage is a module that knows none of the others: roles, pairing (or BIDS' entities), label maps, channels, names of cases.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from nnseg.core.dataset import Case, Finding, Reading, Unused, list_some
from nnseg.core.errors import DatasetError
from nnseg.core.label_files import OBJECT, LabelFiles, LabelSource
from nnseg.core.labels import Labels
from nnseg.storage.datasets.bids import common_suffix, group_subjects
from nnseg.storage.datasets.case_names import case_names, loose_name, parts_of_split, subjects
from nnseg.storage.datasets.channels import find_channels, of_channel, suffix_slip, written_as
from nnseg.storage.datasets.dataset_json import Description
from nnseg.storage.datasets.describe_layout import list_conclusions, name_layout
from nnseg.storage.datasets.items import (
    Channels,
    FoundDataset,
    Group,
    LabelSets,
    Named,
    Pairing,
    Roles,
    Tree,
    case_error,
    divide,
    not_used,
    same_name,
    wrong_count,
)
from nnseg.storage.datasets.label_sets import choose_label_maps
from nnseg.storage.datasets.pairing import pair
from nnseg.storage.datasets.roles import assign_roles

PICTURES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm"))
"""Suffixes of pictures, which are no scans where these are volumes."""


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
    return _assemble(tree, roles, pairing, description, reading)


def infer_bids(tree: Tree, description: Description | None, reading: Reading) -> FoundDataset | None:
    """The cases of a BIDS dataset with label maps in derivatives; None for another layout.

    Raises:
        DatasetError: there is no label map, or several readings are possible.
    """
    if (found := group_subjects(tree, reading)) is None:
        return None
    roles, pairing = found
    dataset = _assemble(tree, roles, pairing, description, reading, layout="BIDS layout")
    return replace(dataset, channels=dataset.channels or common_suffix(pairing.groups))


def _assemble(
    tree: Tree, roles: Roles, pairing: Pairing, description: Description | None, reading: Reading, *, layout: str = ""
) -> FoundDataset:
    """The dataset of groups.

    Args:
        layout: its name; "" for one made of the names of the folders.
    """
    sets = choose_label_maps(tree.root, pairing.groups)
    without = not_used((one for group in pairing.groups if id(group) not in sets.maps for one in group.images), "no label map")
    groups, dropped = of_channel(tree.root, [group for group in pairing.groups if id(group) in sets.maps], reading.channels)
    declared = description.channels if description else ()
    channels = find_channels(tree.root, groups, wanted=reading.channels, count=len(declared) or None)
    slip = suffix_slip(groups, len(declared)) if channels.numbered and not reading.channels else ""
    if slip and channels.problems:
        channels.problems = dict.fromkeys(channels.problems, slip)
    labels = mask_labels(sets, description)
    names = dict(zip(map(id, groups), case_names(groups, channels.names), strict=True))
    declared_objects = roles.numbers if description and description.instances else ()
    views, numbers = _beside(groups, roles.views), _beside(groups, declared_objects)
    cases = _cases(groups, names, channels, sets, labels, views, numbers)
    findings, unused = _loose_findings(roles, pairing, channels)
    training = sum(group.split in ("", "training") for group in groups)
    training += len({finding.case for finding in findings if finding.code == "NS-D005"})
    return FoundDataset(
        layout=layout or name_layout(roles, groups, sets, description),
        cases=cases,
        findings=(
            *_problems(groups, names, sets, channels),
            *([case_error("NS-D012", slip, case="", file=tree.root)] if slip and not channels.problems else ()),
            *findings,
            *_missing_masks(names, sets),
            *(wrong_count(description, training) if description else ()),
        ),
        description=description,
        labels=labels,
        channels=() if channels.numbered else channels.names or written_as(groups, reading.channels),
        inferred=(*pairing.inferred, *list_conclusions(groups, channels, sets, cases)),
        unused=(
            *(one for one in roles.unused if one.path not in {*views.values(), *numbers.values()}),
            *without,
            *not_used(dropped, "left out by --channels"),
            *channels.unused,
            *sets.unused,
            *unused,
        ),
    )


def _cases(
    groups: Sequence[Group],
    names: Mapping[int, str],
    channels: Channels,
    sets: LabelSets,
    labels: Labels | None,
    views: Mapping[int, Path],
    numbers: Mapping[int, Path],
) -> tuple[Case, ...]:
    """The cases of the groups that can be used."""
    splits, patients = parts_of_split(groups), subjects(groups)
    return tuple(
        Case(
            name=names[id(group)],
            images=tuple(path for one in channels.images[id(group)] for path in one.item.images),
            labels=_source(sets, sets.maps[id(group)], labels),
            subject=patients[id(group)],
            split=splits[group.split],
            view=views.get(id(group)),
            objects=numbers.get(id(group)),
        )
        for group in groups
        if id(group) not in {*sets.problems, *channels.problems}
    )


def _beside(groups: Sequence[Group], files: Sequence[Named]) -> dict[int, Path]:
    """The one of these files that is named as the first image of a group, by the group's ``id``."""
    of_image = {id(group.images[0]): id(group) for group in groups}
    found = pair([group.images[0] for group in groups], files, by_folder=True).groups if files else ()
    return {of_image[id(one.images[0])]: one.labels[0].item.path for one in found if len(one.labels) == 1}


def _problems(groups: Sequence[Group], names: Mapping[int, str], sets: LabelSets, channels: Channels) -> list[Finding]:
    """Errors for the groups that cannot be used."""
    files = {id(group): group.images[0].item.path for group in groups}
    files |= {key: files[key].parent for key in channels.problems}  # of a case, not of one of its channels
    problems = {**sets.problems, **channels.problems}
    return [case_error("NS-D007", problem, case=names[key], file=files[key]) for key, problem in problems.items()]


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
        found = f'"labels" does not name {list_some(missing, 4)}, of which there are masks'
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
    values = {str(i): labels.by_name[kind] for i, kind in enumerate(kinds)}
    return LabelFiles(paths=tuple(maps[kind].item.path for kind in kinds), coding="masks", values=values)


def _loose_findings(roles: Roles, pairing: Pairing, channels: Channels) -> tuple[list[Finding], list[Unused]]:
    """Errors for images and label maps without a partner; images of a part without any label map are just not used."""
    labelled = {one.split for one in roles.labels}
    images, others = divide(pairing.images, lambda one: one.split in labelled)
    unused = [*not_used(others, f"no label map: {others[0].split or 'other'} scans")] if others else []
    if any(one.item.suffix not in PICTURES for one in roles.images):
        images, pictures = divide(images, lambda one: one.item.suffix not in PICTURES or one.role == "image")
        unused += not_used(pictures, "a picture among volumes")
    by_name = defaultdict[tuple[str, ...], list[Named]](list)
    for one in images:
        by_name[(*one.place, loose_name(one, channels.names))].append(one)
    findings = [_no_label_map(name, ones, roles) for (*_, name), ones in by_name.items()]
    findings += [_no_image(one, roles) for one in pairing.labels]
    return findings, unused


def _no_label_map(name: str, ones: Sequence[Named], roles: Roles) -> Finding:
    first = ones[0].item.path
    paths = [one.item.path for one in ones]
    if len({p.name.casefold().split(".")[0] for p in paths}) == 1 < len(paths) and len({one.words for one in ones}) == 1:
        return case_error("NS-D009", same_name(paths), case=name, file=first)
    where = (
        f"{name} in {roles.labels[0].item.path.parent.name}/" if roles.by_folder else "one, named as those of the other cases are"
    )
    problem = f"image {first} has no label map; expected {where}; add it or remove the image"
    return case_error("NS-D005", problem, case=name, file=first)


def _no_image(one: Named, roles: Roles) -> Finding:
    path = one.item.path
    name = "_".join(one.rest) if not roles.by_folder else one.item.stem
    where = f"{name} in {roles.images[0].item.path.parent.name}/" if roles.by_folder else "one whose name begins alike"
    problem = f"label map {path} has no image; expected {where}; add the image or remove the label map"
    return case_error("NS-D006", problem, case=name, file=path)


def _missing_masks(names: Mapping[int, str], sets: LabelSets) -> list[Finding]:
    """A warning for each case that has masks of some labels only."""
    missing = {key: [kind for kind in sets.kinds if kind not in maps] for key, maps in sets.maps.items()}
    return [
        Finding.of(
            "NS-D026",
            f"has no mask of {list_some(kinds)}, which counts as absent; check it",
            case=names[key],
            file=next(iter(sets.maps[key].values())).item.path.parent,
        )
        for key, kinds in missing.items()
        if kinds
    ]
