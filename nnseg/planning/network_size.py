"""Topology of a U-Net for a patch, and the largest patch and batch that fit into a budget of memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from nnseg.core.network_kinds import count_values
from nnseg.core.plan import Network, Steps
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
        """Number of resolutions of the network."""
        return len(self.strides)

    @property
    def divisor(self) -> Steps:
        """The number that divides a patch along each axis: the product of the strides."""
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
    that voxels become nearly cubic before all axes are pooled together. Unlike in nnU-Net, a patch that is too small to be pooled
    is enlarged until it can be pooled once, since a U-Net has at least two stages.

    Args:
        spacing: mm along each axis.
        patch: wanted voxels along each axis.
        smallest_edge: fewest voxels that pooling may leave along an axis.
        least_stages: 1 for nnU-Net's own rule, which leaves a patch that is too small to be pooled as it is.

    Source: Isensee 2021, nnU-Net, online methods, "network topology".
    """
    topology = _pool(spacing, patch, smallest_edge)
    if topology.stages >= least_stages:
        return topology
    fine = [s / min(spacing) < 2 for s in spacing]
    least = (2 if sum(fine) > 1 else 3) * smallest_edge
    return _pool(spacing, [max(p, least) if f else p for p, f in zip(patch, fine, strict=True)], smallest_edge)


def _pool(spacing: Sequence[float], patch: Sequence[float], smallest_edge: int) -> Topology:
    """The deepest topology, with the patch padded to a multiple of its divisor."""
    mm, size = list(spacing), list(patch)
    kernel = [1] * len(mm)
    strides, kernels = [tuple(kernel)], []
    while axes := _poolable(mm, size, smallest_edge):
        # An axis is convolved from the stage on at which it is less than twice as coarse as the finest.
        kernel = [3 if k == 3 or s / min(mm) < 2 else 1 for k, s in zip(kernel, mm, strict=True)]
        for axis in axes:
            mm[axis] *= 2
            size[axis] = math.ceil(size[axis] / 2)
        strides.append(tuple(2 if a in axes else 1 for a in range(len(mm))))
        kernels.append(tuple(kernel))
    kernels.append((3,) * len(mm))
    bare = Topology(patch=(), strides=tuple(strides), kernels=tuple(kernels))
    return replace(bare, patch=tuple(math.ceil(p / d) * d for p, d in zip(patch, bare.divisor, strict=True)))


def _poolable(mm: list[float], size: list[float], smallest_edge: int) -> list[int]:
    """The axes to halve at the next stage; empty when the network is deep enough."""
    large = [a for a, n in enumerate(size) if n >= 2 * smallest_edge]
    axes = [a for a in large if mm[a] / min(mm[b] for b in large) < 2]
    if len(axes) == 1 and size[axes[0]] < 3 * smallest_edge:
        return []
    return axes


LEAST_COVERAGE = 0.25
"""Share of the median scan that a patch should cover; if it covers less, a coarser grid is considered."""

COARSENING = 1.03
"""Factor by which the spacing is increased at a time in the search for that grid."""

LEAST_REDUCTION = 2.0
"""How many times fewer voxels a coarse grid must have to be worth a network of its own."""

Limit = Literal["cost", "share", "largest", "smallest"]


@dataclass(frozen=True, kw_only=True)
class NetworkSize:
    """Patch, batch and widths of a network that fits into the memory.

    Args:
        topology: pooling, kernels and patch.
        features: channels of each stage.
        blocks: of each encoder stage.
        decoder_blocks: of each decoder stage, one entry fewer.
        estimate: elements of all feature maps for one patch.
        allowance: largest ``estimate`` for the reference batch.
        start: the first patch tried.
        batch: patches a step.
        limit: the rule that determined ``batch``.
    """

    topology: Topology
    features: Steps
    blocks: Steps
    decoder_blocks: Steps
    estimate: int
    allowance: float
    start: Steps
    batch: int
    limit: Limit


@dataclass(frozen=True, kw_only=True)
class NetworkRequirements:
    """What the size of a network depends on, apart from the recipe.

    Args:
        spacing: mm of its grid along each axis.
        shape: the median scan on that grid, in voxels.
        heads: output channels as nnU-Net counts them: labels (or regions) with background and ignore.
        voxels: of all scans of the dataset together, on the network's grid.
    """

    spacing: Sequence[float]
    shape: Sequence[float]
    heads: int
    voxels: float


def estimate_elements(topology: Topology, *, rules: Rules, heads: int) -> int:
    """The number of elements in the outputs of all layers for one patch: a measure of memory and time."""
    features, blocks, decoder_blocks = _widths(topology, rules)
    network = Network.model_construct(
        kind=rules.network, features=features, strides=topology.strides, kernels=topology.kernels, blocks=blocks,
        decoder_blocks=decoder_blocks, attention_gates=rules.attention_gates,
    )  # fmt: skip
    return count_values(network, topology.patch, heads)


def fit_network(requirements: NetworkRequirements, rules: Rules) -> NetworkSize:
    """The largest affordable patch in the proportions of the median scan, then the largest affordable batch of such patches.

    Source: Isensee 2021, nnU-Net, online methods, "adaptation of patch and batch size". Unlike there, an axis is never shrunk
    below the smallest edge, so that the search ends for any shape, and a network has at least two stages.
    """
    topology = _largest_affordable(requirements, rules, least_stages=1)
    if topology.stages == 1:
        topology = _largest_affordable(requirements, rules, least_stages=2)
    features, blocks, decoder_blocks = _widths(topology, rules)
    elements, allowance = estimate_elements(topology, rules=rules, heads=requirements.heads), _allowance(requirements, rules)
    batch, limit = _choose_batch(topology, requirements, rules, allowance / elements)
    start = tuple(math.ceil(p) for p in _first_patch(requirements, rules))
    return NetworkSize(
        topology=topology, features=features, blocks=blocks, decoder_blocks=decoder_blocks, estimate=elements,
        allowance=allowance, start=start, batch=batch, limit=limit,
    )  # fmt: skip


