"""How large a case is on a plan's grid: in voxels, in bytes, in tiles. From shapes alone."""

from __future__ import annotations

import math

from nnseg.core.geometry import Shape, tile_starts
from nnseg.core.image import IN_MEMORY_BYTES, MOST_LOCATIONS
from nnseg.core.plan import Plan
from nnseg.planning.fingerprint import CaseMeasure


def network_shape(case: CaseMeasure, plan: Plan) -> Shape:
    """Voxels of a case on the network's grid."""
    return plan.grid(case.cropped_shape, case.spacing).shape


def unpacked_bytes(case: CaseMeasure, plan: Plan) -> int:
    """Of a stored case: float32 channels, and labels of one byte, or two where there are many."""
    label = 1 if len(plan.labels.values) <= 128 else 2
    return math.prod(network_shape(case, plan)) * (4 * plan.stored + label)


def bytes_held(case: CaseMeasure, plan: Plan) -> int:
    """RAM that a stored case takes while it is trained on: positions of its labels, and its voxels if it is small."""
    unpacked = unpacked_bytes(case, plan)
    finer = math.prod(network_shape(case, plan)) / math.prod(case.cropped_shape)
    counts = [round(case.voxels[name] * finer) for name in plan.labels.names[1:] if name in case.voxels]
    if plan.labels.ignore is not None:
        counts.append(round(sum(case.voxels.values()) * finer))
    positions = sum(max(min(MOST_LOCATIONS, n), n // 100) for n in counts)
    return 12 * positions + (unpacked if unpacked < IN_MEMORY_BYTES else 0)


def tiles(case: CaseMeasure, plan: Plan) -> int:
    """How often a network is asked for a case: tiles of the sliding window times mirrored copies."""
    patch = (1, *plan.patch) if plan.dimensions == 2 else plan.patch
    steps = (1.0,) * (3 - plan.dimensions) + (plan.inference.step,) * plan.dimensions
    along = zip(network_shape(case, plan), patch, steps, strict=True)
    return math.prod(len(tile_starts(max(n, p), p, s)) for n, p, s in along) * (1 << len(plan.inference.mirror_axes))
