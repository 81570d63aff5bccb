"""Changes of volumes between the visits of a patient."""

from datetime import date

import numpy as np
import pytest

from nnseg.core.errors import DatasetError
from nnseg.core.geometry import Grid
from nnseg.core.image import LabelMap
from nnseg.core.label_volumes import volumes_of
from nnseg.core.labels import Labels
from nnseg.volumetry.charts import visits_svg
from nnseg.volumetry.tables import read_visits
from nnseg.volumetry.visits import MeasuredVolume, Visit, find_changes

FIRST, LATER, LAST = date(2023, 1, 1), date(2024, 1, 1), date(2024, 1, 11)


def at(case: str, day: date, ml: float, share: float = 0.0) -> MeasuredVolume:
    """A volume with an interval from 1 / (1 + share) to 1 + share times it."""
    interval = (ml / (1 + share), ml * (1 + share)) if share else None
    return MeasuredVolume(case=case, date=day, ml=ml, interval=interval)


def measured(*volumes: MeasuredVolume) -> tuple[dict[str, dict[str, MeasuredVolume]], dict[str, Visit]]:
    return {v.case: {"lesion": v} for v in volumes}, {v.case: Visit(patient="p", date=v.date) for v in volumes}


def test_a_change_is_given_in_percent_and_for_a_year():
    (change,) = find_changes(*measured(at("b", LATER, 11.0), at("a", FIRST, 10.0)))
    assert (change.before.case, change.after.case) == ("a", "b")
    assert change.percent == pytest.approx(10.0)
    assert change.percent_per_year == pytest.approx(10.0 * 365.25 / 365)
    assert change.interval is None and not change.certain


def test_visits_are_compared_with_the_next_and_the_first_with_the_last():
    volumes, visits = measured(at("a", FIRST, 10.0), at("b", LATER, 12.0), at("c", LAST, 9.0))
    visits |= {"x": Visit(patient="q", date=FIRST), "failed": Visit(patient="p", date=LATER)}
    volumes["x"] = {"lesion": at("x", FIRST, 1.0)}
    found = [(change.before.case, change.after.case, change.percent) for change in find_changes(volumes, visits)]
    assert found == [("a", "b", pytest.approx(20)), ("b", "c", pytest.approx(-25)), ("a", "c", pytest.approx(-10))]
    ten_days = [change for change in find_changes(volumes, visits) if change.before.date > FIRST]
    assert [(change.before.case, change.percent_per_year) for change in ten_days] == [("b", None)]


def test_the_interval_combines_those_of_both_volumes():
    # ends of both at a factor of 1.1: the half width is the square root of two times log 1.1
    (change,) = find_changes(*measured(at("a", FIRST, 10.0, 0.1), at("b", LATER, 15.0, 0.1)))
    around = np.exp(np.sqrt(2) * np.log(1.1))
    assert change.interval == pytest.approx((100 * (1.5 / around - 1), 100 * (1.5 * around - 1)))
    assert change.certain
    (small,) = find_changes(*measured(at("a", FIRST, 10.0, 0.1), at("b", LATER, 10.5, 0.1)))
    assert not small.certain


def test_the_interval_of_independent_errors_holds_as_often_as_those_of_the_volumes():
    random, held = np.random.default_rng(0), 0
    half = 1.645 * 0.1  # 90 % of normal errors of 10 %
    for _ in range(400):
        errors = random.normal(0, 0.1, 2)
        parts = [
            MeasuredVolume(case=c, date=d, ml=ml, interval=(ml * np.exp(-half), ml * np.exp(half)))
            for c, d, ml in (("a", FIRST, 10 * np.exp(errors[0])), ("b", LATER, 12 * np.exp(errors[1])))
        ]
        (change,) = find_changes(*measured(*parts))
        held += change.interval[0] <= 20 <= change.interval[1]
    assert 0.86 < held / 400 < 0.94


def test_a_label_that_appears_has_no_change_in_percent():
    (change,) = find_changes(*measured(at("a", FIRST, 0.0), at("b", LATER, 3.0, 0.1)))
    assert (change.percent, change.interval, change.percent_per_year) == (None, None, None)


@pytest.mark.parametrize("growth", [1.02, 1.05, 1.2, 0.9])
def test_made_growth_is_measured_to_two_percent_of_it(growth):
    labels = Labels(names=("background", "ball"), values=(0, 1))
    distance = np.linalg.norm((np.mgrid[:80, :80, :80].T - 39.3).T * 0.5, axis=0)  # mm of voxels of 0.5 mm
    grid = Grid(shape=(80, 80, 80), spacing=(0.5, 0.5, 0.5))
    volumes = [
        volumes_of(LabelMap(labels=(distance < radius).astype(np.uint8), grid=grid), labels)["ball"]
        for radius in (15.0, 15.0 * growth ** (1 / 3))
    ]
    (change,) = find_changes(*measured(at("a", FIRST, volumes[0]), at("b", LATER, volumes[1])))
    assert change.percent == pytest.approx(100 * (growth - 1), abs=0.1, rel=0.02)


def test_a_chart_shows_all_visits_and_the_population():
    course = [at("a", FIRST, 10.0, 0.1), at("b", LATER, 12.0)]
    svg = visits_svg("p, <lesion>", course, (5.0, 8.0, 10.0, 12.0, 20.0))
    assert svg.count("<circle") == 2
    assert svg.count('class="ends"') == 1
    assert svg.count("<rect") == 2
    assert "2024-01-01, b: 12.0 ml" in svg
    assert "<lesion>" not in svg


def test_visits_are_read_from_a_table(tmp_path):
    path = tmp_path / "visits.csv"
    path.write_text("Case;Patient;Date\na;p1;2023-01-01\nb;p1;2024-01-01\n")
    assert read_visits(path, ["a", "b"]) == {"a": Visit(patient="p1", date=FIRST), "b": Visit(patient="p1", date=LATER)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("case,patient\na,p\n", "line 1: has the columns case, patient; date are expected too"),
        ("case,patient,date\na,,2023-01-01\n", 'line 2, column "patient": the cell is empty; write what tells patients apart'),
        ("case,patient,date\na,p,1.1.2023\n", 'line 2, column "date": "1.1.2023" is no date; write one like 2024-03-31'),
        ("case,patient,date\nz,p,2023-01-01\n", 'column "case": there is no scan "z"; the table has no line for case a'),
    ],
)
def test_errors_in_a_table_name_line_and_column(tmp_path, text, expected):
    path = tmp_path / "visits.csv"
    path.write_text(text)
    with pytest.raises(DatasetError) as error:
        read_visits(path, ["a"])
    assert expected in str(error.value)


def test_a_change_without_bounds_has_no_interval():
    wide = [at(case, day, 1.0).model_copy(update={"interval": (1e-300, 1e300)}) for case, day in (("a", FIRST), ("b", LATER))]
    (change,) = find_changes(*measured(*wide))
    assert (change.percent, change.interval) == (0.0, None)
