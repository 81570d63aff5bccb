"""Correction of volumes for head size."""

import numpy as np
import pytest

from nnseg.core.errors import DatasetError
from nnseg.core.head_size import HeadCorrection, regression_slope
from nnseg.core.population import Person, corrected_for_head, make_population


def people(count: int = 40, slope: float = 0.002) -> list[Person]:
    """Heads of 1200 to 1800 ml, and structures of 4 ml in an average one that grow with it."""
    heads = np.linspace(1200.0, 1800.0, count)
    return [
        Person(volumes={"a": 4.0 + slope * (head - 1500.0) + (0.1 if i % 2 else -0.1)}, head_ml=head)
        for i, head in enumerate(heads)
    ]


def test_the_ratio_scales_a_volume_to_a_head_of_average_size():
    correction = HeadCorrection(method="ratio", mean_ml=1500.0, people=20)
    assert [correction.corrected("a", 4.0, head) for head in (1500.0, 1200.0, 2000.0, None, 0.0)] == [4.0, 5.0, 3.0, None, None]


def test_the_residual_subtracts_what_the_regression_expects():
    correction = HeadCorrection(method="residual", mean_ml=1500.0, people=20, slopes={"a": 0.002})
    assert [correction.corrected("a", 4.0, head) for head in (1500.0, 1200.0, 2000.0)] == [
        4.0,
        pytest.approx(4.6),
        pytest.approx(3.0),
    ]
    assert (correction.corrected("a", 0.5, 2000.0), correction.corrected("b", 4.0, 1500.0)) == (0.0, None)


def test_the_slope_is_that_of_least_squares():
    heads, volumes = np.random.default_rng(0).normal(1500, 100, 50), np.random.default_rng(1).normal(4, 1, 50)
    assert regression_slope(heads, volumes) == pytest.approx(np.polyfit(heads, volumes, 1)[0])
    assert regression_slope(heads[:19], volumes[:19]) is None
    assert regression_slope([1500.0] * 30, volumes[:30]) is None


@pytest.mark.parametrize("method", ["ratio", "residual"])
def test_a_corrected_population_is_narrower_where_volumes_follow_the_head(method):
    population = make_population([*people(), Person(volumes={"a": 99.0})], "41 people", apart=True)
    found = corrected_for_head(population, method)
    assert (found.correction.mean_ml, found.correction.people, len(found.people)) == (1500.0, 40, 40)
    before, after = (np.ptp([person.volumes["a"] for person in members]) for members in (people(), found.people))
    assert (after < 0.7, before > 1.2) == (True, True)
    assert found.source == f"41 people, volumes corrected ({method}) to heads of 1500 ml"
    if method == "residual":
        heads, volumes = [p.head_ml for p in people()], [p.volumes["a"] for p in people()]
        assert found.correction.slopes["a"] == pytest.approx(np.polyfit(heads, volumes, 1)[0])
        after = [p.volumes["a"] for p in found.people]
        assert np.corrcoef(heads, after)[0, 1] == pytest.approx(0, abs=1e-9)


def test_a_population_without_head_sizes_is_refused():
    with pytest.raises(DatasetError, match=r'0 of the 30 people have a head size, at least 20 are needed.*a column "icv"'):
        corrected_for_head(make_population([Person(volumes={"a": 1.0})] * 30, "30 people", apart=True), "ratio")
