"""`Pose`: which voxels of a case a patch shows, and how they are turned.

Everything here has three spatial axes; a 2D patch is one slice, ``(1, Y, X)``. Turning happens in voxels and not in millimetres, as
in nnU-Net: on an anisotropic grid a rotation also shears, which the plan's ``in_plane`` is there to avoid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from nnseg.core.labels import swap_order
from nnseg.core.plan import Augmentation, Plan

Matrix = npt.NDArray[np.float64]
Offset = npt.NDArray[np.int64]

CONTROL_POINTS = 5
"""Of an elastic deformation, along each axis, the first and the last on the patch's ends."""

KNOT_DISTANCE = 4
"""In voxels: how finely the spline through the control points is sampled; in between, displacements are interpolated linearly."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Pose:
    """Which voxels of a case a patch shows.

    Args:
        start: (3,) voxel of the case under the patch's first voxel, were it not turned; negative where the case is smaller.
        turn: (3, 3), takes offsets from the patch's centre to offsets in the case; None leaves the voxels as they are.
        mirrored: axes along which the patch is flipped, after turning.
        bend: (3, *knots), how much further off in the case each part of the patch is, in voxels; knots are evenly spaced from the
            patch's first voxel to its last, one along axis 0 if slices are bent in themselves. Only together with a turn.
        quarters: how often the patch is at last turned by 90 degrees, and the axis that is turned into the other.
    """

    start: Offset
    turn: Matrix | None = None
    mirrored: tuple[int, ...] = ()
    bend: Matrix | None = None
    quarters: tuple[int, int, int] = (0, 1, 2)

    @property
    def in_plane(self) -> bool:
        """True if slices are turned and bent in themselves, so that none mixes with its neighbours."""
        if self.bend is not None and self.bend.shape[1] > 1:
            return False
        return self.turn is None or bool(np.all(self.turn[0] == (1, 0, 0)) and np.all(self.turn[:, 0] == (1, 0, 0)))


def draw_pose(
    rng: np.random.Generator, augmentation: Augmentation, *, case: Offset, patch: Offset, dimensions: int, around: Offset | None
) -> Pose:
    """A random pose of a patch in a case.

    Args:
        case, patch: their shapes, three values each.
        dimensions: of the plan.
        around: the voxel in the patch's middle, as far as the borders allow; None for anywhere.
    """
    in_plane = augmentation.in_plane or dimensions == 2
    start = draw_start(rng, case, patch, around)
    turn = draw_turn(rng, augmentation, in_plane=in_plane)
    mirrored = draw_mirrored(rng, augmentation, dimensions=dimensions)
    bend = draw_bend(rng, augmentation, patch, in_plane=in_plane)
    if bend is not None and turn is None:
        turn = np.eye(3)
    quarters = draw_quarters(rng, augmentation, dimensions=dimensions)
    return Pose(start=start, turn=turn, mirrored=mirrored, bend=bend, quarters=quarters)


def draw_start(rng: np.random.Generator, shape: Offset, patch: Offset, around: Offset | None = None) -> Offset:
    """Where a patch starts so that it stays inside the case; a case smaller than the patch lies in its middle.

    The middle, because prediction pads it alike and a turn about the patch's centre then keeps it in view.

    Args:
        around: the voxel in the patch's middle, as far as the borders allow; None for a uniform draw.
    """
    room = np.maximum(shape - patch, 0)
    start = rng.integers(0, room + 1) if around is None else np.clip(around - patch // 2, 0, room)
    return np.asarray(start - np.maximum(patch - shape, 0) // 2)


def draw_turn(rng: np.random.Generator, augmentation: Augmentation, *, in_plane: bool) -> Matrix | None:
    """A rotation and a zoom, or None when chance wants neither.

    Args:
        in_plane: leave axis 0 alone.

    Source: nnU-Net (Isensee et al. 2021), supplement 4: rotation first, then a zoom above 1 makes objects smaller.
    """
    rotated = rng.random() < augmentation.rotation_probability
    scaled = rng.random() < augmentation.scaling_probability
    angles = np.deg2rad(rng.uniform(-1.0, 1.0, 3) * augmentation.rotation_degrees) * (1, not in_plane, not in_plane)
    zoom = np.where([in_plane, False, False], 1.0, rng.uniform(*augmentation.scaling))
    if not (rotated or scaled):
        return None
    turned = rotation(angles) if rotated else np.eye(3)
    return np.asarray(turned * zoom if scaled else turned)


def draw_mirrored(rng: np.random.Generator, augmentation: Augmentation, *, dimensions: int) -> tuple[int, ...]:
    """The axes along which to flip: each one of the plan's with chance 1/2; a 2D plan's are shifted by the slice axis."""
    return tuple(a + 3 - dimensions for a in augmentation.mirror_axes if rng.random() < 0.5)


def draw_bend(rng: np.random.Generator, augmentation: Augmentation, patch: Offset, *, in_plane: bool) -> Matrix | None:
    """An elastic deformation, a cubic spline through random displacements of control points; None when chance wants none.

    Args:
        in_plane: displace within slices only, all slices alike.

    Source: Ronneberger et al. 2015 (U-Net), section 3.1, on a grid as coarse and for the same reason: cells have no fixed shape.
    """
    if not augmentation.elastic_probability or rng.random() >= augmentation.elastic_probability:
        return None
    points = (1 if in_plane else CONTROL_POINTS, CONTROL_POINTS, CONTROL_POINTS)
    moves = rng.uniform(-1, 1, (3, *points)) * ([[[[0.0]]], [[[1.0]]], [[[1.0]]]] if in_plane else 1.0)
    knots = [1 if in_plane else patch[0], *patch[1:]]
    counts = [-(-(int(n) - 1) // KNOT_DISTANCE) + 1 for n in knots]
    smooth = np.stack([ndimage.zoom(m, np.divide(counts, points), order=3, mode="nearest") for m in moves])
    largest = np.maximum(np.abs(smooth).max((1, 2, 3), keepdims=True), 1e-7)
    return np.asarray(smooth / largest * rng.uniform(*augmentation.elastic) * patch.reshape(3, 1, 1, 1))


def draw_quarters(rng: np.random.Generator, augmentation: Augmentation, *, dimensions: int) -> tuple[int, int, int]:
    """How often to turn by 90 degrees, and which of the plan's axes into which; zero times when chance wants none."""
    if not augmentation.quarter_turn_probability or rng.random() >= augmentation.quarter_turn_probability:
        return 0, 1, 2
    first, second = sorted(rng.choice(augmentation.quarter_turn_axes, 2, replace=False) + 3 - dimensions)
    return int(rng.integers(1, 4)), int(first), int(second)


