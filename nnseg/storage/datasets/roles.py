"""Which files are images and which are label maps: by patterns that were given, by names of folders, or by names of files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from nnseg.core.dataset import Reading
from nnseg.storage.datasets.items import LEFT_OUT, Named, Roles, Tree, divide, not_used
from nnseg.storage.datasets.names import (
    BRAIN_MASK,
    FIELD_OF_VIEW,
    OBJECT_FOLDERS,
    WEAK_LABEL_FOLDERS,
    is_brain_mask,
    png_beside_jpeg,
    read_all_names,
    split_words,
)
from nnseg.storage.datasets.patterns import matches

OBJECT_NUMBERS = 'numbers of objects, if a dataset.json names their labels under "instances"'

BESIDE = "lies beside the images and label maps"


def assign_roles(tree: Tree, reading: Reading) -> Roles:
    """The roles of all items of a folder."""
    named = read_all_names(tree.items)
    given = bool(reading.images or reading.labels)
    roles = _roles_by_pattern(named, reading) if given else _without_brains(_roles_by_name(named))
    chosen = {id(one) for one in (*roles.images, *roles.labels)}
    left = [one for one in named if id(one) not in chosen]
    views = tuple(one for one in left if one.derived == FIELD_OF_VIEW)
    numbers = tuple(filter(_numbers_objects, left)) if roles.by_folder else ()
    others = (one for one in roles.unused if one.path not in {number.item.path for number in numbers})
    return replace(roles, views=views, numbers=numbers, unused=(*others, *not_used(numbers, OBJECT_NUMBERS)))


def _numbers_objects(one: Named) -> bool:
    words = (word.casefold() for folder in one.item.folders for word in split_words(folder))
    return not one.derived and not OBJECT_FOLDERS.isdisjoint(words)


def _without_brains(roles: Roles) -> Roles:
    """Masks of the brain are not used where there are other label maps."""
    labels, brains = divide(roles.labels, lambda one: not is_brain_mask(one.words))
    return replace(roles, labels=labels, unused=(*roles.unused, *not_used(brains, BRAIN_MASK))) if labels else roles


def _roles_by_name(named: Sequence[Named]) -> Roles:
    """Roles by the words of folders, or else of files."""
    usable, derived = divide(named, lambda one: not one.derived)
    by_role = defaultdict[str, list[Named]](list)
    for one in usable:
        by_role[one.role].append(one)
    if not by_role["label"] or _are_not_label_folders(usable):
        images, labels = divide(usable, lambda one: not one.has_label_word)
        if not labels:
            images, labels = png_beside_jpeg(images)
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


def _are_not_label_folders(named: Sequence[Named]) -> bool:
    """True if folders of label maps only seem to be some, as "target_training" beside "source_training" with labels in it."""
    inside, outside = divide(named, lambda one: one.role == "label")
    weak = all(WEAK_LABEL_FOLDERS.issuperset(one.source.split("_")) for one in inside)
    return weak and any(one.has_label_word for one in outside) and not any(one.has_label_word for one in inside)


def _roles_by_pattern(named: Sequence[Named], reading: Reading) -> Roles:
    """Roles by ``--images`` and ``--labels``; where one of them is not given, by names."""
    labels = _fitting(named, reading.labels)
    images = [one for one in _fitting(named, reading.images) if one not in labels]
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


def _fitting(named: Sequence[Named], pattern: str) -> list[Named]:
    found = [one for one in named if matches(one.item, pattern)] if pattern else []
    return [one for one in found if not one.derived] or found
