"""Tests of properties of scans: by hand, against SciPy, what is found and how often there is a false alarm."""

import tracemalloc

import numpy as np
import pytest
from scipy import stats

from nnseg.evaluation.audit_tests import find_associations

NAMES = [f"c{i:02}" for i in range(24)]


def of(values) -> dict:
    return dict(zip(NAMES, values, strict=True))


def test_a_category_that_orders_the_outcome_explains_what_can_be():
    sites = dict(zip("abcdef", "AAABBB", strict=True))
    outcome = {name: float(i) for i, name in enumerate("abcdef")}
    found = find_associations({"site": sites}, {"Dice": outcome}, {})
    assert [(one.predictor, one.outcome, one.n) for one in found] == [("site", "Dice", 6)]
    assert found[0].explained == pytest.approx(13.5 / 17.5)  # ranks 1 to 6: of 17.5 in all, 13.5 between means of 2 and 5
    assert found[0].p == pytest.approx(0.1, abs=0.02)  # two of 20 ways to choose three of six


def test_strengths_are_those_of_kruskal_wallis_and_spearman():
    random = np.random.default_rng(0)
    outcome, number, site = random.normal(size=24), random.normal(size=24), random.integers(0, 3, 24)
    found = find_associations({"x": of(number), "site": of("ABC"[i] for i in site)}, {"Dice": of(outcome)}, {}, draws=99)
    explained = {one.predictor: one.explained for one in found}
    groups = [outcome[site == i] for i in range(3)]
    assert explained["site"] == pytest.approx(stats.kruskal(*groups).statistic / 23)
    assert explained["x"] == pytest.approx(stats.spearmanr(number, outcome).statistic ** 2)


def test_a_property_that_explains_all_is_the_strongest():
    many = [f"c{i:03}" for i in range(200)]
    numbers = {name: float(i) for i, name in enumerate(many)}
    half = {name: "AB"[i < 100] for i, name in enumerate(many)}
    found = find_associations({"half": half, "same order": numbers}, {"Dice": numbers}, {}, draws=99)
    assert [(one.predictor, one.p_adjusted) for one in found] == [("same order", 0.01), ("half", 0.01)]
    assert found[0].explained == pytest.approx(1.0)


def test_what_is_the_same_for_all_or_tells_patients_apart_is_not_tested():
    same, names = of(["A"] * 24), of(NAMES)
    assert find_associations({"same": same, "name": names, "zero": of([0.0] * 24)}, {"Dice": of(range(24))}, {}) == ()


def test_a_planted_property_is_found_among_many():
    random = np.random.default_rng(1)
    predictors = {f"x{i}": of(random.normal(size=24)) for i in range(30)}
    outcome = random.normal(size=24)
    found = find_associations(predictors | {"mark": of(outcome > 0)}, {"Dice": of(outcome)}, {})
    assert found[0].predictor == "mark"
    assert found[0].p_adjusted < 0.01
    assert all(one.p_adjusted > 0.05 for one in found[1:])


def test_chance_gives_few_false_alarms_however_many_properties_there_are():
    alarms = 0
    for seed in range(40):
        random = np.random.default_rng(seed)
        predictors = {f"x{i}": of(random.normal(size=24)) for i in range(20)} | {
            f"s{i}": of("ABC"[j] for j in random.integers(0, 3, 24)) for i in range(10)
        }
        outcomes = {"a": of(random.normal(size=24)), "b": of(random.normal(size=24))}
        alarms += find_associations(predictors, outcomes, {}, draws=999)[0].p_adjusted <= 0.05
    assert alarms <= 5  # of 40; more than 5 have a chance of 1 %


def test_cases_of_one_patient_count_as_one():
    """A scanner of each patient and a Dice of each patient agree in ten cases each, which is chance in eight patients."""
    patients = {f"p{i}_{j}": f"p{i}" for i in range(8) for j in range(10)}
    dice = dict(zip((f"p{i}" for i in range(8)), [5, 1, 7, 3, 8, 2, 6, 4], strict=True))
    scanner = {case: "AB"[int(patient[1:]) < 4] for case, patient in patients.items()}
    outcome = {case: dice[patient] / 10 for case, patient in patients.items()}
    one = find_associations({"scanner": scanner}, {"Dice": outcome}, patients)[0]
    assert one.n == 8
    assert one.p > 0.5
    assert find_associations({"scanner": scanner}, {"Dice": outcome}, {})[0].n == 80


def test_scans_of_a_patient_are_exchanged_where_all_have_as_many():
    """A phase with a lower Dice in each of 12 patients, whose own differences are larger."""
    patients = {name: f"p{i // 2}" for i, name in enumerate(NAMES)}
    dice = of(10.0 * (i // 2) + i % 2 for i in range(24))
    one = find_associations({"phase": of("AB" * 12)}, {"Dice": dice}, patients)[0]
    assert (one.n, one.p) == (12, pytest.approx(2 / 2**12, abs=0.002))
    assert find_associations({"phase": of("AB" * 12)}, {"Dice": dice}, {})[0].p > 0.5


def test_values_of_patients_with_unequally_many_scans_are_averaged():
    patients = {name: f"p{max(0, i - 16)}" for i, name in enumerate(NAMES)}  # one with 17, seven with one
    found = find_associations({"x": of(range(24)), "phase": of("A" * 9 + "B" * 15)}, {"Dice": of(range(24))}, patients, draws=99)
    assert [(one.predictor, one.n) for one in found] == [("x", 8), ("phase", 8)]
    assert found[1].explained < 1  # one of several phases, the others B


def test_a_case_without_a_number_has_the_mean_and_without_a_category_an_empty_one():
    numbers = {name: float(i) for i, name in enumerate(NAMES) if i % 2}
    sites = {name: "A" for i, name in enumerate(NAMES) if i < 12}
    found = {one.predictor: one for one in find_associations({"n": numbers, "site": sites}, {"Dice": of(range(24))}, {}, draws=99)}
    assert found["n"].n == found["site"].n == 24
    assert found["site"].explained == pytest.approx(0.75, abs=0.01)


def test_memory_does_not_grow_with_the_number_of_properties():
    random = np.random.default_rng(0)
    predictors = {f"x{i}": of(random.normal(size=24)) for i in range(40)}
    outcomes = {f"volume {i}": of(random.normal(size=24)) for i in range(20)}
    tracemalloc.start()
    found = find_associations(predictors, outcomes, {}, draws=999)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == 40 * 20
    assert most < 4_000_000  # all draws of all associations at once have 6 MB, and copies of them
