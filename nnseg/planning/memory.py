"""The largest patch, and then the largest batch, that a training step can afford."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from nnseg.core.plan import Steps
from nnseg.planning.recipe import Rules
from nnseg.planning.topology import Topology, make_topology

LEAST_VIEW = 0.25
"""A patch that shows less of the median scan than this wants a coarser first look."""

COARSENING = 1.03
"""By how much the grid is coarsened at a time in search of that."""

WORTHWHILE = 2.0
"""How many times fewer voxels the coarse grid must have to be worth a network of its own."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A patch and a batch that fit, with the network they were judged by.

    Args:
        topology: pooling, kernels and patch.
        features: channels of each stage.
        blocks: of each encoder stage.
        decoder_blocks: of each decoder stage, one entry fewer.
        estimate: elements of all feature maps for one patch.
        allowance: what ``estimate`` may be for the reference batch.
        start: the patch before it was made to fit.
        batch: patches a step.
        limit: what held the batch down, or up.
    """

    topology: Topology
    features: Steps
    blocks: Steps
    decoder_blocks: Steps
    estimate: int
    allowance: float
    start: Steps
    batch: int
    limit: Literal["cost", "share", "largest", "smallest"]


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What a network is wanted for.

    Args:
        spacing: mm of its grid along each axis.
        shape: the median scan on that grid.
        heads: output channels as nnU-Net counts them: labels (or regions) with background and ignore.
        voxels: of all scans of the dataset together, on the network's grid.
    """

    spacing: Sequence[float]
    shape: Sequence[float]
    heads: int
    voxels: float


def estimate_elements(topology: Topology, *, rules: Rules, heads: int) -> int:
    """The elements of the outputs of all convolutions for one patch: a stand-in for memory, and for time.

    Source: nnU-Net's VRAM estimate, in closed form (no network is built).
    """
    features, blocks, decoder = _widths(topology, rules)
    voxels = [math.prod(size) for size in topology.sizes]
    convolutions = blocks if rules.network == "plain" else _residual_convolutions(topology, features, blocks)
    total = sum(n * f * v for n, f, v in zip(convolutions, features, voxels, strict=True))
    if rules.network == "residual":
        total += features[0] * voxels[0]  # the stem
    total += sum((n + 1) * f * v for n, f, v in zip(decoder, features, voxels, strict=False))  # + 1: the transposed one
    return total + (heads * voxels[0] if decoder else 0)


def fit(demand: Demand, rules: Rules) -> Fit:
    """The patch of the dataset's proportions, as large as affordable; then as many of them a step as affordable.

    Source: Isensee 2021, nnU-Net, online methods, "adaptation of patch and batch size". Unlike there, an axis is never shrunk
    below the smallest edge, so that the search ends for any shape, and a network has at least two stages.
    """
    topology = _affordable(demand, rules, least_stages=1)
    if topology.stages == 1:
        topology = _affordable(demand, rules, least_stages=2)
    features, blocks, decoder_blocks = _widths(topology, rules)
    elements, allowance = estimate_elements(topology, rules=rules, heads=demand.heads), _allowance(demand, rules)
    batch, limit = _batch(topology, demand, rules, allowance / elements)
    start = tuple(math.ceil(p) for p in _first_patch(demand, rules))
    return Fit(
        topology=topology, features=features, blocks=blocks, decoder_blocks=decoder_blocks, estimate=elements,
        allowance=allowance, start=start, batch=batch, limit=limit,
    )  # fmt: skip


def coarser_grid(demand: Demand, rules: Rules) -> tuple[Demand, Fit] | None:
    """The grid of a coarse first stage, on which a patch shows a quarter of a scan; None if that would hardly be coarser.

    Args:
        demand: of the fine, three-dimensional network.
        rules: the planner's constants.

    Source: Isensee 2021, nnU-Net, online methods, "3D low resolution U-Net".
    """
    spacing, shape, voxels = list(demand.spacing), list(demand.shape), math.prod(demand.shape)
    cases = demand.voxels / voxels
    coarse, topology = demand, _affordable(demand, rules, least_stages=1)
    while math.prod(topology.patch) / voxels < LEAST_VIEW:
        fine = [max(spacing) / s > 2 for s in spacing]
        spacing = [s * COARSENING if f or not any(fine) else s for s, f in zip(spacing, fine, strict=True)]
        exact = [old / new * n for old, new, n in zip(demand.spacing, spacing, shape, strict=True)]
        voxels = math.prod(exact)
        coarse = Demand(spacing=spacing, shape=[max(1, round(n)) for n in exact], heads=demand.heads, voxels=voxels * cases)
        topology = _affordable(coarse, rules, least_stages=1)
    return (coarse, fit(coarse, rules)) if math.prod(shape) / voxels >= WORTHWHILE else None


