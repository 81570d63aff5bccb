"""Siemens mosaics: the slices of a volume as tiles of one picture, placed by the CSA header."""

from __future__ import annotations

import math
import struct
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnseg.core.errors import ScanError
from nnseg.storage.images.dicom_headers import number_of, numbers_of, value_of

with warnings.catch_warnings():  # the package calls its readers of whole series experimental; the CSA parser is not
    warnings.simplefilter("ignore")
    from nibabel.nicom import csareader

MOSAIC_TAGS = (0x00190010, 0x0019100A, 0x00290010, 0x00290011, 0x00291010, 0x00291110)
"""Number of tiles, and the CSA image header with the creators of its block."""

_TILES = 0x0019100A


def is_mosaic(dataset: Any, image_type: Sequence[str]) -> bool:
    """True for a picture of tiles."""
    return "MOSAIC" in image_type


def mosaic_tiles(
    path: Path, dataset: Any, orientation: tuple[float, ...], spacing: tuple[float, ...]
) -> Iterator[tuple[tuple[int, int], tuple[int, int], tuple[float, ...], float]]:
    """Corner, size, position and distance in mm of each tile, in the order of slices.

    ImagePositionPatient of a mosaic is where a slice as large as the whole picture would begin, centred like the tiles; slices
    follow along SliceNormalVector of the CSA header, which may point against the normal of rows and columns.

    Source: nibabel, doc/source/dicom/dicom_mosaic.rst.

    Raises:
        ScanError: the header does not say how many tiles there are, or in which direction they follow.
    """
    csa = _csa_header(dataset)
    count = _tile_count(dataset, csa)
    normal = csareader.get_slice_normal(csa) if csa else None
    step = number_of(dataset, "SpacingBetweenSlices") or number_of(dataset, "SliceThickness")
    place = numbers_of(dataset, "ImagePositionPatient")
    placed = len(place) == 3 and len(orientation) == 6 and len(spacing) == 2
    if not count or normal is None or not step or not placed:
        needed = {
            "the number of tiles": count,
            "SliceNormalVector in the CSA header (the order of slices)": normal is not None,
            "the distance of slices": step,
            "a position, orientation or spacing": placed,
        }
        found = f"is a mosaic of slices without {' and '.join(name for name, there in needed.items() if not there)}"
        raise ScanError.at(path, found, "its CSA header", "export it again with private tags, or convert it with dcm2niix")
    side = math.ceil(math.sqrt(count))
    rows, columns = int(dataset.Rows) // side, int(dataset.Columns) // side
    along_row, along_column = np.asarray(orientation[:3]), np.asarray(orientation[3:])
    shift = along_row * spacing[1] * (dataset.Columns - columns) / 2 + along_column * spacing[0] * (dataset.Rows - rows) / 2
    upward = np.cross(along_row, along_column)
    forward = upward * math.copysign(step, float(upward @ np.asarray(normal, float)))
    for i in range(count):
        corner = (i // side * rows, i % side * columns)
        yield corner, (rows, columns), tuple(float(v) for v in np.asarray(place) + shift + i * forward), step


def _csa_header(dataset: Any) -> Any:
    try:
        return csareader.get_csa_header(dataset, "image")
    except (csareader.CSAError, struct.error, ValueError, TypeError, KeyError, AttributeError, IndexError, EOFError):
        return None


def _tile_count(dataset: Any, csa: Any) -> int:
    given = value_of(dataset, _TILES)
    if isinstance(given, bytes) and len(given) >= 2:  # implicit VR: an unsigned short without its type
        given = int.from_bytes(given[:2], "little")
    try:
        return int((csareader.get_n_mosaic(csa) if csa else None) or given or 0)
    except (TypeError, ValueError):
        return 0
