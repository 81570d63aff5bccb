"""The layout of BIDS: scans in folders of subjects, label maps among the derivatives.

Source: Brain Imaging Data Structure 1.10, "Common principles" and "Imaging derivatives"; names of label maps like
``sub-01_T2w_seg-manual`` as ivadomed and the Spinal Cord Toolbox write them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from nnseg.core.dataset import AS_FOUND, Reading, Unused
from nnseg.core.errors import DatasetError
from nnseg.storage.datasets.items import Group, Item, Named, Pairing, Roles, Tree, divide, not_used
from nnseg.storage.datasets.names import LABEL_WORDS, contrast, read_names, shows_channel, split_words
from nnseg.storage.datasets.patterns import matches, pattern_of

LABEL_SUFFIXES = frozenset(("dseg", "mask", "msk", "seg", "label", "labels"))
"""Last parts of names of label maps in derivatives; besides those with a part like seg-manual."""

SERIES = frozenset(("bold", "dwi", "asl", "epi", "sbref", "cbv", "phase", "events", "channels"))
"""Last parts of names of series of many volumes, and of images that belong to them."""

RAW_FOLDERS = frozenset(("rawdata", "raw", "bids", "sourcedata"))
"""Folders of subjects, beside derivatives."""

RAW_SPACES = frozenset(("orig", "individual", "native", "scanner", "t1w", "t2w"))
"""Values of the space entity of label maps that may lie on a scan's own grid."""

_ENTITY = re.compile(r"([a-zA-Z0-9]+)-(.+)")


@dataclass(frozen=True, kw_only=True)
class BidsName:
    """The parts of a file's name.

    Args:
        entities: values by key, such as {"sub": "01", "ses": "1"}.
        parts: all parts in their order; ``sub-01_T1w`` has two.
        suffix: the last part, if it is no entity.
    """

    entities: dict[str, str]
    parts: tuple[str, ...]
    suffix: str

    @property
    def base(self) -> str:
        """The name without its suffix."""
        return "_".join(self.parts[:-1] if self.suffix and len(self.parts) > 1 else self.parts)


def parse_name(stem: str) -> BidsName:
    """The parts of a name."""
    parts = tuple(stem.split("_"))
    entities = {match[1]: match[2] for part in parts if (match := _ENTITY.fullmatch(part))}
    return BidsName(entities=entities, parts=parts, suffix="" if _ENTITY.fullmatch(parts[-1]) else parts[-1])


def _within(item: Item) -> tuple[str, ...]:
    """The folders of an item below that of its dataset, from the first of a subject, or of derivatives, on."""
    starts = (i for i, name in enumerate(item.folders) if name.startswith(("sub-", "derivatives")))
    return item.folders[next(starts, len(item.folders)) :]


def _dataset_of(item: Item) -> tuple[str, ...]:
    """The folders above the dataset of an item, where that is not the whole."""
    above = item.folders[: len(item.folders) - len(_within(item))]
    return tuple(name for name in above if name.casefold() not in RAW_FOLDERS)


def _subject(item: Item) -> tuple[str, ...]:
    """The dataset and the folder of a subject that an item lies in."""
    return (*_dataset_of(item), next((name for name in item.folders if name.startswith("sub-")), ""))


def _is_raw(item: Item) -> bool:
    return "".join(_within(item)[:1]).startswith("sub-")


def is_bids(tree: Tree) -> bool:
    """True if there are folders of subjects, with names of files that begin alike: in the folder, or most lie deeper."""
    own = [item for item in tree.items if _is_raw(item) and item.stem.startswith("sub-")]
    within = sum(bool(_within(item)) for item in tree.items)
    return any(item.folders == _within(item) for item in own) or (bool(own) and 2 * within > len(tree.items))


