"""What was concluded from the names of a dataset's files, in words: its layout, and where images, channels and label maps are."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence

from nnseg.core.dataset import Case, counted, list_some
from nnseg.storage.datasets.dataset_json import Description
from nnseg.storage.datasets.items import Channels, Group, LabelSets, Named, Roles
from nnseg.storage.datasets.names import is_role_word, split_words
from nnseg.storage.datasets.patterns import common_start

NNUNET_FOLDERS = (("imagesTr",), ("labelsTr",))


def name_layout(roles: Roles, groups: Sequence[Group], sets: LabelSets, description: Description | None) -> str:
    """The layout, by the folders of the first case."""
    image, label = roles.images[0], roles.labels[0]
    if groups:
        image, label = groups[0].images[0], next(iter(sets.maps[id(groups[0])].values()))
    images, labels = (one.item.folders for one in (image, label))
    if description and (images, labels) == NNUNET_FOLDERS and description.channels:
        return "nnU-Net raw layout"
    if len({one.place for one in roles.images}) > 1:
        return "layout of a folder for each case"
    if roles.by_folder and images and labels:
        if groups:
            images = _in_common([group.images[0].item.folders for group in groups])
            labels = _in_common([next(iter(sets.maps[id(group)].values())).item.folders for group in groups])
        return f"pair of folders layout ({'/'.join(images)}/ and {'/'.join(labels)}/)"
    return "layout of images and label maps in one folder"


def _in_common(paths: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """A path of folders with * for those that differ wholly; the first path where their numbers do, or only ends of names."""
    if len(set(map(len, paths))) > 1:
        return paths[0]
    return tuple(names[0] if common_start([*map(tuple, names)]) > 1 else "*" for names in zip(*paths, strict=True))


def list_conclusions(groups: Sequence[Group], channels: Channels, sets: LabelSets, cases: Sequence[Case]) -> tuple[str, ...]:
    """What was concluded, one fact a line; what is not trained on comes first, since not all may be shown."""
    parts = Counter(case.split for case in cases if case.split)
    lines = [f"{counted(n, 'case')} for {part} by the names of folders" for part, n in sorted(parts.items())]
    lines += _sources(groups, channels, sets) if groups else []
    if sets.coding == "masks":
        lines.append(f"{counted(len(sets.kinds), 'label')} from the names of masks: {list_some(sets.kinds, 4)}")
    if sets.coding == "instances":
        lines.append("a label map is several masks, one for each object")
    if views := [case.view for case in cases if case.view]:
        lines.append(f"{counted(len(views), 'field')} of view such as {views[0].name}: nothing outside is learned or scored")
    if numbers := [case.objects for case in cases if case.objects]:
        first = f"{numbers[0].parent.name}/{numbers[0].name}"
        lines.append(f"{counted(len(numbers), 'file')} such as {first} with the numbers of objects")
    subjects = {case.subject for case in cases if case.subject}
    if subjects:
        several = f"cases of {counted(len(subjects), 'patient')}" if len(cases) > len(subjects) else "cases, one in each folder"
        lines.append(f"{len(cases)} {several}" if len(cases) > 1 else "1 case")
    return tuple(lines)


def _sources(groups: Sequence[Group], channels: Channels, sets: LabelSets) -> list[str]:
    """Where images, channels and label maps are; nothing for equal names in two folders, which the layout names."""
    images = [one for group in groups for one in channels.images[id(group)]]
    maps = [one for group in groups for one in sets.maps[id(group)].values()]
    if sets.coding == "values" and len(images) == len(maps) and all(map(_alike, images, maps)):
        return []
    from_maps = f"label maps from {_patterns(maps, _recurring(groups, sets))}"
    if not channels.names or channels.numbered:
        return [f"images from {_patterns(images)}", from_maps]
    first = channels.images[id(max(groups, key=lambda group: len(channels.images[id(group)])))]
    keep = {word.casefold() for name in channels.names for word in split_words(name)}
    shapes = dict.fromkeys(_pattern(one, keep) for one in first)
    return [f"channels {', '.join(channels.names)} from the names {', '.join(shapes)}", from_maps]


def _alike(image: Named, label: Named) -> bool:
    """True for files of one name in two folders; 3D Slicer's p.seg.nrrd counts as p.nrrd."""
    return not image.place and not label.place and label.role == "label" and image.words in (label.words, label.rest)


def _recurring(groups: Sequence[Group], sets: LabelSets) -> Collection[str]:
    """Names of folders, and of label maps that are alone in their cases, that most cases have: they tell no case apart."""
    found: Counter[str] = Counter()
    for group in groups:
        items = [one.item for one in sets.maps[id(group)].values()]
        stems = [item.stem for item in items if len(items) == 1]
        found.update({*stems, *(folder for item in items for folder in item.folders)})
    return {name for name, cases in found.items() if cases > max(1, len(groups) / 2)}


def _patterns(items: Sequence[Named], fixed: Collection[str] = ()) -> str:
    """Patterns that the paths of items fit, at most three."""
    patterns = Counter(_pattern(one, fixed=fixed) for one in items)
    listed = [pattern for pattern, _ in patterns.most_common(3)]
    return ", ".join(listed) + (", ..." if len(patterns) > 3 else "")


def _pattern(one: Named, keep: Collection[str] = (), *, fixed: Collection[str] = ()) -> str:
    """The path of an item with * for what tells cases apart.

    Args:
        keep: words, in lower case, that do not.
        fixed: names of folders and files that do not.
    """
    if one.item.stem in fixed:
        stem = one.item.stem
    elif not keep and one.role == "label":
        stem = "*"
    elif not one.rest:
        stem = one.item.stem
    else:
        pieces = re.split(r"([^A-Za-z0-9]+)", one.item.stem)
        stem = "".join(p if i % 2 or p.casefold() in keep or is_role_word(p) else "*" for i, p in enumerate(pieces))
        stem = re.sub(r"\*([^A-Za-z0-9]+\*)+", "*", stem)
    return "/".join(filter(None, (_folder_of(one, fixed), f"{stem}{one.item.suffix}")))


def _folder_of(one: Named, fixed: Collection[str]) -> str:
    """A pattern of the folder of an item, with * for the folders of cases."""
    return "/".join(folder if folder in fixed else _without_case(folder, one.place) for folder in one.item.folders)


def _without_case(folder: str, place: Sequence[str]) -> str:
    """The name of a folder with * for the part that tells the case."""
    part = next((part for part in place if part == folder or (len(part) > 2 and part in folder)), "")
    return folder.replace(part, "*") if part else folder
