"""`RawImage`: an image in the order it is stored, as any format's reader returns it; and helpers that readers share."""

from __future__ import annotations

import errno
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from nnseg.core.errors import NnsegError, ScanError
from nnseg.core.geometry import IDENTITY, SHEAR_LIMIT, Grid, Vector, as_matrix, as_shape, as_vector
from nnseg.core.image import VOXEL, Source
from nnseg.core.limits import check_limit, limit, raise_by
from nnseg.system.machine import allowed_ram_gb
from nnseg.system.regular import open_regular

FEW = 4
"""An axis up to this length may be one of channels or colours, where a file does not say what it is."""

CHANNEL_TOLERANCE = 0.1
"""Largest distance in voxels between two channels of a scan: headers of co-registered images differ by rounding."""


@dataclass(frozen=True, kw_only=True)
class LabelSegment:
    """A label as the header of a label map describes it.

    Args:
        value: of its voxels.
        channel: in which they lie.
        colour: red, green, blue, 0 to 255; None if there is none.
    """

    name: str
    value: int
    channel: int = 0
    colour: tuple[int, int, int] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class RawImage:
    """The content of one image, before axes are turned.

    Args:
        voxels: (C, Z, Y, X), any real number type.
        is_2d: True if the file itself is two-dimensional.
        has_geometry: False if the format stores no positions; ``grid`` then lies at the origin.
        length_unit: in which the file gives lengths; `VOXEL` if it gives none: the spacing is then 1.
        exif: how the file says that a photo is to be turned, 1 to 8; the grid's direction says the same.
        notes: what a user should know of the file, though it can be used.
        label_notes: what was done to the values of a label map.
        files: that were read, in order, if they are several.
        unit: of the voxels' values, such as "HU"; "" if it is not known.
        segments: the labels that a label map's header describes.
    """

    voxels: npt.NDArray[Any]
    grid: Grid
    is_2d: bool = False
    has_geometry: bool = True
    length_unit: str = "mm"
    exif: int = 1
    notes: tuple[str, ...] = ()
    label_notes: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    unit: str = ""
    segments: tuple[LabelSegment, ...] = ()

    @property
    def has_spacing(self) -> bool:
        """True if the voxel size is known."""
        return self.length_unit != VOXEL


@dataclass(frozen=True, kw_only=True)
class StatedSize:
    """What a file, or the file CASE.json beside it, says of its voxels.

    Args:
        spacing: mm (z, y, x), None if it says nothing.
        unit: that it is given in.
        axes: letters of the axes of an array, in order, such as "CZYX"; "" if it says nothing.
    """

    spacing: Vector | None = None
    unit: str = "mm"
    axes: str = ""


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How an image is read.

    Args:
        as_labels: the file holds label values: a palette's indices are kept.
        only_header: no voxel is read; the voxels returned are zeros that take up no memory.
        spacing: mm along the stored axes (z, y, x), for files without a usable one.
        like: the scan of a label map that holds contours, which are filled on its grid.
    """

    as_labels: bool = False
    only_header: bool = False
    spacing: Vector | None = None
    like: Source | None = None


READ_DEFAULTS = ReadOptions()


def placeholder(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Zeros of this shape and type in the memory of a single one, for voxels that were not read."""
    return np.broadcast_to(np.zeros((), dtype), shape)


def flat_raw(
    voxels: npt.NDArray[Any], known: StatedSize, options: ReadOptions, *, is_2d: bool = True, transparency: bool = False
) -> RawImage:
    """The raw image of voxels (C, Z, Y, X) from a format without positions.

    Args:
        known: of its voxel size; that of ``options`` counts where it says nothing.
        transparency: the last of two or four channels may be one, which is left out where it is the same everywhere.
    """
    if transparency and len(voxels) in (2, 4) and voxels[-1].min() == voxels[-1].max():
        voxels = voxels[:-1]
    spacing = known.spacing or options.spacing
    unit = known.unit if known.spacing else "mm" if spacing else VOXEL
    grid = Grid(shape=as_shape(voxels.shape[1:]), spacing=spacing or (1.0, 1.0, 1.0))
    return RawImage(voxels=voxels, grid=grid, is_2d=is_2d, has_geometry=False, length_unit=unit)