def group_subjects(tree: Tree, reading: Reading) -> tuple[Roles, Pairing] | None:
    """The scans of subjects and the label maps among derivatives, and which belong together; None for another layout.

    Raises:
        DatasetError: there is no label map.
    """
    if not is_bids(tree):
        return None
    roles = _roles(tree, reading)
    if not roles.images:
        return None
    if not roles.labels:
        what = "is a BIDS dataset without label maps: none of its names ends in _dseg, _mask or a part like _seg-manual"
        raise DatasetError.at(
            tree.root, what, "label maps under derivatives/", 'name them with --labels, such as --labels "derivatives/*/**"'
        )
    groups, loose = _group(roles.images, roles.labels)
    _use_channels(tree, groups, roles.images, reading.channels)
    used = {id(one) for group in groups for one in group.images}
    images, others = divide((one for one in roles.images if id(one) not in used), lambda one: _has_labels(one, groups))
    left = (*not_used(images, "another contrast than the labelled ones"), *not_used(others, "no label map"))
    roles = replace(roles, unused=(*roles.unused, *left))
    return roles, Pairing(groups=tuple(groups), images=(), labels=tuple(loose))


def _has_labels(image: Named, groups: Sequence[Group]) -> bool:
    subject = _subject(image.item)
    return any(_subject(group.images[0].item) == subject for group in groups)


def common_suffix(groups: Sequence[Group]) -> tuple[str, ...]:
    """The suffix of all images, which names their contrast, if they have one."""
    suffixes = {parse_name(one.item.stem).suffix for group in groups for one in group.images}
    return tuple(suffixes) if len(suffixes) == 1 and "" not in suffixes else ()


def raw_images(tree: Tree) -> tuple[tuple[Named, ...], tuple[Unused, ...]]:
    """The scans of subjects, and what else lies there."""
    roles = _roles(tree, AS_FOUND)
    return roles.images, (*roles.unused, *not_used(roles.labels, "a label map"))


def _roles(tree: Tree, reading: Reading) -> Roles:
    """Scans of subjects, and label maps among derivatives or beside the scans.

    Without b values anywhere, an image called dwi is one volume, as ISLES has them.
    """
    images, labels, unused = list[Named](), list[Named](), list[Unused]()
    series = SERIES if any(suffix.startswith(".bval") for suffix in tree.companions) else SERIES - {"dwi"}
    for item in tree.items:
        place = (*_dataset_of(item), *(name for name in item.folders if name.startswith(("sub-", "ses-"))))
        one, is_raw = replace(read_names(item), place=place), _is_raw(item)
        reason = _reason(one, raw=is_raw, series=series)
        if reading.labels and matches(item, reading.labels):
            labels.append(_as_label(one))
        elif reading.images and matches(item, reading.images):
            images.append(one)
        elif reason:
            unused += not_used([one], reason)
        elif _is_label(one):
            labels += [] if reading.labels else [_as_label(one)]
            unused += not_used([one], "left out by --labels") if reading.labels else ()
        elif is_raw and not reading.images:
            images.append(one)
        else:
            unused += not_used([one], "another derivative" if not is_raw else "left out by --images")
    return Roles(images=tuple(images), labels=tuple(labels), by_folder=True, unused=tuple(unused))


def _reason(one: Named, *, raw: bool, series: Collection[str]) -> str:
    """Why an item is neither scan nor label map of the dataset; "" if it may be one."""
    top = one.item.folders[0] if one.item.folders else ""
    name = parse_name(one.item.stem)
    if not _within(one.item):
        return f"lies in {top}/, beside the dataset" if top else "lies beside the dataset"
    if name.suffix in series:
        return f"a series of volumes ({name.suffix})"
    space = name.entities.get("space", "").casefold()
    if not raw and space and space not in RAW_SPACES and contrast(space) == space:
        return "in another space than the scan"
    return "a map of probabilities" if name.suffix == "probseg" else one.derived


def _is_label(one: Named) -> bool:
    name = parse_name(one.item.stem)
    return name.suffix in LABEL_SUFFIXES or any(
        word.casefold() in LABEL_WORDS for part in name.parts[1:] for word in part.split("-")
    )


def _as_label(one: Named) -> Named:
    """A label map, its rest being what it shows, its source the pipeline that made it."""
    folders = _within(one.item)
    source = "" if len(folders) < 2 or _is_raw(one.item) or folders[1].startswith("sub-") else folders[1]
    return replace(one, role="label", source=source, has_label_word=True, rest=())


