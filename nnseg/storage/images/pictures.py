"""Pictures: PNG, BMP and JPEG through Pillow, TIFF (one page or a volume of pages) through tifffile."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image, UnidentifiedImageError

from nnseg.core.errors import ScanError
from nnseg.core.geometry import Grid, Vector, as_shape
from nnseg.storage.images.raw import READ_DEFAULTS, RawImage, ReadOptions, placeholder

Voxels = npt.NDArray[Any]


def read_picture(path: Path, options: ReadOptions = READ_DEFAULTS) -> RawImage:
    """The pixels of a PNG, BMP or JPEG file as one slice, colours as channels.

    Args:
        options: as labels, the indices of a palette are kept; otherwise they become colours.

    Raises:
        ScanError: no image, or truncated.
    """
    try:
        with Image.open(path) as image:
            wanted = image.mode if image.mode != "P" or options.as_labels else "RGBA" if "transparency" in image.info else "RGB"
            unread = options.only_header and not wanted.endswith("A")  # whether transparency counts depends on its pixels
            pixels = _dummy(image.size, wanted) if unread else np.asarray(_in_mode(image, wanted))
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        found = "is not an image" if isinstance(error, UnidentifiedImageError) else f"cannot be decoded ({error})"
        raise ScanError.at(path, found, "a complete picture", "copy or export it again") from error
    colours = pixels.reshape(*pixels.shape[:2], -1)
    return _raw_picture(np.moveaxis(colours, -1, 0)[:, None], is_2d=True, spacing=None, options=options)


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    return image if image.mode == mode else image.convert(mode)


def _dummy(size: tuple[int, int], mode: str) -> Voxels:
    """A placeholder of the shape and type of a picture of this size (columns, rows) and mode."""
    one = np.asarray(Image.new(mode, (1, 1)))
    return placeholder((size[1], size[0], *one.shape[2:]), one.dtype)


def read_tiff(path: Path, options: ReadOptions = READ_DEFAULTS) -> RawImage:
    """The pixels of a TIFF file: one page is a slice, several pages of equal size are a volume, colours are channels.

    The voxel spacing comes from a file CASE.json beside it, ``{"spacing": [z, y, x]}`` in mm, if there is one.

    Raises:
        ScanError: no image, truncated, or with more axes than a volume with channels has.
    """
    try:
        with _logged_errors() as errors, tifffile.TiffFile(path) as file:
            series = file.series[0]
            axes = series.axes
            unread = options.only_header and not (axes[-1] == "S" and series.shape[-1] in (2, 4))
            pixels = placeholder(series.shape, series.dtype) if unread else series.asarray()
    except Exception as error:  # tifffile raises whatever a damaged file leads it into
        raise ScanError.at(path, f"cannot be decoded ({error})", "a complete TIFF", "copy or export it again") from error
    if errors:
        raise ScanError.at(path, f"is damaged ({errors[0]})", "a complete TIFF", "copy it again; it may be truncated")
    voxels, is_2d = _tiff_axes(path, pixels, axes)
    return _raw_picture(voxels, is_2d=is_2d, spacing=_sidecar_spacing(path), options=options)


def write_picture(labels: Voxels, path: Path, grid: Grid, *, is_2d: bool, source: Path | None = None) -> None:
    """Write a label map of one slice as PNG (values to 65535) or BMP (values to 255).

    Raises:
        ScanError: several slices, or values that the format cannot hold.
    """
    limit = 255 if path.suffix.lower() == ".bmp" else 65535
    lowest, highest = int(labels.min()), int(labels.max())
    if labels.shape[0] != 1 or lowest < 0 or highest > limit:
        found = f"cannot hold a label map of shape {labels.shape} with values {lowest} to {highest}"
        raise ScanError.at(path, found, f"one slice with values 0 to {limit}", "write .tif, .mha or .nii.gz")
    Image.fromarray(labels[0].astype(np.uint8 if highest < 256 else np.uint16)).save(path, **_density(source))


def _density(source: Path | None) -> dict[str, Any]:
    """The dots per inch of the scan's own picture, if it has them."""
    try:
        with Image.open(source or "") as image:
            return {"dpi": image.info["dpi"]}
    except (OSError, KeyError):
        return {}


