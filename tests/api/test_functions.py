"""The commands as functions: they return what --json prints, take its options by name, and print nothing."""

import inspect
import json
import shutil
import sys
from pathlib import Path

import pytest
from warm import fold_options

import nnseg
from nnseg import cli
from nnseg.core.errors import DatasetError, EvaluationError, ModelError, NnsegError, RunError
from nnseg.core.keywords import (
    FLAGS,
    CheckOptions,
    PlanOptions,
    PredictOptions,
    RunOptions,
    ScanModelOptions,
    ValidateOptions,
    options_of,
)
from nnseg.core.options import Options


@pytest.fixture
def printed(monkeypatch, capfd):
    """The result that a command prints with --json."""

    def run(*arguments, code=0):
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["nnseg", *map(str, arguments), "--json"])
        try:
            cli.main()
        except SystemExit as end:
            assert (end.code or 0) == code
        return json.loads(capfd.readouterr().out)

    return run


def content(result):
    return json.loads(result.model_dump_json())


def test_check_returns_what_the_command_prints(ball_dataset, printed, capfd):
    checked = nnseg.check(str(ball_dataset), workers=1)
    assert capfd.readouterr().out == ""
    whole = printed("check", ball_dataset, "--workers", 1)
    assert content(checked) == whole["result"]
    assert [one.explain() for one in checked.findings] == whole["findings"]
    assert (len(checked.cases), checked.labels.by_name, checked.doubtful) == (6, {"background": 0, "ball": 1}, False)


def test_plan_returns_what_the_command_prints(ball_dataset, tiny_recipe, tmp_path, printed):
    planned = nnseg.plan(ball_dataset, tmp_path / "run", recipe=tiny_recipe, probe=False, folds=0, device="cpu", workers=1)
    assert planned.plans[0].plan.training.steps == 12
    assert planned.plans[0].file.is_file()
    options = ("--recipe", tiny_recipe, "--no-probe", "--folds", 0, "--device", "cpu", "--workers", 1)
    assert content(planned) == printed("plan", ball_dataset, tmp_path / "run", *options)["result"]
    again = nnseg.plan(tmp_path / "run" / "fingerprint.json", tmp_path / "other", recipe=tiny_recipe, folds=0, device="cpu")
    assert again.plans[0].plan == planned.plans[0].plan


def test_a_run_is_finished_and_its_scores_and_predictions_are_returned(
    ball_dataset, ball_run, tiny_recipe, tmp_path, printed, capfd
):
    done = nnseg.predict_folder(ball_dataset / "imagesTr", tmp_path / "out", ball_run, device="cpu", fast=True)
    assert capfd.readouterr().out == ""
    assert {one.status for one in done.scans.values()} == {"done"}
    options = ("--model", ball_run, "--device", "cpu", "--fast")
    assert content(done) == printed("predict", ball_dataset / "imagesTr", tmp_path / "out", *options)["result"]
    found = nnseg.evaluate(tmp_path / "out", ball_dataset / "labelsTr", tolerances=(), out=tmp_path / "s.json", workers=1)
    options = ("--tolerances", "none", "--workers", 1)
    assert content(found) == printed("evaluate", tmp_path / "out", ball_dataset / "labelsTr", *options)["result"]
    assert found.files == (tmp_path / "s.json",)
    assert content(nnseg.evaluate(ball_run)) == printed("evaluate", ball_run)["result"]


def test_run_takes_the_options_of_the_command(ball_dataset, ball_run, tiny_recipe, tmp_path, capfd):
    """Repeated with the options of the command that made it, nothing is left to do."""
    run = shutil.copytree(ball_run, tmp_path / "run")
    model = run / "fold_0" / "model.nnseg"
    before = model.stat().st_mtime_ns
    given = {"recipe": tiny_recipe, "folds": 0, "probe": False, "device": "cpu", "workers": 1}
    assert [*fold_options(tiny_recipe)] == ["--recipe", tiny_recipe, "--no-probe", "--folds", 0, "--device", "cpu", "--workers", 1]
    done = nnseg.run(ball_dataset, run, **given)
    assert (done.scores.cases, done.run.path, capfd.readouterr().out) == (done.run.scores.cases, run, "")
    assert model.stat().st_mtime_ns == before


