"""What held-out cases say of a model."""

import math
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plan_examples import small_plan

from nnseg.core.dataset import Case, Dataset, Fold
from nnseg.core.errors import ScanError
from nnseg.core.fingerprint import CaseMeasure, Fingerprint
from nnseg.core.labels import Labels
from nnseg.core.scan_ranges import ScanFacts, find_ranges
from nnseg.core.scores import Counts
from nnseg.core.trust import TEMPERATURES, Agreement, EnsembleShift, Trust, expit, largest_volume_error, logit
from nnseg.crossval.trust import (
    HeldOutCase,
    cross_validate_expected_dice,
    cross_validate_trust,
    fit_ensemble_shift,
    fit_expected_dice,
    fit_temperature,
    fit_trust,
    measure_trust,
)
from nnseg.evaluation.evaluate import case_score, summarize
from nnseg.storage.files import write_json
from nnseg.storage.plan_folder import write_plan
from nnseg.storage.predictions import RECORD, Predictions, ScanRecord
from nnseg.storage.run import Run

LABELS = Labels(names=("background", "a"), values=(0, 3))
FACTS = ScanFacts(spacing=(1.0, 1.0, 1.0), size_mm=(40.0, 50.0, 40.0), intensities=((-2.0, -1.0, 0.0, 1.0, 2.0),))


def counts(dice, voxels=1000):
    """Of a mask with this Dice; "absent" of one that is neither there nor found, None of one that nobody annotated."""
    if dice is None:
        return Counts(tp=0, fp=0, fn=0, tn=0)
    if dice == "absent":
        return Counts(tp=0, fp=0, fn=0, tn=9 * voxels)
    tp = round(dice * voxels)
    return Counts(tp=tp, fp=voxels - tp, fn=voxels - tp, tn=9 * voxels)


def held(number, agreement, dice, *, fold=0, voxels=1000.0, surprise=(), facts=FACTS):
    """A case with one label."""
    agreed = Agreement(labels={"a": agreement}, foreground=agreement, voxels={"a": voxels})
    confidence = Trust().confidence(agreed, facts).model_copy(update={"surprise": surprise})
    return HeldOutCase(fold=fold, confidence=confidence, score=case_score(f"case_{number:03d}", {"a": counts(dice)}))


def many(count, *, seed=0, slope=1.0, offset=-0.5, noise=0.1):
    """Cases whose logit of Dice is a line of the logit of their agreement, with noise."""
    random = np.random.default_rng(seed)
    values = random.normal(2.0, 0.6, count)
    dices = 1 / (1 + np.exp(-(offset + slope * values + random.normal(0, noise, count))))
    return [held(i, float(1 / (1 + np.exp(-v))), float(d), fold=i % 5) for i, (v, d) in enumerate(zip(values, dices, strict=True))]


def test_many_cases_are_followed():
    cases, others = many(200), many(100, seed=1)
    trust = fit_expected_dice(cases)
    off = [abs(trust.expected_mean_dice(h.confidence.agreement) - h.score.mean_dice) for h in others]
    assert np.mean(off) < 0.02
    raw = [abs(Trust().expected_mean_dice(h.confidence.agreement) - h.score.mean_dice) for h in others]
    assert np.mean(raw) > 2 * np.mean(off)


def test_four_cases_correct_the_level_and_leave_the_slopes():
    trust = fit_expected_dice(many(4, offset=-1.0))
    assert sum(trust.slopes[:2]) == pytest.approx(1.0, abs=0.2)
    off = [trust.expected_mean_dice(h.confidence.agreement) - h.score.mean_dice for h in many(100, seed=1, offset=-1.0)]
    assert abs(np.mean(off)) < 0.04


def test_one_case_and_none_can_be_calibrated_with():
    assert fit_expected_dice([]).expected_mean_dice(held(0, 0.9, 0.8).confidence.agreement) == pytest.approx(0.9)
    low = fit_expected_dice([held(0, 0.9, 0.6)]).expected_mean_dice(held(0, 0.9, 0.6).confidence.agreement)
    assert low == pytest.approx(0.6, abs=0.01)


def test_cases_that_are_all_the_same_can_be_calibrated_with():
    trust = fit_expected_dice([held(i, 0.9, 0.8) for i in range(6)])
    assert trust.expected_mean_dice(held(0, 0.9, 0.8).confidence.agreement) == pytest.approx(0.8, abs=0.002)


