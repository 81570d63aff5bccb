"""Smooth centiles of volumes over age, from made people."""

import numpy as np
import pytest
from sklearn.linear_model import QuantileRegressor

from nnseg.core.errors import DatasetError
from nnseg.core.population import Person, Population, make_population
from nnseg.volumetry.centiles import _quantile_regression, with_centiles
from nnseg.volumetry.volumes import Patient, describe_volumes


def made(count: int) -> Population:
    """Women of 20 to 80 years, whose volume falls from 6 to 3 ml, with normal deviations of 0.3 ml; no men."""
    noise = np.random.default_rng(0)
    ages = np.linspace(20, 80, count)
    volumes = 6 - 0.05 * (ages - 20) + noise.normal(0, 0.3, count)
    people = [Person(volumes={"a": float(v)}, age=float(age), sex="F") for age, v in zip(ages, volumes, strict=True)]
    return make_population(people, f"{count} people", apart=True)


def test_centiles_are_those_that_the_people_were_made_with():
    population = with_centiles(made(1000))
    for age in (25.0, 50.0, 75.0):
        found = population.percentile("a", 6 - 0.05 * (age - 20), age=age, sex="F")
        wanted = 6 - 0.05 * (age - 20) + 0.3 * np.array([-1.645, -0.674, 0, 0.674, 1.645])
        np.testing.assert_allclose(found.band, wanted, atol=0.15)
        assert found.percent == pytest.approx(50, abs=10)
        assert found.among == "all 1000 women of 20 to 80 years, smoothed"
    low = population.percentile("a", 3.0, age=25.0, sex="F")
    assert (low.percent, low.unusual) == (1.0, "low")


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_a_regression_of_quantiles_is_that_of_scikit_learn(share):
    noise = np.random.default_rng(2)
    design = np.stack([np.ones(80), noise.normal(size=80), noise.uniform(size=80)], 1)
    volumes = design @ [3.0, 1.0, -2.0] + noise.exponential(size=80)
    other = QuantileRegressor(quantile=share, alpha=0, fit_intercept=False, solver="highs").fit(design, volumes)
    np.testing.assert_allclose(_quantile_regression(design, volumes, share), other.coef_, atol=1e-6)


def test_a_share_of_the_people_lies_below_each_centile():
    population = with_centiles(made(400))
    percents = np.array([population.percentile("a", p.volumes["a"], age=p.age, sex="F").percent for p in population.people])
    assert [np.mean(percents < level) for level in (5.5, 25.5, 75.5, 95.5)] == pytest.approx([0.05, 0.25, 0.75, 0.95], abs=0.03)


def test_there_is_no_centile_beyond_the_ages_seen_and_a_note_says_why():
    population = with_centiles(made(150))
    reasons = {
        (81.0, "F"): "no centiles: the age of 81 is beyond those of the population, 20 to 80",
        (19.0, None): "no centiles: the age of 19 is beyond those of the population, 20 to 80",
        (None, "F"): "no centiles: the age is not known",
        (50.0, "M"): "no centiles: fewer than 100 men of known age",
    }
    for (age, sex), reason in reasons.items():
        case = describe_volumes("c", {"a": 4.0}, patient=Patient(age=age, sex=sex), population=population)
        assert (case.labels["a"].percentile, case.notes) == (None, (reason,))
    assert describe_volumes("c", {"a": 4.0}, patient=Patient(age=80.0, sex="F"), population=population).notes == ()


def test_too_few_people_have_no_smooth_centiles():
    with pytest.raises(DatasetError, match="the 99 people are too few for smooth centiles: 100 of known age are needed"):
        with_centiles(made(99))
