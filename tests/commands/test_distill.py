"""One network from a run whose fold 0 is trained: from the cases that this fold holds out, to a model like any other."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from plan_examples import small_plan
from warm import hashes, nnseg

from nnseg.commands.export import read_card
from nnseg.core.labels import Labels
from nnseg.core.scan_ranges import find_ranges, measure_scan
from nnseg.core.trust import Trust
from nnseg.crossval.predict import load_fold
from nnseg.inference.predict import Predictor
from nnseg.network.load import load_model
from nnseg.storage.cases import CaseStore
from nnseg.storage.images.read import read_label_map, read_scan
from nnseg.storage.plan_folder import read_plan, write_plan
from nnseg.storage.run import Run

OPTIONS = ("--device", "cpu", "--workers", 1)


@pytest.fixture(scope="module")
def distilled(ball_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with its distilled network; not to be changed, copy it."""
    path = Path(shutil.copytree(ball_run, tmp_path_factory.mktemp("distilled") / "run"))
    said = nnseg("distill", path, *OPTIONS)
    names = sorted(set(Run(path).cases) - set(Run(path).folds[0].held_out))
    assert f"no trained fold holds out cases {', '.join(names)}: left out here" in said.stderr
    assert f"next: nnseg predict SCANS OUT --model {path / 'distilled' / 'model.nnseg'}" in said.stdout
    return Run(path)


@pytest.fixture
def copied(distilled: Run, tmp_path: Path) -> Run:
    return Run(Path(shutil.copytree(distilled.path, tmp_path / "run")))


def test_the_result_is_a_model_of_one_network(distilled: Run, ball_dataset: Path, tmp_path: Path):
    file = distilled.path / "distilled" / "model.nnseg"
    model = load_model(file)
    assert [(member.fold, member.plan.name) for member in model.members] == [(5, "3d")]
    assert model.trust is None  # too few cases were held out
    card = read_card(file)
    assert "learned from probabilities of the networks of the folds. No case was held out from it" in card
    assert "of only 1 of 5 folds" not in card
    assert "was trained for 12 steps" in card
    nnseg("predict", ball_dataset / "imagesTr" / "ball_00.nii.gz", tmp_path / "out", "--model", file, "--device", "cpu")
    assert read_label_map(tmp_path / "out" / "ball_00.nii.gz").labels.shape == (12, 20, 16)


def test_it_learns_from_the_probabilities_of_the_network_that_was_not_trained_on_the_case(distilled: Run, ball_dataset: Path):
    folder, store = distilled.plan_folder("3d"), CaseStore(distilled.path / "distilled" / "cases")
    assert store.names() == tuple(sorted(distilled.folds[0].held_out))
    predictor = Predictor(load_fold(distilled, folder, 0), device="cpu")
    for name in store.names():
        scan = read_scan(ball_dataset / "imagesTr" / f"{name}.nii.gz")
        expected = predictor.infer(predictor.prepare(scan), probabilities=True).probabilities
        levels = store.read(name).image[...]
        assert levels.shape == (1, *expected.shape[1:])  # the network's grid is the scan's: nothing is cropped or resampled
        turned = expected[1].transpose(folder.plan.preprocessing.axes)
        assert np.abs(levels[0] / 255 - turned).max() < 0.5 / 255 + 2e-3


def test_the_same_command_again_changes_no_file(copied: Run):
    before = {name: found for name, found in hashes(copied.path).items() if name not in ("run.json", "manifest.jsonl")}
    nnseg("distill", copied.path, *OPTIONS)
    assert {name: found for name, found in hashes(copied.path).items() if name in before} == before
    assert not list(copied.path.glob("distilled/replaced_*"))


