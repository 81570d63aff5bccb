"""Two-dimensional TIFF images that are too large to be held at once: read part by part, their label maps written by tiles.

A pyramid, as of a slide scanner, has the image at several resolutions, its levels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import tifffile

from nnseg.core.errors import ScanError
from nnseg.core.geometry import Grid
from nnseg.core.image import Integers, Scan
from nnseg.core.limits import limit
from nnseg.storage.files import write_aside
from nnseg.storage.images.canonical import canonical_part
from nnseg.storage.images.exif import ORIENTATION, turned
from nnseg.storage.images.formats import TIFF, suffix_of
from nnseg.storage.images.raw import RawImage, ReadOptions, StatedSize, flat_raw, placeholder
from nnseg.storage.images.tiff import check_held_pixels, check_picture, known_size, open_tiff, orientation
from nnseg.storage.images.tiff_spacing import ome_sizes

Voxels = npt.NDArray[Any]

PART_PIXELS: Final = 2**21
"""Pixels that are read at a time, about."""

LARGEST_CHUNK: Final = 2**28
"""Bytes of a strip or tile at most, which is unpacked at once."""

TILE, SMALLEST_LEVEL = 512, 1024
"""Rows and columns of the tiles of label maps; of the smallest level of their pyramids at most."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LargeImage:
    """One level of a two-dimensional image in a TIFF file.

    Args:
        shapes: rows and columns of each level, the finest first.
        level: that is read.
        channels: colours without transparency.
        size: of the pixels of the finest level.
        exif: how the file says that it is to be turned, 1 to 8.
    """

    path: Path
    shapes: tuple[tuple[int, int], ...]
    channels: int
    size: StatedSize
    exif: int = 1
    level: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.shapes[self.level]

    @property
    def pixel(self) -> tuple[float, float]:
        """Height and width of a pixel in mm; in pixels of the finest level if the file has no size."""
        _, *edges = self.size.spacing or (1.0, 1.0, 1.0)
        down, across = (e * n / m for e, n, m in zip(edges, self.shapes[0], self.shape, strict=True))
        return down, across

    def grid(self, shape: tuple[int, int]) -> Grid:
        """The canonical grid of a part of it."""
        stored = self._raw(placeholder((1, 1, *shape), np.uint8)).grid
        return stored.reoriented(stored.canonical())

    def scan(self, rows: slice, columns: slice) -> Scan:
        """A part of the image, as a scan of its own.

        Raises:
            ScanError: damaged.
        """
        part = canonical_part(self.path, self._raw(self.read(rows, columns)[:, None]), repair=True, resample=True)
        return Scan(image=part.image, grid=part.grid, source=part.source)

    def bands(self) -> Iterator[Voxels]:
        """The pixels (C, rows, columns) from top to bottom, some rows at a time.

        Raises:
            ScanError: damaged.
        """
        height, width = self.shape
        count = max(TILE, PART_PIXELS // width // TILE * TILE)  # tiles, as common, are not unpacked twice
        for first in range(0, height, count):
            yield self.read(slice(first, min(first + count, height)), slice(0, width))

    def read(self, rows: slice, columns: slice) -> Voxels:
        """The pixels (C, rows, columns) of a part.

        Raises:
            ScanError: damaged.
        """
        with open_tiff(self.path) as file:
            pages = file.series[0].levels[self.level].pages
            parts = [_read_part(self.path, file, page, rows, columns) for page in pages]
        return np.concatenate(parts)[: self.channels]

    def _raw(self, voxels: Voxels) -> RawImage:
        known = replace(self.size, spacing=(self.size.spacing[0], *self.pixel)) if self.size.spacing else StatedSize()
        spacing = None if self.size.spacing else (1.0, *self.pixel)
        return turned(flat_raw(voxels, known, ReadOptions(spacing=spacing)), self.exif)


def find_large(images: Sequence[Path], options: ReadOptions) -> LargeImage | None:
    """The image of a scan that is too large to be held at once; None for any other scan.

    Raises:
        ScanError: no image, truncated, or with strips that are too large to be unpacked.
    """
    path = images[0]
    if len(images) != 1 or suffix_of(path) not in TIFF or not path.is_file():
        return None
    with open_tiff(path) as file:
        series, page = file.series[0], file.series[0].keyframe
        further = {axis for axis, count in zip(series.axes, series.shape, strict=True) if count > 1} - set("YXSC")
        is_large = page.imagelength * page.imagewidth > limit("whole_pixels")
        if not is_large or further or series.is_multifile or page.colormap is not None:
            return None
        for level in series.levels:
            _check_chunks(path, level.keyframe)
        check_held_pixels(path, series)
        colours = page.samplesperpixel - bool(page.extrasamples)
        return LargeImage(
            path=path,
            shapes=tuple((level.keyframe.imagelength, level.keyframe.imagewidth) for level in series.levels),
            channels=colours if len(series.pages) == 1 else len(series.pages) * page.samplesperpixel,
            size=known_size(path, file, options),
            exif=orientation(page),
        )


def _check_chunks(path: Path, page: Any) -> None:
    if math.prod(page.chunks) * page.dtype.itemsize > LARGEST_CHUNK:
        found = f"has strips or tiles of {' x '.join(map(str, page.chunks))} values, which are unpacked at once"
        raise ScanError.at(path, found, f"at most {LARGEST_CHUNK:,} bytes", f"save it in tiles of {TILE} x {TILE}", "NS-S037")


def _read_part(path: Path, file: tifffile.TiffFile, page: Any, rows: slice, columns: slice) -> Voxels:
    """The pixels (C, rows, columns) of a part of a page.

    Source: TIFF 6.0, section 15: tiles are numbered from left to right, then from top to bottom, then plane by plane.
    """
    key = page.keyframe
    height, width = (key.tilelength, key.tilewidth) if key.is_tiled else (key.rowsperstrip, key.imagewidth)
    down, across = math.ceil(key.imagelength / height), math.ceil(key.imagewidth / width)
    planes = key.samplesperpixel if key.planarconfig == 2 else 1
    part = np.full(
        (planes, rows.stop - rows.start, columns.stop - columns.start, key.samplesperpixel // planes), key.nodata, key.dtype
    )
    ys, xs = range(rows.start // height, -(-rows.stop // height)), range(columns.start // width, -(-columns.stop // width))
    for plane, y, x in product(range(planes), ys, xs):
        number = (plane * down + y) * across + x
        file.filehandle.seek(page.dataoffsets[number])
        content = file.filehandle.read(page.databytecounts[number])
        check_picture(path, key, content)
        tile, _, shape = key.decode(content or None, number, jpegtables=page.jpegtables)
        if tile is None:  # one that was never written
            continue
        (to_y, from_y), (to_x, from_x) = _overlap(rows, y * height, shape[1]), _overlap(columns, x * width, shape[2])
        part[plane, to_y, to_x] = tile[0, from_y, from_x]
    return np.moveaxis(part, -1, 1).reshape(-1, *part.shape[1:3])


def _overlap(wanted: slice, first: int, count: int) -> tuple[slice, slice]:
    """Where a tile lies in the part that is wanted, and which of its pixels lie there."""
    start, stop = max(wanted.start, first), min(wanted.stop, first + count)
    return slice(start - wanted.start, stop - wanted.start), slice(start - first, stop - first)


def write_large_labels(labels_YX: Integers, path: Path, *, like: LargeImage) -> None:
    """Write a label map as a pyramid of tiles, OME-TIFF, on the finest level of an image.

    Args:
        labels_YX: on the level that was read, as stored; may be mapped from a file.

    Raises:
        RunError: the folder cannot be written to.
    """
    finest = like.shapes[0]
    halvings = max(0, math.ceil(math.log2(max(finest) / SMALLEST_LEVEL)))
    metadata: dict[str, Any] = {"axes": "YX"}
    if like.size.spacing:
        metadata |= ome_sizes(like.size.spacing, like.size.unit, is_2d=True)
    turn: dict[str, Any] = {} if like.exif == 1 else {"extratags": [(ORIENTATION, "H", 1, like.exif, True)]}
    with write_aside(path) as aside, tifffile.TiffWriter(aside, bigtiff=math.prod(finest) > 2**31, ome=True) as file:
        for level in range(halvings + 1):
            height, width = (math.ceil(n / 2**level) for n in finest)
            pyramid: dict[str, Any] = {"subfiletype": 1} if level else {"subifds": halvings, "metadata": metadata}
            file.write(
                _tiles(labels_YX, (height, width)),
                shape=(height, width),
                dtype=labels_YX.dtype,
                tile=(TILE, TILE),
                compression="zlib",
                photometric="minisblack",
                **pyramid,
                **turn,
            )


def _tiles(labels_YX: Integers, shape: tuple[int, int]) -> Iterator[Integers]:
    """The tiles of a level of this shape; each pixel has the nearest label, those beyond the end the last one's."""
    ys, xs = (
        [np.minimum((np.arange(first, first + TILE) + 0.5) * m / n, m - 1).astype(int) for first in range(0, n, TILE)]
        for m, n in zip(labels_YX.shape, shape, strict=True)
    )
    for y, x in product(ys, xs):
        part = labels_YX[y[0] : y[-1] + 1, x[0] : x[-1] + 1]
        yield part[np.ix_(y - y[0], x - x[0])]
