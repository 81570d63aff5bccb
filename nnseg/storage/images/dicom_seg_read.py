"""DICOM-SEG as label maps: the segments of BINARY, FRACTIONAL and LABELMAP objects on the grid that their frames span.

By pydicom alone; why not highdicom: docs/decisions/dicom-seg.md.

Source: DICOM PS3.3, C.8.20.2 (Segmentation Image) and C.8.20.4 (Segment Description).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.pixels import iter_pixels

from nnseg.core.colours import Colour
from nnseg.core.errors import ScanError
from nnseg.core.geometry import Grid
from nnseg.storage.images.cielab import from_cielab
from nnseg.storage.images.codes import VALUE_TEXT
from nnseg.storage.images.dicom_headers import open_dataset, quiet
from nnseg.storage.images.dicom_layers import layered
from nnseg.storage.images.dicom_seg_grid import SegmentFrame, read_frames, span_grid
from nnseg.storage.images.dicom_values import UNREADABLE, item_of, number_of, numbers_of, text_of, value_of
from nnseg.storage.images.raw import (
    READ_DEFAULTS,
    LabelSegment,
    RawImage,
    ReadOptions,
    check_size,
    placeholder,
    smallest_integer_type,
)

_MAP = "LABELMAP"
"""SegmentationType of objects whose pixels are the numbers of segments (supplement 243)."""


NOTES = {
    "PROBABILITY": "its segments are probabilities; voxels above one half count",
    "OCCUPANCY": "its segments are shares of voxels; voxels that are filled by more than half count",
}
"""Notes on FRACTIONAL segmentations, by SegmentationFractionalType."""


def read_dicom_seg(path: Path, options: ReadOptions = READ_DEFAULTS) -> RawImage:
    """A segmentation as a label map, slices in ascending order of position, with a channel for each layer of overlapping segments.

    The grid reaches from the first to the last frame; slices between them that no frame describes are empty. Values are the labels'
    own if nnseg wrote the file, else the numbers of the segments.

    Raises:
        ScanError: it cannot be read or decoded; frames lie in different directions, unevenly or twice in one place; the distance of
            slices is not known; or it is a segmentation of a whole slide image.
    """
    with quiet():
        dataset = open_dataset(path, stop_before_pixels=options.only_header)
        try:
            return _read(path, dataset, options)
        except UNREADABLE as error:
            expected, advice = "a DICOM-SEG that can be decoded", "export it again, uncompressed"
            raise ScanError.at(path, f"cannot be read ({error})", expected, advice) from error


def _read(path: Path, dataset: Any, options: ReadOptions) -> RawImage:
    kind = text_of(dataset, "SegmentationType")
    frames = read_frames(path, dataset)
    grid, places, notes = span_grid(path, dataset, frames, options.spacing)
    check_size(path, grid.shape, np.uint16, options)
    segments = _segments(dataset, frames)
    values = np.array([segment.value for segment in segments.values()] or [0])
    dtype = np.uint16 if kind == _MAP else smallest_integer_type(np.append(values, 0))
    if options.only_header:
        voxels, channels = placeholder((1, *grid.shape), dtype), dict.fromkeys(segments, 0)
    elif kind == _MAP:
        voxels, channels = _label_map(path, dataset, places, grid, segments), dict.fromkeys(segments, 0)
    else:
        masks = _masks(path, dataset, frames, places, segments)
        layers, channels = layered(path, masks, segments, np.zeros(grid.shape, dtype), options)
        voxels = np.stack(layers) if len(layers) > 1 else layers[0][None]
    return RawImage(
        voxels=voxels,
        grid=grid,
        has_geometry=bool(frames[0].position),
        notes=(*notes, *(note for key, note in NOTES.items() if text_of(dataset, "SegmentationFractionalType") == key)),
        files=(path,),
        segments=tuple(replace(segment, channel=channels[number]) for number, segment in segments.items()),
    )


def _segments(dataset: Any, frames: Sequence[SegmentFrame]) -> dict[int, LabelSegment]:
    """The segments by number."""
    items = {int(number_of(item, "SegmentNumber") or 0): item for item in value_of(dataset, "SegmentSequence") or ()}
    items = {number: item for number, item in items.items() if number} | dict.fromkeys(
        frame.segment for frame in frames if frame.segment and frame.segment not in items
    )
    values = {number: _own_value(item) for number, item in items.items()}
    own = all(values.values()) and len(set(values.values())) == len(values)
    names = [_name(item, number) for number, item in items.items()]
    counts = Counter(names)
    return {
        number: LabelSegment(
            name=name if counts[name] == 1 else _name_with_side(item, name),
            value=values[number] or number if own else number,
            colour=_colour(item),
        )
        for (number, item), name in zip(items.items(), names, strict=True)
    }


def _own_value(item: Any) -> int | None:
    """The label's value that nnseg wrote."""
    match = re.fullmatch(VALUE_TEXT.format(r"(-?\d+)"), text_of(item, "SegmentDescription"))
    return int(match[1]) if match else None


