import numpy as np
import pytest

from nnseg.core.errors import EvaluationError
from nnseg.core.scores import CaseScore, LabelScore, Scores
from nnseg.evaluation.averages import averages
from nnseg.evaluation.compare import compare, mean_ranks

LABELS = ("a", "b")


def scores(values: dict[str, np.ndarray], *, metrics: tuple[str, ...] = ("dice",), reference: int = 100, names=None) -> Scores:
    """Of metrics (cases, labels), NaN for undefined; the references all have as many voxels."""
    shape = next(iter(values.values())).shape
    cases = []
    for i in range(shape[0]):
        masks = {}
        for k in range(shape[1]):
            known = {m: None if np.isnan(v[i, k]) else float(v[i, k]) for m, v in values.items()}
            masks[LABELS[k]] = LabelScore(**{"tp": reference, "fp": 0, "fn": 0, "tn": 9, "dice": None, "iou": None, **known})
        cases.append(CaseScore(name=names[i] if names else f"case_{i:03}", labels=masks, mean_dice=None, mean_iou=None))
    labels = LABELS[: shape[1]]
    return Scores(labels=labels, metrics=metrics, cases=tuple(cases), averages=averages(cases, labels, metrics))


def of_dice(values, **more) -> Scores:
    return scores({"dice": np.array(values, float)}, **more)


def test_a_table_by_hand():
    a = of_dice([[0.8, 0.6], [0.7, 0.7], [0.9, 0.5]])
    b = of_dice([[0.9, 0.6], [0.9, 0.7], [0.8, 0.5]])
    mean, first, second = compare(a, b).rows
    assert (first.metric, first.label, first.n) == ("dice", "a", 3)
    assert (first.a, first.b, first.difference) == pytest.approx((0.8, 2.6 / 3, 0.2 / 3))
    assert (first.wins, first.ties, first.losses) == (2, 0, 1)
    assert first.p == pytest.approx(6 / 8)  # of +-0.1 +-0.2 +-0.1 all but two sums are 0.2 or farther from zero
    assert first.p_wilcoxon == pytest.approx(6 / 8)  # ranks 1.5, 3, 1.5
    assert first.p_adjusted == 1.0
    assert (mean.label, mean.difference) == (None, pytest.approx(0.1 / 3))
    assert (second.ties, second.p, second.difference, second.verdict) == (3, 1.0, 0.0, "the same in all 3 cases")
    assert mean.interval is None  # as averages of few cases have none
    assert "too few" in mean.verdict


def test_p_values_are_corrected_for_all_rows():
    random = np.random.default_rng(0)
    base = random.uniform(0.6, 0.9, (12, 2))
    rows = compare(of_dice(base), of_dice(base + random.normal(0.01, 0.02, (12, 2)))).rows
    least = min(rows, key=lambda r: r.p)
    assert least.p_adjusted == pytest.approx(3 * least.p)
    assert all(r.p <= r.p_adjusted <= min(1, 3 * r.p) for r in rows)


def test_a_steady_gain_is_called_one_with_its_interval():
    random = np.random.default_rng(1)
    base = random.uniform(0.6, 0.9, (40, 2))
    found = compare(of_dice(base), of_dice(base + random.normal(0.02, 0.01, (40, 2))), names=("old", "new"))
    low, high = found.rows[0].interval
    assert low < found.rows[0].difference < high
    assert found.rows[0].p_adjusted < 0.001
    assert found.verdict == f"Dice: new is better by {found.rows[0].difference:.3f} ({low:.3f} to {high:.3f})"
    back = compare(of_dice(base + 0.02), of_dice(base), names=("old", "new"))
    assert back.verdict == "Dice: old is better by 0.020 (0.020 to 0.020)"


def test_the_interval_is_that_of_paired_differences():
    random = np.random.default_rng(2)
    a = random.uniform(0.2, 0.9, (60, 1))
    b = a + random.normal(0.0, 0.01, (60, 1))
    low, high = compare(of_dice(a), of_dice(b)).rows[0].interval
    deviation = (b - a).std() / 60**0.5
    assert (high - low) / 2 == pytest.approx(1.96 * deviation, rel=0.15)


def test_no_difference_says_how_large_one_would_have_been_seen():
    random = np.random.default_rng(3)
    a = random.uniform(0.6, 0.9, (200, 1))
    b = a + random.normal(0.0, 0.02, (200, 1))
    row = compare(of_dice(a), of_dice(b)).rows[0]
    assert row.detectable == pytest.approx((2.2414 + 0.8416) * (b - a).std(ddof=1) / 200**0.5, rel=1e-3)  # level 0.05 / 2 rows
    assert row.verdict == f"no significant difference: 200 cases detect one larger than about {row.detectable:.2g}"


def test_a_detectable_difference_is_found_in_four_of_five_studies():
    random, found = np.random.default_rng(4), 0
    detectable = (2.2414 + 0.8416) * 0.02 / 30**0.5
    for _ in range(60):
        a = random.uniform(0.6, 0.9, (30, 1))
        found += "better" in compare(of_dice(a), of_dice(a + random.normal(detectable, 0.02, (30, 1)))).verdict
    assert 0.68 < found / 60 < 0.88


def test_chance_is_called_a_difference_in_at_most_one_of_twenty_tables():
    random, found = np.random.default_rng(5), 0
    for _ in range(100):
        a, b = random.uniform(0.6, 0.9, (2, 15, 2))
        found += any("better" in row.verdict for row in compare(of_dice(a), of_dice(b)).rows)
    assert found / 100 <= 0.09