@given(seed=st.integers(0, 50), count=st.integers(4, 30))
def test_more_agreement_means_more_expected_dice(seed, count):
    trust = fit_expected_dice(many(count, seed=seed))
    qualities = [trust.expected_mean_dice(held(0, share, 0.5).confidence.agreement) for share in (0.5, 0.7, 0.9, 0.99)]
    assert qualities == sorted(qualities)


def test_a_label_that_is_always_there_was_probably_missed_where_it_is_not_found():
    nothing = Agreement(labels={"a": 1.0}, foreground=1.0, voxels={"a": 0.0})
    trust = fit_expected_dice(many(10), {"a": (0, 200)})
    assert trust.labels["a"].missing == pytest.approx(0.5 / 201 * 0.5 / (0.5 / 201 * 0.5 + 200.5 / 201 * 0.5 / 11))
    assert trust.expected_mean_dice(nothing) < 0.03
    missed = [*many(10), *(held(20 + i, 1.0, 0.0, voxels=0.0) for i in range(5))]
    assert fit_expected_dice(missed, {"a": (0, 200)}).labels["a"].missing < trust.labels["a"].missing


def test_a_label_that_many_cases_lack_is_rightly_absent_though_the_few_held_out_ones_have_it():
    nothing = Agreement(labels={"a": 1.0, "b": 0.9}, foreground=0.9, voxels={"a": 0.0, "b": 100.0})
    few = many(4)
    assert all(h.confidence.agreement.voxels["a"] > 0 for h in few)
    trust = fit_expected_dice(few, {"a": (80, 200)})
    assert trust.labels["a"].missing == pytest.approx(0.77, abs=0.01)
    assert trust.expected_mean_dice(nothing) > 0.8 * trust.expected_dice(nothing)["b"]


def test_a_label_is_believed_to_be_absent_as_often_as_it_was():
    nothing = [held(i, 1.0, "absent", voxels=0.0) for i in range(7)] + [held(9, 1.0, 0.0, voxels=0.0)]
    cases = [*many(8), *nothing]
    rightly, wrongly = 7.5 / 17 * 7.5 / 8, 9.5 / 17 * 1.5 / 10
    assert fit_expected_dice(cases).labels["a"].missing == pytest.approx(rightly / (rightly + wrongly))


def test_labels_that_nobody_annotated_teach_nothing():
    unknown = [held(100 + i, 0.2, None) for i in range(5)]
    plain, more = fit_expected_dice(many(10)), fit_expected_dice([*many(10), *unknown])
    assert (more.slopes, more.labels) == (plain.slopes, plain.labels)
    assert fit_trust([*many(12), *unknown]).error is not None


def test_each_case_is_foreseen_without_its_fold():
    cases = many(50)
    changed = [
        HeldOutCase(fold=h.fold, confidence=h.confidence, score=case_score(h.score.name, {"a": counts(0.1)})) if h.fold == 2 else h
        for h in cases
    ]
    before, after = cross_validate_expected_dice(cases), cross_validate_expected_dice(changed)
    assert [a == b for a, b in zip(before, after, strict=True)] == [h.fold == 2 for h in cases]


def test_cases_of_a_single_fold_are_foreseen_without_their_part():
    cases = [HeldOutCase(fold=0, confidence=h.confidence, score=h.score) for h in many(50)]
    assert np.corrcoef(cross_validate_expected_dice(cases), [h.score.mean_dice for h in cases])[0, 1] > 0.9
    assert cross_validate_expected_dice(cases)[0] != fit_expected_dice(cases).expected_mean_dice(cases[0].confidence.agreement)


def test_the_worst_tenth_is_flagged():
    cases = many(100)
    trust = fit_trust(cases)
    flagged = [trust.confidence(h.confidence.agreement).flagged for h in cases]
    assert 7 <= sum(flagged) <= 13
    worst = np.argsort([h.score.mean_dice for h in cases])[:5]
    assert sum(flagged[i] for i in worst) >= 4
    assert trust.error < 0.02
    assert trust.cases == trust.errors.cases == 100
    assert abs(trust.errors.mean) < trust.error < trust.errors.spread * 1.1


