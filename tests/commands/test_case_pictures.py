"""Which cases of a run its report shows, and where their maps of uncertainty come from."""

import errno
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from test_report import PLAN
from warm import nnseg

from nnseg.commands import case_pictures
from nnseg.commands.case_pictures import pack_viewer_cases
from nnseg.commands.patch_pictures import MOST_PATCHES, draw_patches
from nnseg.core.dataset import Dataset, Fold
from nnseg.core.errors import ModelError, ScanError
from nnseg.core.image import LabelMap
from nnseg.core.scores import Scores
from nnseg.core.trust import Agreement, Trust
from nnseg.crossval.score import score
from nnseg.crossval.trust import cross_validate_expected_dice, join_scores
from nnseg.storage.datasets.read import read_dataset
from nnseg.storage.files import file_hash, write_json
from nnseg.storage.images.read import read_label_map, read_scan
from nnseg.storage.images.write import write_label_files
from nnseg.storage.plan_folder import write_plan
from nnseg.storage.predictions import RECORD, Predictions, ScanRecord
from nnseg.storage.run import Run

SECONDS = 25.0


@pytest.fixture(scope="module")
def dataset(ball_dataset: Path) -> Dataset:
    return read_dataset(ball_dataset, workers=1)


@pytest.fixture
def run(tmp_path: Path, dataset: Dataset) -> Run:
    """Six held-out cases in two folds; the later one, the further its prediction lies beside, and the less was it trusted."""
    run, names = Run(tmp_path / "run"), [case.name for case in dataset.cases]
    folds = (Fold(training=tuple(names[3:]), held_out=tuple(names[:3])), Fold(training=tuple(names[:3]), held_out=tuple(names[3:])))
    run.dataset = dataset
    write_plan(run.path / "plan.toml", PLAN.model_copy(update={"labels": dataset.labels}))
    write_json(run.path / "folds.json", folds)
    for number, fold in enumerate(folds):
        written = {name: _predict(run, dataset, name, number, names.index(name)) for name in fold.held_out}
        write_json(run.fold(number).predictions / RECORD, Predictions(cases=written))
    return run


def _predict(run: Run, dataset: Dataset, name: str, fold: int, shift: int) -> ScanRecord:
    case = next(c for c in dataset.cases if c.name == name)
    scan, reference = read_scan(case.images), read_label_map(case.labels)
    answer = LabelMap(labels=np.roll(reference.labels, shift, axis=2), grid=reference.grid)
    folder = run.fold(fold).predictions
    folder.mkdir(parents=True, exist_ok=True)
    (file,) = write_label_files(answer, folder, name, like=scan.source, labels=dataset.labels, suffix=None)
    share = 0.95 - 0.05 * shift
    agreement = Agreement(labels={"ball": share}, foreground=share, voxels={"ball": 300.0})
    return ScanRecord(
        status="done",
        file=file.name,
        hash=file_hash(file),
        key=name,
        seconds={"network": SECONDS},
        confidence=Trust().confidence(agreement),
    )


