"""Weights from scans without labels: learned, resumed, and taken by a run."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nnseg.commands.measure import measure_dataset
from nnseg.commands.plan import plan
from nnseg.commands.pretrain import WEIGHTS, pretrain
from nnseg.commands.train import train
from nnseg.core.errors import DatasetError
from nnseg.core.options import Options
from nnseg.core.schedule import Schedule
from nnseg.crossval.predict import predict_with_plans
from nnseg.storage.plan_folder import PlanFolder
from nnseg.storage.run import Run


@pytest.fixture
def options(tiny_recipe: Path) -> Options:
    return Options(recipe=str(tiny_recipe), probe=False, device="cpu", workers=1, steps=8, deterministic=True, checkpoint=0.0)


@pytest.fixture
def planned(tmp_path: Path, ball_dataset: Path, options: Options) -> Run:
    run = Run(tmp_path / "planned")
    measure_dataset(run, ball_dataset, 1)
    plan(run, options)
    return run


@pytest.mark.slow
def test_pretrained_weights_start_a_run_and_an_ended_training_goes_on(
    tmp_path: Path, ball_dataset: Path, planned: Run, options: Options
) -> None:
    scans = tmp_path / "scans"
    shutil.copytree(ball_dataset / "imagesTr", scans)
    (scans / "broken.nii.gz").write_bytes(b"no scan")
    made = pretrain(scans, tmp_path / "out", options, plan=planned.path)
    assert (made.scans, made.steps, [problem.case for problem in made.problems]) == (6, 8, ["broken"])
    weights = load_file(tmp_path / "out" / WEIGHTS)
    same = pretrain(scans, tmp_path / "out", options, plan=planned.plans[0].plan_file)
    assert (same.steps, same.loss) == (made.steps, made.loss)
    fold = PlanFolder(tmp_path / "out" / "training").fold(0)
    for file in (fold.model_file, fold.checkpoint_file):  # the last step is trained again, from the checkpoint before
        file.unlink()
    (left := fold.path / ".nnseg-00000000-1-00000000.half.safetensors").touch()  # by a process that was killed
    pretrain(scans, tmp_path / "out", options, plan=planned.path)
    assert all(torch.equal(value, weights[name]) for name, value in load_file(tmp_path / "out" / WEIGHTS).items())
    assert not left.exists()

    begun = Run(tmp_path / "begun")
    measure_dataset(begun, ball_dataset, 1)
    beginning = replace(options, init=tmp_path / "out", init_mode="low_rate", steps=1, folds=(0,))
    plan(begun, beginning)
    assert begun.plans[0].plan.key("network") == planned.plans[0].plan.key("network")
    assert begun.plans[0].plan.patch == planned.plans[0].plan.patch
    train(begun.path, beginning, predict=predict_with_plans)
    schedule = begun.plans[0].fold(0).schedule()
    assert isinstance(schedule, Schedule)
    assert schedule.origin
    assert schedule.origin.rate == 0.1


def test_scans_that_cannot_be_read_are_refused(tmp_path: Path, planned: Run, options: Options) -> None:
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "broken.nii.gz").write_bytes(b"no scan")
    with pytest.raises(DatasetError, match="no scan could be used"):
        pretrain(tmp_path / "scans", tmp_path / "out", options, plan=planned.path)
