"""The objects of a label map as files: their numbers as an image, and a table of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from nnseg.core.image import Integers, LabelMap, Source
from nnseg.core.labels import Labels
from nnseg.core.units import in_unit
from nnseg.storage.files import write_text
from nnseg.storage.images.formats import stem_of, suffix_of
from nnseg.storage.images.sidecar import sidecar_path
from nnseg.storage.images.write import to_stored_order, write_label_map
from nnseg.storage.predictions import OBJECTS
from nnseg.storage.tables import csv_text

NUMBERS = {".bmp": ".png", ".dcm": ".nii.gz"}
"""Suffix of numbers of objects beside label maps of a format that holds no such numbers."""


def file_beside(label_map: Path, what: str, suffix: str | None = None) -> Path:
    """The file of a map beside a label map: "case_objects.png" beside "case.png".

    Args:
        label_map: file of it.
        what: `OBJECTS` or `INTERIOR` of `nnseg.storage.predictions`.
        suffix: of the file; by default that of the label map, or one that holds large numbers.
    """
    own = suffix_of(label_map)
    return label_map.with_name(f"{stem_of(label_map)}{what}{suffix or NUMBERS.get(own, own)}")


def write_beside(label_map: LabelMap, file: Path, what: str, *, like: Source) -> tuple[Path, ...]:
    """The files written for a map of whole numbers beside a label map: the map, and perhaps its spacing.

    Args:
        label_map: its values are the numbers.
        file, what: as for `file_beside`.
        like: of the scan.

    Raises:
        ScanError: the format cannot hold these numbers.
        RunError: a file cannot be written.
    """
    path = file_beside(file, what)
    write_label_map(label_map, path, like=like)
    return (path, *(found for found in [sidecar_path(path)] if found.exists()))


def write_objects(
    objects_ZYX: Integers,
    label_map: LabelMap,
    file: Path,
    *,
    like: Source,
    labels: Labels,
    intensities: npt.NDArray[np.float64],
    channels: Sequence[str],
) -> tuple[Path, ...]:
    """The files written for the objects in a label map, beside its own: numbers as an image, and a table with a line for each.

    Positions and boxes count voxels of the written image, from 0. Sizes and diameters (of a ball or disc of the same size) are in
    the unit of the scan.

    Args:
        objects_ZYX: numbers from 1 to n on the canonical grid of ``like``, 0 where there is none.
        label_map: on the same grid.
        file: of the label map.
        like: of the scan.
        labels: of the label map.
        intensities: mean intensity (n, C) of each object.
        channels: of the scan.

    Raises:
        ScanError: the format cannot hold these numbers.
        RunError: a file cannot be written.
    """
    numbered, table = replace(label_map, labels=objects_ZYX), file_beside(file, OBJECTS, ".csv")
    images = write_beside(numbered, file, OBJECTS, like=like)
    stored, values = to_stored_order(numbered, like), to_stored_order(label_map, like)
    axes, unit = ("y", "x") if like.is_2d else ("z", "y", "x"), like.shown_unit
    size, diameter = (f"area_{unit}2", f"diameter_{unit}") if like.is_2d else (f"volume_{unit}3", f"diameter_{unit}")
    header = ["id", "label", "voxels", size, *axes, *(f"{a}_{end}" for a in axes for end in ("first", "last")), diameter]
    means = [f"mean_{channel}" for channel in channels]
    rows = _rows(stored, values, like, labels)
    write_text(table, csv_text([*header, *means], ([*row, *map(_short, of)] for row, of in zip(rows, intensities, strict=True))))
    return (*images, table)


def _rows(objects: Integers, values: Integers, like: Source, labels: Labels) -> list[list[str | float | None]]:
    """A line for each object: label, sizes, centre, box and diameter."""
    first, names = int(like.is_2d), labels.by_value
    spacing = in_unit(like.grid.spacing, like.shown_unit)[first:]
    voxels, boxes = np.bincount(objects.ravel())[1:], ndimage.find_objects(objects.astype(np.int32))
    centres = ndimage.center_of_mass(objects > 0, objects, range(1, len(voxels) + 1))
    rows: list[list[str | float | None]] = []
    for number, (count, box, centre) in enumerate(zip(voxels, boxes, centres, strict=True), 1):
        part = objects[box] == number
        size = float(count * np.prod(spacing))
        across = 2 * (size / np.pi) ** 0.5 if like.is_2d else (6 * size / np.pi) ** (1 / 3)
        ends = [end for side in box[first:] for end in (side.start, side.stop - 1)]
        label = names[int(values[box][part][0])]
        rows.append([number, label, int(count), _short(size), *map(_short, centre[first:]), *ends, _short(across)])
    return rows


def _short(value: float) -> float:
    return float(f"{value:.6g}")
