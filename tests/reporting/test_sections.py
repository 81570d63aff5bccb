import json
from dataclasses import replace

import numpy as np
import pytest
from report_examples import (
    DICES,
    HOSTILE,
    LABELS,
    METRICS,
    calibrated,
    case,
    choice,
    epochs,
    fingerprint,
    plan,
    postprocessing,
    report_content,
    scores,
)

from nnseg.core.plan import Inference
from nnseg.evaluation.calibration import Calibration
from nnseg.reporting.charts.drawing import by, decimals
from nnseg.reporting.content import ExpectedQuality, ReportContent, StageTiming
from nnseg.reporting.sections.cost import cost
from nnseg.reporting.sections.data import data
from nnseg.reporting.sections.decided import decided
from nnseg.reporting.sections.groups import groupings
from nnseg.reporting.sections.headline import headline
from nnseg.reporting.sections.plan import decisions, describe, plans
from nnseg.reporting.sections.scores import scored, typical_cases
from nnseg.reporting.sections.training import training
from nnseg.reporting.sections.trust import coverage, trusted
from nnseg.reporting.sections.volumes import agreeing

EMPTY = ReportContent(title="t", dataset="d")


@pytest.mark.parametrize("tell", [data, plans, training, scored, decided, trusted, cost])
def test_a_section_without_anything_to_tell_is_none(tell):
    assert tell(EMPTY) is None


def test_the_data_are_told_with_counts_sizes_and_shares():
    told = data(report_content())
    assert told.facts["Cases"] == "5 volumes"
    assert told.facts["Size"] == f"{by((12, 20, 30))} voxels in the median"
    assert told.facts["Voxel"] == f"{by((2, 1, 1))} mm in the median"
    front, absent = told.labels
    assert (front.cases, front.value, front.size) == (5, 1, "2 ml (0.02 to 200)")  # 10 to 100,000 voxels of 2 mm³
    assert (absent.cases, absent.size) == (0, "in no case")
    assert told.counts == "1 error, 1 note"


def test_only_sizes_that_vary_are_drawn():
    assert [caption for caption, _ in data(report_content()).sizes] == ["Size along z"]


def test_labels_of_2d_images_are_told_as_shares_of_the_image():
    flat = fingerprint()
    cases = tuple(c.model_copy(update={"shape": (1, 10, 20), "voxels": {"front": 20}}) for c in flat.cases)
    (front, _) = data(replace(EMPTY, fingerprint=flat.model_copy(update={"cases": cases}))).labels
    assert front.size == "10.00% of the image"
    assert (
        data(replace(EMPTY, fingerprint=flat.model_copy(update={"cases": cases}))).facts["Size"]
        == f"{by((10, 20))} voxels in the median"
    )


def test_a_plan_is_told_in_words_and_settings():
    assert "spacing of 1 x 0.5 mm" in describe(plan())
    assert "plain 2D U-Net of 2 stages" in describe(plan())
    assert "4 mirrored copies" in describe(plan())
    assert "mirrored" not in describe(plan(inference=Inference()))
    settings = {d.setting: (d.value, d.why) for d in decisions(plan())}
    assert settings["patch"] == ("64, 32", "all images are this large")
    assert settings["network.strides"] == ("1 x 1, 2 x 2", "")
    assert settings["training.deep_supervision"] == ("yes", "")
    assert settings["training.augmentation.mirror_axes"] == ("0, 1", f"no side differs {HOSTILE}")
    assert settings["preprocessing.normalization"] == ("scheme zscore", "")
    assert settings["training.steps"] == ("not set", "")


def test_the_caption_of_the_network_counts_weights_by_hand():
    (told,) = plans(report_content())
    assert "6,912 weights, all kernels 3 x 3" in told.caption  # 8² · 9 · (2 + 2) + 16² · 9 · 2
    assert {d.setting for d in told.reasoned} == {"patch", "training.augmentation.mirror_axes"}


def test_trainings_that_ended_are_compared():
    two = replace(EMPTY, histories={"a": epochs(), "b": [e.model_copy(update={"dice": {"front": 0.5}}) for e in epochs()]})
    assert "All 2 trainings ran to the end" in training(two).verdict
    assert "lie 0.250 apart (0.500 to 0.750)" in training(two).verdict
    assert training(replace(EMPTY, histories={"a": epochs()[:2]})).verdict == ""
    assert not training(two).energy