def rotation(angles: npt.ArrayLike) -> Matrix:
    """The (3, 3) matrix of rotations by ``angles`` (radians) about axes x, y and z in this order; vectors are (z, y, x)."""
    result = np.eye(3)
    for axis, angle in enumerate(np.asarray(angles, float)):
        first, second = (a for a in range(3) if a != axis)
        one = np.eye(3)
        one[first, first] = one[second, second] = np.cos(angle)
        one[first, second], one[second, first] = np.sin(angle), -np.sin(angle)
        result = result @ one
    return result


def swap_labels(labels: Tensor, poses: Sequence[Pose], plan: Plan) -> None:
    """Change, in place, left into right and right into left in the patches whose poses mirror them.

    Args:
        labels: (B, Z, Y, X), label indices of any type, -1 where ignored.
        poses: of each patch.
        plan: its augmentation says which labels, and along which axis.
    """
    crossed = _crossed(poses, plan)
    if crossed:
        table = torch.tensor([*_order(plan), -1], dtype=labels.dtype).to(labels.device, non_blocking=True)
        for patch in crossed:
            labels[patch] = table[labels[patch].long()]  # the last entry is also that of -1


def swap_known(known: Tensor, poses: Sequence[Pose], plan: Plan) -> Tensor:
    """Which labels were annotated, bool (B, labels), after left and right changed places in the patches that mirror them."""
    known = known.clone()
    for patch in _crossed(poses, plan):
        known[patch] = known[patch][list(_order(plan))]
    return known


def _crossed(poses: Sequence[Pose], plan: Plan) -> list[int]:
    axis = plan.training.augmentation.swap_axis
    return [] if axis is None else [n for n, pose in enumerate(poses) if axis + 3 - plan.dimensions in pose.mirrored]


def _order(plan: Plan) -> tuple[int, ...]:
    return swap_order(plan.training.augmentation.swapped_labels, len(plan.labels.values))
