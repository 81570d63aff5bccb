"""Is the growth of lesions between two scans measured as it was made? Ellipsoids of known volume, drawn at two visits.

    python benchmarks/lesion_growth.py [--seeds 5]

Each seed draws 12 ellipsoids (radii up to 1.5 times one another) at two visits; the second scan has other voxels, and lies 5
degrees and some mm away, which is told to the matching. Ten lesions change their volume by a factor, one vanishes, one is new. For
each mean radius and size of voxels a row gives the share of lesions that are matched as they were drawn, the relative error of each
change in percent (median, greatest, share below 2 %), and the error of the longest diameter within a slice at the first visit in mm
(mean, greatest). The volume measured is that of the voxels whose centres lie in the ellipsoid: nothing but the grid makes errors.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nnseg.core.geometry import Grid, as_matrix, as_shape, as_vector
from nnseg.core.image import LabelMap
from nnseg.core.labels import Labels
from nnseg.volumetry.find_lesions import find_lesions
from nnseg.volumetry.lesion_changes import match_lesions
from nnseg.volumetry.lesions import LesionChange, LesionMap

Numbers = npt.NDArray[np.float64]

LABELS = Labels(names=("background", "lesion"), values=(0, 1))
FACTORS = (0.5, 0.7, 0.8, 0.9, 0.95, 1.05, 1.1, 1.25, 1.5, 2.0)
SPACINGS = ((1.0, 0.5, 0.5), (1.0, 1.0, 1.0), (3.0, 0.8, 0.8))
GRID_OF_LESIONS, APART = (2, 2, 3), 4.0
"""How many lesions lie along (z, y, x), and how many radii apart."""


class Found(NamedTuple):
    """Of some lesions: which are matched as drawn, relative errors in % of their changes, errors in mm of their diameters."""

    matched: Numbers
    errors: Numbers
    lengths: Numbers


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    print("radius  voxels, mm       matched  error of change, %: median  greatest  below 2 %  of diameter, mm: mean  greatest")
    for radius in (3.0, 6.0, 12.0):
        for spacing in SPACINGS:
            matched, errors, lengths = (
                np.concatenate(c) for c in zip(*(_measure(radius, spacing, s) for s in range(seeds)), strict=True)
            )
            change = f"{np.median(errors):27.1f}{errors.max():10.1f}{np.mean(errors < 2):11.2f}"
            length = f"{lengths.mean():+23.2f}{np.abs(lengths).max():10.2f}"
            print(f"{radius:6g}  {' x '.join(f'{s:g}' for s in spacing):16}{matched.mean():8.2f}{change}{length}")


def _measure(radius: float, spacing: tuple[float, float, float], seed: int) -> Found:
    """Of one pair of visits."""
    noise = np.random.default_rng(seed)
    places = np.argwhere(np.ones(GRID_OF_LESIONS)) + 0.5
    centres = places * APART * radius + noise.uniform(-0.1, 0.1, (12, 3)) * radius
    radii = radius * np.exp(noise.uniform(-0.5, 0.5, (12, 3)) * np.log(1.5))
    size = np.array(GRID_OF_LESIONS) * APART * radius
    factors = np.array([*noise.permutation(FACTORS), 0.0, np.inf])  # of the last two one vanishes, and one is new
    scale = np.where(factors < np.inf, factors, 1.0) ** (1 / 3)
    motion = _motion(noise, size / 2)
    before = _draw(centres, radii * (factors < np.inf)[:, None], size, spacing, np.eye(4))
    after = _draw(centres, radii * scale[:, None], size, as_vector(np.array(spacing) * noise.uniform(0.8, 1.2, 3)), motion)
    changes = list(match_lesions("lesion", before, after, motion))
    matched, errors, lengths = [], [], []
    for centre, own, factor in zip(centres, radii, factors, strict=True):
        kind = "new" if factor == np.inf else "vanished" if factor == 0 else "grown" if factor > 1 else "shrunken"
        (one,) = (change for change in changes if _lies_at(change, centre[::-1], motion, radius))
        matched.append(one.kind == kind)
        if matched[-1] and 0 < factor < np.inf:
            assert one.percent is not None
            errors.append(100 * abs(one.percent / (100 * (factor - 1)) - 1))
        if one.before:
            lengths.append(one.before[0].in_slice - 2 * own[1:].max())
    return Found(np.array(matched, float), np.array(errors), np.array(lengths))


def _lies_at(change: LesionChange, centre: Numbers, motion: Numbers, radius: float) -> bool:
    """True if a change is that of the lesion at a position (x, y, z) of the first visit."""
    lesion, place = (change.before[0], centre) if change.before else (change.after[0], motion[:3, :3] @ centre + motion[:3, 3])
    return bool(np.linalg.norm(place - lesion.centre) < radius)


def _motion(noise: np.random.Generator, middle: Numbers) -> Numbers:
    """A turn by 5 degrees about a random axis through the middle (z, y, x), with a shift, between world positions."""
    x, y, z = (axis := noise.normal(size=3)) / np.linalg.norm(axis)
    cross, angle = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]), np.radians(5)
    motion = np.eye(4)
    motion[:3, :3] += np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    motion[:3, 3] = middle[::-1] - motion[:3, :3] @ middle[::-1] + noise.uniform(-4, 4, 3)
    return motion


def _draw(centres: Numbers, radii: Numbers, size: Numbers, spacing: tuple[float, float, float], motion: Numbers) -> LesionMap:
    """Lesions drawn along the axes of the tissue, which has moved in the world."""
    places = np.moveaxis(np.indices(np.ceil(size / spacing).astype(int)), 0, -1) * np.array(spacing)
    labels = np.zeros(places.shape[:3], np.uint8)
    for centre, radius in zip(centres, radii, strict=True):
        if radius.any():
            labels[(((places - centre) / radius) ** 2).sum(-1) <= 1] = 1
    axes = [motion[:3, :3] @ axis for axis in np.eye(3)[::-1]]
    grid = Grid(shape=as_shape(labels.shape), spacing=spacing, origin=as_vector(motion[:3, 3]), direction=as_matrix(axes))
    return find_lesions(LabelMap(labels=labels, grid=grid), LABELS, "lesion")


if __name__ == "__main__":
    main()
