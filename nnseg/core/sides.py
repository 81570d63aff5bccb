"""Left and right: labels that change places in a mirror, and what this does to a network's heads."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import numpy as np

from nnseg.core.labels import Labels

Pairs = tuple[tuple[int, int], ...]

LEFT: Final = ("left", "sinister", "sinistra", "sinistrum", "links", "linke", "linker", "linkes", "lh", "l")
RIGHT: Final = ("right", "dexter", "dextra", "dextrum", "rechts", "rechte", "rechter", "rechtes", "rh", "r")
"""Words for the two sides, each with its counterpart in the same place: English, Latin, German, and abbreviations."""

HEART: Final = ("atrium", "atrial", "ventricle", "ventricular")
"""Chambers of the heart are no mirror images of one another, whatever their names; a brain's lateral ventricles are."""


def pairs_of(names: Sequence[str]) -> Pairs:
    """Places of the names that differ in nothing but their side, the left one first: "kidney_left" and "kidney_right".

    Example:
        ``pairs_of(["background", "Left Kidney", "Right Kidney", "liver"]) == ((1, 2),)``
    """
    words = [_words(name) for name in names]
    places = {of_right: place for place, of_right in enumerate(words) if of_right}
    found = []
    for left, of_left in enumerate(words):
        right = places.get(_other_side(of_left))
        if right is not None and not _of_the_heart(of_left):
            found.append((left, right))
    return tuple(found)


def label_pairs(labels: Labels) -> Pairs:
    """Pairs of label indices that are left and right of the same, by the names of labels, or else of regions of one label."""
    found = pairs_of(labels.names)
    if found or not labels.regions:
        return found
    only = [labels.values.index(region.values[0]) if len(region.values) == 1 else 0 for region in labels.regions]
    of_regions = pairs_of([region.name for region in labels.regions])
    return tuple((only[left], only[right]) for left, right in of_regions if only[left] and only[right])


def permutation(pairs: Pairs, count: int) -> tuple[int, ...]:
    """For each of ``count`` places, what stands there after the pairs changed places."""
    order = list(range(count))
    for one, other in pairs:
        order[one], order[other] = other, one
    return tuple(order)


def swapped_heads(labels: Labels, pairs: Pairs) -> Pairs | None:
    """The pairs of heads that change places with labels; None if a region has no counterpart."""
    members = labels.members()
    swapped = members[:, list(permutation(pairs, len(labels.values)))]
    same = (members[:, None] == swapped[None]).all(2)  # [head, head whose labels swapped are this head's]
    if not same.any(1).all():
        return None
    others = np.where(np.diag(same), np.arange(len(same)), same.argmax(1))
    return tuple((i, int(other)) for i, other in enumerate(others) if i < other)


def _words(name: str) -> tuple[str, ...]:
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)  # leftKidney, KidneyL
    return tuple(re.findall(r"[^\W_]+", parted.casefold()))


def _other_side(words: tuple[str, ...]) -> tuple[str, ...]:
    """The words for the right of what is on the left; none if they do not speak of a left."""
    swapped = tuple(RIGHT[LEFT.index(word)] if word in LEFT else word for word in words)
    return swapped if swapped != words else ()


def _of_the_heart(words: tuple[str, ...]) -> bool:
    return any(word in HEART for word in words) and "lateral" not in words
