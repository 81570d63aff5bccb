"""Which images and which label maps belong to one case, by their names alone."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from nnseg.storage.datasets.items import Group, Named, Pairing
from nnseg.storage.datasets.names import KIND_WORDS, LABEL_WORDS, split_words

Words = tuple[str, ...]
Key = tuple[str, ...]


class _Index:
    """Images by their names, and by the first words of these."""

    def __init__(self, images: Sequence[Named], key_of: Callable[[Named, Words], Key]) -> None:
        self.exact: dict[Key, list[Named]] = defaultdict(list)
        self.longer: dict[Key, list[Named]] = defaultdict(list)
        self._key_of = key_of
        for image in images:
            for words in {image.words, image.rest} - {()}:
                self.exact[key_of(image, words)].append(image)
                for end in range(1, len(words)):
                    self.longer[key_of(image, words[:end])].append(image)

    def equal(self, label: Named) -> tuple[list[Named], Words]:
        """Images whose name is that of the label map, with or without words of a role."""
        for words in (label.words, label.rest):
            if words and (found := self.exact.get(self._key_of(label, words))):
                return found, words
        return [], ()

    def extended(self, label: Named) -> tuple[list[Named], Words]:
        """Images whose names begin with the label map's."""
        words = label.rest
        if not self.longer.get(self._key_of(label, words)) and _ends_with_kind(label):
            words = words[:-1]
        return (self.longer.get(self._key_of(label, words), []) if words else []), words

    def reduced(self, label: Named) -> tuple[list[Named], Words]:
        """The image with whose whole name the label map's begins, or whose name is that of its folder."""
        for end in range(max(len(label.rest) - 1, 0), -1, -1):
            if label.rest[end:] and not _is_kind(label, label.rest[end:]):
                continue
            if found := self.exact.get(self._key_of(label, label.rest[:end])):
                return found, label.rest[:end] or found[0].words
        return [], ()


def _ends_with_kind(label: Named) -> bool:
    """True if the last word without a role is a kind of label map, or a number behind a word for them: x_gtv, x_mask2."""
    if not label.rest:
        return False
    last, kind = label.words[-1].casefold(), label.rest[-1]
    return last in KIND_WORDS or (kind.isdecimal() and last != kind and last.removesuffix(kind) in LABEL_WORDS)


def _is_kind(label: Named, words: Words) -> bool:
    """True if words may say what a label map shows; a number does so only behind a word for label maps: x_mask_1."""
    if label.item.is_label or not all(word.isdecimal() for word in words):
        return True
    before = label.words[: len(label.words) - len(words)]
    return label.words[len(before) :] == words and bool(before) and before[-1].casefold() in LABEL_WORDS


def _in_place(one: Named, words: Words) -> Key:
    return (one.split, "/".join(one.place).casefold(), *map(str.casefold, words))


def _on_path(one: Named, words: Words) -> Key:
    return (one.split, *(word.casefold() for part in one.place for word in split_words(part)), *map(str.casefold, words))


def _anywhere(one: Named, words: Words) -> Key:
    return (one.split, *map(str.casefold, words))


def pair(images: Sequence[Named], labels: Sequence[Named], *, by_folder: bool) -> Pairing:
    """Groups of images and label maps: by equal names first, then by names of which one begins with the other, then by folders.

    Args:
        by_folder: roles come from folders, so that a folder of images with a single one in it is no case's folder.
    """
    groups: dict[Key, Group] = {}
    taken: dict[int, Key] = {}
    todo = list(labels)
    indices = [_Index(images, key_of) for key_of in (_in_place, _on_path, _anywhere)]
    for look in (_Index.equal, _Index.extended, _Index.reduced):
        for index in indices:
            left = []
            for label in todo:
                found, base = look(index, label)
                if look is _Index.extended:
                    found = _free(found, label, groups, taken, by_kind=base != label.rest)
                if index is not indices[0] and not _is_one_case(found, equal=look is _Index.equal):
                    found = []
                if found:
                    _add(groups, taken, found, label, base)
                else:
                    left.append(label)
            todo = left
    inferred = () if groups else _pair_by_number(groups, taken, images, todo)
    paired = {one.item for group in groups.values() for one in group.labels} if inferred else set()
    todo = [one for one in todo if one.item not in paired]
    todo = todo if inferred else _pair_by_folder(groups, taken, images, todo, by_folder=by_folder)
    loose = tuple(image for image in images if id(image) not in taken)
    return Pairing(groups=tuple(groups.values()), images=loose, labels=tuple(todo), inferred=inferred)


