"""A cascade from a folder of scans to scores: in the right order, honest about what it is shown, and whole when handed over."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nnseg import pipeline
from nnseg.commands.explain import ExplainOptions, explain_run
from nnseg.commands.export import export
from nnseg.commands.preprocess import preprocess_run, preprocessed_keys, previous_predictions
from nnseg.commands.probe import ProbeRequest
from nnseg.commands.probe_worker import measure_cases, measure_training
from nnseg.commands.train import check_cascades, train
from nnseg.core.dataset import Fold
from nnseg.core.errors import ModelError, RunError
from nnseg.core.options import Options
from nnseg.crossval.predict import predict_with_plans
from nnseg.inference.predict import Predictor
from nnseg.network.bundle import load_model_file
from nnseg.network.load import load_model, merge
from nnseg.storage.cases import CaseStore
from nnseg.storage.datasets.read import read_dataset
from nnseg.storage.files import write_json
from nnseg.storage.images.read import read_label_map, read_scan
from nnseg.storage.run import Run

RECIPE = """
based_on = "auto"
[training]
steps = 8
epoch_steps = 4
batch_size = 2
[on_cpu.planner]
base_features = 4
memory_gb = 0.003
[on_cpu.training]
epoch_steps = 4
"""
"""A patch so small that it sees too little of a ball."""

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Options:
    recipe = tmp_path_factory.mktemp("recipe") / "narrow.toml"
    recipe.write_text(RECIPE)
    return Options(recipe=str(recipe), kinds=("3d_cascade",), probe=False, device="cpu", workers=1)


@pytest.fixture(scope="module")
def dataset(ball_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three balls, and so three folds."""
    folder = tmp_path_factory.mktemp("cascade") / "balls"
    shutil.copytree(ball_dataset, folder)
    content = json.loads((folder / "dataset.json").read_text())
    content["training"] = content["training"][:3]
    (folder / "dataset.json").write_text(json.dumps(content | {"numTraining": 3}))
    return folder


@pytest.fixture(scope="module")
def finished(dataset: Path, options: Options, tmp_path_factory: pytest.TempPathFactory) -> Run:
    done = pipeline.run(dataset, tmp_path_factory.mktemp("cascade") / "run", options)
    assert not done.problems
    return done.run


@pytest.fixture
def copied(finished: Run, tmp_path: Path) -> Run:
    shutil.copytree(finished.path, tmp_path / "run")
    return Run(tmp_path / "run")


def held_out(run: Run, number: int) -> str:
    (name,) = run.folds[number].held_out
    return name


def label_map(path: Path) -> np.ndarray:
    return read_label_map(path).labels


def test_with_a_cascade_comes_the_plan_before_it(finished: Run):
    plans = {folder.plan.name: folder.plan for folder in finished.plans}
    assert list(plans) == ["3d_lowres", "3d_cascade"]
    assert plans["3d_lowres"].why["name"] == "3d_cascade needs its prediction"
    assert plans["3d_cascade"].why["name"] == "requested"
    assert [[f.plan.name for f in group] for group in finished.stages] == [["3d_lowres"], ["3d_cascade"]]
    assert [f.plan.name for f in finished.previous(finished.plans)] == ["3d_lowres"]


def test_the_cascades_answer_is_the_runs(finished: Run):
    assert list(finished.weights) == ["3d_cascade"]
    assert not (finished.path / "fold_0").exists()
    ours, cascades = (json.loads((folder / "scores.json").read_text()) for folder in (finished.path, finished.path / "3d_cascade"))
    assert ours == cascades
    assert len(ours["cases"]) == 3
    assert (finished.path / "3d_lowres" / "scores.json").exists()
    assert "ball_0" in finished.report_file.read_text()


def test_a_cascade_is_shown_what_a_network_said_that_had_not_seen_the_case(finished: Run):
    cascade = finished.plan_folder("3d_cascade")
    for number in range(3):
        name = held_out(finished, number)
        case = CaseStore(cascade.cases).read(name)
        said = label_map(finished.path / "3d_lowres" / f"fold_{number}" / "predictions" / f"{name}.nii.gz")
        assert case.image.shape == (2, *said.shape)  # the scan's own grid: nothing is cropped or resampled here
        assert np.array_equal(case.image[1], said.transpose(cascade.plan.preprocessing.axes))


def test_a_fold_is_scored_with_what_the_same_fold_of_the_plan_before_says(finished: Run, dataset: Path):
    name = held_out(finished, 1)
    scan = read_scan(dataset / "imagesTr" / f"{name}.nii.gz")
    model = load_model(finished.path, folds=(1,))
    assert ([m.fold for m in model.members], [m.fold for m in model.previous]) == ([1], [1])
    written = label_map(finished.path / "3d_cascade" / "fold_1" / "predictions" / f"{name}.nii.gz")
    assert np.array_equal(Predictor(model, device=CPU)(scan).label_map.labels, written)


