import json
import re
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
    detection,
    epochs,
    fingerprint,
    page_text,
    plan,
    postprocessing,
    report_content,
    scores,
    table_rows,
)

from nnseg.core.plan import Inference
from nnseg.core.trust import LabelInterval
from nnseg.evaluation.calibration import Calibration
from nnseg.evaluation.external import Difference, ExternalValidation
from nnseg.planning.describe import list_decisions, summarize_plan
from nnseg.reporting.charts.network import describe_network
from nnseg.reporting.content import ExpectedQuality, ReportContent, StageTiming
from nnseg.reporting.formatting import MISSING, by, decimals
from nnseg.reporting.report import SECTIONS, render_report
from nnseg.reporting.sections.cost import summarize_cost
from nnseg.reporting.sections.data import summarize_data
from nnseg.reporting.sections.decisions import describe_gain_and_time, describe_step
from nnseg.reporting.sections.external import describe_drop
from nnseg.reporting.sections.head import summarize_head
from nnseg.reporting.sections.lesions import summarize_lesions
from nnseg.reporting.sections.scores import summarize_groups, summarize_scores, typical_cases
from nnseg.reporting.sections.training import summarize_training
from nnseg.reporting.sections.trust import coverage, summarize_trust
from nnseg.reporting.sections.volumes import summarize_volumes

EMPTY = ReportContent(title="t", dataset="d")


@pytest.mark.parametrize("name", SECTIONS)
def test_a_section_without_content_is_none(name):
    assert SECTIONS[name][2](EMPTY) is None


def test_the_data_are_described_with_counts_sizes_and_shares():
    data = summarize_data(report_content())
    assert data["measured"]["facts"]["Cases"] == "5 volumes"
    assert data["measured"]["facts"]["Size"] == f"{by((12, 20, 30))} voxels in the median"
    assert data["measured"]["facts"]["Voxel"] == f"{by((2, 1, 1))} mm in the median"
    grown = summarize_data(replace(report_content(), pseudo_labels={"liver": 1, "spleen": 2}))
    assert grown["measured"]["facts"]["Pseudo-labels"].startswith("liver in 1 case, spleen in 2 cases, predicted by the model")
    assert data["counts"] == "1 error, 1 note"
    rows = table_rows(report_content(), "Labels of the dataset")
    assert rows["front"][:3] == ["1", "5", "2 ml (0.02 to 200)"]  # 10 to 100,000 voxels of 2 mm³
    assert rows[HOSTILE][1:3] == ["0", "in no case"]


def test_only_sizes_that_vary_are_drawn():
    assert [caption for caption, _ in summarize_data(report_content())["measured"]["sizes"]] == ["Size along z"]


def test_labels_of_2d_images_are_described_as_shares_of_the_image():
    flat = fingerprint()
    cases = tuple(c.model_copy(update={"shape": (1, 10, 20), "voxels": {"front": 20}}) for c in flat.cases)
    content = replace(EMPTY, fingerprint=flat.model_copy(update={"cases": cases}))
    assert table_rows(content, "Labels of the dataset")["front"][2] == "10.00% of the image"
    assert summarize_data(content)["measured"]["facts"]["Size"] == f"{by((10, 20))} voxels in the median"


def test_a_plan_is_described_in_words_and_settings():
    assert "spacing of 1 x 0.5 mm" in summarize_plan(plan())
    assert "spacing of 1000 x 500 um" in summarize_plan(plan(), "um")
    assert "spacing of 1 x 0.5 pixels" in summarize_plan(plan(), "pixel")
    assert "plain 2D U-Net of 2 stages" in summarize_plan(plan())
    assert "4 mirrored copies" in summarize_plan(plan())
    assert "mirrored" not in summarize_plan(plan(inference=Inference()))
    assert "trained for 52 steps (planned: as many steps as the time budget allows, then 30 s more)" in summarize_plan(
        plan(), done=(52,), more=(30.0,)
    )
    assert "then 0 to 30 s more" in summarize_plan(plan(), done=(52, 9), more=(30.0, 0.0))
    settings = {d.setting: (d.value, d.reason) for d in list_decisions(plan())}
    assert settings["patch"] == ("64, 32", "all images are this large")
    assert settings["network.strides"] == ("1 x 1, 2 x 2", "")
    assert settings["training.deep_supervision"] == ("yes", "")
    assert settings["training.augmentation.mirror_axes"] == ("0, 1", f"no side differs {HOSTILE}")
    assert settings["preprocessing.normalization"] == ("scheme zscore", "")
    assert settings["training.steps"] == ("not set", "")


