"""Label maps by what says which label a voxel has: its value, a file, a channel, a segment of the header, a colour.

A voxel of a label map has *marks*: the segments, channels or files in which it lies, or its colour. They are found first
(`MarkedMap`); which label value each of them means is said by `LabelFiles`, and applied by `decode_marks`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnseg.core.dataset import counted
from nnseg.core.errors import ScanError
from nnseg.core.image import Integers
from nnseg.core.label_files import OBJECT, LabelCoding, LabelFiles, join_marks
from nnseg.storage.images.raw import LabelSegment, RawImage, smallest_integer_type

WHOLE_TOLERANCE = 1e-3
"""Largest distance of a stored label value from a whole number: slope and intercept of a header leave such rounding errors."""

MOST_MARKS = 1024
"""More colours, or combinations of overlapping masks, than this are no labels."""

UNCLEAN_SHARE, UNCLEAN_LEVELS = 0.1, 64
"""A mask may have up to this share of voxels between its two values, as interpolation and lossy compression leave them, if these
are at least so far apart."""

COLOURS = 3
"""Channels of a picture in colour."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MarkedMap:
    """A label map before its marks have label values.

    Args:
        codes: (Z, Y, X), the index in ``marks`` of each voxel.
        marks: what each code stands for: () for nothing, ("tumour",) for a segment, ("0", "2") where two files overlap; none of
            values, whose codes are the values.
        channels: of the file, also if all are the same.
        segments: as the header describes them.
        notes: what should be known of the files, in one line each.
    """

    coding: LabelCoding
    codes: Integers
    marks: tuple[tuple[str, ...], ...]
    channels: int = 1
    segments: tuple[LabelSegment, ...] = ()
    notes: tuple[str, ...] = ()


def own_coding(raw: RawImage) -> LabelCoding:
    """What says which label a voxel has, by the file alone: segments of its header, its colours, its channels, or its values."""
    if raw.segments:
        return "segments"
    if len(raw.voxels) == 1:
        return "values"
    picture = not raw.has_geometry and raw.voxels.dtype == np.uint8 and raw.voxels.max(initial=0) > 1
    if picture and len(raw.voxels) <= COLOURS + 1:  # two and four channels are grey and colour with half-transparent voxels
        return "colours" if len(raw.voxels) == COLOURS else "values"
    return "channels"


def without_copies(raw: RawImage) -> npt.NDArray[Any]:
    """The channels (C, Z, Y, X), of a grey picture saved in colour the first alone; what is transparent becomes 0."""
    voxels = raw.voxels
    if not raw.has_geometry and len(voxels) in (2, 4) and voxels.dtype == np.uint8 and _is_on_or_off(voxels[-1]):
        voxels = np.where(voxels[-1] > 0, voxels[:-1], 0)
    if len(voxels) > 1 and not raw.segments and all(np.array_equal(voxels[0], other) for other in voxels[1:]):
        return voxels[:1]
    return voxels