def test_the_same_run_again_changes_no_file(finished: Run, dataset: Path, options: Options):
    kept = [
        p
        for p in finished.path.rglob("*")
        if p.suffix in {".safetensors", ".nnseg", ".toml", ".gz", ".case"} or p.name == "history.jsonl"
    ]
    before = {p: p.stat().st_mtime_ns for p in kept}
    assert len(before) > 20
    pipeline.run(dataset, finished.path, options)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    train(
        finished.path, replace(options, folds=(0,)), predict=predict_with_plans
    )  # all folds of the plan before are trained by now
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_a_runs_model_holds_both_stages(finished: Run, dataset: Path, tmp_path: Path):
    model = export(finished, tmp_path / "m.nnseg")
    assert {m.plan.name for m in model.members} == {"3d_cascade"}
    assert {m.plan.name for m in model.previous} == {"3d_lowres"}
    assert [m.fold for m in (*model.members, *model.previous)] == [0, 1, 2] * 2
    scan = read_scan(dataset / "imagesTr" / "ball_00.nii.gz")
    ours, theirs = (Predictor(m, device=CPU)(scan) for m in (model, load_model_file(tmp_path / "m.nnseg")))
    assert np.array_equal(ours.probabilities, theirs.probabilities)
    both = merge([load_model(finished.path, folds=(0,)), load_model(finished.path, folds=(1, 2))])
    assert both.key() == load_model(finished.path).key()


def test_what_a_cascade_predicts_is_explained(copied: Run):
    settings = ExplainOptions(method="occlusion", options=Options(device="cpu"))
    (explanation,) = explain_run(copied.path, settings, cases=1).explanations
    assert explanation.voxels > 0
    assert set(explanation.random) == {"half", "all"}


def test_a_folds_own_file_says_what_it_lacks(finished: Run):
    model = load_model_file(finished.path / "3d_cascade" / "fold_0" / "model.nnseg")
    with pytest.raises(ModelError, match="needs the label map of 3d_lowres, which this model lacks"):
        Predictor(model, device=CPU)


def test_another_answer_makes_another_case(copied: Run):
    folder = copied.plan_folder("3d_cascade")
    before, name = preprocessed_keys(copied, folder), held_out(copied, 2)
    record = copied.path / "3d_lowres" / "fold_2" / "predictions" / "predictions.json"
    content = json.loads(record.read_text())
    content["cases"][name]["hash"] = "another"
    record.write_text(json.dumps(content))
    after = preprocessed_keys(copied, folder)
    assert {n for n in before if before[n] != after[n]} == {name}
    lowres = copied.plan_folder("3d_lowres")
    assert len(set(preprocessed_keys(copied, lowres).values()) & set(after.values())) == 0


def test_a_case_without_an_answer_is_left_out(copied: Run):
    cascade, name = copied.plan_folder("3d_cascade"), held_out(copied, 2)
    record = copied.path / "3d_lowres" / "fold_2" / "predictions" / "predictions.json"
    content = json.loads(record.read_text())
    content["cases"][name] = {"status": "failed", "reason": "broken"}
    record.write_text(json.dumps(content))
    assert set(previous_predictions(copied, cascade) or {}) == {held_out(copied, 0), held_out(copied, 1)}
    assert set(preprocessed_keys(copied, cascade)) == {
        held_out(copied, 0),
        held_out(copied, 1),
    }
    assert previous_predictions(copied, copied.plan_folder("3d_lowres")) is None


def test_some_folds_alone_are_refused_before_anything_starts(dataset: Path, options: Options, tmp_path: Path):
    with pytest.raises(RunError, match="all its folds must be trained first and fold 1 is not: use --folds all"):
        pipeline.run(dataset, tmp_path / "run", replace(options, folds=(0,)))
    assert not list((tmp_path / "run").glob("*/cases"))


def test_cases_that_no_fold_holds_out_are_refused(copied: Run):
    folds = copied.folds
    write_json(copied.path / "folds.json", (folds[0], folds[1], Fold(training=folds[2].training, held_out=())))
    with pytest.raises(RunError, match=f"no fold holds out case {folds[2].held_out[0]}"):
        check_cascades(copied, {0, 1, 2})


def test_a_cascade_alone_is_refused(copied: Run):
    shutil.rmtree(copied.path / "3d_lowres")
    with pytest.raises(RunError, match="has no 3d_lowres plan"):
        copied.previous(copied.plans)


def test_the_verb_preprocess_leaves_the_cascades_cases_to_training(copied: Run):
    for name in ("3d_lowres", "3d_cascade"):
        shutil.rmtree(copied.path / name / "cases")
    assert preprocess_run(copied) == ()
    assert len(CaseStore(copied.path / "3d_lowres" / "cases").names()) == 3
    assert not (copied.path / "3d_cascade" / "cases").exists()


def test_a_cascade_is_tried_with_references_for_answers(finished: Run, dataset: Path, tmp_path: Path):
    plan, found = finished.plan_folder("3d_cascade").plan, read_dataset(dataset)
    cases = found.cases[:2]
    request = ProbeRequest(
        task="handle", plan=plan, cases=cases, megavoxels={c.name: 0.004 for c in cases}, store=tmp_path / "store", device="cpu",
        held_out=1,
    )  # fmt: skip
    request.store.mkdir()
    assert measure_cases(request, CPU).predict_seconds > 0
    case = CaseStore(request.store).read(cases[0].name)
    assert np.array_equal(case.image[1], case.labels)
    assert measure_training(request, CPU).step_seconds > 0
