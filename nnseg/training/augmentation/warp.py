"""A patch from a case and a pose: copied without rotation, zoom or deformation, else interpolated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from nnseg.core.image import Integers
from nnseg.training.augmentation.pose import Matrix, Offset, Pose

LABELS_AT_ONCE = 8
"""Labels resampled at a time: bounds the memory of patches with many."""


class CaseVoxels(Protocol):
    """What patches are cut from: arrays, or anything that gives an array when sliced.

    Attributes:
        image: float32 (C, Z, Y, X).
        labels: (Z, Y, X), label indices, -1 where ignored.
    """

    @property
    def image(self) -> Any: ...  # noqa: D102
    @property
    def labels(self) -> Any: ...  # noqa: D102


class LabelledCase(CaseVoxels, Protocol):
    """A case to draw patches from.

    Attributes:
        locations: (N, 3) voxels by label index above 0.
        annotated: (N, 3) voxels that are not ignored; None if none is ignored.
        known: indices of the labels that were annotated in it; None for all.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def locations(self) -> Mapping[int, Integers]: ...  # noqa: D102
    @property
    def annotated(self) -> Integers | None: ...  # noqa: D102
    @property
    def known(self) -> tuple[int, ...] | None: ...  # noqa: D102


def cut(case: CaseVoxels, pose: Pose, image: Tensor, labels: Tensor) -> None:
    """Copy the voxels of a pose without ``matrix`` into a patch of zeros.

    Args:
        image, labels: on the CPU, (C, Z, Y, X) and (Z, Y, X).
    """
    size = np.array(labels.shape)
    low, high = np.maximum(pose.start, 0), np.minimum(pose.start + size, case.labels.shape)
    source, target = _slices(low, high), _slices(low - pose.start, high - pose.start)
    # Rotating and flipping the view that is written to costs nothing.
    back, first, second = -pose.quarter_turns[0], *pose.quarter_turns[1:]
    view = np.rot90(image.numpy(), back, (first + 1, second + 1))
    np.flip(view, tuple(a + 1 for a in pose.mirrored))[(slice(None), *target)] = case.image[(slice(None), *source)]
    np.flip(np.rot90(labels.numpy(), back, (first, second)), pose.mirrored)[target] = case.labels[source]


def warp(
    case: CaseVoxels, pose: Pose, patch: tuple[int, ...], device: torch.device, *, previous: bool = False
) -> tuple[Tensor, Tensor]:
    """The image (C, Z, Y, X) and int64 labels (Z, Y, X) of a pose with ``matrix``: zeros and background outside the case.

    Only the box of voxels that the patch needs is read. The image is interpolated linearly. A voxel's label is the one with the
    largest share when each label's indicator is interpolated likewise, the background on a tie: smoother than the nearest label.

    Args:
        previous: the image's last channel holds label indices, which are resampled like labels.
    """
    assert pose.matrix is not None
    matrix = pose.matrix * np.where(np.isin(range(3), pose.mirrored), -1.0, 1.0)
    centre = pose.start + (np.array(patch) - 1) / 2
    reach = np.abs(matrix) @ (np.array(patch) - 1) / 2
    if pose.displacements is not None:
        reach += np.abs(pose.displacements).max((1, 2, 3))
    low = np.maximum(np.floor(centre - reach).astype(int), 0)
    high = np.minimum(np.ceil(centre + reach).astype(int) + 1, case.labels.shape)
    source = _slices(low, high)
    image_box = np.ascontiguousarray(case.image[(slice(None), *source)], np.float32)
    labels_box = np.ascontiguousarray(case.labels[source])
    free = 1 if pose.in_plane else 0  # axes before this one are not interpolated
    grid = _sampling_grid(matrix[free:, free:], (centre - low)[free:], box=(high - low)[free:], patch=patch[free:], device=device)
    if pose.displacements is not None:
        grid += _displacement(
            pose.displacements[free:, 0] if free else pose.displacements, box=(high - low)[free:], patch=patch[free:], device=device
        )
    image, labels = _sample(_to_device(image_box, device), grid), _sample_labels(labels_box, grid)
    if previous:
        image[-1] = _sample_labels(image_box[-1].astype(np.int16), grid)
    if pose.in_plane:
        image, labels = _fit(image, pose, patch), _fit(labels, pose, patch)
    times, first, second = pose.quarter_turns
    return image.rot90(times, (first + 1, second + 1)), labels.rot90(times, (first, second))