def _group(images: Sequence[Named], labels: Sequence[Named]) -> tuple[list[Group], list[Named]]:
    """Scans with their label maps: of one scan if the label map's name begins with the scan's, else of a session's scans."""
    by_parts = {(*_dataset_of(one.item), *parse_name(one.item.stem).parts): one for one in images}
    by_subject = defaultdict[tuple[str, ...], list[Named]](list)
    for one in images:
        by_subject[_subject(one.item)].append(one)
    groups: dict[tuple[str, ...], Group] = {}
    loose = list[Named]()
    for label in labels:
        name, dataset = parse_name(label.item.stem), _dataset_of(label.item)
        whole = next((name.parts[:n] for n in range(len(name.parts) - 1, 0, -1) if (*dataset, *name.parts[:n]) in by_parts), ())
        scans = [by_parts[*dataset, *whole]] if whole else _scans_of(name, by_subject[_subject(label.item)])
        if not scans:
            loose.append(label)
            continue
        key = tuple(sorted(str(one.item.path) for one in scans))
        group = groups.setdefault(key, _new_group(scans, tied=bool(whole)))
        group.labels.append(replace(label, rest=_kind(name, len(whole))))
    return list(groups.values()), loose


def _new_group(scans: Sequence[Named], *, tied: bool) -> Group:
    first = parse_name(scans[0].item.stem)
    if len(scans) == 1 or tied:
        name = first.base
    else:
        shared = set.intersection(*({f"{k}-{v}" for k, v in parse_name(one.item.stem).entities.items()} for one in scans))
        name = "_".join(part for part in first.parts if part in shared)
    subject = first.entities.get("sub", "")
    return Group(split=scans[0].split, base=scans[0].words, images=list(scans), place=scans[0].place, name=name, subject=subject)


def _scans_of(label: BidsName, scans: Iterable[Named]) -> list[Named]:
    """The scans of a subject to which a label map may belong, by the entities that both have."""
    found = []
    space = label.entities.get("space", "")
    for one in scans:
        name = parse_name(one.item.stem)
        equal = all(label.entities.get(key, value) == value for key, value in name.entities.items())
        own = ("", "orig", "individual", "native", name.entities.get("space", "").casefold())
        if equal and (contrast(space) == contrast(name.suffix) or space.casefold() in own):
            found.append(one)
    return found


def _kind(name: BidsName, tied: int) -> tuple[str, ...]:
    """What a label map shows: the words of its own parts, without those that every label map has."""
    own = name.parts[tied:] if tied else [name.entities[key] for key in ("label", "desc") if key in name.entities]
    common = LABEL_WORDS | {"desc", "space"}
    return tuple(word for part in own for word in split_words(part) if word.casefold() not in common)


def _use_channels(tree: Tree, groups: Sequence[Group], images: Sequence[Named], wanted: Sequence[str]) -> None:
    """Give label maps of single scans the wanted contrasts of the same examination, if no such scan is the wanted contrast.

    Raises:
        DatasetError: several label maps would have the same scans.
    """
    if not wanted or any(len(group.images) > 1 for group in groups):
        return
    if len(wanted) == 1 and any(shows_channel(group.images[0], wanted[0]) for group in groups):
        return
    owners: dict[tuple[int, ...], Group] = {}
    for group in groups:
        first = group.images[0]
        entities = parse_name(first.item.stem).entities
        session = [one for one in images if one.place == first.place and parse_name(one.item.stem).entities == entities]
        scans = [ones[0] for name in wanted if (ones := [one for one in session if shows_channel(one, name)])]
        if len(scans) < len(wanted):
            continue
        if other := owners.get(key := tuple(map(id, scans))):
            maps = [one.labels[0].item.below for one in (group, other)]
            found = f"{' and '.join(maps)} belong to scans that --channels makes one case"
            raise DatasetError.at(
                tree.root, found, "one label map", f"name one channel, or choose with --labels, such as --labels {pattern_of(maps)}"
            )
        owners[key] = group
        group.images[:] = scans
