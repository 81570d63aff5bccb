"""Networks of a run beside one another: one of every case, for a final submission; and scores of the network that there is."""

import shutil
from pathlib import Path

import numpy as np
from warm import fold_options, nnseg

from nnseg.commands.export import read_card
from nnseg.network.load import load_model
from nnseg.storage.images.read import read_label_map
from nnseg.storage.run import Run


def test_a_network_of_every_case_is_trained_beside_the_folds(ball_run: Path, ball_dataset: Path, tiny_recipe: Path, tmp_path: Path):
    path = Path(shutil.copytree(ball_run, tmp_path / "run"))
    run, before = Run(path), (ball_run / "fold_0" / "model.nnseg").read_bytes()
    nnseg("run", ball_dataset, path, *fold_options(tiny_recipe), "--folds", "0,5", "--every-case")
    assert run.folds[5].training == tuple(sorted(run.cases))
    assert run.folds[5].held_out == ()
    assert (path / "fold_0" / "model.nnseg").read_bytes() == before
    assert [member.fold for member in load_model(path).members] == [0, 5]
    assert {case.name for case in run.scores.cases} == set(run.folds[0].held_out)
    assert "Its network of fold 5 was trained on every case, and no score of it exists." in read_card(run.model_file)

    scan = ball_dataset / "imagesTr" / "ball_00.nii.gz"
    nnseg("predict", scan, tmp_path / "out", "--model", path, "--folds", 5, "--device", "cpu")
    assert np.any(read_label_map(tmp_path / "out" / "ball_00.nii.gz").labels)


def test_scores_are_removed_with_the_network_that_they_are_of(
    ball_run: Path, ball_dataset: Path, tiny_recipe: Path, tmp_path: Path
):
    run = Run(Path(shutil.copytree(ball_run, tmp_path / "run")))
    nnseg("train", run.path, "--folds", 0, "--device", "cpu")
    assert run.scores  # nothing was left to train
    nnseg("train", run.path, "--folds", 1, "--device", "cpu")
    assert run.scores  # fold 0 is as it was
    nnseg("train", run.path, "--folds", 0, "--more", "1s", "--device", "cpu")
    assert run.scores is None
    assert run.continued == {"3d fold 0": 1.0}
    assert "(planned: 12 steps, then 0 to 1 s more)" in nnseg("card", run.path).stdout
    nnseg("run", ball_dataset, run.path, *fold_options(tiny_recipe))
    assert {case.name for case in run.scores.cases} >= set(run.folds[0].held_out)