def _slices(low: Offset, high: Offset) -> tuple[slice, ...]:
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))


def _to_device(voxels: npt.NDArray[Any], device: torch.device) -> Tensor:
    shared = torch.from_numpy(voxels if voxels.flags.writeable else voxels.copy())
    return shared.to(device, non_blocking=True)


def _sampling_grid(matrix: Matrix, centre: Matrix, *, box: Offset, patch: tuple[int, ...], device: torch.device) -> Tensor:
    """(*patch, axes) positions in ``box`` of a patch's voxels, for `grid_sample`: x first, the box's edges at -1 and 1.

    Args:
        matrix: from offsets in the patch to offsets in the box, in voxels.
        centre: of the patch, in the box's voxels.
    """
    matrix, axes = matrix * (2.0 / box)[:, None], len(patch)
    middle = (2.0 * centre + 1.0) / box - 1.0
    grid = torch.tensor(middle[::-1].copy(), dtype=torch.float32).to(device, non_blocking=True)
    for axis, size in enumerate(patch):
        offsets = (np.arange(size) - (size - 1) / 2)[:, None] * matrix[::-1, axis]
        along = torch.tensor(offsets, dtype=torch.float32).to(device, non_blocking=True)
        grid = grid + along.view([size if a == axis else 1 for a in range(axes)] + [axes])
    return grid


def _displacement(displacements: Matrix, *, box: Offset, patch: tuple[int, ...], device: torch.device) -> Tensor:
    """(*patch, axes) displacements to add to a `_sampling_grid`."""
    scaled = displacements * (2.0 / box).reshape(-1, *[1] * len(patch))
    knots = torch.tensor(scaled[::-1].copy(), dtype=torch.float32).to(device, non_blocking=True)
    mode = "trilinear" if len(patch) == 3 else "bilinear"
    return F.interpolate(knots[None], size=patch, mode=mode, align_corners=True)[0].movedim(0, -1)


def _sample(voxels: Tensor, grid: Tensor) -> Tensor:
    """Linear interpolation of (C, Z, Y, X), zero outside, at a grid (Z, Y, X, 3), or of every slice at a grid (Y, X, 2)."""
    if grid.shape[-1] == 2:
        sampled = F.grid_sample(voxels.flatten(0, 1)[None], grid[None], padding_mode="zeros", align_corners=False)
        return sampled.view(*voxels.shape[:2], *sampled.shape[2:])
    # Each slice of the patch is one element of a batch that shares its input: grid_sample uses one CPU core per element.
    shared = voxels[None].expand(len(grid), -1, -1, -1, -1)
    return F.grid_sample(shared, grid[:, None], padding_mode="zeros", align_corners=False)[:, :, 0].transpose(0, 1)


def _sample_labels(labels: Integers, grid: Tensor) -> Tensor:
    counts = np.bincount(labels.ravel().astype(np.int32) + 1)  # -1, ignored, becomes 0
    present = [int(i) - 1 for i in np.flatnonzero(counts) if i != 1]
    box = _to_device(labels, grid.device)
    shape = grid.shape[:3] if grid.shape[-1] == 3 else (len(labels), *grid.shape[:2])
    result = torch.zeros(shape, dtype=torch.int64, device=grid.device)
    best, background = torch.zeros(shape, device=grid.device), torch.ones(shape, device=grid.device)
    for first in range(0, len(present), LABELS_AT_ONCE):
        some = torch.tensor(present[first : first + LABELS_AT_ONCE]).to(grid.device, non_blocking=True)
        shares = _sample((box == some.view(-1, 1, 1, 1)).float(), grid)
        background -= shares.sum(0)
        largest, which = shares.max(0)
        result = torch.where(largest > best, some[which], result)
        best = torch.maximum(best, largest)
    return torch.where(best > background, result, 0)


def _fit(slices: Tensor, pose: Pose, patch: tuple[int, ...]) -> Tensor:
    """(..., Z, Y, X) of the patch from the slices read: zeros for slices outside the case, reversed if mirrored."""
    before = max(0, -int(pose.start[0]))
    padded = F.pad(slices, (0, 0, 0, 0, before, patch[0] - before - slices.shape[-3]))
    return padded.flip(-3) if 0 in pose.mirrored else padded
