"""Channels that lie apart are noticed by their mutual information."""

import numpy as np
import pytest
from scipy import ndimage

from nnseg.preprocessing.channel_shift import BINS, classify, find_shifts, mutual_information

SPACING = (3.0, 1.0, 1.5)


def channels(shift_mm=(0.0, 0.0, 0.0), *, seed: int = 0) -> np.ndarray:
    """Two channels of smooth structures with other contrasts, of which the second is moved."""
    random = np.random.default_rng(seed)
    shape = (24, 60, 48)
    tissue = np.digitize(ndimage.gaussian_filter(random.normal(size=shape), (1.5, 4, 3)), (-0.02, 0.0, 0.03))
    first, second = np.array([10.0, 90.0, 40.0, 70.0])[tissue], np.array([5.0, 20.0, 80.0, 50.0])[tissue]
    second = ndimage.shift(second, np.divide(shift_mm, SPACING), order=1, mode="nearest")
    return np.stack([first, second]).astype(np.float32) + random.normal(0, 4, (2, *shape)).astype(np.float32)


def test_mutual_information_worked_by_hand():
    half = np.array([0, 0, 1, 1], np.uint8)
    assert mutual_information(half, half + 7) == pytest.approx(np.log(2))
    assert mutual_information(half, np.array([3, 4, 3, 4], np.uint8)) == pytest.approx(0)
    assert mutual_information(half[:0], half[:0]) == 0


def test_classes_have_equally_many_voxels():
    found = classify(np.exp(np.random.default_rng(0).normal(size=(10, 40, 40))))
    counts = np.bincount(found.ravel(), minlength=BINS)
    assert (len(counts), found.min(), found.max()) == (BINS, 0, BINS - 1)
    assert counts.min() > 0.8 * found.size / BINS
    few = classify(np.array([0, 0, 0, 5]))
    assert few[0] == few[1] == few[2] < few[3]


@pytest.mark.parametrize("shift", [(6.0, 0.0, 0.0), (0.0, 5.0, -3.0), (-3.0, 4.0, 6.0)])
def test_a_channel_that_lies_some_mm_away_is_noticed_with_its_shift(shift):
    (one,) = find_shifts(channels(shift), SPACING)
    assert one.channel == 1
    assert one.shift == pytest.approx(shift, abs=1.6)
    assert one.distance == pytest.approx(np.linalg.norm(shift), abs=2)


@pytest.mark.parametrize("seed", range(3))
def test_channels_in_place_are_not_noticed(seed):
    assert find_shifts(channels(seed=seed), SPACING) == ()


def test_channels_that_have_nothing_in_common_are_not_noticed():
    assert find_shifts(np.stack([channels()[0], channels(seed=5)[1]]), SPACING) == ()


def test_thin_and_tiny_volumes_are_compared_too():
    for shape in ((1, 40, 40), (3, 4, 5)):
        image = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
        assert find_shifts(image, (5.0, 1.0, 1.0)) == ()
