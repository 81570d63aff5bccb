"""Voxel sizes in the tags of TIFF files: those of ImageJ, OME, Micro-Manager and Aperio."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import tifffile

from nnseg.core.geometry import Vector
from nnseg.storage.images.units import from_mm, to_mm, unit_of

X_RESOLUTION, Y_RESOLUTION = 282, 283

OME_UNITS: Final = {"um": "µm", "angstrom": "Å", "inch": "in"}


@dataclass(frozen=True, kw_only=True)
class VoxelSize:
    """The size of voxels, as a file states it.

    Args:
        z, y, x: mm; z is None if the file has none.
        unit: that it is given in.
    """

    z: float | None
    y: float
    x: float
    unit: str

    @property
    def default_z(self) -> float:
        """The distance of slices that ImageJ takes where there is none: one of the unit."""
        return to_mm(1.0, self.unit)


def voxel_size(file: tifffile.TiffFile) -> VoxelSize | None:
    """The size of a file's voxels in mm; None if it has none with a unit of length."""
    return next((size for read in (_of_ome, _of_imagej, _of_micromanager, _of_aperio) if (size := read(file)) is not None), None)


def ome_sizes(spacing: Vector, unit: str, *, is_2d: bool) -> dict[str, Any]:
    """OME's metadata of a voxel size (z, y, x) in mm."""
    axes = zip("YX" if is_2d else "ZYX", from_mm(spacing, unit)[1 if is_2d else 0 :], strict=True)
    sizes: dict[str, Any] = {}
    for axis, size in axes:
        sizes |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": OME_UNITS.get(unit, unit)}
    return sizes


def _of_ome(file: tifffile.TiffFile) -> VoxelSize | None:
    """Source: OME 2016-06, Pixels: PhysicalSizeX in PhysicalSizeXUnit, micrometres by default."""
    if not file.ome_metadata:
        return None
    image = tifffile.xml2dict(file.ome_metadata).get("OME", {}).get("Image", {})
    pixels = (image[0] if isinstance(image, list) else image).get("Pixels", {})
    units = {axis: unit_of(pixels.get(f"PhysicalSize{axis}Unit", "um")) for axis in "ZYX"}
    return _size({axis: (pixels.get(f"PhysicalSize{axis}"), units[axis]) for axis in "ZYX"})


def _of_imagej(file: tifffile.TiffFile) -> VoxelSize | None:
    """Source: ImageJ's FileInfo and TiffEncoder: pixels per unit as resolution, the distance of slices as "spacing"."""
    about = file.imagej_metadata
    if not about:
        return None
    unit, tags = unit_of(about.get("unit", "pixel")), file.pages.first.tags
    steps: dict[str, Any] = {"Z": about.get("spacing")}
    for axis, number in (("Y", Y_RESOLUTION), ("X", X_RESOLUTION)):
        with suppress(KeyError, TypeError, ValueError, ZeroDivisionError):
            count, per = tags[number].value
            steps[axis] = per / count
    return _size({axis: (steps.get(axis), unit_of(about.get(f"{axis.lower()}unit", "")) or unit) for axis in "ZYX"})


def _of_micromanager(file: tifffile.TiffFile) -> VoxelSize | None:
    """Source: Micro-Manager's metadata of an acquisition: PixelSize_um and z-step_um."""
    summary = (file.micromanager_metadata or {}).get("Summary", {}) if file.is_micromanager else {}
    across = (summary.get("PixelSize_um"), "um")
    return _size({"Z": (summary.get("z-step_um"), "um"), "Y": across, "X": across})


def _of_aperio(file: tifffile.TiffFile) -> VoxelSize | None:
    """Source: Aperio Technologies, Digital Slides and Third-Party Data Interchange: "MPP", micrometres per pixel."""
    match = re.search(r"\|\s*MPP\s*=\s*([\d.]+)", file.pages.first.description) if file.is_svs else None
    return _size(dict.fromkeys("YX", (match[1], "um"))) if match else None


def _size(stated: dict[str, tuple[Any, str | None]]) -> VoxelSize | None:
    lengths: dict[str, float] = {}
    for axis, (value, unit) in stated.items():
        with suppress(TypeError, ValueError):
            number = abs(float(value))  # ImageJ writes a negative distance for stacks from the top down
            if unit and np.isfinite(number) and number > 0:
                lengths[axis] = to_mm(number, unit)
    if "Y" not in lengths or "X" not in lengths:
        return None
    return VoxelSize(z=lengths.get("Z"), y=lengths["Y"], x=lengths["X"], unit=stated["X"][1] or "mm")
