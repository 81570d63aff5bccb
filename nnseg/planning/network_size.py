"""Depth, pooling and memory of a U-Net for a patch, and the largest patch that fits into a budget of memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from nnseg.core.plan import Steps
from nnseg.planning.recipe import Rules


@dataclass(frozen=True, kw_only=True)
class Topology:
    """The shape of a U-Net, finest stage first.

    Args:
        patch: voxels along each axis, a multiple of ``divisor``.
        strides: of each stage's first convolution; ones at stage 0.
        kernels: of each stage.
    """

    patch: Steps
    strides: tuple[Steps, ...]
    kernels: tuple[Steps, ...]

    @property
    def stages(self) -> int:
        """Resolutions of the network."""
        return len(self.strides)

    @property
    def divisor(self) -> Steps:
        """By what each axis of a patch must be divisible."""
        return tuple(math.prod(axis) for axis in zip(*self.strides, strict=True))

    @property
    def sizes(self) -> tuple[Steps, ...]:
        """Voxels of a patch at each stage."""
        sizes = [self.patch]
        for stride in self.strides[1:]:
            sizes.append(tuple(n // s for n, s in zip(sizes[-1], stride, strict=True)))
        return tuple(sizes)


def make_topology(
    spacing: Sequence[float], patch: Sequence[float], *, smallest_edge: int = 4, least_stages: Literal[1, 2] = 2
) -> Topology:
    """The deepest sensible topology for a patch, which is padded up to a multiple of its divisor.

    An axis is pooled while at least ``smallest_edge`` voxels remain, and only together with axes less than twice as coarse, so
    that the network's voxels become cubes before it pools them as cubes. Unlike nnU-Net, a patch too small to be pooled at all is
    enlarged until it can be once, since a U-Net has at least two stages.

    Args:
        spacing: mm along each axis.
        patch: wanted voxels along each axis.
        smallest_edge: voxels below which no axis is pooled.
        least_stages: 1 for nnU-Net's own rule, which leaves a patch that is too small to be pooled as it is.

    Source: Isensee 2021, nnU-Net, online methods, "network topology".
    """
    topology = _pooled(spacing, patch, smallest_edge)
    if topology.stages >= least_stages:
        return topology
    fine = [s / min(spacing) < 2 for s in spacing]
    least = (2 if sum(fine) > 1 else 3) * smallest_edge
    return _pooled(spacing, [max(p, least) if f else p for p, f in zip(patch, fine, strict=True)], smallest_edge)


def _pooled(spacing: Sequence[float], patch: Sequence[float], smallest_edge: int) -> Topology:
    mm, size = list(spacing), list(patch)
    kernel = [1] * len(mm)
    strides, kernels = [tuple(kernel)], []
    while axes := _poolable(mm, size, smallest_edge):
        # Once an axis is no longer twice as coarse as the finest it is convolved along too, and stays so.
        kernel = [3 if k == 3 or s / min(mm) < 2 else 1 for k, s in zip(kernel, mm, strict=True)]
        for axis in axes:
            mm[axis] *= 2
            size[axis] = math.ceil(size[axis] / 2)
        strides.append(tuple(2 if a in axes else 1 for a in range(len(mm))))
        kernels.append(tuple(kernel))
    kernels.append((3,) * len(mm))
    bare = Topology(patch=(), strides=tuple(strides), kernels=tuple(kernels))
    padded = tuple(math.ceil(p / d) * d for p, d in zip(patch, bare.divisor, strict=True))
    return Topology(patch=padded, strides=bare.strides, kernels=bare.kernels)


def _poolable(mm: list[float], size: list[float], smallest_edge: int) -> list[int]:
    """The axes that the next stage halves; none when the network is deep enough."""
    large = [a for a, n in enumerate(size) if n >= 2 * smallest_edge]
    axes = [a for a in large if mm[a] / min(mm[b] for b in large) < 2]
    if len(axes) == 1 and size[axes[0]] < 3 * smallest_edge:
        return []
    return axes


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
class NetworkRequirements:
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


def fit(demand: NetworkRequirements, rules: Rules) -> Fit:
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


def coarser_grid(demand: NetworkRequirements, rules: Rules) -> tuple[NetworkRequirements, Fit] | None:
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
        coarse = NetworkRequirements(
            spacing=spacing, shape=[max(1, round(n)) for n in exact], heads=demand.heads, voxels=voxels * cases
        )
        topology = _affordable(coarse, rules, least_stages=1)
    return (coarse, fit(coarse, rules)) if math.prod(shape) / voxels >= WORTHWHILE else None


def _affordable(demand: NetworkRequirements, rules: Rules, *, least_stages: Literal[1, 2]) -> Topology:
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


def _allowance(demand: NetworkRequirements, rules: Rules) -> float:
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


def _first_patch(demand: NetworkRequirements, rules: Rules) -> list[float]:
    """A cube (or square) of millimetres with ``first_edge`` voxels a side on average, cut to the median scan."""
    edge, fineness = rules.constants(len(demand.spacing)).first_edge, [1 / s for s in demand.spacing]
    scale = (edge ** len(fineness) / math.prod(fineness)) ** (1 / len(fineness))
    return [min(max(1, round(f * scale)), n) for f, n in zip(fineness, demand.shape, strict=True)]


def _shrunk(
    topology: Topology, demand: NetworkRequirements, smallest_edge: int, make: Callable[[Steps], Topology]
) -> Topology | None:
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
    topology: Topology, demand: NetworkRequirements, rules: Rules, room: float
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