def _affordable(demand: Demand, rules: Rules, *, least_stages: Literal[1, 2]) -> Topology:
    """The largest patch that is affordable, with its network."""
    constants = rules.constants(len(demand.spacing))
    make = partial(make_topology, demand.spacing, smallest_edge=rules.smallest_edge, least_stages=least_stages)
    most = _allowance(demand, rules) * constants.reference_batch / constants.patch_batch
    topology = make(_first_patch(demand, rules))
    while estimate_elements(topology, rules=rules, heads=demand.heads) > most:
        smaller = _shrunk(topology, demand, rules.smallest_edge, make)
        if smaller is None:
            break
        topology = smaller
    return topology


def _allowance(demand: Demand, rules: Rules) -> float:
    return rules.constants(len(demand.spacing)).reference_estimate * rules.memory_gb / rules.reference_gb


def _widths(topology: Topology, rules: Rules) -> tuple[Steps, Steps, Steps]:
    stages, cap = topology.stages, rules.constants(len(topology.patch)).features_cap
    features = tuple(min(cap, rules.base_features * 2**i) for i in range(stages))
    return features, _repeated(rules.blocks, stages), _repeated(rules.decoder_blocks, stages - 1)


def _repeated(pattern: Steps, length: int) -> Steps:
    return (*pattern, *[pattern[-1]] * length)[:length]


def _residual_convolutions(topology: Topology, features: Steps, blocks: Steps) -> Steps:
    """Two convolutions a block, and one on the skip of a stage's first block where stride or width changes."""
    before = (features[0], *features)
    changed = [
        max(s) > 1 or f != b for s, f, b in zip(topology.strides, features, before, strict=False)
    ]  # the stem already has the first stage's width
    return tuple(2 * n + int(c) for n, c in zip(blocks, changed, strict=True))


def _first_patch(demand: Demand, rules: Rules) -> list[float]:
    """A cube (or square) of millimetres with ``first_edge`` voxels a side on average, cut to the median scan."""
    edge, fineness = rules.constants(len(demand.spacing)).first_edge, [1 / s for s in demand.spacing]
    scale = (edge ** len(fineness) / math.prod(fineness)) ** (1 / len(fineness))
    return [min(max(1, round(f * scale)), n) for f, n in zip(fineness, demand.shape, strict=True)]


def _shrunk(topology: Topology, demand: Demand, smallest_edge: int, make: Callable[[Steps], Topology]) -> Topology | None:
    """The next smaller patch, along the axis that covers most of the scan; None if nothing can be taken off any axis."""
    patch, axes = topology.patch, range(len(topology.patch))
    for axis in sorted(axes, key=lambda a: (patch[a] / demand.shape[a], a), reverse=True):
        if patch[axis] - topology.divisor[axis] < 1:
            continue
        # Taking off the present divisor may cost a pooling; the divisor then smaller is what must come off (256 -> 224, not 192).
        wanted = _less(patch, axis, make(_less(patch, axis, topology.divisor[axis])).divisor[axis])
        smaller = make(wanted)
        if wanted[axis] >= smallest_edge and math.prod(smaller.patch) < math.prod(patch):
            return smaller
    return None


def _less(patch: Steps, axis: int, by: int) -> Steps:
    return tuple(n - by if a == axis else n for a, n in enumerate(patch))


def _batch(
    topology: Topology, demand: Demand, rules: Rules, room: float
) -> tuple[int, Literal["cost", "share", "largest", "smallest"]]:
    constants = rules.constants(len(topology.patch))
    affordable = round(room * constants.reference_batch)
    share = round(demand.voxels * rules.dataset_share / math.prod(topology.patch))
    batch = min(affordable, share, constants.largest_batch)
    if batch < rules.smallest_batch:
        return rules.smallest_batch, "smallest"
    if batch == affordable:
        return batch, "cost"
    return batch, "share" if batch == share else "largest"