def test_the_caption_of_the_network_counts_weights_by_hand():
    assert "6,912 weights, all kernels 3 x 3" in describe_network(plan())  # 8² · 9 · (2 + 2) + 16² · 9 · 2


def test_settings_with_a_reason_are_listed_apart():
    reasoned = page_text(report_content()).split("decisions of the planner setting value reason", 1)[1].split("All ", 1)[0]
    assert reasoned.strip() == (
        f"patch 64, 32 all images are this large training.augmentation.mirror_axes 0, 1 no side differs {HOSTILE}"
    )


def test_trainings_that_ended_are_compared():
    two = replace(EMPTY, histories={"a": epochs(), "b": [e.model_copy(update={"dice": {"front": 0.5}}) for e in epochs()]})
    training = summarize_training(two)
    assert "All 2 trainings ran to the end" in training["verdict"]
    assert "lie 0.250 apart (0.500 to 0.750)" in training["verdict"]
    assert summarize_training(replace(EMPTY, histories={"a": epochs()[:2]}))["verdict"] == ""
    assert not training["energy"]
    assert not training["repeated"]


def test_steps_that_were_computed_again_in_float32_are_counted():
    some = [epoch.model_copy(update={"repeated_steps": epoch.number - 1}) for epoch in epochs()]
    training = summarize_training(replace(EMPTY, histories={"2d fold 0": epochs(), "2d fold 1": some}))
    assert training["repeated"].endswith("since they were not finite in lower precision: 3 in 2d fold 1.")


def test_cases_come_worst_first_and_undefined_ones_last():
    names = [name for name, _ in summarize_scores(report_content())["cases"]]
    assert names == [HOSTILE, "case_1", "case_3", "case_10", "case_2", "blank"]


def test_a_case_is_shown_with_its_mean_and_each_label():
    page = page_text(report_content()).split("Every case", 1)[1]
    assert "case_1 0.300 0.500 0.100" in page
    assert f"blank {decimals(None)} {decimals(None)} {decimals(None)}" in page
    assert [name for name in DICES if f"{name} flagged 0." in page] == ["case_2"]


def test_every_metric_is_shown_by_three_averages():
    assert list(summarize_scores(report_content())["metrics"]) == list(METRICS)
    rows = table_rows(report_content(), "Every metric, averaged over all held-out cases")
    assert rows["Dice"][0].split()[0] == f"{np.mean(list(DICES.values())):.3f}"
    assert rows["Dice"][3] == "2"  # masks without a value
    assert rows["HD95, mm"][2] == decimals(None)


def test_numbers_for_the_script_are_those_of_the_scores_and_cannot_end_it():
    written = summarize_scores(report_content())["numbers"]
    assert "<" not in written
    numbers = json.loads(written)
    assert set(numbers["cases"]) == {*DICES, "blank"}
    place = numbers["cases"].index("case_1")
    assert numbers["metrics"]["dice"]["values"][place] == [0.3, 0.5, 0.1]
    assert numbers["metrics"]["hd95"]["values"][place] == [7.0, 5.0, 9.0]
    assert numbers["metrics"]["hd95"]["better"] == "lower"
    assert numbers["metrics"]["dice"]["values"][numbers["cases"].index("blank")] == [None, None, None]


def test_a_panel_shows_each_case_of_its_metric():
    strips, _ = summarize_scores(report_content())["strips"]["hd95"]
    assert strips.count("<circle") == 10
    assert "case_1: 5.00" in strips
    assert table_rows(report_content(), "Dice by label")["front"][0].split()[0] == "0.540"


def test_few_cases_have_no_intervals_and_a_note():
    few = replace(EMPTY, scores=scores([case("a", 0.5, 0.5), case("b", 0.6, 0.7)]))
    assert table_rows(few, "Every metric, averaged over all held-out cases")["Dice"][0] == "0.575"
    assert summarize_scores(few)["intervals"].startswith("2 cases are too few")


def test_an_interval_is_explained_as_one_of_the_mean_of_all_such_cases():
    many = summarize_scores(replace(EMPTY, scores=scores([case(f"c{i}", 0.5 + i / 100, 0.6) for i in range(12)])))
    assert "in 95 of 100 such samples an interval made like this contains the mean of all cases" in many["intervals"]


