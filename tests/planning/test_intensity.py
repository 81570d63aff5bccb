import numpy as np
import pytest

from nnseg.planning.intensity import Foreground, draw, pool

RNG = np.random.default_rng(7)
EVERYWHERE = np.ones((1, 1, 4), bool)


def case(values: list[float]) -> Foreground:
    """A case whose foreground has exactly these values."""
    image = np.array(values, np.float32).reshape(1, 1, 1, -1)
    drawn = draw(image, np.ones(image.shape[1:], bool), sample=1000, seed="case")
    assert drawn is not None
    return drawn


def test_only_the_foreground_counts():
    image = np.array([[[[1, 2, 3, 400]]]], np.float32)
    drawn = draw(image, np.array([[[True, True, True, False]]]), sample=10, seed="a")
    assert drawn is not None
    (of,) = pool([drawn])
    assert (of.mean, of.median, of.min, of.max) == (2.0, 2.0, 1.0, 3.0)
    assert of.std == pytest.approx(np.sqrt(2 / 3))


def test_case_without_foreground_gives_nothing():
    assert draw(np.ones((1, 1, 1, 4), np.float32), ~EVERYWHERE, sample=10, seed="a") is None


def test_each_case_counts_the_same_however_large():
    (of,) = pool([case([0.0] * 900), case([10.0] * 3)])
    assert (of.mean, of.std) == (5.0, 5.0)
    (of,) = pool([case([0.0] * 900), case([10.0] * 3), case([10.0] * 3)])
    assert of.median == 10.0  # two of three cases, though 6 of 906 voxels


def test_channels_are_kept_apart():
    image = np.stack([np.zeros((1, 2, 2)), np.full((1, 2, 2), 7.0)]).astype(np.float32)
    drawn = draw(image, np.ones((1, 2, 2), bool), sample=10, seed="a")
    assert drawn is not None
    assert [of.mean for of in pool([drawn])] == [0.0, 7.0]


def test_percentiles_are_those_of_nnunets_equal_draws_to_half_a_percent_of_the_range():
    volumes = [RNG.normal(100 * k, 20 + 10 * k, 60_000 * (k + 1)).astype(np.float32) for k in range(4)]
    # nnU-Net: equally many voxels of every case, with replacement.
    drawn = np.concatenate([RNG.choice(v, 200_000) for v in volumes]).astype(float)
    cases = [draw(v.reshape(1, 1, 1, -1), np.ones((1, 1, v.size), bool), sample=20_000, seed=str(v.size)) for v in volumes]
    (of,) = pool([c for c in cases if c is not None])
    tolerance = 0.005 * (drawn.max() - drawn.min())
    expected = np.percentile(drawn, [0.5, 50, 99.5])
    assert np.abs(np.array([of.percentile_00_5, of.median, of.percentile_99_5]) - expected).max() < tolerance
    assert of.mean == pytest.approx(drawn.mean(), abs=tolerance)
    assert of.std == pytest.approx(drawn.std(), abs=tolerance)
    assert (of.min, of.max) == (min(v.min() for v in volumes), max(v.max() for v in volumes))


def test_sample_is_bounded_without_repeats_and_seeded():
    image = np.arange(1000, dtype=np.float32).reshape(1, 1, 1, 1000)
    mask = np.ones((1, 1, 1000), bool)
    one, again, other = (draw(image, mask, sample=50, seed=seed) for seed in ("a", "a", "b"))
    assert one is not None
    assert again is not None
    assert other is not None
    assert one.sample.shape == (1, 50)
    assert len(np.unique(one.sample)) == 50
    np.testing.assert_array_equal(one.sample, again.sample)
    assert not np.array_equal(one.sample, other.sample)


def test_at_least_one_voxel_is_drawn_of_a_case_in_a_huge_dataset():
    drawn = draw(np.ones((1, 1, 1, 4), np.float32), EVERYWHERE, sample=0, seed="a")
    assert drawn is not None
    assert drawn.sample.shape == (1, 1)
