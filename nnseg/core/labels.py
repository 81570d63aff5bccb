"""Names, values and regions of labels; the label map of a network's output; pairs of left and right labels."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from functools import cached_property
from itertools import combinations
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from nnseg.core.errors import NnsegError
from nnseg.core.frozen import FrozenModel
from nnseg.core.limits import limit, raise_by
from nnseg.core.names import nearest_name

Values = npt.NDArray[Any]
"""Values: label values as stored, or label indices."""


class Region(FrozenModel):
    """A union of labels that the network learns as one; regions may overlap.

    Args:
        name: such as "whole tumour".
        values: the label values it covers.
        paint: the value written where it is predicted; later regions overwrite earlier ones.
    """

    name: str
    values: tuple[int, ...]
    paint: int


class Labels(FrozenModel):
    """Names, values and regions of a dataset's labels.

    Values may be any distinct integers. Inside nnseg a label is its *index* in ``values``, and -1 is "ignored".

    Args:
        names: one per value; the first is the background.
        values: as stored in label maps; the first is the background's.
        ignore: the value of voxels without annotation, if there is one.
        regions: if given, the network learns these (sigmoid heads) instead of the labels (softmax heads).
        borders: labels that the network learns as the border of another label's objects, by name, with the name of that label; part
            of it in every label map. See `with_borders`.
    """

    names: tuple[str, ...]
    values: tuple[int, ...]
    ignore: int | None = None
    regions: tuple[Region, ...] = ()
    borders: dict[str, str] = Field(default={}, exclude_if=lambda borders: not borders)  # left out, so that old digests stay valid

    @model_validator(mode="after")
    def _check(self) -> Labels:
        longest = max(map(len, (*self.names, *(region.name for region in self.regions))), default=0)
        counts = (("labels", len(self.values)), ("regions", len(self.regions)), ("name_letters", longest))
        if beyond := [(name, count) for name, count in counts if count > limit(name)]:
            (name, count), *_ = beyond
            found = f"a name of {count} letters" if name == "name_letters" else f"{count} {name}"
            raise ValueError(f"{found}, the most is {limit(name)}; {raise_by(name)}")
        if large := [v for v in (*self.values, self.ignore or 0) if not -(2**63) <= v < 2**63]:
            raise ValueError(f"a label value of {len(str(abs(large[0])))} digits does not fit into 64 bits")
        if len(self.names) != len(self.values):
            raise ValueError(f"{len(self.names)} names for {len(self.values)} values")
        if len(set(self.values)) != len(self.values) or len(set(self.names)) != len(self.names):
            raise ValueError("label names and values must be distinct")
        if len(self.values) < 2:
            raise ValueError("at least one label besides the background is needed")
        if self.ignore in self.values:
            raise ValueError(f"{self.ignore} cannot be both a label and the ignore value")
        for region in self.regions:
            unknown = sorted(set(region.values) - set(self.values))
            if unknown:
                raise ValueError(f'region "{region.name}" names values {unknown}, which are not labels')
        return self

    @model_validator(mode="after")
    def _borders_are_of_labels(self) -> Labels:
        for border, name in self.borders.items():
            if not {border, name} <= set(self.names[1:]) or name in self.borders or self.regions:
                raise ValueError(
                    f'border "{border}" of "{name}": both must be labels, "{name}" no border, and labels without regions'
                )
        return self

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the network's output channels: all labels with the background, or the regions."""
        return tuple(r.name for r in self.regions) if self.regions else self.names

    @property
    def foreground(self) -> tuple[str, ...]:
        """Names that are scored: the labels without the background, or the regions."""
        return tuple(r.name for r in self.regions) if self.regions else self.names[1:]

    @property
    def predictable(self) -> tuple[str, ...]:
        """Names of what a predicted label map can show: the labels, or the regions and the labels as which they are painted."""
        if not self.regions:
            return self.names[1:]
        painted = (name for name, value in self.named.items() if value in self.painted)
        return tuple(dict.fromkeys((*self.foreground, *painted)))

    def with_borders(self, names: Collection[str]) -> Labels:
        """These labels and a further one for each of some labels, which the network learns at the edge of that label's objects.

        Example:
            ``Labels(names=("background", "cell"), values=(0, 1)).with_borders(["cell"]).borders == {"cell border": "cell"}``
        """
        values, new = [*self.values, *([] if self.ignore is None else [self.ignore])], dict[str, str]()
        for name in names:
            border = f"{name} border"
            while border in self.names:
                border += " of an object"
            new[border] = name
            values.append(max(values) + 1)
        added = values[len(values) - len(new) :]
        update = {"names": (*self.names, *new), "values": (*self.values, *added), "borders": self.borders | new}
        return Labels.model_validate(self.model_dump() | update)

    @property
    def whole(self) -> Labels:
        """The labels of label maps, in which borders are part of their objects; the labels themselves if there are no borders."""
        return self._without_borders if self.borders else self  # not cached: labels that hold themselves cannot be compared

    @cached_property
    def _without_borders(self) -> Labels:
        kept = [(n, v) for n, v in self.by_name.items() if n not in self.borders]
        return Labels(names=tuple(n for n, _ in kept), values=tuple(v for _, v in kept), ignore=self.ignore)

    @property
    def whole_indices(self) -> tuple[int, ...]:
        """For each label its index in `whole`."""
        whole = self.whole.names
        return tuple(whole.index(self.borders.get(name, name)) for name in self.names)

    @property
    def by_name(self) -> dict[str, int]:
        """Values by name, the background's first."""
        return dict(zip(self.names, self.values, strict=True))

    @property
    def by_value(self) -> dict[int, str]:
        """Names by value, the background's first."""
        return dict(zip(self.values, self.names, strict=True))

    @property
    def named(self) -> dict[str, int]:
        """Values by name, without the background's."""
        return dict(zip(self.names[1:], self.values[1:], strict=True))

    @property
    def foreground_values(self) -> dict[str, tuple[int, ...]]:
        """The values that each foreground label or region has in label maps, by name."""
        if not self.regions:
            return {name: (value,) for name, value in self.named.items()}
        return {region.name: region.values for region in self.regions}

    def check_known(self, names: Collection[str]) -> None:
        """Raise NnsegError for a name that is none of a foreground label or region."""
        for name in names:
            if name not in self.foreground:
                meant = nearest_name(name, self.foreground)
                advice = f"did you mean {meant}?" if meant else f"it has {', '.join(self.foreground)}"
                raise NnsegError(f'the model has no label "{name}"; {advice}')

    def only(self, names: Collection[str]) -> Labels:
        """The background and some foreground labels, or some regions and the labels that they consist of.

        Example:
            ``Labels(names=("background", "liver", "spleen"), values=(0, 1, 2)).only(["spleen"]).named == {"spleen": 2}``
        """
        kept = {value for name in names for value in self.foreground_values[name]}
        pairs = [(n, v) for n, v in self.by_name.items() if v in kept or v == self.values[0]]
        return Labels(
            names=tuple(n for n, _ in pairs),
            values=tuple(v for _, v in pairs),
            ignore=self.ignore,
            regions=tuple(region for region in self.regions if region.name in names),
        )

    def members(self) -> npt.NDArray[np.bool_]:
        """(K, labels) truth table: does head k cover the label with index i?"""
        if not self.regions:
            return np.eye(len(self.values), dtype=bool)
        return np.array([[v in region.values for v in self.values] for region in self.regions])

    def with_values(self, values: Sequence[int]) -> Labels:
        """These labels and further ones, each named after its value, and a region of its own where there are regions."""
        names = {value: f"label {value}" for value in values}
        regions = tuple(Region(name=name, values=(value,), paint=value) for value, name in names.items()) if self.regions else ()
        return Labels(
            names=(*self.names, *names.values()),
            values=(*self.values, *values),
            ignore=self.ignore,
            regions=(*self.regions, *regions),
        )

    def parts(self) -> dict[str, tuple[str, ...]]:
        """The labels that each foreground label or region consists of, by name."""
        if not self.regions:
            return {name: (name,) for name in self.names[1:]}
        names = self.by_value
        return {region.name: tuple(names[v] for v in region.values) for region in self.regions}

    def known(self, annotated: Collection[str] | None) -> tuple[int, ...] | None:
        """Indices of the background and of the annotated labels; None for all, as ``annotated`` is."""
        if annotated is None or set(self.whole.names[1:]) <= set(annotated):
            return None
        return (0, *(i for i, name in enumerate(self.names) if i and self.borders.get(name, name) in annotated))

    def undeclared(self, found: Values) -> list[int]:
        """Values in ``found`` that are neither labels nor ignored, ascending."""
        known, low, high = {*self.values, self.ignore}, int(found.min(initial=0)), int(found.max(initial=0))
        if high - low < len(known) and known.issuperset(range(low, high + 1)):  # much faster than finding all values of a CT
            return []
        return sorted(int(v) for v in set(np.unique(found).tolist()) - known)

    def encode(self, labels: Values) -> npt.NDArray[np.int16]:
        """Label indices (int16, -1 where ignored) of stored values, of which none may be ``undeclared``."""
        known = sorted([(v, i) for i, v in enumerate(self.values)] + ([(self.ignore, -1)] if self.ignore is not None else []))
        if labels.dtype == np.uint8:  # most label maps; a table is many times as fast as a search
            table = np.zeros(256, np.int16)
            for value, index in known:
                if 0 <= value < len(table):
                    table[value] = index
            return table[labels]
        values, indices = np.array([v for v, _ in known]), np.array([i for _, i in known], np.int16)
        return indices[np.searchsorted(values, labels)]

    def decode(self, indices: Values) -> Values:
        """Stored values of label indices; -1 becomes the ignore value."""
        table = np.array([*self.values, 0 if self.ignore is None else self.ignore])
        return table[indices].astype(self.dtype)

    def decide(self, probabilities: npt.NDArray[Any]) -> Values:
        """The label map (stored values) of probabilities (K, Z, Y, X): the most probable label, or the regions, see `paint`."""
        if not self.regions:
            return self.decode(np.argmax(probabilities, axis=0))
        return self.paint(probabilities > 0.5, range(len(self.regions)))

    def paint(self, masks: npt.NDArray[np.bool_], heads: Sequence[int]) -> Values:
        """The label map (stored values) of regions: painted in order, and where they overlap in part the value of the overlap.

        Args:
            masks: (heads, Z, Y, X), where each region is.
            heads: indices of their regions; all others are nowhere.
        """
        painted = np.full(masks.shape[1:], self.values[0], self.dtype)
        for head, mask in zip(heads, masks, strict=True):
            painted[mask] = self.regions[head].paint
        for together, value in self.partial_overlaps.items():
            if set(together) <= set(heads):
                inside = np.array([head in together for head in heads])
                painted[(masks == inside[:, None, None, None]).all(0)] = value
        return painted

    @property
    def painted(self) -> tuple[int, ...]:
        """All values that a label map of regions can have, besides the background's."""
        return tuple(dict.fromkeys((*(region.paint for region in self.regions), *self.partial_overlaps.values())))

    @cached_property
    def partial_overlaps(self) -> dict[tuple[int, ...], int]:
        """Values by the indices of all regions that cover them, where one of these does not lie within the next.

        Regions that lie within each other need no entry, since they are painted in order.
        """
        covering = {v: tuple(i for i, r in enumerate(self.regions) if v in r.values) for v in self.values}
        sets = [set(region.values) for region in self.regions]
        apart = {(a, b) for a, b in combinations(range(len(sets)), 2) if not (sets[a] <= sets[b] or sets[b] <= sets[a])}
        found = {value: heads for value, heads in covering.items() if apart.intersection(combinations(heads, 2))}
        counts = Counter(found.values())
        return {heads: value for value, heads in found.items() if counts[heads] == 1}

    def mask(self, name: str, labels: Values) -> npt.NDArray[np.bool_]:
        """The mask of a label or region in a label map (stored values)."""
        for region in self.regions:
            if region.name == name:
                return np.isin(labels, region.values)
        return np.asarray(labels == self.by_name[name])

    @property
    def dtype(self) -> np.dtype[Any]:
        """The smallest integer type for all stored values."""
        largest = max(*self.values, self.ignore or 0)
        return np.promote_types(np.min_scalar_type(largest), np.min_scalar_type(min(self.values)))

    def describe(self) -> str:
        """One line, "Anterior=1, Posterior=2"."""
        parts = [f"{n}={v}" for n, v in self.named.items()]
        if self.regions:
            parts = [f"{r.name}={'+'.join(map(str, r.values))}" for r in self.regions]
        return ", ".join(parts + ([f"ignore={self.ignore}"] if self.ignore is not None else []))


