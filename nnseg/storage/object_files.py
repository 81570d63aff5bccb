"""The files of objects beside a label map: their names, and the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from nnseg.core.geometry import as_vector
from nnseg.core.image import Integers, Source
from nnseg.core.units import in_unit
from nnseg.storage.files import write_text
from nnseg.storage.images.formats import stem_of, suffix_of
from nnseg.storage.tables import csv_text

NUMBERS = {".bmp": ".png", ".dcm": ".nii.gz"}
"""Suffix of numbers of objects beside label maps of a format that holds no such numbers."""


def file_beside(label_map: Path, what: str, suffix: str | None = None) -> Path:
    """The file of a map beside a label map: "case_objects.png" beside "case.png".

    Args:
        label_map: file of it.
        what: `OBJECTS`, `INTERIOR` or `level_end` of `nnseg.storage.predictions`.
        suffix: of the file; by default that of the label map, or one that holds large numbers.
    """
    own = suffix_of(label_map)
    return label_map.with_name(f"{stem_of(label_map)}{what}{suffix or NUMBERS.get(own, own)}")


def write_object_table(
    path: Path,
    objects: Integers,
    *,
    like: Source,
    counts: Mapping[str, int],
    scores: npt.NDArray[np.float64],
    diameters: npt.NDArray[np.float64],
    intensities: npt.NDArray[np.float64],
    channels: Sequence[str],
) -> None:
    """Write the table of the objects in a label map, with a line for each.

    Positions and boxes count voxels of the written image, from 0. Sizes and diameters are in the unit of the scan: "diameter" is
    that of a ball or disc of the same size, "longest", "in_slice" and "perpendicular" are as `nnseg.evaluation.diameters` says,
    and "product" is that of the last two. The score is the mean probability of the label in the object.

    Args:
        path: of the table.
        objects: numbers from 1 to n in the order of the written image, 0 where there is none.
        like: of the scan.
        counts: number of objects of each label, in the order of their numbers.
        scores: of each object (n,).
        diameters: mm (n, 3) of each object: the longest, that within a slice, and that perpendicular to it.
        intensities: mean intensity (n, C) of each object.
        channels: of the scan.

    Raises:
        RunError: the file cannot be written.
    """
    axes, unit = ("y", "x") if like.is_2d else ("z", "y", "x"), like.shown_unit
    size = f"area_{unit}2" if like.is_2d else f"volume_{unit}3"
    lengths = [f"{name}_{unit}" for name in ("diameter", "longest", *(() if like.is_2d else ("in_slice",)), "perpendicular")]
    header = ["id", "label", "score", "voxels", size, *axes, *(f"{a}_{end}" for a in axes for end in ("first", "last")), *lengths]
    means = [f"mean_{channel}" for channel in channels]
    rows = _rows(objects, like, [name for name, count in counts.items() for _ in range(count)], scores)
    ends = ([*_lengths(own, like), *map(_short, of)] for own, of in zip(diameters, intensities, strict=True))
    lines = ([*row, *end] for row, end in zip(rows, ends, strict=True))
    write_text(path, csv_text([*header, f"product_{unit}2", *means], lines))


def _lengths(diameters: npt.NDArray[np.float64], like: Source) -> list[float]:
    """The diameters of an object in the unit of the scan, and their product; of a picture the longest one is within its slice."""
    longest, in_slice, perpendicular = in_unit(as_vector(diameters), like.shown_unit)
    lengths = (longest, perpendicular) if like.is_2d else (longest, in_slice, perpendicular)
    return [_short(value) for value in (*lengths, in_slice * perpendicular)]


def _rows(objects: Integers, like: Source, names: Sequence[str], scores: npt.NDArray[np.float64]) -> list[list[str | float | None]]:
    """A line for each object: label, score, sizes, centre, box and diameter."""
    first = int(like.is_2d)
    spacing = in_unit(like.grid.spacing, like.shown_unit)[first:]
    voxels, boxes = np.bincount(objects.ravel())[1:], ndimage.find_objects(objects.astype(np.int32))
    centres = ndimage.center_of_mass(objects > 0, objects, range(1, len(voxels) + 1))
    rows: list[list[str | float | None]] = []
    for number, (name, score, count, box, centre) in enumerate(zip(names, scores, voxels, boxes, centres, strict=True), 1):
        size = float(count * np.prod(spacing))
        across = 2 * (size / np.pi) ** 0.5 if like.is_2d else (6 * size / np.pi) ** (1 / 3)
        ends = [end for side in box[first:] for end in (side.start, side.stop - 1)]
        sizes = (int(count), _short(size))
        rows.append([number, name, _short(score), *sizes, *map(_short, centre[first:]), *ends, _short(across)])
    return rows


def _short(value: float) -> float:
    return float(f"{value:.6g}")
