"""The file CASE.json beside an image whose format has no place for voxel sizes, or seldom has them.

It is nnU-Net's ``{"spacing": [z, y, x]}`` in mm, with ``"unit"`` if in another one, or the ``PixelSize`` of BIDS microscopy.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from nnseg.core.errors import ScanError
from nnseg.core.image import Source
from nnseg.storage.bounded import parse_json, read_text
from nnseg.storage.files import write_text
from nnseg.storage.images.raw import StatedSize
from nnseg.storage.images.units import from_mm, to_mm, unit_of

ARRAY = ".npy"

MOST_PARTS = 8
"""Of a BIDS name between its first and last, up to which files that several images share are looked for."""


def sidecar_of(path: Path) -> tuple[Path, ...]:
    """The file CASE.json beside an image, if there is one; CASE_0000.tif may share CASE.json with the other channels.

    In BIDS, files of the same folder count that have the same last part and no part of a name that the image has not.
    """
    beside = (path.with_name(f"{stem}.json") for stem in (_stem(path), re.sub(r"_\d{4}$", "", _stem(path))))
    found = [p for p in beside if p.is_file()]
    if not found and path.name.startswith("sub-"):
        found = [p for name in _shared_names(_stem(path)) if (p := path.with_name(f"{name}.json")).is_file()]
    return tuple(found[:1])


def _shared_names(stem: str) -> Iterator[str]:
    """The names without some of the parts of a BIDS name but its first and last, the longest first."""
    subject, *parts, kind = stem.split("_")
    for count in reversed(range(len(parts))) if len(parts) <= MOST_PARTS else ():
        yield from ("_".join((subject, *kept, kind)) for kept in combinations(parts, count))


def read_sidecar(path: Path) -> StatedSize:
    """What the file beside an image says of it; nothing if there is none, or if it is about other things.

    Raises:
        ScanError: it gives a spacing that is none.
    """
    for sidecar in sidecar_of(path):
        try:
            content = parse_json(read_text(sidecar))
        except (OSError, ValueError, RecursionError) as error:
            raise ScanError.at(sidecar, f"cannot be read ({error})", EXPECTED, "correct or remove it") from error
        if isinstance(content, dict):
            return _parsed(sidecar, content)
    return StatedSize()


def sidecar_content(path: Path, like: Source) -> dict[str, Any]:
    """What is written beside a label map of a scan: its spacing, where it is known and not 1 mm, and the axes of an array."""
    content: dict[str, Any] = {}
    if like.has_spacing and like.grid.spacing != (1.0, 1.0, 1.0):
        known = {} if like.length_unit == "mm" else {"unit": like.length_unit}
        content |= {"spacing": from_mm(like.grid.spacing, like.length_unit), **known}
    return content | ({"axes": array_axes(like)} if path.suffix.lower() == ARRAY else {})


def write_sidecar(path: Path, like: Source) -> None:
    """Write the spacing of a scan beside an image."""
    write_text(sidecar_path(path), json.dumps(sidecar_content(path, like)))


def array_axes(like: Source) -> str:
    """The axes of a scan's label map as an array: those of the scan's own array without its channels, else ZYX or YX."""
    stated = read_sidecar(like.files[0]).axes.replace("C", "") if like.files[0].suffix.lower() == ARRAY else ""
    return stated or ("YX" if like.is_2d else "ZYX")


def sidecar_path(path: Path) -> Path:
    """The name of the file beside an image."""
    return path.with_name(f"{_stem(path)}.json")


EXPECTED = '{"spacing": [z, y, x]} in mm'


def _stem(path: Path) -> str:
    return path.name.removesuffix(path.suffix).removesuffix(".ome")


def _parsed(sidecar: Path, content: dict[str, Any]) -> StatedSize:
    axes = str(content.get("axes", ""))
    if "spacing" in content:
        numbers, unit = content["spacing"], unit_of(content.get("unit", "mm"))
    elif "PixelSize" in content:  # BIDS writes (x, y, z), in micrometres unless PixelSizeUnits says otherwise
        numbers, unit = content["PixelSize"], unit_of(content.get("PixelSizeUnits", "um"))
        numbers = numbers[::-1] if isinstance(numbers, list) else numbers
    else:
        return StatedSize(axes=axes)
    try:
        if not isinstance(numbers, list):
            raise TypeError
        lengths = [to_mm(float(v), unit or "") for v in numbers]
        z, y, x = lengths if len(lengths) == 3 else [1.0, *lengths]
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise ScanError.at(sidecar, "has no usable spacing", EXPECTED, "correct or remove it") from error
    if not all(np.isfinite(v) and v > 0 for v in (z, y, x)):
        raise ScanError.at(sidecar, f"has spacing {(z, y, x)}", "three positive numbers", "correct it")
    return StatedSize(spacing=(z, y, x), unit=unit or "mm", axes=axes)
