"""How deep a U-Net is, and along which axes each of its stages pools, for a given patch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from nnseg.core.plan import Steps


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
