"""``nnseg cutoffs``: from scores of a run to its model, the answers of predictions, flags of sheets, and the report."""

import json
import shutil
from pathlib import Path

import pytest
from standin import StandIn, StandInModel, write_scan
from warm import nnseg

from nnseg.commands.cutoffs import find_cutoff
from nnseg.commands.report import gather_report_content
from nnseg.core.cutoffs import CutOffs, Question
from nnseg.core.dataset import Case
from nnseg.core.errors import RunError
from nnseg.core.scores import LabelScore
from nnseg.crossval.predict import PredictionJob, predict_cases
from nnseg.evaluation.averages import averages
from nnseg.evaluation.cutoffs import choose_cutoff
from nnseg.network.bundle import load_model_file, save_model
from nnseg.network.load import load_model, with_thresholds
from nnseg.reporting.report import render_report
from nnseg.storage.run import Run
from nnseg.volumetry.report import report_predictions


def with_volumes(run: Run, of_label: str) -> None:
    """Give a run scores of ten cases, with five volumes of 0 and five of 2 ml, predicted as 0.2 and 1 ml."""
    scores, (like, *_) = run.scores, run.scores.cases
    blank = LabelScore(tp=1, fp=0, fn=0, tn=1, dice=1.0, iou=1.0)
    masks = [blank.model_copy(update={"volume_ml": ml, "reference_ml": true}) for ml, true in 5 * [(0.2, 0.0), (1.0, 2.0)]]
    cases = tuple(like.model_copy(update={"name": f"c{n}", "labels": {of_label: mask}}) for n, mask in enumerate(masks))
    run.scores = scores.model_copy(update={"cases": cases, "averages": averages(cases, scores.labels, scores.metrics)})


@pytest.fixture
def run(ball_run: Path, tmp_path: Path) -> Run:
    made = Run(Path(shutil.copytree(ball_run, tmp_path / "run")))
    with_volumes(made, "ball")
    return made


def test_a_cut_off_is_part_of_the_model_and_of_the_report_while_the_scores_are_the_same(run: Run, tmp_path: Path):
    assert load_model(run.path).cutoffs is None
    before = load_model(run.path).key()
    printed = nnseg("cutoffs", run.path, "--label", "ball", "--json")
    assert json.loads(printed.stdout)["result"]["cutoff"]["cutoff_ml"] == pytest.approx(0.6)
    (found,) = run.cutoffs.cutoffs
    assert found.cutoff_ml == pytest.approx(0.6)
    model = load_model(run.path)
    assert model.cutoffs == run.cutoffs
    assert model.key() != before
    assert with_thresholds(model, {"ball": 0.3}).cutoffs is None  # the cut-off is not of these label maps
    save_model(model, tmp_path / "model.nnseg")
    assert load_model_file(tmp_path / "model.nnseg").cutoffs == run.cutoffs
    page = render_report(gather_report_content(run, live=True))
    assert "Yes above 0.6 ml predicted: sensitivity 1.000 (0.566 to 1.000)" in page
    assert "Net benefit of ball present" in page
    run.scores = run.scores.model_copy(update={"cases": run.scores.cases[:-1]})
    assert load_model(run.path).cutoffs is None
    assert "ball present" not in render_report(gather_report_content(run, live=True))
    with pytest.raises(RunError, match=r"scores\.json is missing"):
        shutil.copytree(run.path, tmp_path / "unscored", ignore=lambda *_: ["scores.json"])
        find_cutoff(Run(tmp_path / "unscored"), Question(label="ball"))


def test_predictions_have_answers_and_sheets_flag_those_that_are_yes(run: Run, tmp_path: Path):
    predictor = StandIn()
    label = predictor.model.labels.foreground[0]
    scores = run.scores
    cases = tuple(one.model_copy(update={"labels": {label: one.labels["ball"]}}) for one in scores.cases)
    scores = scores.model_copy(update={"labels": (label,), "cases": cases, "averages": averages(cases, [label], scores.metrics)})
    chosen = choose_cutoff(scores, Question(label=label)).model_copy(update={"cutoff_ml": 0.1})
    predictor.model = StandInModel()
    predictor.model.cutoffs = CutOffs(cutoffs=(chosen,))
    scans = [Case(name=n, images=(write_scan(tmp_path / "scans" / f"{n}.nii.gz", slices),)) for n, slices in (("a", 2), ("b", 9))]
    records = predict_cases(PredictionJob(cases=tuple(scans), out=tmp_path / "out", key="k"), predictor)
    (of_a,), (of_b,) = records["a"].answers, records["b"].answers
    assert (of_a.question, of_a.yes, of_b.yes) == (f"{label} present", False, True)
    small, large = report_predictions(tmp_path / "out").cases
    assert large.labels[label].ml == pytest.approx(of_b.ml)
    assert not any("present" in flag for flag in small.flags)
    assert any(flag.startswith(f"{label} present (yes above 0.1 ml predicted: sensitivity 1.00") for flag in large.flags)