@contextmanager
def errors_of_file(path: Path, expected: str = "a whole file as its format's standard says") -> Iterator[None]:
    """Make a `ScanError` of any error of a reader but lack of memory: what a library raises for damaged bytes is not foreseeable.

    Raises:
        ScanError: names the file, and the error, whose traceback is kept as its cause.
    """
    try:
        yield
    except (NnsegError, MemoryError):
        raise
    except OSError as error:
        raise ScanError.at(path, f"cannot be read ({error})", "a readable file", "check the disk", "NS-S003") from error
    except Exception as error:
        found = f"cannot be read ({type(error).__name__}: {error})"
        raise ScanError.at(path, found, expected, "copy or export it again", "NS-S030") from error


def check_file(path: Path) -> None:
    """Raise ScanError unless there is a file with something in it, and it may be read.

    Raises:
        ScanError: missing, a folder, empty or unreadable.
    """
    if path.is_dir():
        raise ScanError.at(path, "is a folder", "a single image file", "name the file inside it", "NS-S003")
    try:
        with open_regular(path) as file:
            empty = not file.read(1)
    except FileNotFoundError as error:
        raise ScanError.at(path, "there is no such file", "an image", "check the name, or restore the file", "NS-S003") from error
    except OSError as error:
        advice = "name the image itself" if error.errno == errno.EINVAL else "check its permissions"
        raise ScanError.at(path, f"cannot be read ({error.strerror})", "a readable file", advice, "NS-S003") from error
    if empty:
        raise ScanError.at(path, "is empty (zero bytes)", "an image", "copy or export it again", "NS-S003")


BYTES_EACH = 12.0
"""Bytes for each value of an image while it is read: as stored (up to float32), as float32, and a copy in canonical orientation."""

FEWEST_BYTES = 2**24
"""Of voxels, for which memory is taken whatever the size of the file: its reader says more exactly what is missing."""

MOST_PACKED: Final = {"none": 1, "text": 8, "deflate": 1032, "any": 2**15}
"""Values' bytes at most for a byte of the file, by how it holds them. Source: zlib.net/zlib_tech.html."""


def check_size(
    path: Path,
    shape: Sequence[int],
    dtype: npt.DTypeLike,
    options: ReadOptions = READ_DEFAULTS,
    *,
    held: int | None = None,
    packing: str = "none",
) -> None:
    """Raise ScanError for an image that this machine cannot read, or that its file cannot hold; called before memory is taken.

    Args:
        shape: of all axes and channels, as the header announces it.
        dtype: of the stored values.
        options: where only the header is read, no more is checked than that arrays may have such a shape.
        held: bytes of the file that may be voxels; None if that is not known.
        packing: one of `MOST_PACKED`.
    """
    if held is not None and not options.only_header:
        check_held(path, shape, dtype, held, packing)
    count, itemsize, size = math.prod(map(int, shape)), np.dtype(dtype).itemsize, _sizes(shape)
    found = f"is an image of {size} values"
    check_limit("image_values", count, path, found, ScanError, "cut it", "NS-S037")
    if not options.only_header:
        needed = count * max(BYTES_EACH, itemsize + 8)
        check_memory(path, needed, f"{found}, which takes {{:,.1f}} GB of memory to read", "cut it or make it smaller")


def check_held(path: Path, shape: Sequence[int], dtype: npt.DTypeLike, held: int, packing: str) -> None:
    """Raise ScanError for an image that its file cannot hold; arguments as of `check_size`."""
    itemsize = np.dtype(dtype).itemsize
    announced = math.prod(map(int, shape)) * itemsize
    if announced > held * MOST_PACKED[packing] + FEWEST_BYTES:
        found = f"has {held} bytes, and its header announces {_sizes(shape)} values of {itemsize} bytes"
        raise ScanError.at(path, found, f"{announced} bytes", "copy it again; it is truncated, or its header is wrong", "NS-S002")