def test_of_too_many_labels_those_with_the_worst_means_are_in_the_table_of_cases(monkeypatch):
    many = replace(EMPTY, scores=scores([case("a", 0.9, 0.3), case("b", 0.8, None)]))
    whole = summarize_scores(many)
    assert (whole["labels"], whole["left_out"]) == (list(LABELS.foreground), 0)
    monkeypatch.setattr("nnseg.reporting.sections.scores.MOST_NUMBERS", 2 * (5 + 5) * 2)  # two columns: the mean and a label
    cut = summarize_scores(many)
    assert (cut["labels"], cut["left_out"]) == ([HOSTILE], 1)
    assert [[decimals(v) for v in values] for _, values in cut["cases"]] == [["0.600", "0.300"], ["0.800", decimals(None)]]
    assert json.loads(cut["numbers"])["metrics"]["dice"]["values"] == [[0.6, 0.3], [0.8, None]]


def test_typical_cases_are_the_best_the_median_and_the_worst():
    known = report_content().scores
    assert typical_cases(known) == {"best": "case_2", "median": "case_3", "worst": HOSTILE}
    by_name = {c.name: c for c in known.cases}
    assert typical_cases(scores([by_name["blank"], by_name["case_1"], by_name["case_2"]])) == {"best": "case_2", "worst": "case_1"}
    assert typical_cases(scores([by_name["case_1"]])) == {"best": "case_1"}
    assert typical_cases(scores([])) == {}


def test_the_head_names_the_worst_case_and_counts_flags():
    head = page_text(report_content())
    assert "0.520 mean Dice per image" in head
    assert f"Dice of the worst case 0.250 {HOSTILE}" in head
    assert "cases flagged 1 of 5" in head
    assert "of training 3.0 s 1 training" in head
    assert summarize_head(EMPTY)["averages"] is None


def test_volumes_that_are_too_large_on_average_are_named():
    offset = [case(f"c{i}", 0.8 + 0.01 * i, 0.5) for i in range(10)]  # 0.3 ml too large, and just right
    assert summarize_volumes(scores(offset))["verdict"].endswith("front too large.")
    rows = table_rows(replace(EMPTY, scores=scores(offset)), "Agreement of predicted with reference volumes")
    assert [row[2].split()[0] for row in rows.values()] == ["+0.345", "+0"]
    assert summarize_volumes(scores(offset[:2])) is None


def test_results_come_first_and_averages_are_folded():
    assert list(SECTIONS) == [
        "external",
        "scores",
        "cases",
        "lesions",
        "cutoffs",
        "training",
        "learning",
        "trust",
        "explanations",
        "audit",
        "robustness",
        "data",
        "plan",
        "cost",
        "provenance",
    ]

    page = render_report(report_content())
    labels, cases, folded, averages = (
        page.index(t) for t in ('id="metric-title"', 'id="case-table"', 'class="averages"', "per mask")
    )
    assert labels < cases < folded < averages


def test_four_cases_do_not_tell_what_is_chance():
    four = scores([case(f"c{i}", 0.8, 0.5) for i in range(4)])
    assert summarize_volumes(four)["verdict"] == "4 cases are too few to tell whether mean volumes differ from the references."
    page = render_report(replace(EMPTY, scores=four))
    assert "So few cases do not show what to expect of new ones." in page
    assert "significant" not in page
    assert "95 in 100" not in page and "by chance" not in page
    assert "4 cases are too few for confidence intervals." in page


def test_groups_are_shown_with_their_test():
    ((by_site, (groups, test)),) = summarize_groups(report_content().groups).items()
    assert by_site == f"site {HOSTILE}"
    assert [(group.value, group.n) for group in groups] == [("a", 2), ("b", 3)]
    first, _ = table_rows(report_content(), f"Scores by site {HOSTILE}").values()
    assert first[:2] == ["2", "0.750"]
    assert "do not differ significantly in Dice" in test


def test_the_choice_is_shown_with_its_gain_and_time():
    content = replace(EMPTY, scores=report_content().scores, choice=choice())
    assert "2d+3d : it is better" in page_text(content)
    assert "2.5 times as long as with the 2d plan" in describe_gain_and_time(choice())
    assert "+0.0123 (+0.0050 to +0.0200)" in describe_gain_and_time(choice())
    assert list(table_rows(content, "Candidates of the choice")) == ["2d+3d chosen", "2d"]


def test_postprocessing_steps_are_described_by_the_names_of_labels_with_their_nested_gain():
    assert [describe_step(step, LABELS) for step in postprocessing().steps] == [
        "Of front only the largest connected piece is kept.",
        f"Pieces of {HOSTILE} below 12 mm³ are removed.",
    ]
    rows = table_rows(report_content(), "Effect of postprocessing on each label")
    assert rows[HOSTILE][1:4] == ["0.500", "0.625", "+0.0987"]


def test_coverage_is_the_mean_of_the_best_expected():
    known = [ExpectedQuality(name=n, expected=e, dice=d) for n, e, d in (("a", 0.9, 0.6), ("b", 0.7, 1.0), ("c", 0.8, 0.2))]
    expected, best = coverage(known)
    assert expected == pytest.approx([0.6, 0.4, 0.6])
    assert best == pytest.approx([1.0, 0.8, 0.6])


