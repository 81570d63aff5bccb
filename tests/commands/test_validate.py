"""External validation: a model on another dataset, with scores beside its own, written and printed."""

import json
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
from ball_dataset import write_balls
from crashing_reader import crash_on
from typer.testing import CliRunner

from nnseg.cli import app
from nnseg.commands.export import export
from nnseg.commands.validate import validate
from nnseg.core.errors import EvaluationError, RunError
from nnseg.core.options import Options
from nnseg.evaluation.external import ExternalValidation
from nnseg.storage.run import Run

CPU = Options(device="cpu")


@pytest.fixture(scope="module")
def other_dataset(tmp_path_factory):
    """Five scans like those of the training, with more noise."""
    folder = write_balls(tmp_path_factory.mktemp("other") / "others", cases=5)
    random = np.random.default_rng(1)
    for path in (folder / "imagesTr").iterdir():
        image = sitk.ReadImage(str(path))
        noisy = sitk.GetImageFromArray(sitk.GetArrayFromImage(image) + random.normal(0, 10, (12, 20, 16)).astype(np.float32))
        noisy.CopyInformation(image)
        sitk.WriteImage(noisy, str(path))
    return folder


def test_a_model_is_scored_on_another_dataset_beside_its_held_out_cases(ball_run, other_dataset, tmp_path):
    found = validate(other_dataset, tmp_path / "out", ball_run, CPU)
    own = Run(ball_run).scores
    assert (found.validation.cases, found.validation.internal_cases) == (5, len(own.cases))
    assert found.validation.internal_source == "scores of a run"
    dice = next(of for of in found.validation.differences if of.metric == "dice")
    assert dice.internal == pytest.approx(own.averages.per_image["dice"].mean)
    assert dice.external == pytest.approx(found.scores.averages.per_image["dice"].mean)
    assert (found.findings, found.validation.known) == ((), ())
    written = json.loads((tmp_path / "out" / "validation.json").read_text())
    assert ExternalValidation.model_validate(written) == found.validation
    page = (tmp_path / "out" / "validation.html").read_text()
    assert "Beside the model&#39;s own held-out cases" in page
    assert "cases of another dataset the mean Dice" in page
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.nii.gz")}
    validate(other_dataset, tmp_path / "out", ball_run, CPU)
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.nii.gz")} == before  # not predicted again


def test_a_scan_that_crashes_its_reader_costs_only_its_case(ball_run, other_dataset, tmp_path, monkeypatch):
    crash_on(monkeypatch, "ball_00")
    scores = validate(other_dataset, tmp_path / "out", ball_run, CPU).scores
    assert [failed.name for failed in scores.failed] == ["ball_00"]
    assert "was killed" in scores.failed[0].reason
    assert len(scores.cases) == 4


def test_of_an_exported_model_the_card_tells_the_internal_scores(ball_run, other_dataset, tmp_path):
    export(Run(ball_run), tmp_path / "model.nnseg")
    found = validate(other_dataset, tmp_path / "out", tmp_path / "model.nnseg", CPU).validation
    assert found.internal_source == "model card"
    dice = next(of for of in found.differences if of.metric == "dice")
    assert dice.internal == pytest.approx(Run(ball_run).scores.averages.per_image["dice"].mean)


def test_cases_of_the_training_are_named(ball_run, ball_dataset, tmp_path):
    done = CliRunner().invoke(
        app, ["validate", str(ball_dataset), str(tmp_path / "out"), "--model", str(ball_run), "--device", "cpu"]
    )
    assert done.exit_code == 1, done.output
    assert "NS-A004" in done.output
    assert "written to" in done.output


def test_the_command_prints_the_drop(ball_run, other_dataset, tmp_path):
    arguments = ["validate", str(other_dataset), str(tmp_path / "out"), "--model", str(ball_run), "--device", "cpu"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    words = " ".join(done.output.split())
    assert "The mean Dice is" in words
    assert "held-out case" in words
    printed = json.loads(CliRunner().invoke(app, [*arguments, "--json", "-q"]).stdout)
    assert set(printed["result"]) == {"validation", "scores"}


def test_other_labels_channels_and_places_are_refused(ball_run, other_dataset, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(other_dataset, data)
    about = json.loads((data / "dataset.json").read_text())
    (data / "dataset.json").write_text(json.dumps(about | {"labels": {"0": "background", "1": "box", "2": "ball"}}))
    with pytest.raises(EvaluationError, match="its label ball has the value 2, and the model has ball as 1"):
        validate(data, tmp_path / "out", ball_run, CPU)
    (data / "dataset.json").write_text(json.dumps(about | {"labels": {"0": "background", "7": "ball"}}))
    with pytest.raises(EvaluationError, match="label ball has the value 7"):
        validate(data, tmp_path / "out", ball_run, CPU)
    (data / "dataset.json").write_text(json.dumps(about | {"modality": {"0": "T1", "1": "T2"}}))
    with pytest.raises(EvaluationError, match="has the channels T1, T2, and the model needs MRI"):
        validate(data, tmp_path / "out", ball_run, CPU)
    with pytest.raises(EvaluationError, match="lies in the dataset"):
        validate(other_dataset, other_dataset / "out", ball_run, CPU)
    assert not (tmp_path / "out").exists()


def test_files_of_others_are_not_overwritten(ball_run, other_dataset, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for name in ("validation.html", "validation.json", "scores.json", "predictions.json"):
        (out / name).write_text("{}")
        with pytest.raises(RunError, match=f"{name}: is there already, and is no .* that nnseg made"):
            validate(other_dataset, out, ball_run, CPU)
        assert (out / name).read_text() == "{}"
        (out / name).unlink()
    corrected = out / "ball_01.nii.gz"
    shutil.copy(other_dataset / "labelsTr" / corrected.name, corrected)
    with pytest.raises(RunError, match="holds images that nnseg did not make"):
        validate(other_dataset, out, ball_run, CPU)
    corrected.unlink()
    validate(other_dataset, out, ball_run, CPU)
    records = json.loads((out / "predictions.json").read_text())
    del records["cases"]["ball_01"]
    (out / "predictions.json").write_text(json.dumps(records))
    before = corrected.read_bytes()
    with pytest.raises(RunError, match=r"ball_01\.nii\.gz: is there already, and was not predicted by nnseg"):
        validate(other_dataset, out, ball_run, CPU)
    assert corrected.read_bytes() == before
    validate(other_dataset, out, ball_run, CPU, force=True)
    assert {path.name for path in out.glob("validation.*")} == {"validation.html", "validation.json"}
    assert not (out / ".begun").exists()
