from collections.abc import Callable

import numpy as np
import pytest

from nnseg.core.fingerprint import Intensity
from nnseg.planning.intensity import BLOCK, ForegroundSample, pool_intensities, sample_foreground

PERCENTS = (0.5, 50, 99.5)


def case(values: object, *, sample: int = 1000, seed: str = "case") -> ForegroundSample:
    """A case whose foreground has exactly these values."""
    image = np.asarray(values, np.float32).reshape(1, 1, 1, -1)
    drawn = sample_foreground(image, np.ones(image.shape[1:], bool), sample=sample, seed=seed)
    assert drawn is not None
    return drawn


def percentiles(of: Intensity) -> np.ndarray:
    return np.array([of.percentile_00_5, of.median, of.percentile_99_5])


def test_only_the_foreground_counts():
    image = np.array([[[[1, 2, 3, 400]]]], np.float32)
    drawn = sample_foreground(image, np.array([[[True, True, True, False]]]), sample=10, seed="a")
    assert drawn is not None
    (of,) = pool_intensities([drawn])
    assert (of.mean, of.median, of.min, of.max) == (2.0, 2.0, 1.0, 3.0)
    assert of.std == pytest.approx(np.sqrt(2 / 3))


def test_case_without_foreground_gives_nothing():
    assert sample_foreground(np.ones((1, 1, 1, 4), np.float32), np.zeros((1, 1, 4), bool), sample=10, seed="a") is None


def test_each_case_counts_the_same_however_large():
    (of,) = pool_intensities([case([0.0] * 900), case([10.0] * 3)])
    assert (of.mean, of.std) == (5.0, 5.0)
    (of,) = pool_intensities([case([0.0] * 900), case([10.0] * 3), case([10.0] * 3)])
    assert of.median == 10.0  # two of three cases, though 6 of 906 voxels


def test_channels_are_kept_apart():
    image = np.stack([np.zeros((1, 2, 2)), np.full((1, 2, 2), 7.0)]).astype(np.float32)
    drawn = sample_foreground(image, np.ones((1, 2, 2), bool), sample=10, seed="a")
    assert drawn is not None
    assert [of.mean for of in pool_intensities([drawn])] == [0.0, 7.0]


def test_moments_are_exact_beyond_one_block():
    values = np.random.default_rng(7).normal(1000, 1, BLOCK + 77).astype(np.float32)
    (of,) = pool_intensities([case(values)])
    assert of.mean == pytest.approx(values.astype(float).mean(), rel=1e-12)
    assert of.std == pytest.approx(values.astype(float).std(), rel=1e-9)


SKEWED: dict[str, Callable[[np.random.Generator, int, int], np.ndarray]] = {
    "lognormal": lambda rng, i, n: rng.lognormal(3 + i / 100, 1.0, n),
    "two tissues": lambda rng, i, n: np.where(rng.random(n) < 0.1, rng.normal(1500, 100, n), rng.normal(40 + i, 10, n)),
    "contrast phases": lambda rng, i, n: rng.gamma(1.5, 20 + i, n) - 100,
    "rounded": lambda rng, i, n: np.rint(-rng.exponential(100 + i % 7, n)),
    "other units": lambda rng, i, n: rng.gamma(2, 1, n) * (1000 if i % 10 == 0 else 1),
}


@pytest.mark.parametrize("make", SKEWED.values(), ids=list(SKEWED))
def test_percentiles_of_skewed_foregrounds_are_exact_to_half_a_percent_of_the_range(make):
    sizes = [(2_000, 4_000, 10_000)[i % 3] for i in range(100)]
    rng = np.random.default_rng(7)
    volumes = [make(rng, i, n).astype(np.float32) for i, n in enumerate(sizes)]
    (of,) = pool_intensities([case(v, sample=1000, seed=str(i)) for i, v in enumerate(volumes)])
    exact = np.percentile(np.concatenate([np.repeat(v, 20_000 // v.size) for v in volumes]), PERCENTS)
    assert np.abs(percentiles(of) - exact).max() < 0.005 * (exact[2] - exact[0])  # stricter: of all but the outliers


def test_percentiles_are_those_of_nnunets_equal_draws_to_half_a_percent_of_the_range():
    rng = np.random.default_rng(7)
    volumes = [rng.normal(100 * k, 20 + 10 * k, 60_000 * (k + 1)).astype(np.float32) for k in range(4)]
    # nnU-Net: equally many voxels of every case, with replacement.
    drawn = np.concatenate([rng.choice(v, 200_000) for v in volumes]).astype(float)
    (of,) = pool_intensities([case(v, sample=20_000, seed=str(v.size)) for v in volumes])
    tolerance = 0.005 * (drawn.max() - drawn.min())
    assert np.abs(percentiles(of) - np.percentile(drawn, PERCENTS)).max() < tolerance
    assert of.mean == pytest.approx(drawn.mean(), abs=tolerance)
    assert of.std == pytest.approx(drawn.std(), abs=tolerance)
    assert (of.min, of.max) == (min(v.min() for v in volumes), max(v.max() for v in volumes))


@pytest.mark.parametrize("sample", [1, 20])
def test_a_few_voxels_of_each_of_many_cases_are_no_worse_than_many_of_few(sample):
    ranks = np.linspace(0, 1, 500)  # each case the same, so that its values are the ranks themselves
    (of,) = pool_intensities([case(ranks, sample=sample, seed=f"case {i}") for i in range(3000)])
    independent = np.sqrt(np.array(PERCENTS) / 100 * (1 - np.array(PERCENTS) / 100) / (3000 * sample))
    assert (np.abs(percentiles(of) - np.array(PERCENTS) / 100) < 4 * independent + 1 / 500).all()


def test_sample_is_bounded_without_repeats_and_seeded():
    values = np.random.default_rng(7).permutation(1000)
    one, again, *others = (case(values, sample=50, seed=seed).sample[0] for seed in "aabcde")
    assert len(np.unique(one)) == len(one) == 50
    assert set(np.diff(one)) == {20.0}
    np.testing.assert_array_equal(one, again)
    assert not all(np.array_equal(one, other) for other in others)


def test_at_least_one_voxel_is_drawn_of_a_case_in_a_huge_dataset():
    assert case(np.ones(4), sample=0).sample.shape == (1, 1)


@pytest.mark.parametrize("values", [[0.0] * 9, [3.4e38, -3.4e38, 3.4e38], [1e-38, 2e-38], [1e8 + 8] * 100])
def test_absurd_intensities_give_finite_numbers(values):
    (of,) = pool_intensities([case(values), case(values)])
    assert all(np.isfinite(list(of.model_dump().values())))
    assert of.min <= of.percentile_00_5 <= of.median <= of.percentile_99_5 <= of.max