def test_errors_of_one_patient_count_together():
    cases = many(20)
    alone = fit_trust(cases).errors
    assert (alone.cases, alone.patients) == (20, 20)
    errors = [h.score.mean_dice - q for h, q in zip(cases, cross_validate_expected_dice(cases), strict=True)]
    assert (alone.mean, alone.spread) == pytest.approx((np.mean(errors), np.std(errors, ddof=1)))
    pairs = fit_trust(cases, patients={h.score.name: f"patient {i // 2}" for i, h in enumerate(cases)}).errors
    means = np.reshape(errors, (10, 2)).mean(1)
    assert (pairs.cases, pairs.patients) == (20, 10)
    assert (pairs.mean, pairs.spread) == pytest.approx((np.mean(errors), np.sqrt(2) * np.std(means, ddof=1)))
    assert fit_trust(cases, patients={h.score.name: "one" for h in cases}).errors is None


def test_nine_cases_flag_none():
    assert fit_trust(many(9)).threshold is None


def test_many_networks_agree_less_and_are_expected_no_less_of():
    few, many = (Agreement(labels={"a": share}, foreground=share, voxels={"a": 50.0}) for share in (0.9, 0.85))
    found = fit_ensemble_shift([(few, many)] * 3, few=1, many=5)
    assert found.labels == pytest.approx(logit(0.85) - logit(0.9))
    trust = Trust(together=found)
    assert trust.confidence(many, networks=5).quality == pytest.approx(0.9)
    assert trust.confidence(few, networks=1).quality == pytest.approx(0.9)
    assert 0.85 < trust.confidence(many, networks=2).quality < 0.9
    assert trust.confidence(many, networks=5).agreement == many


def test_networks_that_agree_more_correct_nothing():
    few, many = (Agreement(labels={"a": share}, foreground=share, voxels={"a": 50.0}) for share in (0.8, 0.85))
    assert fit_ensemble_shift([(few, many)], few=1, many=5).labels == 0.0
    assert fit_ensemble_shift([], few=1, many=5) is None
    assert fit_ensemble_shift([(few, many)], few=3, many=3) is None


def test_three_cases_leave_the_temperature():
    assert fit_temperature([tuple(TEMPERATURES)] * 3) == 1.0


PLAN = small_plan(LABELS)


DATASET = Dataset(
    name="d",
    folder=Path("gone"),
    layout="one of its own",
    channels=("CT",),
    labels=LABELS,
    suffix=".nii",
    cases=tuple(Case(name=f"case_{i:03d}", images=(Path(f"{i}.nii"),)) for i in range(40)),
)


def recorded(folder: Path, cases) -> tuple[Run, dict[int, Fold]]:
    """A run whose held-out cases were predicted and scored."""
    run = Run(folder / "run")
    run.dataset = DATASET
    run.fingerprint = Fingerprint(
        dataset="d",
        layout="",
        channels=("CT",),
        labels=LABELS,
        cases=tuple(
            CaseMeasure(name=c.name, key=c.name, shape=(9, 9, 9), spacing=(1, 1, 1), cropped_shape=(9, 9, 9), voxels={"a": 9})
            for c in DATASET.cases
        ),
        intensities=(),
    )
    write_plan(run.path / "plan.toml", PLAN)
    folds = {n: Fold(training=("x",), held_out=tuple(h.score.name for h in cases if h.fold == n)) for n in {h.fold for h in cases}}
    for number in folds:
        written = {
            h.score.name: ScanRecord(status="done", file=f"{h.score.name}.nii.gz", confidence=h.confidence)
            for h in cases
            if h.fold == number
        }
        write_json(run.fold(number).predictions / RECORD, Predictions(cases=written))
    run.scores = summarize([h.score for h in cases], LABELS)
    return run, folds


def test_a_run_is_measured_from_its_records(tmp_path):
    cases = [held(i, h.confidence.agreement.foreground, h.score.mean_dice) for i, h in enumerate(many(20))]
    run, folds = recorded(tmp_path, cases)
    trust = measure_trust(run, folds)
    assert trust.model_copy(update={"key": ""}) == fit_trust(cases, {"a": (0, 40)}, find_ranges([FACTS] * 20, ["CT"]))
    assert run.trust == trust