def write_tiff(voxels: Voxels, path: Path, grid: Grid, *, is_2d: bool, source: Path | None = None) -> None:
    """Write a volume as TIFF, one page a slice, with the resolution of the scan's own TIFF, if it has one."""
    pages = voxels[0] if is_2d else voxels
    tifffile.imwrite(path, pages, compression="zlib", photometric="minisblack", **_resolution(source))


def _resolution(source: Path | None) -> dict[str, Any]:
    try:
        with tifffile.TiffFile(source or "") as file:
            tags = file.pages.first.tags
            return {"resolution": (tags[282].value, tags[283].value), "resolutionunit": tags[296].value}
    except (OSError, KeyError, tifffile.TiffFileError):
        return {}


def _raw_picture(voxels: Voxels, *, is_2d: bool, spacing: Vector | None, options: ReadOptions) -> RawImage:
    channels = voxels.shape[0]
    if channels in (2, 4) and voxels[-1].min() == voxels[-1].max():  # a constant transparency carries no information
        voxels = voxels[:-1]
    grid = Grid(shape=as_shape(voxels.shape[1:]), spacing=spacing or options.spacing or (1.0, 1.0, 1.0))
    return RawImage(voxels=voxels, grid=grid, is_2d=is_2d, has_geometry=spacing is not None)


def _tiff_axes(path: Path, pixels: Voxels, axes: str) -> tuple[Voxels, bool]:
    """Pixels as (C, Z, Y, X), and whether they are 2D; S or C is the axis of channels, any other further axis that of slices."""
    order = [a for a, n in zip(axes, pixels.shape, strict=True) if n > 1 or a in "YX"]
    pixels = pixels.reshape([n for a, n in zip(axes, pixels.shape, strict=True) if n > 1 or a in "YX"])
    colour = [i for i, a in enumerate(order) if a in "SC"]
    slices = [i for i, a in enumerate(order) if a not in "SCYX"]
    if len(colour) > 1 or len(slices) > 1 or not {"Y", "X"} <= set(order):
        found = f"has axes {axes} of lengths {pixels.shape}"
        raise ScanError.at(path, found, "slices, rows, columns and at most one axis of channels", "export it again")
    turned = pixels.transpose(*colour, *slices, order.index("Y"), order.index("X"))
    turned = turned if colour else turned[None]
    return (turned if slices else turned[:, None]), not slices


def sidecar_of(path: Path) -> tuple[Path, ...]:
    """The file CASE.json beside a TIFF, if there is one; CASE_0000.tif may share CASE.json with the other channels."""
    beside = (path.with_name(f"{stem}.json") for stem in (path.stem, re.sub(r"_\d{4}$", "", path.stem)))
    return tuple(p for p in beside if p.is_file())[:1]


def _sidecar_spacing(path: Path) -> Vector | None:
    """Spacing (z, y, x) from the file beside a TIFF."""
    for sidecar in sidecar_of(path):
        try:
            numbers = [float(v) for v in json.loads(sidecar.read_text(encoding="utf-8"))["spacing"]]
            z, y, x = numbers if len(numbers) == 3 else [1.0, *numbers]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ScanError.at(sidecar, "has no usable spacing", '{"spacing": [z, y, x]} in mm', "correct or remove it") from error
        if not all(np.isfinite(v) and v > 0 for v in (z, y, x)):
            raise ScanError.at(sidecar, f"has spacing {(z, y, x)}", "three positive numbers", "correct it")
        return z, y, x
    return None


@contextmanager
def _logged_errors() -> Iterator[list[str]]:
    """The errors that tifffile logs: it reads a truncated file without the missing pages."""
    messages: list[str] = []
    handler, logger = logging.Handler(logging.ERROR), logging.getLogger("tifffile")
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)
