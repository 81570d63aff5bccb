import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from nnseg.core.population import BAND, LEVELS, Distribution, Person, Population, make_population


def people(volumes, **known):
    return [Person(volumes={"liver": v}, **{k: values[i] for k, values in known.items()}) for i, v in enumerate(volumes)]


def plain(volumes) -> Population:
    return make_population(people(volumes), "test", apart=True)


def test_the_kth_of_n_stands_at_k_over_n_plus_one():
    of = make_population(people(range(1, 100)), "test")
    for k in (5, 50, 95):
        assert of.percentile("liver", k).percent == pytest.approx(k)
    assert of.percentile("liver", 49.5).percent == pytest.approx(49.5)
    assert of.percentile("liver", 50).band == pytest.approx(BAND)


def test_beyond_the_ends_a_percentile_is_no_surer_than_the_number_of_scans_allows():
    of = make_population(people(range(1, 10)), "test")
    assert of.percentile("liver", 0).percent == pytest.approx(10.0)
    assert of.percentile("liver", 99).percent == pytest.approx(90.0)
    assert of.percentile("liver", 0).unusual == ""  # nine scans cannot tell what one in twenty is like


def test_equal_volumes_share_the_middle_of_their_places():
    of = make_population(people([0.0] * 50 + list(range(1, 50))), "test")
    assert of.percentile("liver", 0.0).percent == pytest.approx((1 + 50) / 2)
    assert make_population(people([2.0] * 30), "test").percentile("liver", 2.0).percent == pytest.approx(50.0)


def test_a_volume_outside_of_nine_tenths_is_unusual():
    of = make_population(people(range(1, 100)), "test")
    found = {ml: of.percentile("liver", ml).unusual for ml in (4.9, 5.0, 95.0, 95.1)}
    assert found == {4.9: "low", 5.0: "", 95.0: "", 95.1: "high"}


def test_what_is_stored_of_many_is_nobodys_own_volume():
    volumes = np.random.default_rng(0).gamma(9.0, 0.2, 400).tolist()
    stored = make_population(people(volumes), "test")
    assert stored.people == ()
    assert not set(stored.labels["liver"].quantiles) & set(volumes)
    assert min(volumes) < stored.labels["liver"].quantiles[0]
    assert stored.labels["liver"].quantiles[-1] < max(volumes)


def test_too_few_scans_and_unknown_labels_have_no_percentile():
    assert make_population(people([1.0, 2.0, 3.0, 4.0]), "test").percentile("liver", 2.0) is None
    assert plain([1.0] * 9).percentile("spleen", 2.0) is None


def test_the_same_sex_and_the_window_in_age_decide_who_counts():
    """Women have twice their age, men three times; the window around 50 is even."""
    ages = [age for age in range(20, 81) for _ in range(4)]
    sexes = ["F", "M"] * (len(ages) // 2)
    of = make_population(
        people([a * (2 if s == "F" else 3) for a, s in zip(ages, sexes, strict=True)], age=ages, sex=sexes), "t", apart=True
    )
    women, men = (of.percentile("liver", 100.0, age=50.0, sex=s) for s in "FM")
    assert women.percent == pytest.approx(50.0, abs=0.5)
    assert men.unusual == "low"
    assert women.among == "women of 50 ± 5 years"
    assert women.note == ""
    density = 2  # women a year
    assert women.n == pytest.approx(density * 5 * 2 * math.sqrt(math.pi), rel=0.02)  # (sum w)^2 / sum w^2 of a Gaussian
    assert women.band[2] == pytest.approx(100.0, abs=1.0)
    assert of.percentile("liver", 100.0, sex="F").among == "122 women"
    assert of.percentile("liver", 100.0).among == "all 244"


def test_too_few_of_an_age_widen_the_window_and_say_so():
    ages = np.linspace(30, 70, 33).tolist()
    of = make_population(people(ages, age=ages), "t", apart=True)
    wide = of.percentile("liver", 50.0, age=50.0)
    assert wide.among == "people of 50 ± 10 years"
    assert wide.note == "too few within 5 years"
    far = of.percentile("liver", 50.0, age=100.0)
    assert (far.among, far.note) == ("all 33", "fewer than 20 are like this one")


def test_a_population_without_ages_says_that_it_does_not_know_them():
    stored = make_population(people(range(50)), "t")
    assert stored.percentile("liver", 3.0, age=40.0).note == "ages and sexes of these are not known"


def test_equal_weights_say_the_same_as_none():
    volumes = np.random.default_rng(1).normal(10, 2, 60).tolist()
    of = make_population(people(volumes, age=[50.0] * 60), "t", apart=True)
    weighted, unweighted = of.percentile("liver", 11.0, age=50.0), of.percentile("liver", 11.0)
    assert weighted.n == 60
    assert weighted.band == pytest.approx(unweighted.band)
    assert weighted.percent == pytest.approx(unweighted.percent, abs=0.6)  # the table of quantiles is coarser than the people


@given(st.lists(st.floats(0.1, 1e4), min_size=5, max_size=60), st.floats(0, 2e4), st.floats(0, 2e4))
def test_a_larger_volume_never_has_a_smaller_percentile(volumes, one, other):
    of = plain(volumes)
    low, high = sorted((one, other))
    assert of.percentile("liver", low).percent <= of.percentile("liver", high).percent


@given(st.lists(st.floats(0, 1e4), min_size=1, max_size=40))
def test_a_population_comes_back_from_its_json(volumes):
    of = plain(volumes)
    assert Population.model_validate_json(of.model_dump_json()) == of


def test_nine_tenths_of_further_scans_lie_inside_the_band():
    random = np.random.default_rng(2)
    inside = [
        make_population(people(random.lognormal(0, 0.3, 60)), "t").percentile("liver", random.lognormal(0, 0.3)).unusual == ""
        for _ in range(400)
    ]
    assert 0.87 < np.mean(inside) < 0.93


def test_quantiles_that_descend_are_refused():
    with pytest.raises(ValidationError, match="descend"):
        Distribution(n=9, quantiles=tuple(float(len(LEVELS) - i) for i in range(len(LEVELS))))