def test_the_ranges_are_those_of_the_scans_of_all_folds(tmp_path, monkeypatch):
    cases = [held(i, h.confidence.agreement.foreground, h.score.mean_dice) for i, h in enumerate(many(20))]
    run, folds = recorded(tmp_path, cases)
    wider, known = FACTS.model_copy(update={"spacing": (3.0, 1.0, 1.0)}), list[set[str]]()

    def measure(_, names):
        known.append(set(names))
        return {"trained on": wider}

    monkeypatch.setattr("nnseg.crossval.scan_facts.measure_stored_cases", measure)
    ranges = measure_trust(run, folds).ranges
    assert ranges.scans == 21
    assert (ranges.spacing[0].low, ranges.spacing[0].high) == (1.0, 3.0)
    assert known == [{h.score.name for h in cases}]


def test_what_was_measured_stands_while_the_predictions_do(tmp_path):
    cases = [held(i, h.confidence.agreement.foreground, h.score.mean_dice) for i, h in enumerate(many(20))]
    run, folds = recorded(tmp_path, cases)
    trust = measure_trust(run, folds)
    marked = trust.model_copy(update={"temperature": 7.0})
    run.trust = marked
    assert measure_trust(run, folds) == marked
    scored = [case.model_copy(update={"length_unit": "um"}) for case in run.scores.cases]
    run.scores = run.scores.model_copy(update={"cases": tuple(scored)})
    assert measure_trust(run, folds) == marked  # the unit of distances, which earlier scores lack, changes nothing
    run.trust = marked.model_copy(update={"key": "of other predictions"})
    assert measure_trust(run, folds) == trust


class Crowd:
    """As the predictor of a model of five networks, whose votes agree less."""

    def __init__(self, model, device):
        self.model, self.asked = model, []

    def prepare(self, scan):
        return scan

    def infer(self, number, *, uncertainty, objects):
        self.asked.append(number)
        return SimpleNamespace(confidence=held(number, 0.7, 0.7).confidence)


def test_a_few_cases_tell_how_much_less_all_networks_agree(tmp_path, monkeypatch):
    run, folds = recorded(tmp_path, [held(i, 0.8, 0.75, fold=i % 5) for i in range(40)])
    crowd = Crowd(SimpleNamespace(members=range(5)), "cpu")
    monkeypatch.setattr("nnseg.crossval.trust.load_model", lambda path, folds: crowd.model)
    monkeypatch.setattr("nnseg.crossval.trust.Predictor", lambda model, device: crowd)
    monkeypatch.setattr("nnseg.crossval.trust.read_scan", lambda images, **_: int(images[0].stem))
    trust = measure_trust(run, folds)
    assert trust.together == EnsembleShift(few=1, many=5, labels=logit(0.7) - logit(0.8), foreground=logit(0.7) - logit(0.8))
    assert len(crowd.asked) == len(set(crowd.asked)) == 8
    assert len({number % 5 for number in crowd.asked}) == 5  # of every fold


@pytest.mark.parametrize(("cases", "asked"), [(10, 3), (20, 4), (35, 7), (40, 8)])
def test_all_networks_predict_so_few_cases_as_cost_no_more_than_the_held_out_predictions(tmp_path, monkeypatch, cases, asked):
    run, folds = recorded(tmp_path, [held(i, 0.8, 0.75, fold=i % 5) for i in range(cases)])
    crowd = Crowd(SimpleNamespace(members=range(5)), "cpu")
    monkeypatch.setattr("nnseg.crossval.trust.load_model", lambda path, folds: crowd.model)
    monkeypatch.setattr("nnseg.crossval.trust.Predictor", lambda model, device: crowd)
    monkeypatch.setattr("nnseg.crossval.trust.read_scan", lambda images, **_: int(images[0].stem))
    measure_trust(run, folds)
    assert len(crowd.asked) == asked


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file that cannot be read, which Linux has in /proc")
def test_a_scan_that_the_disk_does_not_give_ends_the_measurement(tmp_path, monkeypatch):
    monkeypatch.setattr("nnseg.system.regular._kernel_disks", frozenset)  # whose files are refused otherwise
    run, folds = recorded(tmp_path, [held(i, 0.8, 0.75, fold=i % 5) for i in range(10)])
    broken = tmp_path / "broken.npy"
    broken.symlink_to("/proc/self/mem")
    cases = tuple(replace(case, images=(broken,)) for case in run.dataset.cases)
    run.dataset = replace(run.dataset, cases=cases)
    crowd = Crowd(SimpleNamespace(members=range(5)), "cpu")
    monkeypatch.setattr("nnseg.crossval.trust.load_model", lambda path, folds: crowd.model)
    monkeypatch.setattr("nnseg.crossval.trust.Predictor", lambda model, device: crowd)
    with pytest.raises(ScanError, match="Input/output error"):
        measure_trust(run, folds)


