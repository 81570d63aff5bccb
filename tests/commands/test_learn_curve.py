"""Trainings on parts of the cases of a run, and what they say of more cases."""

import json
import shutil
from pathlib import Path

import pytest
from ball_dataset import write_balls
from warm import fold_options, hashes, nnseg

from nnseg.commands.learn_curve import divide_cases
from nnseg.core.errors import RunError
from nnseg.storage.run import Run

OPTIONS = ("--device", "cpu", "--workers", 1)


@pytest.fixture(scope="module")
def measured(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of twelve balls with its learning curve; not to be changed, copy it."""
    folder = tmp_path_factory.mktemp("curve")
    path = folder / "run"
    nnseg("run", write_balls(folder / "balls", cases=12), path, *fold_options(tiny_recipe))
    predicted = {file: file.stat().st_mtime_ns for file in path.glob("fold_0/predictions/*.nii.gz")}
    said = nnseg("learn-curve", path, *OPTIONS, "--cases", 5)
    assert "5 more cases are expected to add 0." in said.stdout
    assert [line.split()[0] for line in said.stdout.splitlines()[1:4]] == ["2", "4", "9"]
    assert {file: file.stat().st_mtime_ns for file in path.glob("fold_0/predictions/*.nii.gz")} == predicted != {}
    return Run(path)


def test_the_points_are_trainings_on_parts_that_hold_one_another(measured: Run):
    found = measured.learning_curve
    assert (found.plan, found.fold, found.steps, found.held_out) == ("3d", 0, 12, len(measured.folds[0].held_out))
    assert [one.cases for one in found.points] == [2, 4, 9]
    assert [one.cases for one in found.gains] == [5]
    own = [case.mean_dice for case in measured.scores.cases if case.name in measured.folds[0].held_out]
    assert found.points[-1].dice == pytest.approx(sum(own) / len(own), abs=1e-6)  # the largest training is the run's own
    assert not (measured.path / "learning_curve/9").exists()  # nor are its cases predicted again


def test_the_same_command_again_trains_nothing(measured: Run, tmp_path: Path):
    path = Path(shutil.copytree(measured.path, tmp_path / "run"))
    before = {name: found for name, found in hashes(path / "learning_curve").items() if not name.endswith("predictions.json")}
    printed = json.loads(nnseg("learn-curve", path, *OPTIONS, "--cases", 5, "--json").stdout)["result"]["learning_curve"]
    assert {name: found for name, found in hashes(path / "learning_curve").items() if name in before} == before
    assert printed == measured.learning_curve.model_dump(mode="json")


def test_another_length_trains_all_parts(measured: Run, tmp_path: Path):
    path = Path(shutil.copytree(measured.path, tmp_path / "run"))
    nnseg("learn-curve", path, *OPTIONS, "--steps", 2)
    found = Run(path).learning_curve
    assert found.steps == 2
    assert [one.cases for one in found.gains] == [9, 50]
    assert (path / "learning_curve/9/fold_0/model.nnseg").exists()
    assert nnseg("verify", path).returncode == 0


def test_the_report_shows_it(measured: Run, tmp_path: Path):
    path = Path(shutil.copytree(measured.path, tmp_path / "run"))
    nnseg("report", path)
    assert "What more training cases would bring" in (path / "report.html").read_text()


def test_runs_without_enough_cases_or_a_trained_fold_are_refused(ball_run: Path, measured: Run, tmp_path: Path):
    path = Path(shutil.copytree(ball_run, tmp_path / "run"))
    said = nnseg("learn-curve", path, *OPTIONS, check=2).stderr
    assert "a fold trains on 4 cases, and its parts need 8 or more; add cases" in said
    shutil.rmtree(path / "fold_0")
    assert "no fold of 3d that holds out cases is trained" in nnseg("learn-curve", path, *OPTIONS, check=2).stderr


def test_cases_of_a_patient_stay_together_as_far_as_they_fit():
    names = [f"p{n}_{part}" for n in range(8) for part in "ab"]
    quarter, half, whole = divide_cases(names, {name: name[:2] for name in names})
    assert set(quarter) < set(half) < set(whole) == set(names)
    assert [len({name[:2] for name in part}) for part in (quarter, half, whole)] == [2, 4, 8]


def test_few_cases_are_not_divided():
    with pytest.raises(RunError, match="trains on 7 cases, and its parts need 8 or more"):
        divide_cases([f"c{n}" for n in range(7)], {})