def test_flags_are_compared_with_the_worst_cases():
    known = [ExpectedQuality(name=f"c{i}", expected=i / 10, dice=(i if i != 2 else 9) / 10) for i in range(10)]
    content = replace(report_content(), expected_quality=known, trust=report_content().trust.model_copy(update={"threshold": 0.35}))
    trust = summarize_trust(content)
    assert [case.name for case in trust["flagged"]] == ["c0", "c1", "c2", "c3"]
    assert "Of the 4 worst cases the flags catch 3; by chance they would catch 1.6." in trust["coverage_effect"]


def test_intervals_of_each_label_are_shown_and_missing_ones_explained():
    few = LabelInterval(label=f"few {HOSTILE}", cases=3, expected=0.5, dice=None, volume=None)
    many = LabelInterval(label="many", cases=40, expected=0.9, dice=(0.85, 0.94), volume=(0.9, 1.2))
    content = replace(report_content(), intervals=(many, few))
    rows = table_rows(content, "Intervals for a new scan")
    assert rows["many"] == ["40", "0.900", "0.850 to 0.940", "0.900 to 1.200"]
    assert rows[few.label][2:] == ["–", "–"]  # noqa: RUF001 (a dash in a table)
    assert f"There is none of few {HOSTILE}: that takes 9 held-out cases where it was predicted." in page_text(content)


def test_calibration_is_shown_before_and_after():
    rows = table_rows(report_content(), "Calibration errors")
    assert {name: ece.split()[0] for name, (ece, _) in rows.items()} == {
        "uncalibrated": "0.0800",
        "at temperature 1.50": "0.0200",
    }
    assert "overconfident" in summarize_trust(report_content())["calibration_effect"]


def test_a_temperature_that_does_not_lower_the_error_is_no_sign_of_wrong_confidence():
    trust = summarize_trust(
        replace(EMPTY, calibration=Calibration(n=5, before=calibrated(1.0, 0.0115), after=calibrated(1.05, 0.012)))
    )
    assert "well calibrated" in trust["calibration_effect"]


def test_costs_are_summed_and_the_longest_stage_fills_its_bar():
    cost = summarize_cost(report_content())
    page = render_report(report_content())
    assert "together 1 min 18 s" in page_text(report_content())
    assert re.findall(r'<rect class="bin" width="([0-9.]+)" height="10"/>', page) == ["100.0", "4.3"]
    rows = table_rows(report_content(), "Time and memory of each stage")
    assert [row[-1] for row in rows.values()][:2] == ["1.50 GB", decimals(None)]
    assert cost["facts"]["Processor time of training"] == "6.0 s"
    assert "read 500 ms, network 1.5 s." in page_text(report_content())
    assert "2.0 s in the median" in cost["prediction"]


def test_energy_is_shown_where_the_machine_counts_it():
    content = ReportContent(title="t", dataset="d", histories={"a": epochs(energy=True), "b": epochs(energy=True)})
    assert summarize_cost(content)["facts"]["Energy of training"] == "2 Wh"
    assert [row[-1] for row in table_rows(content, "Cost of each training").values()] == ["1 Wh", "1 Wh"]
    assert not summarize_cost(replace(EMPTY, stages={"train": StageTiming(seconds=1.0)}))["energy"]


def test_a_network_that_is_no_unet_is_named_and_not_called_one():
    other = plan().network.model_copy(update={"kind": "flat"})
    assert "A 2D network (flat) processes patches" in summarize_plan(plan().model_copy(update={"network": other}))


def test_an_audit_is_shown_with_subgroups_and_same_scans():
    content = report_content()
    assert table_rows(content, "Properties of the scans that may explain the results")[f"site {HOSTILE}"] == [
        "Dice",
        "5",
        "61 %",
        "0.004",
    ]
    assert table_rows(content, f"Dice by site {HOSTILE}") == {
        f"a {HOSTILE}": ["2", "0.500"],
        "unknown": ["3", "0.750 0.600 to 0.900"],
    }
    assert table_rows(content, "Scans that are in the dataset twice")["case_1"] == [HOSTILE, "mirrored along x", "0.970", "yes"]
    page = page_text(content)
    assert "5 scans were read, 4 with scores; 2 associations tested, with a chance of 1 % of any false alarm. 1 finding." in page
    assert "--group-by audit_groups.csv" in page
    clean = replace(content, audit=content.audit.model_copy(update={"findings": (), "same_scans": (), "groups": {}}))
    assert "No shortcut was found, and no scan is there twice." in page_text(clean)
    assert "Scans that are in the dataset twice" not in page_text(clean)


