"""`Stored`: what one image file holds, in the order it is stored. The common tongue of the readers of single formats."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnseg.core.errors import ScanError
from nnseg.core.geometry import IDENTITY, Grid, Matrix, Shape, Vector

SHEAR_LIMIT = 1e-3
"""Largest cosine between two axes of a grid that still counts as rounding of a right angle."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Stored:
    """What one file holds, before axes are turned.

    Args:
        voxels: (C, Z, Y, X), any real number type.
        grid: of the voxels.
        is_2d: True if the file itself is two-dimensional.
        has_geometry: False if the format stores no positions, so that ``grid`` is a stand-in of 1 mm voxels at the origin.
    """

    voxels: npt.NDArray[Any]
    grid: Grid
    is_2d: bool = False
    has_geometry: bool = True


def refuse(path: Path, found: str, *, expected: str, advice: str) -> ScanError:
    """The error that names a file, what is wrong with it, what was expected and what to do, in one line."""
    return ScanError(" ".join(f"{path}: {found}; expected {expected}; {advice}".split()))


def contents(path: Path) -> bytes:
    """All bytes of a file that must not be empty.

    Raises:
        ScanError: missing, a folder, empty or unreadable.
    """
    check_file(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise refuse(
            path, f"cannot be read ({error.strerror})", expected="a readable file", advice="check its permissions"
        ) from error


def check_file(path: Path) -> None:
    """Make sure that there is a file with something in it.

    Raises:
        ScanError: missing, a folder or empty.
    """
    try:
        size = -1 if path.is_dir() else path.stat().st_size
    except OSError as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise refuse(path, reason, expected="an image", advice="check the name, or restore the file") from error
    if size < 0:
        raise refuse(path, "is a folder", expected="a single image file", advice="name the file inside it")
    if size == 0:
        raise refuse(path, "is empty (zero bytes)", expected="an image", advice="copy or export it again")


def make_grid(path: Path, shape: tuple[int, ...], steps: npt.NDArray[np.float64], origin: npt.NDArray[np.float64]) -> Grid:
    """The grid of a volume from the steps between its voxels.

    Args:
        path: named in errors.
        shape: (z, y, x).
        steps: (3, 3) mm in LPS; row ``a`` is the step from one voxel to the next along array axis ``a``.
        origin: (3,) mm in LPS of the first voxel.

    Raises:
        ScanError: a step is zero or not a number, or two axes are not at a right angle.
    """
    spacing = np.linalg.norm(steps, axis=1)
    advice = "mend the header, or export the image again"
    if not np.all(np.isfinite(steps)) or not np.all(np.isfinite(origin)) or spacing.min() <= 0:
        raise refuse(path, f"has voxel spacing {_numbers(spacing)} mm (z, y, x)", expected="positive numbers", advice=advice)
    direction = steps / spacing[:, None]
    shear = float(np.max(np.abs(direction @ direction.T - np.eye(3))))
    if shear > SHEAR_LIMIT:
        found = f"has sheared axes (cosine {shear:.3g} between two of them, for instance from a tilted gantry)"
        raise refuse(path, found, expected="axes at right angles", advice="resample it to a rectangular grid")
    return Grid(shape=as_shape(shape), spacing=_vector(spacing), origin=_vector(origin), direction=_matrix(direction))


def flat_grid(shape: tuple[int, ...], spacing: Vector = (1.0, 1.0, 1.0)) -> Grid:
    """The grid of an image whose file knows no positions: at the origin, in canonical direction."""
    return Grid(shape=as_shape(shape), spacing=spacing, direction=IDENTITY)


def as_shape(shape: tuple[int, ...]) -> Shape:
    """Three whole numbers."""
    z, y, x = (int(n) for n in shape)
    return z, y, x


def _vector(values: npt.NDArray[np.float64]) -> Vector:
    a, b, c = values.tolist()
    return a, b, c


def _matrix(rows: npt.NDArray[np.float64]) -> Matrix:
    return _vector(rows[0]), _vector(rows[1]), _vector(rows[2])


def _numbers(values: npt.NDArray[np.float64]) -> str:
    return "(" + ", ".join(f"{v:g}" for v in values) + ")"
