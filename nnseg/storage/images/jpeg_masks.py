"""Masks in JPEG, as some public datasets have them, whose two values compression has blurred near edges."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from nnseg.core.errors import ScanError
from nnseg.storage.images.raw import RawImage

BLACK, WHITE = 48, 207
"""Values up to the first are those of a mask's background, from the second on those of its foreground."""

BLOCK = 8
"""Pixels along a side of what JPEG compresses at once, or 16 where colours are halved."""


def divide_jpeg_mask(path: Path, raw: RawImage) -> RawImage:
    """A black and white JPEG as a mask of 0 and 255, divided at the half, with a note.

    Raises:
        ScanError: it is not black and white: a colour, or a grey that lies not between black and white within a block.
    """
    grey = raw.voxels.astype(np.int16)
    colourless = bool((np.ptp(grey, axis=0) <= BLACK).all())
    mean: npt.NDArray[Any] = grey.mean(axis=0)
    if not colourless or not (mean.max() >= WHITE or mean.max() == 0) or not _is_black_and_white(mean):
        found = "is a JPEG label map, whose values compression has changed"
        raise ScanError.at(
            path, found, "a lossless file, or a mask in black and white", "export the original masks as PNG", "NS-L016"
        )
    between = int(np.count_nonzero((mean > 0) & (mean < mean.max())))
    note = f"{between} pixels lie between black and white, by JPEG compression; the mask was divided at the half [NS-L015]"
    return replace(raw, voxels=np.where(mean > 127, 255, 0).astype(np.uint8)[None], label_notes=(note,))


def _is_black_and_white(mean_ZYX: npt.NDArray[Any]) -> bool:
    """True if what is neither lies in the blocks of an edge between them."""
    size = (1, 4 * BLOCK + 1, 4 * BLOCK + 1)
    between = (mean_ZYX > BLACK) & (mean_ZYX < WHITE)
    edge = (ndimage.maximum_filter(mean_ZYX, size) >= WHITE) & (ndimage.minimum_filter(mean_ZYX, size) <= BLACK)
    return bool(between.mean() < 0.1) and not bool((between & ~edge).any()) and not _has_plateau(mean_ZYX[between])


def _has_plateau(values: npt.NDArray[Any]) -> bool:
    """True if values crowd around one grey, as those of a third label do, though it may be thin."""
    counts, _ = np.histogram(values, np.arange(BLACK, WHITE + 9, 8))
    return values.size > 64 and counts.max(initial=0) > values.size / 2
