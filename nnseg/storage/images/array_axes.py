"""The axes of arrays in files that may not state them, and images of such arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy.typing as npt

from nnseg.core.errors import ScanError
from nnseg.storage.images.raw import FEW, RawImage, ReadOptions, StatedSize, flat_raw

ADVICE = 'write {"axes": "ZYX", "spacing": [z, y, x]} with the letters that fit (C for channels) to CASE.json beside it'


def find_array_axes(path: Path, shape: tuple[int, ...], stated: str) -> tuple[str, list[str]]:
    """The letters of an array's axes, and what was concluded about them."""
    if stated:
        fits = len(stated) == len(shape) == len(set(stated)) and {"Y", "X"} <= set(stated) <= set("CZYX")
        if not fits:
            raise ScanError.at(
                path, f'has shape {shape}, but its axes are stated as "{stated}"', "a letter of CZYX for each", ADVICE
            )
        return stated, []
    if len(shape) == 2:
        return "YX", []
    if len(shape) != 3 or min(shape[0], shape[-1]) <= FEW:
        raise ScanError.at(path, f"is an array of shape {shape}, whose axes are not stated", "axes", ADVICE)
    return "ZYX", ["is an array: its axes were taken as slices, rows and columns that lead up, to the back and to the left"]


def arranged(array: npt.NDArray[Any], axes: str, known: StatedSize, options: ReadOptions, *, is_2d: bool) -> RawImage:
    """The image of an array whose axes have these letters of CZYX."""
    voxels = array.transpose([axes.index(a) for a in "CZYX" if a in axes])
    voxels = voxels if "C" in axes else voxels[None]
    return flat_raw(voxels if "Z" in axes else voxels[:, None], known, options, is_2d=is_2d)
