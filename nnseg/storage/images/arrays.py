"""NumPy arrays in files .npy, whose axes and voxel size a file CASE.json states; nothing is unpickled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnseg.core.errors import ScanError
from nnseg.core.image import Source
from nnseg.core.labels import Labels
from nnseg.storage.images.array_axes import arranged, find_array_axes
from nnseg.storage.images.raw import READ_DEFAULTS, RawImage, ReadOptions, check_size, placeholder
from nnseg.storage.images.sidecar import array_axes, read_sidecar
from nnseg.system.regular import open_regular

MAGIC = b"\x93NUMPY"


def read_array(path: Path, options: ReadOptions = READ_DEFAULTS) -> RawImage:
    """The voxels of an array file: two axes are rows and columns, three are slices, rows and columns, unless CASE.json says so.

    Raises:
        ScanError: no array, truncated, of Python objects, or its axes may be several things and are not stated.
    """
    array = _load(path, mapped=True)  # for its shape: no voxel is read
    if array.dtype.kind not in "biuf" or not array.size:
        found = "complex numbers" if array.dtype.kind == "c" else f"no voxels (type {array.dtype}, shape {array.shape})"
        raise ScanError.at(path, f"holds {found}", "integers or floats", "save it as an array of numbers")
    known = read_sidecar(path)
    check_size(path, array.shape, array.dtype, options)
    axes, notes = find_array_axes(path, array.shape, known.axes)
    voxels = placeholder(array.shape, array.dtype) if options.only_header else _load(path, mapped=False)
    raw = arranged(voxels, axes, known, options, is_2d="Z" not in axes)
    if not (raw.is_2d or raw.has_spacing):
        notes.append("holds no voxel size, nor does a file CASE.json; lengths are in voxels [NS-S027]")
    return replace(raw, notes=(*notes,))


def _load(path: Path, *, mapped: bool) -> npt.NDArray[Any]:
    with open_regular(path) as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise ScanError.at(path, "is no NumPy array", "a file that numpy.save wrote", "save it again")
    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError, TypeError, OverflowError) as error:
        objects = "Object" in str(error) or "object" in str(error)
        found = "holds Python objects" if objects else f"cannot be read ({' '.join(str(error).split())})"
        raise ScanError.at(path, found, "a complete array of numbers", "save it again") from error
    return array


def write_array(voxels: npt.NDArray[Any], path: Path, *, like: Source, labels: Labels | None = None) -> None:
    """Write a volume as an array, its axes in the order of the scan's own array."""
    axes = array_axes(like)
    whole = voxels[0] if "Z" not in axes else voxels
    order = [a for a in "ZYX" if a in axes]
    with path.open("wb") as file:
        np.save(file, np.ascontiguousarray(whole.transpose([order.index(a) for a in axes])), allow_pickle=False)
