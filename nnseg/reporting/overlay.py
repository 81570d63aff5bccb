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


@dataclass(frozen=True, kw_only=True)
class ShownSlice:
    """A slice of a volume, and how large it is drawn.

    Args:
        axis: across which it is taken.
        index: along this axis.
        title: plane and slice; empty for a 2D image.
        size: width and height of the picture, in pixels.
    """

    axis: int
    index: int
    title: str
    size: tuple[int, int]

    @classmethod
    def with_most(cls, mask: npt.NDArray[np.bool_], grid: Grid) -> ShownSlice:
        """The slice with most of a mask (Z, Y, X), the middle one if it is empty; in the plane in which voxels are finest."""
        axis = _axis(grid)
        areas = mask.sum(axis=tuple(a for a in range(3) if a != axis))
        index = int(np.argmax(areas)) if areas.any() else len(areas) // 2
        title = "" if grid.is_2d else f"{PLANES[axis]}, {'zyx'[axis]} = {index}"
        size = _pixels(tuple(n for a, n in enumerate(grid.shape) if a != axis), np.delete(grid.spacing, axis))
        return cls(axis=axis, index=index, title=title, size=size)

    def of(self, volume: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The slice (rows, columns) of a volume (Z, Y, X), with the head up."""
        return np.asarray(np.take(volume, self.index, self.axis)[slice(None) if self.axis == 0 else slice(None, None, -1)])

    def grey(self, volume: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """The slice of an image (Z, Y, X) as a grey picture (H, W)."""
        return np.asarray(Image.fromarray(_windowed(self.of(volume))).resize(self.size, Image.Resampling.BICUBIC))


def most_labelled_slice(scan: Scan, label_map: LabelMap, labels: Labels) -> LabelledSlice:
    """The slice with most foreground, the middle one if there is none; of a volume in the plane in which its voxels are finest.

    Args:
        label_map: on the scan's grid.
        labels: what the values mean; where regions overlap, the later one is drawn.
    """
    shown = ShownSlice.with_most(label_map.labels != labels.values[0], scan.grid)
    values = shown.of(label_map.labels)
    numbers = np.zeros(values.shape, np.uint16)
    for number, name in enumerate(labels.foreground, 1):
        numbers[labels.mask(name, values)] = number
    return LabelledSlice(
        title=shown.title,
        grey=shown.grey(scan.image[0]),
        numbers=np.asarray(Image.fromarray(numbers).resize(shown.size, Image.Resampling.NEAREST)),
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