def test_few_cases_are_not_said_to_differ():
    found = compare(of_dice(np.full((5, 1), 0.5)), of_dice(np.full((5, 1), 0.9)))
    assert found.verdict == "Dice: 5 cases are too few to detect any difference among 2 tests"
    assert compare(of_dice([[0.5]]), of_dice([[0.5]])).verdict == "Dice: the same in 1 case"
    assert compare(of_dice([[0.5]]), of_dice([[0.9]])).verdict.startswith("Dice: 1 case is too few")


def test_a_metric_given_twice_is_no_second_test():
    a, b = of_dice([[0.5]] * 9), of_dice([[0.6]] * 9)
    assert compare(a, b, ["dice", "dice"]) == compare(a, b, ["dice"])


def test_less_is_better_of_distances_and_less_in_size_of_signed_errors():
    volume, distance = np.linspace(1, 2, 12)[:, None], np.linspace(2, 3, 12)[:, None]
    metrics = ("dice", "hd95", "volume_error_ml")
    a = scores({"dice": volume * 0, "hd95": distance, "volume_error_ml": -volume}, metrics=metrics)
    b = scores({"dice": volume * 0, "hd95": distance - 0.5, "volume_error_ml": volume / 2}, metrics=metrics)
    row = compare(a, b, ["hd95"]).rows[0]
    assert (row.wins, row.losses, row.difference) == (12, 0, pytest.approx(-0.5))
    assert row.verdict == "b is better by 0.500 (0.500 to 0.500) mm"
    row = compare(a, b, ["volume_error_ml"]).rows[0]
    assert (row.a, row.b, row.wins) == (pytest.approx(1.5), pytest.approx(0.75), 12)


def test_only_masks_with_a_value_from_both_count_and_others_are_named():
    nan = np.nan
    a = of_dice([[0.8, nan], [0.6, 0.4], [nan, nan]])
    b = of_dice([[0.9, 0.1], [nan, 0.5], [nan, 0.2]])
    mean, first, second = compare(a, b).rows
    assert (mean.n, mean.a, mean.b) == (2, pytest.approx((0.8 + 0.4) / 2), pytest.approx((0.9 + 0.5) / 2))
    assert (mean.only_a, mean.only_b) == (1, 2)
    assert (first.n, first.only_a, first.only_b) == (1, 1, 0)
    assert (second.n, second.only_a, second.only_b) == (1, 0, 2)


def test_where_nothing_is_defined_nothing_is_claimed():
    nothing = of_dice(np.full((6, 1), np.nan))
    row = compare(nothing, nothing).rows[0]
    assert (row.n, row.a, row.difference, row.interval, row.p, row.p_wilcoxon) == (0, None, None, None, 1.0, 1.0)
    assert row.verdict == "no case has a value from both"


def test_cases_of_one_model_alone_are_named_and_do_not_count():
    a = of_dice([[0.1], [0.2], [0.3]], names=["x", "y", "z"])
    b = of_dice([[0.9], [0.3], [0.4]], names=["w", "z", "y"])
    found = compare(a, b)
    assert (found.cases, found.only_a, found.only_b) == (2, ("x",), ("w",))
    assert found.rows[0].difference == pytest.approx((0.4 + 0.3 - 0.2 - 0.3) / 2)


def test_another_reference_is_refused_by_name():
    with pytest.raises(EvaluationError, match="case case_000: the reference of old has 100 voxels of a, that of new 99"):
        compare(of_dice([[0.5]]), of_dice([[0.5]], reference=99), names=("old", "new"))


def test_other_labels_cases_and_metrics_are_refused():
    one = of_dice([[0.5]])
    with pytest.raises(EvaluationError, match="a has scores of a, b of a, b"):
        compare(one, of_dice([[0.5, 0.6]]))
    with pytest.raises(EvaluationError, match="no case has scores from all of a, b"):
        compare(one, of_dice([[0.5]], names=["other"]))
    with pytest.raises(EvaluationError, match='"hd" was not measured for all of a, b; there are dice'):
        compare(one, one, ["hd"])


def test_very_many_labels_are_refused_before_they_are_compared(monkeypatch):
    monkeypatch.setenv("NNSEG_LIMITS", "comparisons=2")
    two = of_dice([[0.5, 0.6]])
    with pytest.raises(EvaluationError, match="has 3 values to compare, 1 metric of 2 labels; expected at most 2; compare fewer"):
        compare(two, two)


def test_usual_metrics_are_compared_at_the_first_tolerance():
    values = {"dice": np.ones((2, 1)), "iou": np.ones((2, 1))}
    many = scores(values, metrics=("dice", "iou", "hd95", "hd", "assd", "nsd_2", "nsd_1", "volume_error_ml"))
    assert [r.metric for r in compare(many, many).rows if r.label is None] == ["dice", "iou", "hd95", "nsd_2"]
    assert [r.metric for r in compare(many, of_dice(np.ones((2, 1)))).rows if r.label is None] == ["dice"]


def test_json_gives_the_comparison_back():
    found = compare(of_dice([[0.5], [0.6]]), of_dice([[0.6], [0.6]]))
    assert type(found).model_validate_json(found.model_dump_json()) == found


def test_mean_ranks_by_hand():
    models = {"a": of_dice([[0.9], [0.5], [0.7]]), "b": of_dice([[0.8], [0.5], [0.6]]), "c": of_dice([[0.7], [0.9], [np.nan]])}
    assert mean_ranks(models, "dice") == {"a": (1 + 2.5) / 2, "b": (2 + 2.5) / 2, "c": (3 + 1) / 2}
