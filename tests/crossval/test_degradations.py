"""Degraded scans: what each kind does at its strengths, on which axes, and what it leaves as it is."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from nnseg.core.geometry import Grid
from nnseg.core.image import Scan, Source
from nnseg.core.options import DegradationKind
from nnseg.core.robustness import DEGRADATIONS
from nnseg.crossval.degradations import degrade
from nnseg.training.augmentation.intensity import CHANGES

KINDS = get_args(DegradationKind)


def make_scan(shape=(2, 8, 12, 10), spacing=(2.0, 1.0, 1.0)) -> Scan:
    smooth = gaussian_filter(np.random.default_rng(0).normal(size=shape), (0, 2, 2, 2))
    image = (100 + 20 * smooth / smooth.std()).astype(np.float32)
    image[:, :, :2] = 0  # outside of a mask
    grid = Grid(shape=shape[1:], spacing=spacing)
    return Scan(image=image, grid=grid, source=Source(files=(), grid=grid))


def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def change(scan: Scan, kind: DegradationKind, strength: float) -> float:
    """Root mean square of what a degradation changes."""
    return float(np.sqrt(np.mean((degrade(scan, kind, strength, rng()).image - scan.image) ** 2)))


def slices_apart(one: np.ndarray, other: np.ndarray) -> set[int]:
    """Numbers of the slices in which two images differ."""
    return set(np.nonzero(~np.isclose(one, other, rtol=1e-3))[1].tolist())


def test_every_kind_has_strengths_and_is_a_change_of_the_augmentation():
    assert tuple(DEGRADATIONS) == KINDS
    assert set(KINDS) <= set(CHANGES)


@pytest.mark.parametrize("kind", KINDS)
def test_stronger_degradations_change_more_and_all_channels_inside_the_mask_only(kind):
    scan = make_scan()
    before = scan.image.copy()
    changes = [change(scan, kind, strength) for strength in DEGRADATIONS[kind].strengths]
    assert changes[-1] > changes[0] > 0
    found = degrade(scan, kind, DEGRADATIONS[kind].strengths[-1], rng())
    assert np.array_equal(scan.image, before)
    assert (found.image.shape, found.grid) == (scan.image.shape, scan.grid)
    assert (found.image[:, :, :2] == 0).all()
    assert all((new != old).any() for new, old in zip(found.image, scan.image, strict=True))
    assert (found.image.min((1, 2, 3)) >= scan.image.min((1, 2, 3))).all()
    assert (found.image.max((1, 2, 3)) <= scan.image.max((1, 2, 3))).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_random_numbers_give_the_same_scan(kind):
    first, again = (degrade(make_scan(), kind, DEGRADATIONS[kind].strengths[0], rng()) for _ in range(2))
    assert np.array_equal(first.image, again.image)


def test_noise_is_a_share_of_the_deviation_of_its_channel():
    scan = make_scan((1, 20, 40, 40))
    inside = scan.image != 0
    added = (degrade(scan, "noise", 0.25, rng()).image - scan.image)[inside]
    middle = np.abs(scan.image[inside] - 100) < 30  # not cut off at the ends of the channel's range
    assert added[middle].std() == pytest.approx(0.25 * scan.image[inside].std(), rel=0.05)


def test_slices_are_averaged_along_the_axis_of_the_largest_voxels():
    ramp = 1 + np.broadcast_to(np.arange(8.0, dtype=np.float32)[None, None, None, :], (1, 6, 6, 8))
    grid = Grid(shape=(6, 6, 8), spacing=(1.0, 1.0, 3.0))
    scan = Scan(image=ramp.copy(), grid=grid, source=Source(files=(), grid=grid))
    found = degrade(scan, "slice_thickness", 4.0, rng()).image
    assert found[0, 0, 0] == pytest.approx([2.5, 2.5, 3.0, 4.0, 5.0, 6.0, 6.5, 6.5])  # of 2.5 and 6.5, interpolated
    assert (found == found[:, :1, :1]).all()


def test_low_resolution_leaves_thick_slices_apart():
    scan = make_scan(spacing=(5.0, 1.0, 1.0))
    other = make_scan(spacing=(5.0, 1.0, 1.0))
    other.image[:, 5] += 50
    thick, changed = (degrade(one, "low_resolution", 2.0, rng()).image for one in (scan, other))
    assert slices_apart(thick, changed) == {5}
    thin = (replace(one, grid=Grid(shape=one.grid.shape, spacing=(2.0, 1.0, 1.0))) for one in (scan, other))
    apart, changed = (degrade(one, "low_resolution", 2.0, rng()).image for one in thin)
    assert slices_apart(apart, changed) > {5}


def test_a_picture_has_no_slices_and_is_degraded_in_its_plane():
    picture = make_scan((3, 1, 16, 16), (1.0, 1.0, 1.0))
    assert degrade(picture, "slice_thickness", 2.0, rng()) is None
    for kind in set(KINDS) - {"slice_thickness"}:
        assert change(picture, kind, DEGRADATIONS[kind].strengths[-1]) > 0


def test_a_constant_scan_stays_finite():
    scan = make_scan()
    scan.image[:] = 7.0
    for kind in KINDS:
        assert np.array_equal(degrade(scan, kind, DEGRADATIONS[kind].strengths[-1], rng()).image, scan.image)