def _is_one_case(images: Sequence[Named], *, equal: bool) -> bool:
    """True if images are in one folder, or have equal names in folders of different channels."""
    return len({image.place for image in images}) <= 1 or (equal and len({image.words for image in images}) == 1)


def _free(found: list[Named], label: Named, groups: dict[Key, Group], taken: dict[int, Key], *, by_kind: bool) -> list[Named]:
    """Images of no group yet; or all, if they are those of one group, which has no label map from this folder, or of this kind."""
    keys = {taken.get(id(image)) for image in found}
    (key, *more) = keys or {None}
    if key and not more:
        others = groups[key].labels
        if by_kind:
            return found if all(one.rest != label.rest for one in others) else []
        return found if all((one.source, one.observer) != (label.source, label.observer) for one in others) else []
    return [image for image in found if id(image) not in taken]


def _group_key(image: Named, base: Words) -> Key:
    return (image.split, *image.place, "", *map(str.casefold, base))


def _add(groups: dict[Key, Group], taken: dict[int, Key], found: Sequence[Named], label: Named, base: Words) -> None:
    key = taken.get(id(found[0])) or _group_key(found[0], base)
    group = groups.setdefault(key, Group(split=found[0].split, base=base))
    group.labels.append(label)
    for image in found:
        if id(image) not in taken:
            group.images.append(image)
            taken[id(image)] = key


def _pair_by_number(
    groups: dict[Key, Group], taken: dict[int, Key], images: Sequence[Named], labels: Sequence[Named]
) -> tuple[str, ...]:
    """Put DATA_001 and MASK_001 into a group, where numbers alone tell all images apart, and all label maps; what was concluded.

    Numbers count in each folder of cases, if most label maps lie in one, or for all images, if every label map has one.
    """
    of_images, of_labels = _numbers(images), _numbers(labels)
    for key_of in (_in_place, _anywhere):
        by_key = {key_of(image, (number,)): image for image, number in of_images}
        found = [(image, label) for label, number in of_labels if (image := by_key.get(key_of(label, (number,))))]
        enough = 2 * len(found) >= len(labels) if key_of is _in_place else len(found) == len(labels)
        if len(by_key) == len(of_images) > 1 and found and enough and len(found) == len({id(image) for image, _ in found}):
            for image, label in found:
                _add(groups, taken, [image], replace(label, rest=image.words), image.words)
            image, label = found[0]
            return (f"pairs by the numbers in names, such as {image.item.path.name} and {label.item.path.name}",)
    return ()


def _numbers(named: Sequence[Named]) -> list[tuple[Named, str]]:
    """The number at the end of each name; [] if the names differ in anything else."""
    found = [(one, match) for one in named if one.rest and (match := re.fullmatch(r"(\D*)0*(\d+)", one.rest[-1]))]
    before = {(*one.rest[:-1], match[1]) for one, match in found}
    return [(one, match[2]) for one, match in found] if len(found) == len(named) and len(before) == 1 else []


def _pair_by_folder(
    groups: dict[Key, Group], taken: dict[int, Key], images: Sequence[Named], labels: Iterable[Named], *, by_folder: bool
) -> list[Named]:
    """Put what is left into groups by the folder of a case; the label maps for which there is none."""
    places: dict[Key, list[Named]] = defaultdict(list)
    below: dict[Key, list[Named]] = defaultdict(list)
    occupied = set[Key]()
    for image in images:
        place = (image.split, *image.place)
        if id(image) in taken:
            occupied.update(place[:end] for end in range(1, len(place) + 1))
        else:
            places[place].append(image)
            for end in range(2, len(place)):
                below[place[:end]].append(image)
    left, made = [], dict[Key, Group]()
    for label in labels:
        place = (label.split, *label.place)
        while len(place) > 1 and not {place} & (places.keys() | below.keys() | occupied):
            place = place[:-1]  # the label maps may lie in a folder of their own in the case's folder
        found = places.get(place) or below.get(place) or []
        if not found or place in occupied or (len(place) == 1 and (by_folder or len(found) > 1)):
            left.append(label)
            continue
        if place not in made:
            made[place] = Group(split=label.split, base=(), images=found, place=place[1:])
            taken |= {id(image): place for image in found}
        made[place].labels.append(label)
    groups |= {(*place, "\0"): group for place, group in made.items()}
    return left
