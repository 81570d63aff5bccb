"""Segments as 3D Slicer describes them in the header of an NRRD file: name, value, layer and colour of each.

Source: 3D Slicer's documentation, "Segmentations", format of segmentation files (.seg.nrrd), read 2025: ``Segment0_Name``,
``Segment0_LabelValue`` (1 if missing), ``Segment0_Layer`` (0 if missing; layers are the components of a voxel), ``Segment0_Color``
(red, green, blue, 0 to 1), ``Segment0_Extent`` (first and last voxel along x, y, z).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nnseg.core.colours import colour_of
from nnseg.core.errors import ScanError
from nnseg.core.image import Integers
from nnseg.core.labels import Labels
from nnseg.storage.images.raw import LabelSegment

KEY = re.compile(r"Segment(\d{1,9})_(ID|Name|LabelValue|Layer|Color)")


def read_segments(path: Path, metadata: Mapping[str, str]) -> tuple[LabelSegment, ...]:
    """The segments in the metadata of a file, in the header's order; () if it describes none.

    Args:
        path: that messages name.

    Raises:
        ScanError: a value, layer or colour is no number.
    """
    fields: dict[int, dict[str, str]] = {}
    for key, text in metadata.items():
        if match := KEY.fullmatch(key):
            fields.setdefault(int(match[1]), {})[match[2]] = text.strip()
    return tuple(_segment(path, number, fields[number]) for number in sorted(fields))


def _segment(path: Path, number: int, fields: Mapping[str, str]) -> LabelSegment:
    name = fields.get("Name") or fields.get("ID") or f"Segment_{number + 1}"
    try:
        value, layer = int(fields.get("LabelValue") or 1), int(fields.get("Layer") or 0)
        colour = _colour(fields["Color"]) if fields.get("Color") else None
    except (ValueError, OverflowError) as error:
        found = f"describes segment {name} by {dict(fields)}"
        raise ScanError.at(path, found, "whole numbers, and a colour of three numbers", "save it again") from error
    if not -(2**63) <= value < 2**63:
        raise ScanError.at(path, f"gives segment {name} a value of {len(str(value))} digits", "a label value", "save it again")
    return LabelSegment(name=name, value=value, channel=layer, colour=colour)


def _colour(text: str) -> tuple[int, int, int]:
    red, green, blue = (min(max(round(255 * float(part)), 0), 255) for part in text.split())
    return red, green, blue


def segment_metadata(labels: Labels, labels_ZYX: Integers) -> dict[str, str]:
    """The header's entries that name the labels of a label map, so that 3D Slicer shows it with their names and colours.

    Args:
        labels_ZYX: stored values in stored order.
    """
    metadata: dict[str, str] = {}
    for number, (name, value) in enumerate(labels.named.items()):
        colour = " ".join(f"{part / 255:.6g}" for part in colour_of(number))
        entries = {"ID": f"Segment_{number + 1}", "Name": name, "LabelValue": str(value), "Layer": "0", "Color": colour}
        entries |= {"Extent": _extent(labels_ZYX == value)}
        metadata |= {f"Segment{number}_{key}": text for key, text in entries.items()}
    return metadata | {"Segmentation_MasterRepresentation": "Binary labelmap", "Segmentation_ReferenceImageExtentOffset": "0 0 0"}


def _extent(mask_ZYX: npt.NDArray[np.bool_]) -> str:
    """First and last voxel along x, y, z; an empty range for none."""
    ends = []
    for axis in (2, 1, 0):
        filled = np.flatnonzero(mask_ZYX.any(axis=tuple(a for a in range(3) if a != axis)))
        ends += [int(filled[0]), int(filled[-1])] if filled.size else [0, -1]
    return " ".join(map(str, ends))