def _sizes(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape[:8])) + (" ..." if len(shape) > 8 else "")


def check_memory(place: Path | str, needed: float, found: str, advice: str) -> None:
    """Raise ScanError for a scan that needs more memory than one may take.

    Args:
        needed: bytes.
        found: what it is or has, with {:,.1f} for the GB.
    """
    allowed = allowed_ram_gb()
    if needed > allowed * 1e9:
        expected = f"at most {allowed:,.1f} GB, {limit('memory_percent')} % of this machine's"
        raise ScanError.at(place, found.format(needed / 1e9), expected, f"{advice}; {raise_by('memory_percent')}", "NS-S037")


def make_grid(
    path: Path,
    shape: tuple[int, ...],
    steps: npt.NDArray[np.float64],
    origin: npt.NDArray[np.float64],
    spacing: Vector | None = None,
) -> Grid:
    """The grid of a volume by the steps between its voxels; its axes may be sheared.

    Args:
        shape: (z, y, x).
        steps: (3, 3) mm in LPS; row ``a`` is the step from one voxel to the next along array axis ``a``.
        origin: (3,) mm in LPS of the first voxel.
        spacing: mm (z, y, x), taken where a step is zero or not a number.

    Raises:
        ScanError: a step is zero or not a number, and no spacing is given; or the axes do not span space.
    """
    lengths = np.linalg.norm(steps, axis=1)
    usable = np.isfinite(lengths) & (lengths > 0)
    if spacing is None and not usable.all():
        raise no_spacing(path, lengths)
    if not np.all(np.isfinite(origin)):
        raise ScanError.at(path, f"has its origin at {_numbers(origin)}", "a position in mm", "correct the header")
    direction = _directions(steps, lengths, usable)
    if abs(np.linalg.det(direction)) < SHEAR_LIMIT:
        found = "has axes that lie in one plane"
        raise ScanError.at(path, found, "three directions in space", "correct the header, or export it again", "NS-S019")
    whole = lengths if usable.all() or spacing is None else np.asarray(spacing, float)
    return Grid(shape=as_shape(shape), spacing=as_vector(whole), origin=as_vector(origin), direction=as_matrix(direction))


def no_spacing(path: Path, sizes: npt.NDArray[Any]) -> ScanError:
    """The error of a file with voxels of no size.

    Args:
        sizes: (z, y, x).
    """
    found, advice = f"has voxel spacing {_numbers(sizes)} mm (z, y, x)", "correct the header, or predict with --spacing"
    return ScanError.at(path, found, "positive numbers", advice, "NS-S012")


def _directions(
    steps: npt.NDArray[np.float64], lengths: npt.NDArray[np.float64], usable: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """Unit vectors along the steps; a missing one is the normal of the others; if several are missing, all are canonical."""
    if usable.sum() < 2:
        return np.asarray(IDENTITY)
    direction = np.array([step / length if ok else np.zeros(3) for step, length, ok in zip(steps, lengths, usable, strict=True)])
    for axis in np.flatnonzero(~usable):
        normal = np.cross(direction[axis - 1], direction[axis - 2])  # rows run z, y, x, whose cross products point backwards
        direction[axis] = normal / (np.linalg.norm(normal) or 1.0)
    return direction


def _numbers(values: npt.NDArray[np.float64]) -> str:
    return "(" + ", ".join(f"{v:g}" for v in values) + ")"


def smallest_integer_type(labels: npt.NDArray[Any]) -> np.dtype[Any]:
    """The smallest integer type that file formats support and that holds all values."""
    lowest, highest = int(labels.min()), int(labels.max())
    kinds = (np.uint8, np.uint16, np.uint32) if lowest >= 0 else (np.int16, np.int32)
    return next((np.dtype(k) for k in kinds if np.iinfo(k).min <= lowest and highest <= np.iinfo(k).max), np.dtype(np.int64))
