"""``nnseg stress`` and ``nnseg channels``: held-out cases from degraded scans and without a channel, in files, report and print."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from typer.testing import CliRunner
from warm import fold_options, nnseg

from nnseg.cli import app
from nnseg.commands.report import gather_report_content
from nnseg.commands.stress import leave_out_channels, stress
from nnseg.core.errors import EvaluationError, RunError
from nnseg.core.robustness import DEGRADATIONS, Robustness
from nnseg.crossval.degraded import Change, score_changed, spread_evenly
from nnseg.evaluation.statistics import holm
from nnseg.reporting.report import render_report
from nnseg.storage.run import Run


@pytest.fixture(scope="module")
def stressed(ball_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose held-out cases were degraded in two ways; not to be changed, copy it."""
    run = Run(Path(shutil.copytree(ball_run, tmp_path_factory.mktemp("stressed") / "run")))
    stress(run, kinds=("noise", "slice_thickness"), device="cpu")
    return run


def test_degraded_cases_are_scored_beside_the_same_cases_as_they_are(stressed: Run):
    found, held_out = stressed.robustness, stressed.folds[0].held_out
    assert sorted(found.cases) == sorted(held_out)
    wanted = [(kind, strength) for kind in ("noise", "slice_thickness") for strength in DEGRADATIONS[kind].strengths]
    assert [(row.change, row.strength) for row in found.changes] == wanted
    dice = {case.name: case.mean_dice for case in stressed.scores.cases}
    for row in found.changes:
        assert row.n == len(held_out)
        assert row.unchanged == pytest.approx(np.mean([dice[name] for name in held_out]))  # as the run's own predictions
        assert row.difference == pytest.approx(row.changed - row.unchanged)
        assert row.labels == {"ball": pytest.approx(row.difference)}
    assert [row.p_adjusted for row in found.changes] == pytest.approx(holm([row.p for row in found.changes]))


def test_the_report_shows_them_until_the_run_predicts_otherwise(stressed: Run, tmp_path: Path):
    run = Run(Path(shutil.copytree(stressed.path, tmp_path / "run")))
    page = render_report(gather_report_content(run, live=True))
    assert "Degraded scans and missing channels" in page
    assert "slice thickness 4" in page
    run.robustness = run.robustness.model_copy(update={"cases": dict.fromkeys(run.robustness.cases, "0" * 32)})
    assert gather_report_content(run, live=True).robustness is None


def test_a_case_that_cannot_be_read_is_named_and_the_others_are_scored(ball_run: Path, ball_dataset: Path, tmp_path: Path):
    run = Run(Path(shutil.copytree(ball_run, tmp_path / "run")))
    lost, *others = run.folds[0].held_out
    cases = [replace(case, images=(tmp_path / "lost.nii.gz",)) if case.name == lost else case for case in run.dataset.cases]
    run.dataset = replace(run.dataset, cases=tuple(cases))
    found = score_changed(run, [Change(name="none", apply=lambda scan, _: scan)], cases=9, device="cpu", label="")
    assert ([finding.case for finding in found.findings], sorted(found.cases)) == ([lost], sorted(others))
    assert [row.difference for row in found.changes] == [0.0]
    impossible = [Change(name="none", apply=lambda scan, _: None)]
    assert score_changed(run, impossible, cases=9, device="cpu", label="").changes == ()


def test_pictures_have_no_slices_to_degrade(ball_run: Path, tmp_path: Path):
    def one_slice(file: Path) -> Path:
        sitk.WriteImage(sitk.ReadImage(str(file))[:, :, 5:6], tmp_path / f"{file.parent.name}_{file.name}")
        return tmp_path / f"{file.parent.name}_{file.name}"

    run = Run(Path(shutil.copytree(ball_run, tmp_path / "run")))
    flat = [replace(case, images=(one_slice(case.images[0]),), labels=one_slice(case.labels)) for case in run.dataset.cases]
    run.dataset = replace(run.dataset, cases=tuple(flat))
    with pytest.raises(EvaluationError, match="are pictures, without slices to degrade; choose other --kinds"):
        stress(run, kinds=("slice_thickness",), cases=1, device="cpu")
    assert not (run.path / "robustness.json").exists()


def test_a_scan_without_a_channel_is_predicted_from_zeros(ball_run: Path):
    seen = []

    def apply(scan, case):
        seen.append(scan.without([0]))
        return seen[-1]

    run = Run(ball_run)
    (row,) = score_changed(run, [Change(name="MRI", apply=apply)], cases=1, device="cpu", label="").changes
    assert (row.title, row.n) == ("without MRI", 1)
    assert [(scan.missing, scan.image.any()) for scan in seen] == [((0,), False)]


def test_the_command_prints_a_table_or_json_and_refuses_what_it_does_not_know(ball_run: Path, tmp_path: Path):
    run = Path(shutil.copytree(ball_run, tmp_path / "run"))
    said = CliRunner().invoke(app, ["stress", str(run), "--kinds", "motion", "--cases", "1", "--device", "cpu"])
    assert said.exit_code == 0, said.output
    assert "motion 4" in said.output
    assert "The mean Dice of 1 held-out case is" in said.output
    printed = CliRunner().invoke(app, ["stress", str(run), "--kinds", "motion", "--cases", "1", "--device", "cpu", "--json", "-q"])
    assert Robustness.model_validate(json.loads(printed.stdout)["result"]["robustness"]) == Run(run).robustness
    assert '--kinds: "moton" is none of' in str(CliRunner().invoke(app, ["stress", str(run), "--kinds", "moton"]).exception)


def test_what_is_missing_is_said(ball_run: Path, tmp_path: Path):
    with pytest.raises(EvaluationError, match="has one channel, MRI"):
        leave_out_channels(Run(ball_run))
    with pytest.raises(RunError, match="holds no run with a dataset"):
        stress(Run(tmp_path / "none"))
    run = Run(Path(shutil.copytree(ball_run, tmp_path / "run")))
    run.scores = None
    with pytest.raises(RunError, match=r"scores\.json"):
        stress(run)


def test_items_are_spread_from_the_first_to_the_last():
    assert spread_evenly("abcdefg", 3) == ("a", "d", "g")
    assert spread_evenly("ab", 3) == ("a", "b")
    assert spread_evenly("", 3) == ()


@pytest.mark.slow
def test_the_channel_that_shows_the_object_contributes_most(ball_dataset: Path, tiny_recipe: Path, tmp_path: Path):
    data, random = Path(shutil.copytree(ball_dataset, tmp_path / "data")), np.random.default_rng(0)
    for file in sorted((data / "imagesTr").iterdir()):
        image = sitk.ReadImage(str(file))
        noise = sitk.GetImageFromArray(random.normal(100, 10, sitk.GetArrayFromImage(image).shape).astype(np.float32))
        noise.CopyInformation(image)
        sitk.WriteImage(sitk.JoinSeries([image, noise]), str(file))
    content = json.loads((data / "dataset.json").read_text()) | {"modality": {"0": "T1", "1": "noise"}}
    (data / "dataset.json").write_text(json.dumps(content))
    nnseg("run", data, tmp_path / "run", *fold_options(tiny_recipe), "--steps", 120)
    nnseg("channels", tmp_path / "run", "--device", "cpu")
    run = Run(tmp_path / "run")
    found = {row.change: row for row in run.channel_scores.changes}
    assert list(found) == ["T1", "noise"]
    assert found["T1"].changed < found["noise"].changed
    page = render_report(gather_report_content(run, live=True))
    assert "without T1" in page
