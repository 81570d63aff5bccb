"""Predicted label maps and their references: which belong together, and the two of a pair, read and checked."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from nnseg.core.errors import EvaluationError
from nnseg.core.geometry import Box, Grid, as_shape, as_vector, format_axes
from nnseg.core.image import Integers, LabelMap, Source
from nnseg.core.label_files import LabelFiles, LabelSource, label_paths
from nnseg.core.labels import Labels
from nnseg.storage.images.formats import suffix_of
from nnseg.storage.images.label_codings import decode_instances
from nnseg.storage.images.nrrd import NRRD
from nnseg.storage.images.read import read_label_map, read_numbers
from nnseg.storage.images.resampling import share_inside

GRID_TOLERANCE = 0.1
"""Largest distance of the grids of prediction and reference, in voxels, since headers are rounded."""

WITHOUT_POSITIONS = (".png", ".gif", ".bmp", ".tif", ".tiff")

WITH_SEGMENTS = (".dcm", *NRRD)
"""Suffixes of files that often cover no more than their segments."""

SAME_STEPS = 1e-3
"""Share of a voxel by which the steps of two grids may differ."""

PADDED = "label map: covers a part of the grid, whole voxels away; the rest is taken for background"
"""Note of a label map that is cropped."""

MOST_VALUES = 10
"""Undeclared values listed in a message."""


@dataclass(frozen=True, kw_only=True)
class FilePair:
    """Files of a predicted label map and its reference.

    Args:
        annotated: names of the labels annotated in the reference; None for all.
        objects: file with numbers of the objects in the prediction; None for connected components.
    """

    name: str
    prediction: LabelSource
    reference: LabelSource
    annotated: tuple[str, ...] | None = None
    objects: LabelSource | None = None


def read_pair(pair: FilePair, labels: Labels) -> tuple[LabelMap, LabelMap]:
    """The prediction and the reference of a pair, with equal grids and declared values.

    Raises:
        EvaluationError: the grids differ, or a value is not among the labels.
    """
    read = read_numbered_pair(pair, labels)
    return read.prediction, read.reference


@dataclass(frozen=True, kw_only=True, eq=False)
class NumberedPair:
    """A pair of label maps.

    Args:
        objects: of prediction and reference the numbers of objects (Z, Y, X), where the files number them; else None.
    """

    prediction: LabelMap
    reference: LabelMap
    objects: tuple[Integers | None, Integers | None] = (None, None)


def read_numbered_pair(pair: FilePair, labels: Labels) -> NumberedPair:
    """The prediction and the reference of a pair as by `read_pair`, and the numbers of objects in them.

    Raises:
        EvaluationError: the grids differ, or a value is not among the labels.
    """
    prediction, predicted = _read(pair.prediction)
    if pair.objects is not None:
        predicted = read_label_map(pair.objects, sheared=True).labels
    flat = suffix_of(label_paths(pair.prediction)[0]) in WITHOUT_POSITIONS  # not turned on reading, so its grid fits
    reference, given = _read(pair.reference, like=prediction.source if flat else None)
    cropped = suffix_of(label_paths(pair.prediction)[0]) in WITH_SEGMENTS
    prediction, reference = _on_common_grid(prediction, reference, pad=(cropped, True))
    check_pair(prediction, reference, labels)
    return NumberedPair(prediction=prediction, reference=reference, objects=(predicted, given))


def _read(source: LabelSource, like: Source | None = None) -> tuple[LabelMap, Integers | None]:
    """A label map, and the numbers of its objects if its values are these, or a file beside it has them."""
    if not isinstance(source, LabelFiles) or not source.has_numbers:
        return read_label_map(source, like=like, sheared=True), None
    if source.objects is not None:
        label_map = read_label_map(source, like=like, sheared=True)
        return label_map, read_numbers(source, like=like, beside=label_map).labels
    numbered = read_numbers(source, like=like)
    return replace(numbered, labels=decode_instances(numbered.labels, source)), numbered.labels


def _on_common_grid(prediction: LabelMap, reference: LabelMap, *, pad: tuple[bool, bool]) -> tuple[LabelMap, LabelMap]:
    """Both on a grid that covers both, where they lie whole voxels apart and one is cropped, as to the extent of its segments.

    Args:
        pad: whether the prediction, and the reference, may be cropped.
    """
    start = _whole_voxels(prediction.grid, reference.grid)
    if prediction.grid.shape == reference.grid.shape or start is None:
        return prediction, reference
    first = np.minimum(start, 0)
    shape = as_shape(np.maximum(np.add(start, prediction.grid.shape), reference.grid.shape) - first)
    grid = replace(reference.grid, shape=shape, origin=reference.grid.world(as_vector(first)))
    sides = ((prediction, start - first, pad[0]), (reference, -first, pad[1]))
    if any(side.grid.shape != shape and not may for side, _, may in sides):
        return prediction, reference
    padded = []
    for side, begin, _ in sides:
        labels = np.zeros(shape, side.labels.dtype)
        labels[Box(start=as_shape(begin), stop=as_shape(np.add(begin, side.grid.shape))).slices] = side.labels
        notes = (*side.notes, PADDED) if side.grid.shape != shape else side.notes
        padded.append(replace(side, labels=labels, grid=grid, notes=notes))
    return padded[0], padded[1]


def _whole_voxels(grid: Grid, other: Grid) -> npt.NDArray[np.int64] | None:
    """The first voxel of a grid in another one of equal steps, whole voxels away; None for others."""
    if not np.allclose(grid.steps, other.steps, atol=SAME_STEPS * min(other.spacing)):
        return None
    start = (np.asarray(grid.origin) - other.origin) @ np.linalg.inv(other.steps)
    return np.rint(start).astype(np.int64) if np.abs(start - np.rint(start)).max() < GRID_TOLERANCE else None


def check_pair(prediction: LabelMap, reference: LabelMap, labels: Labels) -> None:
    """Raise EvaluationError if the grids differ, or a value is not among the labels."""
    _check_grids(prediction.grid, reference.grid)
    for side, label_map in (("reference", reference), ("prediction", prediction)):
        if unknown := labels.undeclared(label_map.labels):
            shown = ", ".join(map(str, unknown[:MOST_VALUES]))
            values = f"[{shown}]" if len(unknown) <= MOST_VALUES else f"[{shown}, ...] ({len(unknown)}; is it a scan?)"
            declared = ", ".join(map(str, labels.values))
            raise EvaluationError(f"{side} has values {values}, the labels are {declared}; declare them or fix the file")


def _check_grids(predicted: Grid, given: Grid) -> None:
    if given.agrees(predicted, GRID_TOLERANCE):
        return
    if predicted.shape != given.shape:
        shapes = [format_axes(grid.shape) for grid in (predicted, given)]
        found = f"the prediction has {shapes[0]} voxels (z, y, x), the reference {shapes[1]}"
    else:
        found = f"the grids of prediction and reference lie up to {given.largest_gap(predicted):.3g} mm apart"
    raise EvaluationError(f"{found}; {_advice(predicted, given)}")


def _advice(predicted: Grid, given: Grid) -> str:
    """What to do about two grids that differ."""
    start = _whole_voxels(predicted, given)
    if start is not None and share_inside(predicted, given) > 0:
        stop = start + predicted.shape
        if (start >= 0).all() and (stop <= given.shape).all():
            place = ", ".join(f"{a}:{b}" for a, b in zip(start, stop, strict=True))
            return f"the prediction is the part [{place}] of the reference's grid: put it there, with background around it"
        return f"they have the same voxels, {format_axes(start, '+d')} apart (z, y, x): crop or pad one to the other"
    if share_inside(given, predicted) < 0.5:
        return "they hardly overlap: check that both are of the same scan"
    return "resample the prediction to the reference's grid with nearest neighbour, or predict on the scan that was annotated"
