"""Which of several label maps of a case are used, and whether they are masks of labels or of single objects."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal

from nnseg.core.dataset import list_some
from nnseg.core.errors import DatasetError
from nnseg.storage.datasets.items import OFTEN, Group, LabelSets, Named, not_used, same_name
from nnseg.storage.datasets.names import BRAIN_MASK, is_brain_mask
from nnseg.storage.datasets.patterns import common_start, pattern_of

MERGED = frozenset(("maj", "majority", "consensus", "staple"))
"""Words that mark the label map in which those of several observers were merged."""

MANY = 2
"""Files of a case, in the mean, that must have names of their own to be single objects."""

Kinds = dict[str, list[Named]]


def choose_label_maps(root: Path, groups: Sequence[Group]) -> LabelSets:
    """The label maps that are used.

    Raises:
        DatasetError: several fit one image, and nothing tells which is meant.
    """
    found = LabelSets()
    kept = _without_other_versions(found, groups)
    groups = [group for group in groups if kept[id(group)]]
    kinds = {id(group): _by_kind(group, kept[id(group)]) for group in groups}
    _check_one_source(root, groups, kinds)
    unions = _unions({kind for by_kind in kinds.values() for kind in by_kind})
    for by_kind in kinds.values():
        for kind in unions & set(by_kind):
            found.unused += not_used(by_kind.pop(kind), f"the union of {unions_of(kind, by_kind)}")
    counts = Counter(kind for by_kind in kinds.values() for kind in by_kind)
    if all(len(by_kind) == 1 for by_kind in kinds.values()) and not _recur(counts):
        found.maps = {key: {"": _only(found, key, ones)} for key, by_kind in kinds.items() for ones in by_kind.values()}
        return found
    found.coding = _coding(root, groups, kinds, counts)
    found.kinds = tuple(sorted(counts, key=str.casefold)) if found.coding == "masks" else ()
    found.maps = {key: {kind: _only(found, key, ones) for kind, ones in by_kind.items()} for key, by_kind in kinds.items()}
    return found


def _check_one_source(root: Path, groups: Sequence[Group], kinds: Mapping[int, Kinds]) -> None:
    """Raise an error if label maps of one name lie in two folders, for most of the images."""
    doubled = [ones for group in groups for ones in kinds[id(group)].values() if len({one.source for one in ones}) > 1]
    if doubled and len(doubled) >= OFTEN * len(groups):
        files = [one.item.below for one in doubled[0]]
        found = f"{len(files)} label maps fit one image: {list_some(files, 4)}"
        raise DatasetError.at(root, found, "one", f"choose with --labels, such as --labels {pattern_of(files)}")


def _only(found: LabelSets, key: int, ones: Sequence[Named]) -> Named:
    if len(ones) > 1:
        found.problems[key] = same_name(one.item.path for one in ones)
    return ones[0]


def _without_other_versions(found: LabelSets, groups: Sequence[Group]) -> dict[int, list[Named]]:
    """The label maps of each group without what is only another version of them, as `RULES` say.

    A folder that a rule leaves out for some cases is left out for all.
    """
    kept = {id(group): list(group.labels) for group in groups}
    for keep, reason in RULES:
        chosen = {key: (list(keep(labels)) if len(labels) > 1 else []) or labels for key, labels in kept.items()}
        dropped = {key: [one for one in labels if one not in chosen[key]] for key, labels in kept.items()}
        sources = {one.source for ones in dropped.values() for one in ones if one.role == "label"}
        sources -= {one.source for key, ones in chosen.items() if dropped[key] for one in ones}
        for key, ones in chosen.items():
            kept[key] = [one for one in ones if one.role != "label" or one.source not in sources]
            found.unused += not_used(dropped[key] + [one for one in ones if one not in kept[key]], reason)
    return kept


def _by_kind(group: Group, labels: Sequence[Named]) -> Kinds:
    """A group's label maps by the words that tell what they show."""
    kinds: Kinds = defaultdict(list)
    base = tuple(word.casefold() for word in group.base)
    shared = common_start([one.words for one in group.images] + [one.rest for one in labels]) if not base else 0
    known = {*group.images[0].place, *(part for part in labels[0].place if all(part in one.place for one in labels))}
    for one in labels:
        kinds[_kind(one, known, base, shared)].append(one)
    return dict(kinds)


def _kind(one: Named, known: Collection[str], base: tuple[str, ...], shared: int) -> str:
    own = tuple(word.casefold() for word in one.rest)
    start = len(base) if own[: len(base)] == base else shared
    place = [part for part in one.place if part not in known and part.casefold() not in base]
    whole = not base and not shared and not one.has_label_word and not place
    return one.item.stem if whole else "_".join((*place, *one.rest[start:]))


