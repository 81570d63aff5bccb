"""`Pose`: where a patch lies in a case, and how it is rotated, scaled, flipped and deformed.

Everything here has three spatial axes; a 2D patch is one slice, ``(1, Y, X)``. Rotations are in voxels, not in millimetres, as in
nnU-Net: on an anisotropic grid they also shear, which the plan's ``in_plane`` avoids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from nnseg.core.labels import swap_order, swapped_heads
from nnseg.core.plan import Augmentation, Plan

Matrix = npt.NDArray[np.float64]
Offset = npt.NDArray[np.int64]

CONTROL_POINTS = 5
"""Of an elastic deformation, along each axis; the first and the last lie on the patch's ends."""

KNOT_DISTANCE = 4
"""Voxels between the samples of the spline through the control points; displacements in between are interpolated linearly."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Pose:
    """Position of a patch in a case, and its spatial transform.

    Args:
        start: (3,) voxel of the case at the patch's first voxel, before the transform; negative where the case is smaller.
        matrix: (3, 3), from offsets to the patch's centre to offsets in the case, in voxels; None for the identity.
        mirrored: axes of the patch that are flipped, after ``matrix``.
        displacements: (3, *knots) in the case, in voxels. Knots are evenly spaced from the patch's first voxel to its last; a
            single one along axis 0 if each slice is deformed within itself. Only together with ``matrix``.
        quarter_turns: number of final rotations by 90 degrees, and the two axes of their plane.
    """

    start: Offset
    matrix: Matrix | None = None
    mirrored: tuple[int, ...] = ()
    displacements: Matrix | None = None
    quarter_turns: tuple[int, int, int] = (0, 1, 2)

    @property
    def in_plane(self) -> bool:
        """True if the transform moves no voxel to another slice."""
        if self.displacements is not None and self.displacements.shape[1] > 1:
            return False
        return self.matrix is None or bool(np.all(self.matrix[0] == (1, 0, 0)) and np.all(self.matrix[:, 0] == (1, 0, 0)))


def draw_pose(
    rng: np.random.Generator, augmentation: Augmentation, *, case: Offset, patch: Offset, dimensions: int, around: Offset | None
) -> Pose:
    """A random pose of a patch in a case.

    Args:
        case, patch: their shapes, three values each.
        dimensions: of the plan.
        around: voxel at the patch's centre, as far as the borders allow; None for a uniform draw.
    """
    in_plane = augmentation.in_plane or dimensions == 2
    start = draw_start(rng, case, patch, around)
    matrix = draw_matrix(rng, augmentation, in_plane=in_plane)
    mirrored = draw_mirrored(rng, augmentation, dimensions=dimensions)
    displacements = draw_displacements(rng, augmentation, patch, in_plane=in_plane)
    if displacements is not None and matrix is None:
        matrix = np.eye(3)
    quarter_turns = draw_quarter_turns(rng, augmentation, dimensions=dimensions)
    return Pose(start=start, matrix=matrix, mirrored=mirrored, displacements=displacements, quarter_turns=quarter_turns)


def draw_start(rng: np.random.Generator, shape: Offset, patch: Offset, around: Offset | None = None) -> Offset:
    """The first voxel of a patch that lies inside the case; a case smaller than the patch is centred in it.

    Centred, because prediction pads it alike, and a rotation about the patch's centre then keeps it inside.

    Args:
        around: voxel at the patch's centre, as far as the borders allow; None for a uniform draw.
    """
    room = np.maximum(shape - patch, 0)
    start = rng.integers(0, room + 1) if around is None else np.clip(around - patch // 2, 0, room)
    return np.asarray(start - np.maximum(patch - shape, 0) // 2)


def draw_matrix(rng: np.random.Generator, augmentation: Augmentation, *, in_plane: bool) -> Matrix | None:
    """The matrix of a random rotation and zoom, or None for neither.

    Args:
        in_plane: leave axis 0 unchanged.

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
    """The axes to flip: each of the plan's with probability 1/2, counted with the slice axis for a 2D plan."""
    return tuple(a + 3 - dimensions for a in augmentation.mirror_axes if rng.random() < 0.5)


def draw_displacements(rng: np.random.Generator, augmentation: Augmentation, patch: Offset, *, in_plane: bool) -> Matrix | None:
    """A random elastic deformation, a cubic spline through displacements of control points; None for none.

    Args:
        in_plane: displace within slices only, all slices alike.

    Source: Ronneberger et al. 2015 (U-Net), section 3.1, with a grid as coarse.
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


def draw_quarter_turns(rng: np.random.Generator, augmentation: Augmentation, *, dimensions: int) -> tuple[int, int, int]:
    """The number of rotations by 90 degrees, 0 to 3, and the axes of their plane."""
    if not augmentation.quarter_turn_probability or rng.random() >= augmentation.quarter_turn_probability:
        return 0, 1, 2
    first, second = sorted(rng.choice(augmentation.quarter_turn_axes, 2, replace=False) + 3 - dimensions)
    return int(rng.integers(1, 4)), int(first), int(second)


def rotation(angles: npt.ArrayLike) -> Matrix:
    """The (3, 3) matrix of rotations by ``angles`` (radians) about axes x, y and z in this order; vectors are (z, y, x)."""
    result = np.eye(3)
    for axis, angle in enumerate(np.asarray(angles, float)):
        first, second = (a for a in range(3) if a != axis)
        about_axis = np.eye(3)
        about_axis[first, first] = about_axis[second, second] = np.cos(angle)
        about_axis[first, second], about_axis[second, first] = np.sin(angle), -np.sin(angle)
        result = result @ about_axis
    return result


def swap_labels(labels: Tensor, poses: Sequence[Pose], plan: Plan) -> None:
    """Swap, in place, labels of the left and the right side in the patches whose poses mirror them.

    Args:
        labels: (B, Z, Y, X), label indices of any type, -1 where ignored.
        poses: of each patch.
        plan: its augmentation has the pairs of labels, and the axis.
    """
    swapped = _side_swapped(poses, plan)
    if swapped:
        table = torch.tensor([*_swapped_order(plan), -1], dtype=labels.dtype).to(labels.device, non_blocking=True)
        for patch in swapped:
            labels[patch] = table[labels[patch].long()]  # the last entry is also that of -1


def swap_known(known: Tensor, poses: Sequence[Pose], plan: Plan) -> Tensor:
    """Annotated labels, bool (B, labels), with left and right swapped in the patches whose poses mirror them."""
    known = known.clone()
    for patch in _side_swapped(poses, plan):
        known[patch] = known[patch][list(_swapped_order(plan))]
    return known


def swap_levels(levels: Tensor, poses: Sequence[Pose], plan: Plan) -> None:
    """Swap, in place, levels (B, F, Z, Y, X) of labels or regions of the left and the right side, as `swap_labels` does labels."""
    heads, foreground = len(plan.labels.heads), levels.shape[1]
    pairs = swapped_heads(plan.labels, plan.training.augmentation.swapped_labels) or ()
    order = [head - (heads - foreground) for head in swap_order(pairs, heads)[heads - foreground :]]
    for patch in _side_swapped(poses, plan):
        levels[patch] = levels[patch][order]


def _side_swapped(poses: Sequence[Pose], plan: Plan) -> list[int]:
    axis = plan.training.augmentation.swap_axis
    return [] if axis is None else [n for n, pose in enumerate(poses) if axis + 3 - plan.dimensions in pose.mirrored]


def _swapped_order(plan: Plan) -> tuple[int, ...]:
    return swap_order(plan.training.augmentation.swapped_labels, len(plan.labels.values))
