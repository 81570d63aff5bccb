"""The slice of a scan that shows most of its label map, with the labels in colours."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from nnseg.core.colours import colour_of
from nnseg.core.geometry import PLANES, Grid
from nnseg.core.image import LabelMap, Scan
from nnseg.core.labels import Labels

LONGEST_SIDE = 360
"""Pixels of the longer side of a picture."""

OPACITY = 0.45
"""Of the colours over the scan."""

THICK = 1.5
"""How many times as thick as wide voxels may be in a slice; else another plane is shown."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledSlice:
    """A slice of a scan's first channel with its labels, in square pixels.

    Args:
        title: plane and slice; empty for a 2D image.
        grey: uint8 (H, W).
        numbers: uint16 (H, W), the number of the label or region that is drawn, from 1; 0 for none.
    """

    title: str
    grey: npt.NDArray[np.uint8]
    numbers: npt.NDArray[np.uint16]

    def in_colours(self) -> npt.NDArray[np.uint8]:
        """The picture (H, W, 3)."""
        picture = np.repeat(self.grey[..., None], 3, axis=2).astype(np.float32)
        for number in self.shown:
            where = self.numbers == number
            picture[where] += OPACITY * (np.array(colour_of(number - 1), np.float32) - picture[where])
        return np.rint(picture).astype(np.uint8)

    @property
    def shown(self) -> tuple[int, ...]:
        """The numbers of the labels or regions in it, ascending."""
        return tuple(int(number) for number in np.unique(self.numbers) if number)

    def data_url(self) -> str:
        """The picture as a ``data:`` URL of a PNG."""
        content = io.BytesIO()
        Image.fromarray(self.in_colours()).save(content, "PNG", compress_level=6)
        return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


def most_labelled_slice(scan: Scan, label_map: LabelMap, labels: Labels) -> LabelledSlice:
    """The slice with most foreground, the middle one if there is none; of a volume in the plane in which its voxels are finest.

    Args:
        label_map: on the scan's grid.
        labels: what the values mean; where regions overlap, the later one is drawn.
    """
    axis = _axis(scan.grid)
    areas = (label_map.labels != labels.values[0]).sum(axis=tuple(a for a in range(3) if a != axis))
    index = int(np.argmax(areas)) if areas.any() else len(areas) // 2
    upright = slice(None) if axis == 0 else slice(None, None, -1)  # with the head up
    grey, values = (np.take(volume, index, axis)[upright] for volume in (scan.image[0], label_map.labels))
    numbers = np.zeros(values.shape, np.uint16)
    for number, name in enumerate(labels.foreground, 1):
        numbers[labels.mask(name, values)] = number
    size = _pixels(grey.shape, np.delete(scan.grid.spacing, axis))
    return LabelledSlice(
        title="" if scan.grid.is_2d else f"{PLANES[axis]}, {'zyx'[axis]} = {index}",
        grey=np.asarray(Image.fromarray(_windowed(grey)).resize(size, Image.Resampling.BICUBIC)),
        numbers=np.asarray(Image.fromarray(numbers).resize(size, Image.Resampling.NEAREST)),
    )


def _axis(grid: Grid) -> int:
    """The axis across which a slice is taken: z, unless voxels are much longer along another one."""
    return 0 if grid.is_2d or max(grid.spacing) <= THICK * grid.spacing[0] else int(np.argmax(grid.spacing))


def _pixels(shape: tuple[int, ...], spacing: npt.NDArray[Any]) -> tuple[int, int]:
    """Width and height of the picture of a slice (rows, columns)."""
    lengths = np.array(shape) * spacing
    height, width = (max(1, round(LONGEST_SIDE * length / max(lengths))) for length in lengths)
    return width, height


def _windowed(plane: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    low, high = np.percentile(plane, [0.5, 99.5])
    levels = (plane.astype(np.float64) - low) / max(high - low, 1e-12) * 255
    return np.asarray(np.clip(levels, 0, 255), np.uint8)