def _unions(kinds: set[str]) -> set[str]:
    """Kinds whose name is made of the names of two or more others."""
    return {kind for kind in kinds if unions_of(kind, kinds)}


def unions_of(kind: str, kinds: Mapping[str, object] | set[str]) -> str:
    """The kinds of whose names a kind's name is made, in words; "" if it is not."""
    others = sorted((k for k in kinds if k and k != kind and k.casefold() in kind.casefold()), key=len, reverse=True)
    left, used = kind.casefold(), []
    for other in others:
        if other.casefold() in left:
            left = left.replace(other.casefold(), "", 1)
            used.append(other)
    return " and ".join(sorted(used)) if len(used) > 1 and not left.strip("_-+&") else ""


def _recur(counts: Counter[str]) -> bool:
    """True if there are several kinds, and each is the only one of several cases."""
    return len(counts) > 1 and "" not in counts and all(n > 1 for n in counts.values()) and not _are_numbers(counts)


def _coding(root: Path, groups: Sequence[Group], kinds: Mapping[int, Kinds], counts: Counter[str]) -> Literal["masks", "instances"]:
    """Whether several files of a case are labels, which recur, or objects, which do not.

    Numbers that are the same in all cases may be of labels or of observers.
    """
    if "" in counts and len(counts) > 1 and _are_numbers({kind: n for kind, n in counts.items() if kind}):
        return "instances"  # x_mask, x_mask_1
    same = len(groups) > 1 and len(counts) > 1 and all(n == len(groups) for n in counts.values())
    if "" not in counts and not (same and _are_numbers(counts)):
        if _are_numbers(counts) or (len(counts) >= MANY * len(groups) > MANY and counts.total() < 1.5 * len(counts)):
            return "instances"
        if counts.total() >= OFTEN * len(counts) * len(groups) and (
            len(groups) > 1 or all(re.search("[g-zG-Z]", k) for k in counts)
        ):
            return "masks"
    several = max(groups, key=lambda group: len(kinds[id(group)]))
    files = [one.item.below for ones in kinds[id(several)].values() for one in ones]
    found = f"{len(files)} label maps fit the image {several.images[0].item.below}: {list_some(files, 4)}"
    raise DatasetError.at(
        root, found, "one, or masks whose names recur in other cases", f"choose with --labels, such as --labels {pattern_of(files)}"
    )


def _are_numbers(counts: Mapping[str, int]) -> bool:
    return all(re.fullmatch(r"[\d_]+|.*instance.*", kind) for kind in counts)


def _first_observer(labels: Sequence[Named]) -> Sequence[Named]:
    first = min(one.observer or 1 for one in labels)
    return [one for one in labels if (one.observer or 1) == first]


def _merged(labels: Sequence[Named]) -> Sequence[Named]:
    return [one for one in labels if any(word.casefold() in MERGED for word in one.words)]


def _whole(labels: Sequence[Named]) -> Sequence[Named]:
    return [one for one in labels if not any("instance" in word.casefold() for word in (*one.words, *one.item.folders[-1:]))]


def _manual(labels: Sequence[Named]) -> Sequence[Named]:
    """Manual annotations, where others are not."""
    return [one for one in labels if one.observer or "manual" in one.source.casefold() or "manual" in map(str.casefold, one.words)]


def _discrete(labels: Sequence[Named]) -> Sequence[Named]:
    """BIDS' label maps of several values, where the others are masks."""
    return [one for one in labels if one.words[-1:] == ("dseg",)]


def _classes(labels: Sequence[Named]) -> Sequence[Named]:
    """Label maps of classes in Pascal VOC's folder SegmentationClass, where SegmentationObject lies beside it."""
    places = [{word.casefold() for folder in one.place for word in folder.split("_")} for one in labels]
    objects = any("object" in words for words in places) and any("class" in words for words in places)
    return [one for one, words in zip(labels, places, strict=True) if "object" not in words] if objects else labels


def _pictures(labels: Sequence[Named]) -> Sequence[Named]:
    return [one for one in labels if one.item.suffix != ".npy"]


def _no_brain(labels: Sequence[Named]) -> Sequence[Named]:
    return [one for one in labels if not is_brain_mask(one.words)]


RULES: tuple[tuple[Callable[[Sequence[Named]], Sequence[Named]], str], ...] = (
    (_classes, "numbers of objects beside classes"),
    (_pictures, "an array beside a label map"),
    (_first_observer, "label map of another observer"),
    (_merged, "label map of a single observer, or merged in another way"),
    (_whole, "mask of a single object"),
    (_manual, "label map beside manual annotations"),
    (_discrete, "mask beside a label map"),
    (_no_brain, BRAIN_MASK),
)
"""What is kept of several label maps of a case, if it is there, and the reason why the others are not used."""
