"""A picture of an attribution map over the scan, with the outline of the structure."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import binary_erosion

from nnseg.core.image import Floats, Scan
from nnseg.reporting.overlay import ShownSlice
from nnseg.reporting.pictures import png_bytes

STRONGEST = 99.5
"""Percentile of a slice's absolute values that gets the full colour."""

OPACITY = 0.75

RISE, FALL = (255, 140, 0), (60, 120, 255)
"""Colours of values above and below 0."""

OUTLINE = (255, 255, 255)


def draw_attribution(scan: Scan, structure: npt.NDArray[np.bool_], map_ZYX: Floats) -> bytes:
    """A PNG of the slice with most of a structure: the scan grey, the map in colours, the structure outlined in white.

    Args:
        structure, map_ZYX: on the scan's grid.
    """
    shown = ShownSlice.with_most(structure, scan.grid)
    picture = np.repeat(shown.grey(scan.image[0])[..., None], 3, axis=2).astype(np.float32)
    values = shown.of(map_ZYX).astype(np.float32)
    most = float(np.percentile(np.abs(values), STRONGEST)) or float(np.abs(values).max()) or 1.0
    heat = np.asarray(Image.fromarray(np.clip(values / most, -1, 1)).resize(shown.size, Image.Resampling.BILINEAR))[..., None]
    colours = np.where(heat < 0, np.array(FALL, np.float32), np.array(RISE, np.float32))
    picture += OPACITY * np.abs(heat) * (colours - picture)
    mask = np.asarray(Image.fromarray(shown.of(structure)).resize(shown.size, Image.Resampling.NEAREST))
    picture[mask & ~binary_erosion(mask, iterations=1)] = OUTLINE
    return png_bytes(Image.fromarray(np.rint(picture).astype(np.uint8)))
