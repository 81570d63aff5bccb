"""Simulated scans of a head: thick tilted slices, partial volume, bias field, noise, and any order of axes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from nnseg.core.geometry import IDENTITY, Axes, Box, Grid, Reorientation, as_matrix, as_shape, as_vector
from nnseg.demo.anatomy import Array, Ellipsoid, make_head

CHANNELS = ("T1", "FLAIR")
LABELS = {"background": 0, "nuclei": 1, "lesion": 2}

LESIONS = (2, 0, 1, 3, 5, 1, 4, 2)
"""Numbers of lesions of successive cases; neighbours differ, and every dataset has a case without one."""

FIELD_OF_VIEW = (80.0, 88.0, 72.0)
"""Extent of the image in mm along (z, y, x)."""

FINER = (3, 2, 2)
"""Sampling points per voxel along (z, y, x); their average models partial volume."""

ORDERS: tuple[Axes, ...] = ((0, 1, 2), (0, 1, 2), (2, 0, 1), (1, 0, 2))
"""Orders in which the axes (z, y, x) are stored: axial (twice as often), sagittal, coronal."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Phantom:
    """One case, in stored order.

    Args:
        image: int16 (C, Z, Y, X), channels as in `CHANNELS`.
        labels: uint8 (Z, Y, X), values as in `LABELS`.
        grid: oblique, its axes in any order and direction.
        pieces: the anatomy, in the order it was painted.
    """

    image: npt.NDArray[np.int16]
    labels: npt.NDArray[np.uint8]
    grid: Grid
    pieces: tuple[Ellipsoid, ...]


def draw_phantom(index: int, *, seed: int = 0) -> Phantom:
    """The phantom with this number; it depends on number and seed only.

    Its labels are the nuclei (one label for both sides, since augmentation by mirroring swaps them; the thalami beside them look
    alike and are not labelled) and the lesions, none to five of them.
    """
    random = np.random.default_rng([seed, index])
    pieces = make_head(random, lesions=LESIONS[index % len(LESIONS)])
    grid = _make_grid(random)
    signal, labels = _render(pieces, grid)
    image = np.stack([_acquire(random, channel) for channel in signal])
    z, y, x = random.random(3) < 0.5
    turn = Reorientation(axes=ORDERS[random.integers(len(ORDERS))], flips=(bool(z), bool(y), bool(x)))
    return Phantom(
        image=np.ascontiguousarray(turn.apply(image)),
        labels=np.ascontiguousarray(turn.apply(labels)),
        grid=grid.reoriented(turn),
        pieces=pieces,
    )


def _make_grid(random: np.random.Generator) -> Grid:
    """Thick slices around the head, tilted by up to 12 degrees about each axis."""
    across, slices = random.uniform(1.1, 1.4), random.uniform(2.2, 3.4)
    spacing = (round(slices, 2), round(across, 2), round(across, 2))
    tilt = Rotation.from_euler("xyz", random.uniform(-12, 12, 3), degrees=True)
    shape = [round(extent / step) for extent, step in zip(FIELD_OF_VIEW, spacing, strict=True)]
    grid = Grid(shape=as_shape(shape), spacing=spacing, direction=as_matrix(tilt.apply(np.array(IDENTITY))))
    middle = grid.world(as_vector((np.array(shape) - 1) / 2))
    return replace(grid, origin=as_vector(np.array(grid.origin) + random.normal(0, 1.5, 3) - middle))


def _render(pieces: tuple[Ellipsoid, ...], grid: Grid) -> tuple[Array, npt.NDArray[np.uint8]]:
    """Noiseless signal (C, Z, Y, X) and label map (Z, Y, X) of a head on a grid.

    Each is the average over the points of a finer grid; a voxel gets a label if at least half of it has that label.
    """
    fine = _refined(grid)
    painted = np.zeros(fine.shape, np.uint8)  # 0 is air, n the n-th piece
    for number, piece in enumerate(pieces, 1):
        box = _box(piece, fine)
        painted[box.slices][piece.level(_points(fine, box)) < 1] = number
    signals = np.array([(0.01, 0.01), *(piece.signal for piece in pieces)])
    values = np.array([0, *(LABELS.get(piece.tissue, 0) for piece in pieces)])
    signal = np.stack([_averaged(signals[painted, channel]) for channel in range(len(CHANNELS))])
    labels = np.zeros(grid.shape, np.uint8)
    for value in set(LABELS.values()) - {0}:
        labels[_averaged((values == value)[painted]) >= 0.5] = value
    return signal, labels


def _acquire(random: np.random.Generator, signal: Array) -> npt.NDArray[np.int16]:
    """A channel with bias field, Rician noise and an arbitrary scale, in whole numbers."""
    z, y, x = (np.linspace(-1, 1, n).reshape([-1 if a == b else 1 for b in range(3)]) for a, n in enumerate(signal.shape))
    slope, bend = random.normal(0, 0.12, 3), random.normal(0, 0.10, 4)
    field = slope[0] * z + slope[1] * y + slope[2] * x + bend[0] * z * z + bend[1] * y * y + bend[2] * x * x + bend[3] * x * y
    noise = random.normal(0, random.uniform(0.025, 0.05), (2, *signal.shape))
    measured = np.hypot(signal * np.exp(field) + noise[0], noise[1])
    scale = np.exp(random.uniform(np.log(150), np.log(900)))
    return np.asarray(np.rint(measured * scale), np.int16)


def _refined(grid: Grid) -> Grid:
    corner = grid.world(as_vector([0.5 / n - 0.5 for n in FINER]))
    shape, spacing = as_shape(np.multiply(grid.shape, FINER)), as_vector(np.divide(grid.spacing, FINER))
    return replace(grid, shape=shape, spacing=spacing, origin=corner)


def _averaged(fine: npt.NDArray[Any]) -> Array:
    """Means over blocks of ``FINER`` points."""
    (z, y, x), (a, b, c) = fine.shape, FINER
    return np.asarray(fine.reshape(z // a, a, y // b, b, x // c, c).mean(axis=(1, 3, 5)))


def _box(piece: Ellipsoid, grid: Grid) -> Box:
    """The block of a grid that holds a piece."""
    offset = np.array(piece.centre) - grid.origin
    start, stop = [], []
    for direction, step, length in zip(grid.direction, grid.spacing, grid.shape, strict=True):
        middle, reach = float(offset @ direction) / step, piece.reach(direction) / step
        start.append(min(max(int(np.floor(middle - reach)), 0), length))
        stop.append(min(max(int(np.ceil(middle + reach)) + 1, start[-1]), length))
    return Box(start=as_shape(start), stop=as_shape(stop))


def _points(grid: Grid, box: Box) -> Array:
    """World positions (3, Z, Y, X) of the voxels in a block of a grid."""
    points = np.empty((3, *box.shape))
    z, y, x = (np.arange(a, b) * step for a, b, step in zip(box.start, box.stop, grid.spacing, strict=True))
    for axis, (along_z, along_y, along_x) in enumerate(zip(*grid.direction, strict=True)):
        plane = (z * along_z + grid.origin[axis])[:, None, None] + (y * along_y)[:, None]
        np.add(plane, x * along_x, out=points[axis])
    return points