def mask_in_colour(voxels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The mask (1, Z, Y, X) of a picture (C, Z, Y, X) that is black but for one colour; any other as it is."""
    inside: npt.NDArray[np.bool_] = np.asarray(voxels.any(axis=0))
    colours = voxels[:, inside]
    one_colour = len(voxels) == COLOURS and voxels.dtype == np.uint8 and (colours == colours[:, :1]).all()
    return inside[None].astype(np.uint8) if one_colour else voxels


def _is_on_or_off(alpha: npt.NDArray[Any]) -> bool:
    """True if a channel of transparency has no half-transparent voxels."""
    return bool(((alpha == 0) | (alpha == np.iinfo(alpha.dtype).max)).all())


def mark_segments(path: Path, channels: npt.NDArray[Any], segments: Sequence[LabelSegment]) -> MarkedMap:
    """The segments of the header in which each voxel lies.

    Args:
        channels: (C, Z, Y, X), the layers.

    Raises:
        ScanError: two segments have one name, or one value in a layer; a layer is missing; a value belongs to no segment.
    """
    _check_segments(path, channels, segments)
    builder = _Builder(channels.shape[1:])
    for number, layer in enumerate(channels):
        values = whole_numbers(path, layer)
        described = {s.value: s.name for s in segments if s.channel == number}
        present = count_values(values)
        if strange := [v for v in present if v and v not in described]:
            found = f"has the value {strange[0]} ({present[strange[0]]} voxels), which no segment of its header describes"
            raise ScanError.at(path, found, f"the segments {_listed(segments)}", "save the segmentation again")
        for value in present:
            if value and not is_background(described[value]):
                builder.add(values == value, described[value])
    return builder.finish("segments", segments=tuple(segments))


def is_background(name: str) -> bool:
    """True for a segment that stands for no label."""
    return name.casefold() == "background"


def _check_segments(path: Path, channels: npt.NDArray[Any], segments: Sequence[LabelSegment]) -> None:
    names, places = dict[str, LabelSegment](), dict[tuple[int, int], LabelSegment]()
    for one in segments:
        if names.setdefault(one.name.casefold(), one) is not one:
            found = f"describes two segments called {one.name}"
        elif (other := places.setdefault((one.channel, one.value), one)) is not one:
            found = f"describes {other.name} and {one.name} by the same value {one.value}"
        else:
            continue
        raise ScanError.at(path, found, "a name and a value for each", "rename or remove one of them")
    if missing := [s for s in segments if not 0 <= s.channel < len(channels)]:
        found = f"describes {missing[0].name} in layer {missing[0].channel}, but has {len(channels)} layers"
        raise ScanError.at(path, found, "each segment in a layer of the file", "save the segmentation again")


def _listed(segments: Iterable[LabelSegment]) -> str:
    return ", ".join(f"{s.name} ({s.value})" for s in segments)


def mark_channels(path: Path, channels: npt.NDArray[Any], segments: Sequence[LabelSegment] = ()) -> MarkedMap:
    """The channels, each a mask, in which each voxel lies, by their number from 0.

    Raises:
        ScanError: one is no mask.
    """
    advice = "save each structure as a mask; if channels are slices or time points, save them as such"
    found = [as_mask(path, channel, advice=advice) for channel in channels]
    return mark_masks([mask for mask, _ in found], "channels", notes=[note for _, notes in found for note in notes])


def mark_masks(masks: Sequence[npt.NDArray[np.bool_]], coding: LabelCoding, *, notes: Sequence[str] = ()) -> MarkedMap:
    """The masks (Z, Y, X) in which each voxel lies, by their number from 0."""
    builder = _Builder(masks[0].shape)
    for number, mask in enumerate(masks):
        builder.add(mask, str(number))
    return builder.finish(coding, notes=tuple(notes))


def mark_colours(path: Path, channels: npt.NDArray[Any], segments: Sequence[LabelSegment] = ()) -> MarkedMap:
    """The colour of each voxel, "#rrggbb"; black is a colour as others are.

    Args:
        channels: (3, Z, Y, X), 8 bit.

    Raises:
        ScanError: more colours than a label map has.
    """
    if len(channels) == 1 and channels.dtype == np.uint8:
        channels = np.repeat(channels, COLOURS, axis=0)  # a picture without any colour, for instance an empty one
    if len(channels) != COLOURS:
        found = f"has {len(channels)} channels of different content"
        raise ScanError.at(path, found, "one label value per voxel, or a colour", "save it as a grey or palette image")
    red, green, blue = channels.astype(np.int32)
    packed = (red << 16) | (green << 8) | blue
    colours, codes = np.unique(packed, return_inverse=True)
    if len(colours) > MOST_MARKS:
        found = f"has {len(channels)} channels of different content, and {len(colours)} colours"
        raise ScanError.at(path, found, "one label value per voxel, or a few colours", "save it as a grey or palette image")
    marks = tuple((f"#{int(colour):06x}",) for colour in colours)
    return MarkedMap(coding="colours", codes=_compact(codes.reshape(packed.shape), len(marks)), marks=marks)


def decode_marks(path: Path, marked: MarkedMap, meaning: LabelFiles) -> Integers:
    """Label values (Z, Y, X) of a marked map.

    Args:
        path: that messages name.

    Raises:
        ScanError: a mark has no value.
    """
    if meaning.coding == "instances":  # a file for each object
        return decode_instances(marked.codes, meaning)
    table = [meaning.value_of(mark) for mark in marked.marks]
    if None in table:
        mark = marked.marks[table.index(None)]
        voxels = int(np.count_nonzero(marked.codes == table.index(None)))
        found = f"has {voxels} voxels of {join_marks(mark)}"
        raise ScanError.at(path, found, f"those of {', '.join(meaning.values)}", "give it a label, or correct the file")
    values = np.array(table)
    return values.astype(smallest_integer_type(values))[marked.codes]


def decode_instances(labels_ZYX: Integers, meaning: LabelFiles) -> Integers:
    """The value of an object where the number of any is stored, 0 elsewhere."""
    value = np.array(meaning.values[OBJECT])
    return np.where(labels_ZYX != 0, value.astype(smallest_integer_type(value)), 0)


SEVERAL_VALUES = "save each structure as a mask, or choose the file that has all structures with --labels"


def as_mask(path: Path, voxels: npt.NDArray[Any], *, advice: str = SEVERAL_VALUES) -> tuple[npt.NDArray[np.bool_], tuple[str, ...]]:
    """Where a mask is not 0, and a note if it has voxels between its two values, which are divided in the middle.

    Args:
        advice: for one of more values.

    Raises:
        ScanError: probabilities, or more than two values.
    """
    if voxels.dtype.kind == "f" and not np.isnan(voxels).any():
        inside = float(np.mean((voxels > WHOLE_TOLERANCE) & (voxels < 1 - WHOLE_TOLERANCE)))
        if inside and voxels.min() >= -WHOLE_TOLERANCE and voxels.max() <= 1 + WHOLE_TOLERANCE:
            found = f"is a soft mask: {inside:.2%} of its voxels lie between 0 and 1"
            raise ScanError.at(path, found, "a mask of two values", "decide on a threshold, such as 0.5, and save 0 and 1")
    values = whole_numbers(path, voxels)
    lowest, highest = int(values.min()), int(values.max())
    between = (values != 0) & (values != highest)
    count = int(np.count_nonzero(between))
    if lowest >= 0 and not count:
        return values != 0, ()
    if lowest < 0 or highest < UNCLEAN_LEVELS or count > UNCLEAN_SHARE * values.size:
        shown = list(count_values(values))
        found = f"has {len(shown)} values ({', '.join(map(str, shown[:6]))}{', ...' if len(shown) > 6 else ''})"
        raise ScanError.at(path, found, "0 and one other value in a mask", advice)
    few = f"{counted(count, 'voxel')} ({count / values.size:.2g} of all) {'lies' if count == 1 else 'lie'}"
    note = f"{few} between 0 and {highest}; the mask was divided at the half [NS-L015]"
    return values > highest / 2, (f"{path.name}: {note}",)


def whole_numbers(path: Path, voxels: npt.NDArray[Any]) -> Integers:
    """Label values as integers; floats are rounded where the difference is a rounding error of scaling.

    Raises:
        ScanError: others.
    """
    if voxels.dtype.kind in "ui":
        return voxels.astype(voxels.dtype.newbyteorder("="), copy=False)
    if voxels.dtype.kind == "b":
        return voxels.astype(np.uint8)
    rounded = np.rint(voxels)
    with np.errstate(invalid="ignore"):
        bad = ~(np.abs(voxels - rounded) <= WHOLE_TOLERANCE) | (np.abs(rounded) > 2**31)
    if bad.any():
        first = tuple(int(i) for i in np.unravel_index(int(np.argmax(bad)), bad.shape))
        count = f"{int(bad.sum())} voxels that are no whole numbers"
        found = f"has {count}, the first {voxels[first]:g} at (z, y, x) = {first} as stored"
        raise ScanError.at(path, found, "label values", "resample label maps with nearest neighbour, not interpolation", "NS-L002")
    whole: Integers = rounded.astype(smallest_integer_type(rounded))
    return whole


def count_values(labels_ZYX: Integers) -> dict[int, int]:
    """Voxels of each value that occurs, ascending by value."""
    lowest, highest = int(labels_ZYX.min()), int(labels_ZYX.max())
    if lowest < 0 or highest > 65535:
        values, counts = np.unique(labels_ZYX, return_counts=True)
        return dict(zip(values.tolist(), counts.tolist(), strict=True))
    total = np.zeros(highest + 1, np.int64)
    for plane in labels_ZYX:  # counting is quicker than sorting; plane by plane it needs little memory
        total += np.bincount(plane.ravel(), minlength=highest + 1)
    return {int(v): int(total[v]) for v in np.flatnonzero(total)}


def mark(path: Path, raw: RawImage, coding: LabelCoding) -> MarkedMap:
    """The marks of a file in the order in which it is stored, by a way to code labels in one file.

    Raises:
        ScanError: it does not code labels so.
    """
    return _MARKS[coding](path, raw.voxels, raw.segments)


def _mark_values(path: Path, channels: npt.NDArray[Any], segments: Sequence[LabelSegment] = ()) -> MarkedMap:
    if len(channels) > 1:
        found = f"has {len(channels)} channels of different content"
        raise ScanError.at(path, found, "one label value per voxel", "save it as a grey or palette image")
    return MarkedMap(coding="values", codes=whole_numbers(path, channels[0]), marks=())


class _Builder:
    """A marked map that grows by one mask after the other; only the voxels of a mask are touched."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._codes = np.zeros(shape, np.int32)
        self._marks: list[tuple[str, ...]] = [()]

    def add(self, mask: npt.NDArray[np.bool_], key: str) -> None:
        codes = self._codes.reshape(-1)
        where = np.flatnonzero(mask)
        there = codes[where]
        for code in np.unique(there).tolist():
            codes[where[there == code]] = len(self._marks)
            self._marks.append((*self._marks[code], key))

    def finish(self, coding: LabelCoding, *, segments: tuple[LabelSegment, ...] = (), notes: tuple[str, ...] = ()) -> MarkedMap:
        """The map with the marks that occur, that of nothing first."""
        present = np.flatnonzero(np.bincount(self._codes.ravel(), minlength=len(self._marks)))
        table = np.zeros(len(self._marks), np.int32)
        table[present] = np.arange(len(present)) + (0 if 0 in present else 1)
        marks = ((), *(self._marks[i] for i in present if i))
        codes = _compact(table[self._codes], len(marks))
        return MarkedMap(coding=coding, codes=codes, marks=marks, segments=segments, notes=notes)


def _compact(codes: Integers, marks: int) -> Integers:
    return codes.astype(np.uint8 if marks <= 256 else np.int32)


_MARKS = {"values": _mark_values, "channels": mark_channels, "segments": mark_segments, "colours": mark_colours}
"""Each (path, voxels (C, Z, Y, X), segments of the header) -> MarkedMap."""