Pairs = tuple[tuple[int, int], ...]

LEFT: Final = ("left", "sinister", "sinistra", "sinistrum", "links", "linke", "linker", "linkes", "lh", "l")
RIGHT: Final = ("right", "dexter", "dextra", "dextrum", "rechts", "rechte", "rechter", "rechtes", "rh", "r")
"""Words for the sides in English, Latin and German, and abbreviations; counterparts are at the same index."""

HEART: Final = ("atrium", "atrial", "ventricle", "ventricular")
"""Chambers of the heart are not mirror images, whatever their names; lateral ventricles of the brain are."""


def find_side_pairs(names: Sequence[str]) -> Pairs:
    """Indices of names that differ only in their side, the left one first: "kidney_left" and "kidney_right".

    Example:
        ``find_side_pairs(["background", "Left Kidney", "Right Kidney", "liver"]) == ((1, 2),)``
    """
    words = [_words(name) for name in names]
    places = {of_right: place for place, of_right in enumerate(words) if of_right}
    found = []
    for left, of_left in enumerate(words):
        right = places.get(_other_side(of_left))
        if right is not None and not _of_the_heart(of_left):
            found.append((left, right))
    return tuple(found)


def find_label_pairs(labels: Labels) -> Pairs:
    """Pairs of label indices of left and right structures, by the names of labels, or else of regions of one label."""
    found = find_side_pairs(labels.names)
    if found or not labels.regions:
        return found
    only = [labels.values.index(region.values[0]) if len(region.values) == 1 else 0 for region in labels.regions]
    of_regions = find_side_pairs([region.name for region in labels.regions])
    return tuple((only[left], only[right]) for left, right in of_regions if only[left] and only[right])