def test_too_few_cases_leave_no_measure_of_earlier_ones(tmp_path):
    run, folds = recorded(tmp_path, many(3))
    (run.path / "trust.json").write_text("{}")
    assert measure_trust(run, folds) is None
    assert not (run.path / "trust.json").exists()


def test_intervals_are_those_of_the_errors_of_other_folds():
    cases = many(19, noise=0.3)
    trust = fit_trust(cases)
    fitted = cross_validate_trust(cases)
    errors = [
        (logit(h.score.labels["a"].dice) - logit(t.expected_dice(a)["a"])) / t.spread(a, "a")
        for t, h in zip(fitted, cases, strict=True)
        for a in [h.confidence.agreement]
    ]
    assert trust.labels["a"].errors == pytest.approx((min(errors), max(errors)))
    assert trust.labels["a"].cases == 19
    assert trust.labels["a"].volume_errors == (0.0, 0.0)  # the cases have as many false voxels as missed ones


def test_eight_cases_give_no_interval():
    assert [fit_trust(many(n)).labels["a"].errors is None for n in (8, 9)] == [True, False]


def test_volume_errors_are_those_of_other_folds():
    sizes = [(100, 100 + i) for i in range(19)]  # true, predicted
    cases = [
        replace(h, score=case_score(h.score.name, {"a": Counts(tp=90, fp=predicted - 90, fn=true - 90, tn=900)}))
        for h, (true, predicted) in zip(many(19), sizes, strict=True)
    ]
    agreements, trust = [h.confidence.agreement for h in cases], fit_trust(cases)
    lowest = [
        trust.labels["a"].dice_interval(t.expected_dice(a)["a"], t.spread(a, "a"))[0]
        for t, a in zip(cross_validate_trust(cases), agreements, strict=True)
    ]
    errors = [math.log(true / predicted) / largest_volume_error(low) for low, (true, predicted) in zip(lowest, sizes, strict=True)]
    assert trust.labels["a"].volume_errors == pytest.approx((min(errors), max(errors)))
    assert trust.confidence(agreements[0]).volume_factors["a"][1] == pytest.approx(1.0)
    false = replace(cases[0], score=case_score("false", {"a": Counts(tp=0, fp=50, fn=0, tn=900)}))
    assert fit_trust([false, *cases[1:]]).confidence(agreements[0]).volume_factors["a"][0] == pytest.approx(0.0, abs=1e-12)


def test_the_spread_grows_with_the_distance_from_the_held_out_cases():
    trust = fit_trust(many(200))
    values = [logit(h.confidence.agreement.labels["a"]) for h in many(200)]
    spreads = [
        trust.spread(held(0, expit(np.mean(values) + far * np.std(values)), 0.9).confidence.agreement, "a") for far in (0, 1, 4)
    ]
    # The agreement of the only label is that of the foreground, and all masks have the same volume: one feature of three varies.
    assert spreads == pytest.approx([math.sqrt(1 + far**2 / 3) for far in (0, 1, 4)], rel=0.05)
    assert Trust().spread(many(1)[0].confidence.agreement, "a") == 1.0


def test_ninety_percent_of_new_cases_lie_inside():
    inside = []
    for seed in range(30):
        trust = fit_trust(many(40, seed=seed, noise=0.4))
        for h in many(40, seed=1000 + seed, noise=0.4):
            low, high = trust.confidence(h.confidence.agreement).dice_intervals["a"]
            inside.append(low <= h.score.mean_dice <= high)
    assert 0.87 <= np.mean(inside) <= 0.94


def test_labels_are_counted_in_the_whole_dataset(tmp_path):
    cases = [held(i, h.confidence.agreement.foreground, h.score.mean_dice) for i, h in enumerate(many(20))]
    run, folds = recorded(tmp_path, cases)
    before = measure_trust(run, folds).labels["a"].missing
    without = tuple(case.model_copy(update={"voxels": {"a": 0}}) for case in run.fingerprint.cases[20:])
    run.fingerprint = run.fingerprint.model_copy(update={"cases": (*run.fingerprint.cases[:20], *without)})
    assert measure_trust(run, folds).labels["a"].missing > before
