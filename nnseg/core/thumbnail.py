"""Coarse pictures of scans, to compare where things lie: mean intensities of 8 x 8 x 8 blocks, in a form small enough for JSON."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]

SIDE = 8
"""Blocks along each axis."""

POSES = {
    "mirrored along z": ((), (0,)),
    "mirrored along y": ((), (1,)),
    "mirrored along x": ((), (2,)),
    "turned in the plane of y and x": ((1, 2), ()),
    "turned in the plane of z and x": ((0, 2), ()),
    "turned in the plane of z and y": ((0, 1), ()),
}
"""Other poses of a scan: the plane of its quarter turn, and the axes along which it is mirrored."""


def thumbnail(image: npt.NDArray[Any]) -> Numbers:
    """Means of the blocks of an image (Z, Y, X), with mean 0 and norm 1; zeros if they are all the same."""
    means = np.asarray(image)
    for axis in range(3):
        edges = np.linspace(0, means.shape[axis], SIDE + 1)
        ends = [(int(low), max(int(low) + 1, int(high))) for low, high in pairwise(edges)]
        blocks = [means[(slice(None),) * axis + (slice(*end),)] for end in ends]
        means = np.stack([block.mean(axis, dtype=np.float64) for block in blocks], axis)
    return standardize(means)


def standardize(blocks: Numbers) -> Numbers:
    """The blocks with mean 0 and norm 1, so that the sum of the products of two is their correlation."""
    centred = blocks - blocks.mean()
    norm = float(np.linalg.norm(centred))
    return centred / norm if norm > 1e-9 * (1.0 + float(np.abs(blocks).max())) else np.zeros_like(centred)


def pack(blocks: Numbers) -> str:
    """A thumbnail as base64 of 8-bit integers."""
    most = float(np.abs(blocks).max()) or 1.0
    return base64.b64encode(np.round(blocks / most * 127).astype(np.int8).tobytes()).decode("ascii")


def unpack(packed: str) -> Numbers:
    """The thumbnail that was packed, standardized.

    Raises:
        ValueError: the text is none.
    """
    blocks = np.frombuffer(base64.b64decode(packed, validate=True), np.int8).astype(np.float64)
    return standardize(blocks.reshape(SIDE, SIDE, SIDE))


def layout(blocks: Numbers, mean: Numbers) -> list[float]:
    """Correlation of a thumbnail with the mean one, and by how much it is larger than that in each of the other `POSES`.

    Of the two quarter turns in a plane the one counts that fits better. A scan that is mirrored itself gets a difference below 0.
    """
    here = float((blocks * mean).sum())
    return [here, *(here - max(float((posed * mean).sum()) for posed in _posed(blocks, *pose)) for pose in POSES.values())]


def _posed(blocks: Numbers, plane: Sequence[int], mirrored: Sequence[int]) -> list[Numbers]:
    turned = [np.rot90(blocks, turns, (plane[0], plane[1])) for turns in (1, 3)] if plane else [blocks]
    return [np.flip(one, tuple(mirrored)) for one in turned]