def test_a_learning_curve_is_shown_with_what_more_cases_would_bring():
    rows = table_rows(report_content(), "Dice by number of training cases")
    assert rows == {"5": ["0.600 0.580 to 0.620"], "10": ["0.700 0.680 to 0.720"], "20": ["0.750 0.730 to 0.770"]}
    page = page_text(report_content())
    assert "trained on parts of the cases of fold 0 for 1,200 steps each; the same 5 held-out cases are scored" in page
    assert "50 more cases are expected to add 0.041 to the mean Dice (0.012 to 0.071)." in page


def test_changed_scans_are_shown_with_differences_and_units():
    content = report_content()
    assert table_rows(content, "Degraded scans") == {
        "noise 0.25": ["5", "0.850", "0.800", "-0.050", "-0.080 to -0.020", "0.02"],
        "slice thickness 4": ["4", "0.850", MISSING, MISSING, "", "1"],
    }
    assert table_rows(content, "Degraded scans, by label")["noise 0.25"] == ["-0.100", "+0.000"]
    assert list(table_rows(content, "Scans without a channel")) == [f"without {HOSTILE}"]
    page = page_text(content)
    assert "The mean Dice of 5 held-out cases is 0.850, and at the lowest 0.800, noise 0.25 (difference -0.050, 95 % -0.080" in page
    assert "Slice thickness: slices so many times as thick." in page
    assert "Slice thickness:" not in page_text(replace(content, robustness=None))
    assert "Degraded scans and missing channels" not in page_text(replace(content, robustness=None, channel_scores=None))


def test_explanations_are_shown_with_their_checks_and_those_withheld_with_the_reason():
    rows = table_rows(report_content(), "Explanations")
    assert rows["case_2"] == ["front", "smoothgrad", "3.00", "2.50", "0.10", "0.25", "0.80", "map.nii.gz"]
    assert rows["case_10"] == [HOSTILE, "smoothgrad", "3.00", "2.50", "0.60", "0.25", MISSING, f"withheld: too like {HOSTILE}"]
    page = render_report(report_content())
    assert page.count('<img src="data:image/png;base64,iVBO"') == 1
    assert "1 of 2 passed their checks; the others are withheld." in page_text(report_content())


@pytest.mark.parametrize(
    ("internal", "interval", "words"),
    [
        (0.9, (-0.15, -0.05), "0.800, 0.100 lower than the 0.900 of 7 held-out cases of the training data (95 % interval"),
        (0.75, (-0.1, 0.2), "-0.100 to +0.200), which may be chance."),
        (0.8001, (-0.1, 0.2), "0.800, the same as of 7 held-out cases"),
        (None, None, "0.800; what it is on held-out cases of the training data is not known."),
    ],
)
def test_a_drop_is_told_with_its_interval_and_whether_it_may_be_chance(internal, interval, words):
    change = None if internal is None else 0.8 - internal
    of = Difference(metric="dice", label="", internal=internal, external=0.8, difference=change, interval=interval)
    found = ExternalValidation(model="m", dataset="d", cases=5, internal_cases=7, internal_source="none", differences=(of,))
    assert words in describe_drop(found)
    page = page_text(replace(report_content(), external=found))
    assert words in page
    assert "Scores of this dataset" in page
    assert "Scores of held-out cases" not in page


def test_detection_is_shown_by_false_positives_and_by_threshold():
    content = report_content()
    rows = table_rows(content, "Detection of front by threshold")
    assert rows == {
        "none": ["0.500", "0.25", "0.500", "0.600", "0.875", "0.250", "0.125"],
        "0.3": ["0.750", "2.00", "0.500", "0.600", "0.875", "0.250", "0.125"],
    }
    assert table_rows(content, "Sensitivity by false positives of front")["sensitivity"][0] == "0.500 0.400 to 0.900"
    page = page_text(content)
    assert "4 objects in 5 scans, of which 1 have none. Mean sensitivity at 1/8 to 8 false positives a scan: 0.600." in page
    assert table_rows(content, f"Detection of {HOSTILE} by threshold")["none"][0] == MISSING
    assert f"Sensitivity by false positives of {HOSTILE}" not in page


def test_only_labels_with_objects_are_drawn():
    assert re.findall(r'<g class="line (s\d)">', summarize_lesions(report_content())["froc"]) == ["s0"]
    scores = report_content().scores.model_copy(update={"detection": {"front": detection(0)}})
    assert summarize_lesions(replace(report_content(), scores=scores))["froc"] == ""