def swap_order(pairs: Pairs, count: int) -> tuple[int, ...]:
    """The permutation of ``count`` indices that swaps the pairs."""
    order = list(range(count))
    for one, other in pairs:
        order[one], order[other] = other, one
    return tuple(order)


def swapped_heads(labels: Labels, pairs: Pairs) -> Pairs | None:
    """The pairs of heads that are swapped with pairs of labels; None if a region has no counterpart."""
    if not labels.regions:
        return tuple(sorted((min(pair), max(pair)) for pair in pairs if pair[0] != pair[1]))
    members = labels.members()
    swapped = members[:, list(swap_order(pairs, len(labels.values)))]
    places: dict[bytes, int] = {}
    for i, row in enumerate(members):
        places.setdefault(row.tobytes(), i)
    same = (members == swapped).all(1)
    others = [i if same[i] else places.get(row.tobytes()) for i, row in enumerate(swapped)]
    if None in others:
        return None
    return tuple((i, other) for i, other in enumerate(others) if other is not None and i < other)


def _words(name: str) -> tuple[str, ...]:
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)  # leftKidney, KidneyL
    return tuple(re.findall(r"[^\W_]+", parted.casefold()))


def _other_side(words: tuple[str, ...]) -> tuple[str, ...]:
    """The words with left replaced by right; () if there is no left."""
    swapped = tuple(RIGHT[LEFT.index(word)] if word in LEFT else word for word in words)
    return swapped if swapped != words else ()


def _of_the_heart(words: tuple[str, ...]) -> bool:
    return any(word in HEART for word in words) and "lateral" not in words