def test_cases_come_worst_first_and_undefined_ones_last():
    names = [row.name for row in scored(report_content()).cases]
    assert names == [HOSTILE, "case_1", "case_3", "case_10", "case_2", "blank"]


def test_a_case_is_told_with_its_mean_and_each_label():
    rows = {row.name: row for row in scored(report_content()).cases}
    assert rows["case_1"].values == ["0.300", "0.500", "0.100"]
    assert rows["blank"].values == [decimals(None)] * 3
    assert [name for name, row in rows.items() if row.flagged] == ["case_2"]


def test_every_metric_is_told_by_three_averages():
    rows = {row.name: row for row in scored(report_content()).metrics}
    assert list(rows) == list(METRICS)
    assert rows["dice"].averages["per_image"].mean == f"{np.mean(list(DICES.values())):.3f}"
    assert rows["hd95"].averages["pooled"].mean == decimals(None)
    assert rows["dice"].undefined == 2
    assert rows["hd95"].unit == "mm"


def test_numbers_for_the_script_are_those_of_the_scores_and_cannot_end_it():
    written = scored(report_content()).numbers
    assert "<" not in written
    numbers = json.loads(written)
    assert set(numbers["cases"]) == {*DICES, "blank"}
    place = numbers["cases"].index("case_1")
    assert numbers["metrics"]["dice"]["values"][place] == [0.3, 0.5, 0.1]
    assert numbers["metrics"]["hd95"]["values"][place] == [7.0, 5.0, 9.0]
    assert numbers["metrics"]["hd95"]["better"] == "lower"
    assert numbers["metrics"]["dice"]["values"][numbers["cases"].index("blank")] == [None, None, None]


def test_a_panel_shows_each_case_of_its_metric():
    panels = {panel.name: panel for panel in scored(report_content()).panels}
    assert panels["hd95"].strips.count("<circle") == 10
    assert "case_1: 5.00" in panels["hd95"].strips
    assert panels["dice"].labels["front"]["per_mask"].mean == "0.540"


def test_few_cases_have_no_intervals_and_it_is_said():
    few = scored(replace(EMPTY, scores=scores([case("a", 0.5, 0.5), case("b", 0.6, 0.7)])))
    assert few.metrics[0].averages["per_image"].interval == ""
    assert few.sure.startswith("2 cases are too few")


def test_an_interval_is_said_to_hold_the_mean_of_all_such_cases_not_of_further_samples():
    told = scored(replace(EMPTY, scores=scores([case(f"c{i}", 0.5 + i / 100, 0.6) for i in range(12)])))
    assert "in 95 of 100 such samples an interval made like this holds it" in told.sure


def test_of_too_many_labels_those_with_the_worst_means_are_in_the_table_of_cases(monkeypatch):
    many = replace(EMPTY, scores=scores([case("a", 0.9, 0.3), case("b", 0.8, None)]))
    whole = scored(many)
    assert (whole.labels, whole.left_out) == (list(LABELS.foreground), 0)
    monkeypatch.setattr("nnseg.reporting.sections.scores.MOST_NUMBERS", 2 * (5 + 5) * 2)  # two columns: the mean and a label
    told = scored(many)
    assert (told.labels, told.left_out) == ([HOSTILE], 1)
    assert [row.values for row in told.cases] == [["0.600", "0.300"], ["0.800", decimals(None)]]
    assert json.loads(told.numbers)["metrics"]["dice"]["values"] == [[0.6, 0.3], [0.8, None]]


def test_typical_cases_are_the_best_the_median_and_the_worst():
    known = report_content().scores
    assert typical_cases(known) == {"best": "case_2", "median": "case_3", "worst": HOSTILE}
    by_name = {c.name: c for c in known.cases}
    assert typical_cases(scores([by_name["blank"], by_name["case_1"], by_name["case_2"]])) == {"best": "case_2", "worst": "case_1"}
    assert typical_cases(scores([by_name["case_1"]])) == {"best": "case_1"}
    assert typical_cases(scores([])) == {}


def test_the_headline_names_the_worst_case_and_counts_flags():
    told = headline(report_content())
    assert told.first.value == "0.520"
    others = {n.name: (n.value, n.more) for n in told.others}
    assert others["Dice of the worst case"] == ("0.250", HOSTILE)
    assert others["cases flagged"] == ("1", "of 5")
    assert others["of training"] == ("3.0 s", "1 training")
    assert headline(EMPTY).first is None