def test_audits_and_validations_return_what_the_commands_print(ball_dataset, ball_run, tmp_path, printed, capfd):
    run = shutil.copytree(ball_run, tmp_path / "run")
    audited = nnseg.audit(run, workers=1)
    validated = nnseg.validate(ball_dataset, tmp_path / "out", ball_run, device="cpu", workers=1)
    assert capfd.readouterr().out == ""
    assert content(audited) == printed("audit", run, "--workers", 1, code=int(bool(audited.findings)))["result"]
    assert [one.code for one in validated.findings] == ["NS-A004"]
    options = ("--model", ball_run, "--device", "cpu", "--workers", 1)
    again = printed("validate", ball_dataset, tmp_path / "out", *options, code=1)
    assert content(validated) == again["result"]
    assert [one.explain() for one in validated.findings] == again["findings"]


def test_explanations_return_what_the_command_prints(ball_dataset, ball_run, tmp_path, printed, capfd):
    scan = ball_dataset / "imagesTr" / "ball_00.nii.gz"
    explained = nnseg.explain(ball_run, scan, tmp_path / "out", label="ball", method="occlusion", device="cpu")
    assert capfd.readouterr().out == ""
    options = ("--label", "ball", "--method", "occlusion", "--device", "cpu")
    whole = printed("explain", ball_run, scan, tmp_path / "out", *options, code=0 if explained.written else 2)
    (one,), (other,) = content(explained)["explanations"], whole["result"]["explanations"]
    assert (one | {"seconds": 0}, content(explained)["folder"]) == (other | {"seconds": 0}, whole["result"]["folder"])
    assert [found.explain() for found in explained.findings] == whole["findings"]


def test_options_are_texts_as_on_the_command_line_or_numbers_and_lists():
    assert options_of({"budget": "20m", "folds": "0,2", "memory": "8GB", "plans": "2d,3d_fullres"}, RunOptions) == Options(
        budget=1200.0, folds=(0, 2), memory_gb=8.0, kinds=("2d", "3d")
    )
    assert options_of(
        {"folds": [2, 0], "memory": 8, "plans": ["2d", "3d"], "spacing": (3, 0.7, 0.7), "channels": ("T1", "T2"), "init": "m"},
        PlanOptions,
    ) == Options(folds=(0, 2), memory_gb=8.0, kinds=("2d", "3d"), spacing=(3.0, 0.7, 0.7), channels=("T1", "T2"), init=Path("m"))
    assert options_of({"folds": 1, "devices": [], "split": Path("a.csv"), "probe": False}, RunOptions) == Options(
        folds=(1,), split="a.csv", probe=False
    )
    assert options_of({"folds": None, "spacing": None, "budget": None, "channels": ()}, PlanOptions) == Options()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"budget": 1200}, 'budget: "1200" has no unit of time; write 1200m for minutes or 1200s for seconds'),
        ({"folds": "first"}, "folds: .*does not name folds"),
        ({"steps": 0}, "steps: 0 is too small"),
        ({"freeze": "decoder"}, 'freeze: "decoder" is no part'),
        ({"steps": 3, "budget": "1m"}, "both set the length of training"),
    ],
)
def test_wrong_options_are_refused_by_name(given, message):
    with pytest.raises(NnsegError, match=message):
        options_of(given, RunOptions)


def test_an_option_that_does_not_exist_is_answered_with_the_one_meant(tmp_path):
    with pytest.raises(TypeError, match='there is no option "bugdet"; did you mean budget'):
        nnseg.run(tmp_path, tmp_path, bugdet="1h")
    with pytest.raises(TypeError, match='there is no option "budget"'):
        nnseg.check(tmp_path, budget="1h")