def _name(item: Any, number: int) -> str:
    kind = text_of(item_of(item, "SegmentedPropertyTypeCodeSequence"), "CodeMeaning")
    return text_of(item, "SegmentLabel") or kind or f"segment {number}"


def _name_with_side(item: Any, name: str) -> str:
    """The name, before it the side by its code, for segments that have one name."""
    modifiers = ("SegmentedPropertyTypeCodeSequence", "SegmentedPropertyTypeModifierCodeSequence")
    side = text_of(item_of(item_of(item, modifiers[0]), modifiers[1]), "CodeMeaning")
    return f"{side} {name}" if side else name


def _colour(item: Any) -> Colour | None:
    code = numbers_of(item, "RecommendedDisplayCIELabValue")
    return from_cielab([int(v) for v in code]) if len(code) == 3 else None


def _masks(
    path: Path, dataset: Any, frames: Sequence[SegmentFrame], places: Sequence[int], segments: Mapping[int, LabelSegment]
) -> Iterator[tuple[int, list[tuple[int, npt.NDArray[np.bool_]]]]]:
    """The numbers of segments, with their slices and the masks on these.

    Args:
        places: the slice of each frame.
    """
    ordered = sorted(frames, key=lambda frame: (frame.segment, places[frame.index]))
    planes = _planes(dataset, [frame.index for frame in ordered])
    for number, group in groupby(zip(ordered, planes, strict=True), key=lambda pair: pair[0].segment):
        masks = [(places[frame.index], mask) for frame, mask in group]
        _check_single(path, [z for z, _ in masks], segments[number].name)
        yield number, masks


def _planes(dataset: Any, indices: Sequence[int]) -> Iterator[npt.NDArray[np.bool_]]:
    """The masks of frames (Y, X)."""
    limit = 0.0
    if text_of(dataset, "SegmentationType") == "FRACTIONAL":
        limit = (number_of(dataset, "MaximumFractionalValue") or 255) / 2
    if dataset.BitsAllocated == 1 and not dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        yield from (_unpacked(dataset, index) for index in indices)
        return
    for plane in iter_pixels(dataset, indices=indices, raw=True):
        yield plane > limit


def _unpacked(dataset: Any, index: int) -> npt.NDArray[np.bool_]:
    """A frame of single bits, which may begin within a byte; pydicom 3.0 loses the last ones then."""
    shape = (int(dataset.Rows), int(dataset.Columns))
    size = shape[0] * shape[1]
    first = index * size
    packed = np.frombuffer(dataset.PixelData, np.uint8)[first // 8 : (first + size + 7) // 8]
    bits = np.unpackbits(packed, bitorder="little")[first % 8 :][:size]
    return bits.reshape(shape).astype(bool)


def _label_map(
    path: Path, dataset: Any, places: Sequence[int], grid: Grid, segments: Mapping[int, LabelSegment]
) -> npt.NDArray[Any]:
    """The voxels (1, Z, Y, X) of an object whose pixels are the numbers of segments."""
    _check_single(path, places, "its label map")
    voxels = np.zeros((1, *grid.shape), np.uint16)
    for z, plane in zip(places, iter_pixels(dataset, raw=True), strict=True):
        voxels[0, z] = plane
    changed = {number: segment.value for number, segment in segments.items() if segment.value != number}
    if not changed:
        return voxels
    dtype = np.promote_types(np.uint16, smallest_integer_type(np.array([*changed.values()], np.int64)))
    values = np.arange(2**16).astype(dtype)
    values[[*changed]] = [*changed.values()]
    return values[voxels]


def _check_single(path: Path, places: Sequence[int], name: str) -> None:
    """Raise ScanError for two frames of a segment in one place, as of several times."""
    if len(set(places)) < len(places):
        found = f"has several frames of {name} in one place, such as times"
        raise ScanError.at(path, found, "one frame of a segment in each place", "divide it into several files")