def find_coarser_grid(requirements: NetworkRequirements, rules: Rules) -> tuple[NetworkRequirements, NetworkSize] | None:
    """The grid for the first stage of a cascade, on which a patch covers `LEAST_COVERAGE` of the median scan.

    None if it would have less than `LEAST_REDUCTION` times fewer voxels.

    Args:
        requirements: of the network on the full, three-dimensional grid.
        rules: the planner's constants.

    Source: Isensee 2021, nnU-Net, online methods, "3D low resolution U-Net".
    """
    spacing, shape, voxels = list(requirements.spacing), list(requirements.shape), math.prod(requirements.shape)
    cases = requirements.voxels / voxels
    coarse, topology = requirements, _largest_affordable(requirements, rules, least_stages=1)
    while math.prod(topology.patch) / voxels < LEAST_COVERAGE:
        fine = [max(spacing) / s > 2 for s in spacing]
        spacing = [s * COARSENING if f or not any(fine) else s for s, f in zip(spacing, fine, strict=True)]
        exact = [old / new * n for old, new, n in zip(requirements.spacing, spacing, shape, strict=True)]
        voxels = math.prod(exact)
        coarse = replace(requirements, spacing=spacing, shape=[max(1, round(n)) for n in exact], voxels=voxels * cases)
        topology = _largest_affordable(coarse, rules, least_stages=1)
    return (coarse, fit_network(coarse, rules)) if math.prod(shape) / voxels >= LEAST_REDUCTION else None


def _largest_affordable(requirements: NetworkRequirements, rules: Rules, *, least_stages: Literal[1, 2]) -> Topology:
    """The topology with the largest patch that is affordable."""
    constants = rules.constants(len(requirements.spacing))
    make = partial(make_topology, requirements.spacing, smallest_edge=rules.smallest_edge, least_stages=least_stages)
    most = _allowance(requirements, rules) * constants.reference_batch / constants.patch_batch
    topology = make(_first_patch(requirements, rules))
    while estimate_elements(topology, rules=rules, heads=requirements.heads) > most:
        smaller = _shrink(topology, requirements, rules.smallest_edge, make)
        if smaller is None:
            break
        topology = smaller
    return topology


def _allowance(requirements: NetworkRequirements, rules: Rules) -> float:
    return rules.constants(len(requirements.spacing)).reference_estimate * rules.memory_gb / rules.reference_gb


def _widths(topology: Topology, rules: Rules) -> tuple[Steps, Steps, Steps]:
    """Channels and encoder blocks of each stage, and decoder blocks of each but the coarsest."""
    stages, cap = topology.stages, rules.constants(len(topology.patch)).features_cap
    features = tuple(min(cap, rules.base_features * 2**i) for i in range(stages))
    return features, _extend(rules.blocks, stages), _extend(rules.decoder_blocks, stages - 1)


def _extend(pattern: Steps, length: int) -> Steps:
    """The pattern cut to a length, or continued with its last number."""
    return (*pattern, *[pattern[-1]] * length)[:length]


def _first_patch(requirements: NetworkRequirements, rules: Rules) -> list[float]:
    """A cube (or square) in mm with ``first_edge`` voxels a side on average, cut to the median scan."""
    edge, fineness = rules.constants(len(requirements.spacing)).first_edge, [1 / s for s in requirements.spacing]
    scale = (edge ** len(fineness) / math.prod(fineness)) ** (1 / len(fineness))
    return [min(max(1, round(f * scale)), n) for f, n in zip(fineness, requirements.shape, strict=True)]


def _shrink(
    topology: Topology, requirements: NetworkRequirements, smallest_edge: int, make: Callable[[Steps], Topology]
) -> Topology | None:
    """The next smaller patch, cut along the axis that covers most of the scan; None if no axis can be cut."""
    patch, axes = topology.patch, range(len(topology.patch))
    for axis in sorted(axes, key=lambda a: (patch[a] / requirements.shape[a], a), reverse=True):
        if patch[axis] - topology.divisor[axis] < 1:
            continue
        # Cutting by the present divisor may remove a stage; then the smaller divisor is what to cut by (256 -> 224, not 192).
        wanted = _cut(patch, axis, make(_cut(patch, axis, topology.divisor[axis])).divisor[axis])
        smaller = make(wanted)
        if wanted[axis] >= smallest_edge and math.prod(smaller.patch) < math.prod(patch):
            return smaller
    return None


def _cut(patch: Steps, axis: int, by: int) -> Steps:
    return tuple(n - by if a == axis else n for a, n in enumerate(patch))


def _choose_batch(topology: Topology, requirements: NetworkRequirements, rules: Rules, factor: float) -> tuple[int, Limit]:
    """The patches a step, with the rule that determined them.

    Args:
        topology: with the patch.
        requirements: for the size of the dataset.
        rules: the planner's constants.
        factor: how many times the reference batch is affordable.
    """
    constants = rules.constants(len(topology.patch))
    affordable = round(factor * constants.reference_batch)
    share = round(requirements.voxels * rules.dataset_share / math.prod(topology.patch))
    batch = min(affordable, share, constants.largest_batch)
    if batch < rules.smallest_batch:
        return rules.smallest_batch, "smallest"
    if batch == affordable:
        return batch, "cost"
    return batch, "share" if batch == share else "largest"
