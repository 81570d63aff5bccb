"""Tests of the report of a run in every state, above all in the middle of a training."""

import logging
from pathlib import Path

import pytest
from plan_examples import small_plan

from nnseg.commands.report import report, report_quietly
from nnseg.core.dataset import Case, Dataset
from nnseg.core.errors import RunError
from nnseg.core.fingerprint import CaseMeasure, Fingerprint
from nnseg.core.labels import Labels
from nnseg.core.schedule import Epoch
from nnseg.core.scores import Counts
from nnseg.evaluation.evaluate import case_score, summarize
from nnseg.planning.folds import make_folds
from nnseg.storage.files import write_json
from nnseg.storage.plan_folder import write_plan
from nnseg.storage.run import Run

LABELS = Labels(names=("background", "organ"), values=(0, 1))
NAMES = tuple(f"case_{n}" for n in range(10))
PLAN = small_plan(LABELS)


def _epochs(count: int, *, steps: int = 250_000) -> list[Epoch]:
    return [
        Epoch(
            number=n,
            step=250 * n,
            steps=steps,
            loss=1 / n,
            learning_rate=0.01,
            dice={"organ": 0.5},
            seconds=60,
            total_seconds=60 * n,
        )
        for n in range(1, count + 1)
    ]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run that has been planned, of scans that are not there to be read."""
    run, images = Run(tmp_path / "run"), tmp_path / "gone"
    cases = tuple(Case(name=name, images=(images / f"{name}.nii.gz",), labels=images / f"{name}_labels.nii.gz") for name in NAMES)
    measures = tuple(
        CaseMeasure(name=n, key=n, shape=(9, 9, 9), spacing=(1.0, 1.0, 1.0), cropped_shape=(9, 9, 9), voxels={}) for n in NAMES
    )
    dataset = Dataset(name="d", folder=images, layout="", cases=cases, channels=("CT",), labels=LABELS, suffix=".nii.gz")
    run.dataset = dataset
    write_json(
        (run.path / "fingerprint.json"),
        Fingerprint(dataset="d", layout="", channels=("CT",), labels=LABELS, cases=measures, intensities=()),
    )
    run.folds = dict(enumerate(make_folds(NAMES)))
    write_plan(run.path / "plan.toml", PLAN)
    run.update_record(seconds={"plan": 1.0})
    return run


def test_a_run_is_reported_before_and_during_its_first_training(run: Run) -> None:
    report(run, live=True)
    assert "Training loss" not in run.report_file.read_text()
    place = run.fold(0)
    place.write_history(_epochs(3))
    with place.history_file.open("a") as file:
        file.write('{"number": 4, "st')  # as a kill may leave it
    report(run, live=True)
    page = run.report_file.read_text()
    assert "Training: 3d fold 0, step 750 of 250,000, 16 h 37 min left" in page
    assert 'http-equiv="refresh"' in page
    report(run)
    assert 'http-equiv="refresh"' not in run.report_file.read_text()


def test_scores_of_earlier_trainings_stay_on_a_live_page_without_looking_at_scans(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = summarize([case_score(n, {"organ": Counts(tp=9, fp=1, fn=1, tn=50)}) for n in NAMES[:2]], LABELS)
    run.scores = scores
    monkeypatch.setattr("nnseg.commands.report.pack_viewer_cases", lambda *_: pytest.fail("scans are large"))
    report(run, live=True)
    assert "The scores below are of trainings that had ended before." in run.report_file.read_text()


def test_five_folds_of_a_thousand_epochs_make_a_page_that_loads_at_once(run: Run) -> None:
    for number in range(5):
        run.fold(number).write_history(_epochs(1000))
    report(run, live=True)
    assert run.report_file.stat().st_size < 500_000


def test_a_report_that_fails_costs_the_training_nothing_and_warns_once(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    (run.path / "fingerprint.json").unlink()
    with pytest.raises(RunError):
        report(run, live=True)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            report_quietly(run)
    assert [r.getMessage().split(":")[0] for r in caplog.records] == [f"the report of {run.path} cannot be kept up to date"]
