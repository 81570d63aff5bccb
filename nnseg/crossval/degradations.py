"""Degraded scans: noise, bias fields, motion, low resolution and thick slices, by the functions with which training augments."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from nnseg.core.image import Scan
from nnseg.core.options import DegradationKind
from nnseg.core.plan import Augmentation
from nnseg.training.augmentation.intensity import CHANGES
from nnseg.training.augmentation.mri import SMALLEST, Shape, Strength

THICK = 3.0
"""Slices are thick that are more than so many times as far apart as the voxels in them."""


def degrade(scan: Scan, kind: DegradationKind, strength: float, rng: np.random.Generator) -> Scan | None:
    """A scan as if it had been acquired with lower quality; None where it cannot be, as a picture has no slices.

    Every channel is degraded, with random numbers of its own. Values stay within those of the channel, as in files of whole
    numbers, and voxels that are zero in all channels stay zero, as outside of a brain mask.

    Args:
        kind: of the degradation.
        strength: in the unit of `nnseg.core.robustness.DEGRADATIONS`.
        rng: generator of its random numbers; the same one gives stronger and weaker degradations of one pattern.
    """
    spacing, shape = scan.grid.spacing, scan.grid.shape
    across = max(range(3), key=lambda axis: (shape[axis] == 1, spacing[axis]))
    flat = shape[across] == 1
    if flat and kind == "slice_thickness":
        return None
    inside = (scan.image != 0).any(0)
    deviations = np.array([channel[inside].std() if inside.any() else 0.0 for channel in scan.image]).clip(min=SMALLEST)
    scale = deviations.astype(np.float32)[:, None, None, None]
    slices = np.moveaxis(scan.image / scale, 1 + across, 1)
    rows = torch.from_numpy(np.ascontiguousarray(slices[:, 0] if flat else slices))
    in_plane = not flat and spacing[across] > THICK * min(spacing)
    strengths = [_parameters(kind, strength, rng, tuple(rows.shape[1:]), in_plane=in_plane) for _ in rows]
    changed = CHANGES[kind].apply(rows, strengths).numpy()
    image = np.moveaxis(changed[:, None] if flat else changed, 1, 1 + across) * scale
    low, high = (end((1, 2, 3), keepdims=True) for end in (scan.image.min, scan.image.max))
    return replace(scan, image=np.ascontiguousarray(np.where(inside, image.clip(low, high), np.float32(0))))


def _parameters(kind: DegradationKind, strength: float, rng: np.random.Generator, shape: Shape, *, in_plane: bool) -> Strength:
    """The parameters of the change of one channel of a shape, whose slices lie along its first axis."""
    if kind == "noise":
        return strength, float(rng.integers(2**31))
    if kind == "low_resolution":
        kept = int(in_plane)
        return (1.0,) * kept + (1 / strength,) * (len(shape) - kept)
    if kind == "slice_thickness":
        return (strength,)
    ends = (strength, strength)
    settings = Augmentation(in_plane=in_plane, motion_probability=1.0, motion=ends, bias_field_probability=1.0, bias_field=ends)
    return CHANGES[kind].draw(rng, settings, (1, *shape))[0]
