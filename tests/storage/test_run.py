"""Tests of the facts and the record of a run."""

import time
from pathlib import Path

import numpy as np
import pytest

from nnseg.core.dataset import Fold
from nnseg.core.decisions import Choice
from nnseg.core.errors import RunError
from nnseg.core.fingerprint import CaseMeasure, Fingerprint
from nnseg.core.labels import Labels
from nnseg.storage.files import write_text
from nnseg.storage.run import Run


def test_one_plan_lies_at_the_top_and_several_in_folders(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with pytest.raises(RunError, match="nnseg plan"):
        _ = run.plans
    for name in ("2d", "3d"):
        write_text(tmp_path / name / "plan.toml", "")
    assert [folder.path.name for folder in run.plans] == ["2d", "3d"]
    write_text(tmp_path / "plan.toml", "")
    assert [folder.path for folder in run.plans] == [tmp_path]


def test_what_is_assigned_to_a_run_is_in_its_files_and_is_read_afterwards(tmp_path: Path) -> None:
    run, folds = Run(tmp_path), {0: Fold(training=("a",), held_out=("b",)), 1: Fold(training=("b",), held_out=("a",))}
    run.folds = folds
    assert run.folds == Run(tmp_path).folds == folds
    assert run.fold_of == {"b": 0, "a": 1}
    assert run.choice is None
    run.choice = Choice(plans={"2d": 1.0})
    assert run.choice == Run(tmp_path).choice == Choice(plans={"2d": 1.0})
    run.remove_decisions()
    assert run.choice is None
    assert not (tmp_path / "choice.json").exists()


def test_a_file_is_read_once_until_it_is_edited(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.choice = Choice(plans={"2d": 1.0})
    assert run.choice is run.choice
    write_text(tmp_path / "choice.json", Choice(plans={"3d": 2.0}).model_dump_json())
    assert run.choice == Choice(plans={"3d": 2.0})


def test_a_missing_and_a_damaged_file_are_named(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with pytest.raises(RunError, match=r"dataset\.json is missing"):
        _ = run.dataset
    write_text(tmp_path / "scores.json", "{}")
    with pytest.raises(RunError, match=r"scores\.json is damaged"):
        _ = run.scores


def test_a_file_in_place_of_a_run_folder_holds_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path / "file")
    run.path.write_text("")
    assert run.record == {}
    assert run.choice is None
    with pytest.raises(RunError, match=r"dataset\.json is missing"):
        _ = run.dataset


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_a_stage_is_recorded_with_its_time_and_its_own_peak(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with run.timed("first"):
        block = np.ones(150_000_000, np.uint8)
        time.sleep(0.5)
        del block
    with run.timed("second"):
        time.sleep(0.01)
    record = run.record
    assert record["seconds"]["first"] >= 0.5  # it slept as long
    assert record["seconds"]["second"] >= 0.01
    assert record["peak_gb"]["first"] - record["peak_gb"]["second"] == pytest.approx(0.15, abs=0.03)


def test_a_resumed_stage_that_finds_its_work_done_keeps_both_figures(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with run.timed("train"):
        time.sleep(0.05)
    before = run.record
    with run.timed("train"):
        pass
    assert {**run.record, "finished": ""} == {**before, "finished": ""}  # a clock's second may turn


def test_the_fingerprint_of_the_folds_leaves_out_cases_in_no_fold(tmp_path: Path) -> None:
    run, ones = Run(tmp_path), (1.0, 1.0, 1.0)
    cases = tuple(
        CaseMeasure(name=name, key=name, shape=(1, 1, 1), spacing=ones, cropped_shape=(1, 1, 1), voxels={}) for name in "abc"
    )
    labels = Labels(names=("background", "organ"), values=(0, 1))
    run.fingerprint = Fingerprint(dataset="d", layout="", channels=("CT",), labels=labels, cases=cases, intensities=())
    assert run.fingerprint_of_folds == run.fingerprint
    run.folds = {0: Fold(training=("a",), held_out=("c",))}
    assert [case.name for case in run.fingerprint_of_folds.cases] == ["a", "c"]


def test_a_record_beyond_the_size_of_records_is_a_damaged_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "run.json").write_text('{"versions": {}, "a": [' + "[]," * 100_000 + "[]]}")
    assert Run(tmp_path).record == {}
    assert "run.json is damaged and made anew" in caplog.text
