import numpy as np
import pytest

from nnseg.core.errors import EvaluationError
from nnseg.core.scores import CaseScore, LabelScore, Scores
from nnseg.evaluation.averages import averages
from nnseg.evaluation.groups import cohorts_of, group_scores, group_tests, grouped, read_cohorts

LABELS = ("a", "b")


def scores(dice) -> Scores:
    """Of (cases, labels), called c0, c1 ..."""
    cases = [
        CaseScore(
            name=f"c{i}",
            labels={
                label: LabelScore(tp=1, fp=0, fn=0, tn=0, dice=None if np.isnan(v) else v, iou=None)
                for label, v in zip(LABELS, row, strict=True)
            },
            mean_dice=None,
            mean_iou=None,
        )
        for i, row in enumerate(dice)
    ]
    return Scores(labels=LABELS, metrics=("dice",), cases=tuple(cases), averages=averages(cases, LABELS, ("dice",)))


def test_means_of_groups_by_hand():
    cohorts = {"site": {"c0": "B", "c1": "A", "c2": "B", "elsewhere": "C"}}
    first, second = group_scores(scores([[0.8, 0.6], [0.5, np.nan], [0.9, 0.7], [0.1, 0.1]]), cohorts)
    assert (first.by, first.value, first.n) == ("site", "A", 1)
    assert first.averages["dice"].mean == 0.5
    assert first.averages["dice"].labels == {"a": 0.5, "b": None}
    assert (second.value, second.n) == ("B", 2)
    assert second.averages["dice"].mean == pytest.approx((0.7 + 0.8) / 2)
    assert second.averages["dice"].labels == pytest.approx({"a": 0.85, "b": 0.65})


def test_few_cases_carry_a_warning_and_no_interval():
    cohorts = {"site": {f"c{i}": "small" if i < 4 else "large" for i in range(10)}}
    large, small = group_scores(scores(np.random.default_rng(0).uniform(0.5, 1, (10, 2))), cohorts)
    assert (large.warning, small.warning) == ("", "4 cases: too few for a reliable mean")
    assert small.averages["dice"].interval is None
    low, high = large.averages["dice"].interval
    assert low < large.averages["dice"].mean < high


def test_groups_that_differ_are_found_and_p_is_corrected_for_the_groupings():
    random = np.random.default_rng(0)
    dice = random.uniform(0.7, 0.8, (40, 2))
    dice[:12] -= 0.1
    cohorts = {
        "scanner": {f"c{i}": "old" if i < 12 else "new" for i in range(40)},
        "sex": {f"c{i}": "FM"[i % 2] for i in range(40)},
        "country": {f"c{i}": "one" for i in range(40)},
    }
    scanner, sex = grouped(scores(dice), cohorts).tests
    assert (scanner.by, scanner.metric, scanner.n, scanner.groups) == ("scanner", "dice", 40, 2)
    assert scanner.p_adjusted == pytest.approx(2 * scanner.p)
    assert scanner.p_adjusted < 0.01
    assert sex.p_adjusted > 0.05


def test_cases_without_a_value_have_no_part_in_the_test():
    dice = [[0.1, 0.2], [0.2, 0.3], [np.nan, np.nan], [0.8, 0.9]]
    (test,) = group_tests(scores(dice), {"site": {"c0": "A", "c1": "A", "c2": "B", "c3": "B"}}, "dice")
    assert (test.n, test.groups) == (3, 2)
    with pytest.raises(EvaluationError, match='"hd" was not measured; there are dice'):
        group_tests(scores(dice), {}, "hd")


def test_a_table_that_names_no_case_is_refused():
    with pytest.raises(
        EvaluationError, match=r"no group is given for any of the 1 cases such as c0; the table has no case such as c1"
    ):
        group_scores(scores([[0.5, 0.5]]), {"site": {"c1": "A"}})


def test_columns_of_a_table_become_groups(tmp_path):
    path = tmp_path / "cohorts.csv"
    path.write_text("site;Case;sex;note\nA;c0;F;\n\nB;c1;n/a;\nA;c2;M;\n")
    assert read_cohorts(path) == {"site": {"c0": "A", "c1": "B", "c2": "A"}, "sex": {"c0": "F", "c2": "M"}}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("name,site\nc0,A\n", 'line 1: has the columns name, site; one called "case" is expected'),
        ("case,site,site\nc0,A,B\n", 'line 1, column "site": there are two columns of this name; keep one'),
        ("", "is empty; a header and a line for each case are expected"),
        ("case,site\nc0,A\nc0,B\n", 'line 3, column "case": c0 is in line 2 already; keep one'),
        ("case,site\nc0\n", "line 2: has 1 cells below 2 columns; complete the line"),
    ],
)
def test_a_table_that_cannot_be_used_says_why(tmp_path, text, reason):
    path = tmp_path / "cohorts.csv"
    path.write_text(text)
    with pytest.raises(EvaluationError, match=reason):
        read_cohorts(path)


def test_many_numbers_are_cut_into_thirds_named_by_their_ranges():
    ages = {f"c{i}": str(20 + 5 * i) for i in range(9)}  # 20 ... 60
    assert cohorts_of({"age": ages})["age"] == {
        **dict.fromkeys(["c0", "c1", "c2"], "20 to 30"),
        **dict.fromkeys(["c3", "c4", "c5"], "35 to 45"),
        **dict.fromkeys(["c6", "c7", "c8"], "50 to 60"),
    }


def test_few_numbers_and_words_stay_as_they_are():
    field = {f"c{i}": ["1.5", "3"][i % 2] for i in range(20)}
    mixed = {f"c{i}": str(i) for i in range(19)} | {"c19": "old"}
    assert cohorts_of({"field": field, "mixed": mixed, "none": {}}) == {"field": field, "mixed": mixed}


def test_ages_that_mostly_agree_are_still_cut_into_groups_that_hold_every_case():
    ages = {f"c{i}": "50" for i in range(30)} | {f"d{i}": str(51 + i) for i in range(8)}
    found = cohorts_of({"age": ages})["age"]
    assert set(found) == set(ages)
    assert len(set(found.values())) > 1


def test_groups_stand_in_the_order_of_their_numbers():
    cohorts = {"age": {"c0": "9 to 12", "c1": "10 to 13", "c2": "100 to 101"}}
    assert [g.value for g in group_scores(scores([[0.5, 0.5]] * 3), cohorts)] == ["9 to 12", "10 to 13", "100 to 101"]


def test_a_table_of_more_groupings_than_are_tested_is_refused(tmp_path):
    columns = [f"c{i}" for i in range(1001)]
    (tmp_path / "t.csv").write_text(f"case,{','.join(columns)}\na{',x' * 1001}\n")
    with pytest.raises(EvaluationError, match="has 1,001 columns besides the case; expected at most 1,000; leave some out"):
        read_cohorts(tmp_path / "t.csv")
