"""Siemens mosaics: the slices of a volume as tiles of one picture, placed by the CSA header."""

from __future__ import annotations

import math
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nnseg.core.errors import ScanError

with warnings.catch_warnings():  # the package calls its readers of whole series experimental; the CSA parser is not
    warnings.simplefilter("ignore")
    from nibabel.nicom import csareader

TILES = 0x0019100A
MOSAIC_TAGS = (0x00190010, TILES, 0x00290010, 0x00290011, 0x00291010, 0x00291110)
"""Number of tiles, and the CSA image header with the creators of its block."""

Numbers = tuple[float, ...]
Tile = tuple[tuple[int, int], tuple[int, int], Numbers, float]
"""Corner and size (row, column), position in mm, and distance to the next in mm."""


def mosaic_tiles(
    path: Path, dataset: Any, *, count: int, step: float | None, corner: tuple[Numbers, Numbers, Numbers] | None
) -> Iterator[Tile]:
    """The tiles of a mosaic in the order of slices.

    ImagePositionPatient of a mosaic is where a slice as large as the whole picture would begin, centred like the tiles; slices
    follow along SliceNormalVector of the CSA header, which may point against the normal of rows and columns.

    Source: nibabel, doc/source/dicom/dicom_mosaic.rst.

    Args:
        count: tiles by a tag of their own; 0 if there is none.
        step: mm from slice to slice.
        corner: position, orientation and pixel spacing of the picture.

    Raises:
        ScanError: the header does not say how many tiles there are, or in which direction they follow.
    """
    csa = _csa_header(dataset)
    count = int((csareader.get_n_mosaic(csa) if csa else None) or count)
    normal = csareader.get_slice_normal(csa) if csa else None
    if not count or normal is None or not step or corner is None:
        needed = {
            "the number of tiles": count,
            "SliceNormalVector in the CSA header (the order of slices)": normal is not None,
            "the distance of slices": step,
            "a position, orientation or spacing": corner,
        }
        found = f"is a mosaic of slices without {' and '.join(name for name, there in needed.items() if not there)}"
        raise ScanError.at(path, found, "its CSA header", "export it again with private tags, or convert it with dcm2niix")
    side = math.ceil(math.sqrt(count))
    rows, columns = int(dataset.Rows) // side, int(dataset.Columns) // side
    position, orientation, spacing = map(np.asarray, corner)
    along_row, along_column = orientation[:3], orientation[3:]
    shift = along_row * spacing[1] * (dataset.Columns - columns) / 2 + along_column * spacing[0] * (dataset.Rows - rows) / 2
    upward = np.cross(along_row, along_column)
    forward = upward * math.copysign(step, float(upward @ np.asarray(normal, float)))
    for i in range(count):
        place = position + shift + i * forward
        yield (i // side * rows, i % side * columns), (rows, columns), tuple(float(v) for v in place), step


def _csa_header(dataset: Any) -> Any:
    try:
        return csareader.get_csa_header(dataset, "image")
    except (csareader.CSAError, struct.error, ValueError, TypeError, KeyError, AttributeError, IndexError, EOFError):
        return None