def test_volumes_that_are_too_large_on_average_are_named():
    offset = [case(f"c{i}", 0.8 + 0.01 * i, 0.5) for i in range(6)]  # 0.3 ml too large, and just right
    told = agreeing(scores(offset))
    assert told.verdict.endswith("front too large.")
    front, other = told.rows
    assert front.bias == "+0.325"
    assert other.bias == "+0"
    assert agreeing(scores(offset[:2])) is None


def test_groups_are_told_with_their_test():
    (told,) = groupings(report_content().groups)
    assert [row.value for row in told.rows] == ["a", "b"]
    assert [row.n for row in told.rows] == [2, 3]
    assert told.rows[0].cells["Dice"].mean == "0.750"
    assert "do not differ in Dice beyond chance" in told.test


def test_the_choice_is_told_with_its_price():
    told = decided(replace(EMPTY, choice=choice()))
    assert told.chosen == "2d+3d"
    assert "2.5 times as long as with the 2d plan" in told.price
    assert "+0.0123 (+0.0050 to +0.0200)" in told.price
    assert [(row.name, row.chosen) for row in told.candidates] == [("2d+3d", True), ("2d", False)]


def test_mendings_are_told_by_the_names_of_labels_with_their_nested_gain():
    told = decided(replace(EMPTY, plans=(plan(),), postprocessing=postprocessing()))
    assert told.mendings == [
        "Of front only the largest connected piece is kept.",
        f"Pieces of {HOSTILE} below 12 mm³ are removed.",
    ]
    (effect,) = told.effects
    assert (effect.before, effect.after, effect.gain) == ("0.500", "0.625", "+0.0987")


def test_coverage_is_the_mean_of_the_best_expected():
    known = [ExpectedQuality(name=n, expected=e, dice=d) for n, e, d in (("a", 0.9, 0.6), ("b", 0.7, 1.0), ("c", 0.8, 0.2))]
    expected, best = coverage(known)
    assert expected == pytest.approx([0.6, 0.4, 0.6])
    assert best == pytest.approx([1.0, 0.8, 0.6])


def test_flags_are_compared_with_the_worst_cases():
    known = [ExpectedQuality(name=f"c{i}", expected=i / 10, dice=(i if i != 2 else 9) / 10) for i in range(10)]
    content = replace(report_content(), expected_quality=known, trust=report_content().trust.model_copy(update={"threshold": 0.35}))
    told = trusted(content)
    assert [row.name for row in told.flagged] == ["c0", "c1", "c2", "c3"]
    assert "Of the 4 worst cases the flags catch 3; by chance they would catch 1.6." in told.coverage_words


def test_calibration_is_told_before_and_after():
    told = trusted(report_content())
    assert [(row.name, row.ece) for row in told.calibration] == [
        ("as the networks give it", "0.0800"),
        ("at temperature 1.50", "0.0200"),
    ]
    assert "too sure of themselves" in told.calibration_words


def test_a_temperature_that_does_not_lower_the_error_is_no_sign_of_wrong_confidence():
    told = trusted(replace(EMPTY, calibration=Calibration(n=5, before=calibrated(1.0, 0.0115), after=calibrated(1.05, 0.012))))
    assert "about as sure as they should be" in told.calibration_words


def test_costs_are_summed_and_the_longest_stage_fills_its_bar():
    told = cost(report_content())
    assert told.total == "1 min 18 s"
    assert [(row.name, row.share, row.memory) for row in told.stages] == [
        ("train", 100.0, "1.50 GB"),
        ("predict", pytest.approx(4.28), ""),
    ]
    assert told.facts["Processor time of training"] == "6.0 s"
    assert told.parts == {"read": "500 ms", "network": "1.5 s"}
    assert "2.0 s in the median" in told.scans_words


def test_energy_is_told_where_the_machine_counts_it():
    told = cost(ReportContent(title="t", dataset="d", histories={"a": epochs(energy=True), "b": epochs(energy=True)}))
    assert told.facts["Energy of training"] == "2 Wh"
    assert [row.energy for row in told.trainings] == ["1 Wh", "1 Wh"]
    assert not cost(replace(EMPTY, stages={"train": StageTiming(seconds=1.0)})).energy
