"""The axes of arrays in files that may not state them."""

from __future__ import annotations

from pathlib import Path

from nnseg.core.errors import ScanError
from nnseg.storage.images.raw import FEW

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
