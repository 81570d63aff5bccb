"""`Pose`: which voxels of a case a patch shows, and how they are turned.

Everything here has three spatial axes; a 2D patch is one slice, ``(1, Y, X)``. Turning happens in voxels and not in millimetres, as
in nnU-Net: on an anisotropic grid a rotation also shears, which the plan's ``in_plane`` is there to avoid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nnseg.core.plan import Augmentation

Matrix = npt.NDArray[np.float64]
Offset = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Pose:
    """Which voxels of a case a patch shows.

    Args:
        start: (3,) voxel of the case under the patch's first voxel, were it not turned; negative where the case is smaller.
        turn: (3, 3), takes offsets from the patch's centre to offsets in the case; None leaves the voxels as they are.
        mirrored: axes along which the patch is flipped, after turning.
    """

    start: Offset
    turn: Matrix | None = None
    mirrored: tuple[int, ...] = ()

    @property
    def in_plane(self) -> bool:
        """True if slices are turned in themselves, so that none mixes with its neighbours."""
        return self.turn is None or bool(np.all(self.turn[0] == (1, 0, 0)) and np.all(self.turn[:, 0] == (1, 0, 0)))


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
