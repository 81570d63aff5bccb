"""Names of cases, of their patients and of parts of a split, by the names of their files and folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from nnseg.storage.datasets.items import Group, Named
from nnseg.storage.datasets.names import may_be_patient, split_words, stem_start
from nnseg.storage.datasets.parts import PARTS, TRAINING

MOST_EXAMINATIONS = 3
"""Folders of cases in a folder, in the mean, for it to be that of a patient, not of a site."""


def case_names(groups: Sequence[Group], channels: Sequence[str]) -> list[str]:
    """A name of each case: of its only image, of the words that its files share, or of its folder; unique."""
    short = [_short_name(group, len(channels)) for group in groups]
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


def loose_name(one: Named, channels: Sequence[str]) -> str:
    """The name that a case of this image would have."""
    for name in channels:
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


def _numbered(image: Named, words: int) -> bool:
    last = image.words[words:]
    return len(last) == 1 and len(last[0]) == 4 and last[0].isdecimal()


def subjects(groups: Sequence[Group]) -> dict[int, str]:
    """The patient of each group by its ``id``: its folder; "" for a folder of several cases whose name can be of no patient."""
    found = _patients_above(groups, {id(group): _subject(group) for group in groups})
    counts = Counter(found.values())
    given = {group.subject for group in groups}
    return {key: name if counts[name] == 1 or name in given or may_be_patient(name) else "" for key, name in found.items()}


def _patients_above(groups: Sequence[Group], subjects: dict[int, str]) -> dict[int, str]:
    """Folders of patients in place of those of their few examinations: PATIENT/DATE/CT.nii.gz."""
    places = {id(group): group.place or group.images[0].place for group in groups}
    if not all(len(place) > 1 and place[-1] == subjects[key] and may_be_patient(place[-2]) for key, place in places.items()):
        return subjects
    few = len(groups) <= MOST_EXAMINATIONS * len({place[-2] for place in places.values()})
    return {key: place[-2] for key, place in places.items()} if few else subjects


def _subject(group: Group) -> str:
    """The folder of a case, if its files bear the folder's name or no other."""
    if group.subject:
        return group.subject
    first, place = group.images[0], group.place or group.images[0].place
    folder = place[-1] if place else ""
    return folder if folder and (not group.base or first.item.stem.startswith(folder)) else ""


def parts_of_split(groups: Sequence[Group]) -> dict[str, str]:
    """The part of a split that each folder's word means; none if all cases would be in one part."""
    found = {group.split for group in groups}
    meant = {part: PARTS.get(part, TRAINING) for part in found}
    return meant if TRAINING in meant.values() else dict.fromkeys(found, TRAINING)
