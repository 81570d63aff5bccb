"""Estimates for the cost of a plan without measurements: memory, files and tiles from shapes, and the time of a pool."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

from nnseg.core import geometry
from nnseg.core.fingerprint import CaseMeasure, Fingerprint
from nnseg.core.geometry import Shape
from nnseg.core.image import IN_MEMORY_BYTES, MOST_LOCATIONS
from nnseg.core.network_kinds import count_values
from nnseg.core.plan import Plan
from nnseg.core.probe import CaseCost, Trial
from nnseg.system.machine import GIGABYTE

BYTES_PER_VALUE = 12.0
"""Memory for each element of the feature maps in training: kept for the backward pass, gradients, and work space."""

COMPRESSED_SHARE = 0.7
"""Size of a stored case's file as a share of its bytes in memory: noise hardly compresses."""

COMPUTING_GB = 0.09
"""RAM that the first convolution of a process takes: threads, and compiled kernels (measured on a CPU)."""

BYTES_PER_LABEL = 0.02
"""Size of a compressed label map's file for each voxel."""


def estimate_trial(plan: Plan, *, base_gb: float, on_device: bool = False) -> Trial:
    """Memory and files of a training, from the network's shape; times are 0.

    Args:
        plan: to train.
        base_gb: RAM of an idle process.
        on_device: training uses a device with memory of its own.
    """
    weights, values = plan.network.weights, count_values(plan.network, plan.patch, len(plan.labels.heads))
    states = 2 + (plan.training.averaging > 0) + {"adamw": 2}.get(plan.training.optimizer, 1)  # weights, gradients, ...
    working = plan.training.batch_size * values * BYTES_PER_VALUE + 4 * weights * states
    return Trial(
        key="",
        memory_gb=base_gb + (0.0 if on_device else working / GIGABYTE),
        device_gb=working / GIGABYTE if on_device else 0.0,
        tile_gb=COMPUTING_GB + 4 * (values + weights) / GIGABYTE,
        checkpoint_bytes=4 * weights * (states - 1),
        model_bytes=4 * weights,
    )


def estimate_case_cost(plan: Plan, fingerprint: Fingerprint) -> CaseCost:
    """Memory and files of preprocessing and prediction, from the largest scan; times are 0."""
    largest = max(math.prod(case.shape) for case in fingerprint.cases) / GIGABYTE
    channels, heads = plan.stored_channels, len(plan.labels.heads)
    return CaseCost(
        key="",
        packed=COMPRESSED_SHARE,
        memory_gb=preprocessing_gb(largest * GIGABYTE, channels),
        predict_gb=largest * (8 * channels + 12 * heads + 16),
        label_bytes=BYTES_PER_LABEL * 1e6,
    )


def preprocessing_gb(voxels: float, channels: int) -> float:
    """RAM of reading and preprocessing a scan of so many voxels."""
    return voxels * (16 * channels + 12) / GIGABYTE


def shape_on_grid(case: CaseMeasure, plan: Plan) -> Shape:
    """The shape of a case on the network's grid, in voxels."""
    return plan.grid(case.cropped_shape, case.spacing).shape


def count_stored_bytes(case: CaseMeasure, plan: Plan) -> int:
    """Uncompressed size of a preprocessed case: float32 channels, and labels of one byte, or two if there are over 128."""
    label = 1 if len(plan.labels.values) <= 128 else 2
    return math.prod(shape_on_grid(case, plan)) * (4 * plan.stored_channels + label)


def count_held_bytes(case: CaseMeasure, plan: Plan) -> int:
    """RAM of a preprocessed case during training: positions of labelled voxels, and all voxels if it is small."""
    stored = count_stored_bytes(case, plan)
    ratio = math.prod(shape_on_grid(case, plan)) / math.prod(case.cropped_shape)
    counts = [round(case.voxels[name] * ratio) for name in plan.labels.names[1:] if name in case.voxels]
    if plan.labels.ignore is not None:
        counts.append(round(sum(case.voxels.values()) * ratio))
    positions = sum(max(min(MOST_LOCATIONS, n), n // 100) for n in counts)
    return 12 * positions + (stored if stored < IN_MEMORY_BYTES else 0)


def count_tiles(case: CaseMeasure, plan: Plan) -> int:
    """Forward passes of a network for a case: tiles of the sliding window times mirrored copies."""
    patch = geometry.in_space(plan.patch)
    steps = (1.0,) * (3 - plan.dimensions) + (plan.inference.step,) * plan.dimensions
    along = zip(shape_on_grid(case, plan), patch, steps, strict=True)
    return math.prod(geometry.count_tiles(max(n, p), p, s) for n, p, s in along) * (1 << len(plan.inference.mirror_axes))


def estimate_pool_seconds(seconds: Sequence[float], workers: int) -> float:
    """Wall-clock time of `map_items`: each item in the first free worker.

    Args:
        seconds: of each item.
        workers: number of processes.
    """
    busy_until = [0.0] * max(1, workers)
    for duration in seconds:
        heapq.heapreplace(busy_until, busy_until[0] + duration)
    return max(busy_until)