def test_repeated_it_gives_the_same_probabilities_and_the_same_network(copied: Run, distilled: Run):
    shutil.rmtree(copied.path / "distilled" / "fold_5")
    damaged = copied.path / "distilled" / "cases" / f"{copied.folds[0].held_out[0]}.case"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 255
    damaged.write_bytes(content)
    nnseg("distill", copied.path, *OPTIONS)
    cases, model = (("distilled", "cases"), ("distilled", "model.nnseg"))
    assert hashes(copied.path.joinpath(*cases)) == hashes(distilled.path.joinpath(*cases))
    assert load_model(copied.path.joinpath(*model)).key() == load_model(distilled.path.joinpath(*model)).key()


def test_an_edited_plan_is_kept_and_trained_anew(copied: Run):
    file = copied.path / "distilled" / "plan.toml"
    plan = read_plan(file)
    write_plan(file, plan.model_copy(update={"training": plan.training.model_copy(update={"distillation": 0.0, "steps": 4})}))
    said = nnseg("distill", copied.path, *OPTIONS).stderr
    assert f"{file} was edited by hand and is kept" in said
    assert (copied.path / "distilled" / "replaced_1_fold_5").is_dir()
    assert json.loads((copied.path / "distilled/fold_5/history.jsonl").read_text().splitlines()[-1])["step"] == 4
    labels = plan.labels.model_copy(update={"values": (0, 7)})
    write_plan(file, plan.model_copy(update={"labels": labels}))
    assert "differ from those of the run's plan" in nnseg("distill", copied.path, *OPTIONS, check=2).stderr


def test_a_small_network_learns_from_the_same_probabilities(copied: Run):
    file = copied.path / "distilled" / "cases" / f"{copied.folds[0].held_out[0]}.case"
    before = file.stat().st_mtime_ns
    nnseg("distill", copied.path, "--small", "--steps", 2, *OPTIONS)
    small, own = (read_plan(copied.path / name / "plan.toml") for name in ("distilled_small", "distilled"))
    assert max(small.network.features) == 8 < max(own.network.features)
    assert load_model(copied.path / "distilled_small" / "model.nnseg").members[0].plan.network == small.network
    assert file.stat().st_mtime_ns == before
    assert not (copied.path / "distilled_small" / "cases").exists()


def test_a_run_without_a_trained_fold_is_refused(ball_run: Path, tmp_path: Path):
    path = Path(shutil.copytree(ball_run, tmp_path / "run"))
    assert "has no plan 2d; choose one of 3d" in nnseg("distill", path, "--plan", "2d", check=2).stderr
    shutil.rmtree(path / "fold_0")
    said = nnseg("distill", path, *OPTIONS, check=2).stderr
    assert f"no fold of 3d that holds out cases is trained; train all first: nnseg train {path}" in said


def test_a_cascade_is_refused(ball_run: Path, tmp_path: Path):
    run = Run(Path(shutil.copytree(ball_run, tmp_path / "run")))
    plan = small_plan(Labels(names=("background", "ball"), values=(0, 1)))
    for name, previous in (("3d_lowres", None), ("3d_cascade", "3d_lowres")):
        write_plan(run.path / name / "plan.toml", plan.model_copy(update={"name": name, "previous": previous}))
    (run.path / "plan.toml").unlink()
    said = nnseg("distill", run.path, *OPTIONS, check=2).stderr
    assert "3d_cascade takes the predictions of 3d_lowres as input, so that no single network can replace both" in said


def test_of_the_calibration_only_what_is_known_of_the_training_scans_is_taken_over(copied: Run, ball_dataset: Path):
    scan = read_scan(ball_dataset / "imagesTr" / "ball_00.nii.gz")
    ranges = find_ranges([measure_scan(scan.grid, scan.image, scan.image)] * 5, copied.plan_folder("3d").plan.channels)
    copied.trust = Trust(cases=9, temperature=2.0, threshold=0.5, ranges=ranges)
    nnseg("distill", copied.path, *OPTIONS)
    file = copied.path / "distilled" / "model.nnseg"
    assert load_model(file).trust == Trust(ranges=ranges)
    assert "Its probabilities are not calibrated." in read_card(file)