@pytest.mark.parametrize(
    ("command", "function", "options", "own"),
    [
        ("check", nnseg.check, CheckOptions, set()),
        ("plan", nnseg.plan, PlanOptions, set()),
        ("run", nnseg.run, RunOptions, set()),
        ("predict", nnseg.predict_folder, PredictOptions, {"step", "mirror", "fast", "classic", "postprocessing", "memory"}),
        ("evaluate", nnseg.evaluate, None, {"labels", "tolerances", "instances", "groups", "out", "format", "force", "workers"}),
        ("audit", nnseg.audit, None, {"groups", "workers"}),
        ("validate", nnseg.validate, ValidateOptions, {"dataset", "out", "model", "force"}),
        ("explain", nnseg.explain, ScanModelOptions, {"label", "method", "cases", "copies", "seed", "force"}),
    ],
)
def test_functions_have_the_options_of_their_commands(command, function, options, own):
    of_command = next(c.callback for c in cli.app.registered_commands if (c.name or c.callback.__name__) == command)
    flags = {"run_folder": "run", "kinds": "plans", "memory_gb": "memory", "form": "format", "legend": "labels"}
    names = {flags.get(name, name) for name in inspect.signature(of_command).parameters}
    shown = set(inspect.signature(function).parameters)
    assert shown == names - {"as_json", "verbose", "quiet"}
    assert own <= shown
    assert options is None or set(options.__annotations__) <= FLAGS.keys()


def test_what_cannot_be_done_is_an_error_of_nnseg(tmp_path, ball_dataset, ball_run):
    with pytest.raises(DatasetError):
        nnseg.check(tmp_path / "none")
    with pytest.raises(NnsegError, match="the dataset comes first"):
        nnseg.plan(ball_dataset, ball_dataset)
    with pytest.raises(EvaluationError):
        nnseg.evaluate(tmp_path / "none", ball_dataset)
    with pytest.raises(EvaluationError, match="a file to write"):
        nnseg.evaluate(ball_dataset / "labelsTr", ball_dataset / "labelsTr", format="nnunet")
    with pytest.raises(ModelError):
        nnseg.predict_folder(ball_dataset / "imagesTr", tmp_path / "out", tmp_path / "none.nnseg")
    with pytest.raises(RunError, match="expected the folder of a run"):
        nnseg.audit(tmp_path / "none")
    with pytest.raises(ModelError):
        nnseg.validate(ball_dataset, tmp_path / "out", tmp_path / "none.nnseg")
    with pytest.raises(NnsegError, match="no folder for the maps"):
        nnseg.explain(ball_run, ball_dataset, method="occlusion")
    with pytest.raises(NnsegError, match='method: "gradient" is none of smoothgrad, occlusion'):
        nnseg.explain(ball_run, method="gradient")
    with pytest.raises(NnsegError, match="expected 2 or more copies"):
        nnseg.explain(ball_run, method="occlusion", copies=1)
    with pytest.raises(ModelError):
        nnseg.load(tmp_path / "none.nnseg")


def test_models_are_found_by_name(ball_dataset, tmp_path):
    with pytest.raises(EvaluationError, match="the model needs T1, FLAIR"):
        nnseg.validate(ball_dataset, tmp_path / "out", "demo")
    with pytest.raises(NnsegError, match='the model has no label "ball"'):
        nnseg.explain("demo", ball_dataset / "imagesTr", tmp_path / "out", label="ball", method="occlusion")


@pytest.mark.parametrize(
    ("name", "instead"),
    [("predict", "nnseg.load"), ("Predictor", "nnseg.load"), ("load_model", "nnseg.load"), ("evaluate_folders", "nnseg.evaluate")],
)
def test_a_name_that_is_gone_says_what_to_use(name, instead):
    with pytest.raises(AttributeError, match=f"nnseg.{name} is no more; use {instead}"):
        getattr(nnseg, name)