@pytest.fixture
def mapped_folds(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The folds whose networks computed a map; a stand-in for networks."""
    calls = []

    def predictor(folds: tuple[int, ...], **_: object) -> SimpleNamespace:
        def infer(scan: object, **_: object) -> SimpleNamespace:
            calls.append(folds)
            return SimpleNamespace(uncertainty=np.full(scan.grid.shape, 0.25, np.float32))

        return SimpleNamespace(prepare=lambda scan: scan, infer=infer)

    monkeypatch.setattr(case_pictures, "load_model", lambda path, folds: folds)
    monkeypatch.setattr(case_pictures, "Predictor", predictor)
    return calls


def scored(run: Run) -> Scores:
    found = score(run, run.folds)
    assert found is not None
    return found


def test_typical_cases_come_first_and_then_the_flagged_ones(run, dataset, mapped_folds):
    scores = scored(run)
    qualities = sorted(cross_validate_expected_dice(join_scores(run.predictions(), run.require_scores().cases, run.folds)))
    trust = Trust(cases=6, threshold=(qualities[1] + qualities[2]) / 2)
    cases = pack_viewer_cases(run, scores, trust)
    words = {c.name: c.caption.split(",")[0] for c in cases}
    assert [*words][:3] == ["ball_00", "ball_03", "ball_05"]
    assert words["ball_00"] == "best"
    assert sum("flagged" in word for word in words.values()) == 2
    assert all("expected)" in c.caption for c in cases if "flagged" in c.caption)
    assert cases[0].caption == "best, mean Dice 1.000"


def test_maps_are_computed_by_networks_not_trained_on_the_case_and_kept(run, dataset, mapped_folds):
    scores = scored(run)
    cases = pack_viewer_cases(run, scores, None, most_seconds=1000)
    assert mapped_folds == [(0,), (1,), (1,)]  # of ball_00, ball_03 and ball_05
    assert all("uncertainty" in c.volumes for c in cases)
    assert {p.name for p in (run.path / "shown").iterdir()} >= {"ball_00_uncertainty.nii.gz", "ball_05_uncertainty.nii.gz"}
    again = pack_viewer_cases(run, scores, None, most_seconds=0)
    assert len(mapped_folds) == 3
    assert [c.volumes for c in again] == [c.volumes for c in cases]
    pack_viewer_cases(run, scores, Trust(temperature=2.0), most_seconds=1000)  # another temperature, another map
    assert len(mapped_folds) == 6


def test_maps_that_would_take_too_long_are_left_out_with_a_note(run, dataset, mapped_folds):
    cases = pack_viewer_cases(run, scored(run), None, most_seconds=2.5 * SECONDS)
    assert ["uncertainty" in c.volumes for c in cases] == [True, True, False]
    assert cases[2].notes == ("No map of uncertainty: it would take about 25 s.",)
    assert cases[1].notes == ()


def test_without_networks_there_is_no_map_and_without_a_label_map_no_case(run, dataset, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise ModelError("gone")

    scores = scored(run)
    monkeypatch.setattr(case_pictures, "load_model", refuse)
    (run.fold(0).predictions / "ball_00.nii.gz").unlink()
    cases = pack_viewer_cases(run, scores, None)
    assert [c.name for c in cases] == ["ball_03", "ball_05"]
    assert cases[0].notes == ("No map of uncertainty: it could not be computed.",)


def test_a_map_that_cannot_be_computed_for_a_fault_of_the_disk_ends_the_report(run, dataset, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise ModelError("model.nnseg: No space left on device") from OSError(errno.ENOSPC, "No space left on device")

    scores = scored(run)
    monkeypatch.setattr(case_pictures, "load_model", fail)
    with pytest.raises(ModelError, match="No space left"):
        pack_viewer_cases(run, scores, None)


def test_training_patches_are_drawn_with_their_labels_the_same_each_time(ball_run):
    run = Run(ball_run)
    pictures = draw_patches(run)
    assert len(pictures) == min(MOST_PATCHES, run.plans[0].plan.training.batch_size)
    assert any("<title>ball</title>" in picture.svg for picture in pictures)
    assert pictures == draw_patches(run)
    assert 'class="views patches"' in run.report_file.read_text()


def test_without_preprocessed_cases_there_are_no_training_patches(ball_run, tmp_path):
    shutil.copytree(ball_run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "cases")
    assert draw_patches(Run(tmp_path / "run")) == []


def test_preprocessed_cases_that_the_disk_does_not_give_are_no_missing_ones(ball_run, tmp_path):
    run = Run(Path(shutil.copytree(ball_run, tmp_path / "run")))
    case = run.path / "cases" / f"{run.folds[0].training[0]}.case"
    case.unlink()
    case.symlink_to("x" * 300)  # which no disk can look up
    with pytest.raises(ScanError, match="File name too long"):
        draw_patches(run)


def test_a_picture_of_no_case_is_refused(ball_run: Path, tmp_path: Path):
    run = Path(shutil.copytree(ball_run, tmp_path / "run"))
    for file in (run / "fold_0" / "predictions").glob("*.nii.gz"):
        file.unlink()
    done = nnseg("report", run, "--picture", tmp_path / "new.png", check=2)
    assert "new.png is not written: none of the cases to show can be read as it was scored" in done.stderr
    assert not (tmp_path / "new.png").exists()
