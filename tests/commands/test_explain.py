"""``nnseg explain`` of a run's held-out cases and of scans: maps, pictures, record, report, and what is refused."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from crashing_reader import crash_on
from warm import nnseg

from nnseg.commands.explain import ExplainOptions, explain_run, explain_scans, rank_cases
from nnseg.commands.report import gather_report_content
from nnseg.commands.verify import verify
from nnseg.core.errors import ModelError, NnsegError, RunError
from nnseg.core.explanation import EXPLANATIONS, Explanations
from nnseg.core.options import Options
from nnseg.reporting.report import render_report
from nnseg.storage.files import read_json
from nnseg.storage.images.read import read_scan
from nnseg.storage.run import Run

OCCLUSION = ExplainOptions(method="occlusion", options=Options(device="cpu"))


@pytest.fixture(scope="module")
def explained(ball_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with explanations of its held-out cases; not to be changed, copy it."""
    run = Path(shutil.copytree(ball_run, tmp_path_factory.mktemp("explained") / "run"))
    explain_run(run, OCCLUSION, cases=2)
    return Run(run)


def test_held_out_cases_are_explained_into_the_run_and_shown_in_its_report(explained: Run, ball_dataset: Path):
    folder, held_out = explained.explanations_folder, explained.folds[0].held_out
    found = read_json(folder / EXPLANATIONS, Explanations).explanations
    assert sorted(one.case for one in found) == sorted(held_out)
    content = gather_report_content(explained, live=True)
    assert [shown.explanation for shown in content.explanations] == list(found)
    page = render_report(content)
    for one, shown in zip(found, content.explanations, strict=True):
        assert bool(one.withheld) != bool(one.file)
        assert bool(one.picture) == bool(shown.picture) == (shown.picture != "" and shown.picture in page)
        if one.file:
            scan, values = (read_scan(file) for file in (ball_dataset / "imagesTr" / f"{one.case}.nii.gz", folder / one.file))
            assert values.grid == scan.grid
            assert np.abs(values.image).max() > 0
        else:
            assert f"withheld: {one.withheld}" in page
    assert "What predictions rest on" in page
    assert {file.state for file in verify(explained.path)} <= {"intact", "edited"}


def test_explanations_of_an_earlier_prediction_are_not_shown(explained: Run, tmp_path: Path):
    run = Run(Path(shutil.copytree(explained.path, tmp_path / "run")))
    file = run.explanations_folder / EXPLANATIONS
    record = read_json(file, Explanations)
    stale = [one.model_copy(update={"key": "0" * 32}) for one in record.explanations]
    file.write_text(record.model_copy(update={"explanations": tuple(stale)}).model_dump_json())
    assert gather_report_content(run, live=True).explanations == []


def files_of(folder: Path) -> dict[str, bytes]:
    """The maps and pictures in a folder."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix in (".gz", ".png")}


def test_a_scan_is_explained_into_a_folder_and_again_to_the_same_bytes(ball_run: Path, ball_dataset: Path, tmp_path: Path):
    scan = ball_dataset / "imagesTr" / "ball_00.nii.gz"
    found = explain_scans(ball_run, scan, tmp_path / "out", OCCLUSION)
    (one,) = found.explanations
    assert (one.case, one.label, one.method) == ("ball_00", "ball", "occlusion")
    names = {EXPLANATIONS} | ({"ball_00_ball_occlusion.nii.gz", "ball_00_ball_occlusion.png"} if one.file else set())
    assert {file.name for file in (tmp_path / "out").iterdir()} - {".lock"} == names
    assert bool(found.findings) == bool(one.withheld)
    before = files_of(tmp_path / "out")
    explain_scans(ball_run, scan, tmp_path / "out", OCCLUSION)
    assert files_of(tmp_path / "out") == before
    (again,) = read_json(tmp_path / "out" / EXPLANATIONS, Explanations).explanations
    assert again.model_copy(update={"seconds": one.seconds}) == one


def test_the_command_says_what_it_wrote_and_what_it_withheld(ball_run: Path, ball_dataset: Path, tmp_path: Path):
    scan, options = ball_dataset / "imagesTr" / "ball_01.nii.gz", ("--method", "occlusion", "--device", "cpu")
    said = nnseg("explain", ball_run, scan, tmp_path / "out", *options, "--label", "ball", check=None)
    (one,) = read_json(tmp_path / "out" / EXPLANATIONS, Explanations).explanations
    assert said.returncode == (2 if one.withheld else 0)
    assert "ball_01 ball: withheld" in said.stdout if one.withheld else "ball_01 ball: written" in said.stdout
    assert f"{'0' if one.withheld else '1'} of 1 maps written into {tmp_path / 'out'}" in said.stdout
    assert ("[NS-M002]" in said.stderr) == bool(one.withheld)


def test_a_scan_that_crashes_its_reader_costs_only_its_map(
    ball_run: Path, ball_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    scans = tmp_path / "scans"
    scans.mkdir()
    for name in ("ball_00", "ball_01"):
        shutil.copy(ball_dataset / "imagesTr" / f"{name}.nii.gz", scans)
    crash_on(monkeypatch, "ball_00")
    found = explain_scans(ball_run, scans, tmp_path / "out", OCCLUSION)
    assert [finding.case for finding in found.findings if finding.code == "NS-S001"] == ["ball_00"]
    assert {one.case for one in found.explanations} == {"ball_01"}


def test_a_record_does_not_choose_what_is_removed_or_replaced(ball_run: Path, ball_dataset: Path, tmp_path: Path):
    scan, out = ball_dataset / "imagesTr" / "ball_00.nii.gz", tmp_path / "out"
    (one,) = explain_scans(ball_run, scan, out, OCCLUSION).explanations
    record = read_json(out / EXPLANATIONS, Explanations)
    hostile = one.model_copy(update={"file": "thesis.txt", "picture": "ball_00_ball_occlusion.png.txt"})
    (out / EXPLANATIONS).write_text(record.model_copy(update={"explanations": (hostile,)}).model_dump_json())
    others = {name: out / name for name in ("thesis.txt", "ball_00_ball_occlusion.png.txt", "ball_00_ball_occlusion.png")}
    for file in others.values():
        file.write_text("of another")
    (again,) = explain_scans(ball_run, scan, out, OCCLUSION).explanations
    assert {file.read_text() for file in others.values()} == {"of another"}
    assert again.file == ("" if again.withheld else "ball_00_ball_occlusion_2.nii.gz")


def test_what_is_wrong_is_said_before_anything_is_computed(ball_run: Path, ball_dataset: Path, tmp_path: Path):
    scan = ball_dataset / "imagesTr" / "ball_00.nii.gz"
    with pytest.raises(NnsegError, match='the model has no label "bal"; did you mean ball'):
        explain_scans(ball_run, scan, tmp_path, ExplainOptions(method="occlusion", labels=("bal",)))
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(RunError, match="has files that nnseg explain did not make"):
        explain_scans(ball_run, scan, tmp_path, OCCLUSION)
    with pytest.raises(ModelError, match="there is no model"):
        explain_scans(tmp_path / "none", scan, tmp_path / "out", OCCLUSION)
    assert "write nnseg explain MODEL SCANS OUT" in nnseg("explain", ball_run, scan, check=2).stderr
    assert "--copies: 1 is too small; write 2 or more" in nnseg("explain", ball_run, "--copies", 1, check=2).stderr


def test_without_the_extra_smoothgrad_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("nnseg.system.extras.has_extra", lambda name: False)
    with pytest.raises(NnsegError, match=r'maps of SmoothGrad need an extra: pip install "nnseg\[explain\]"'):
        ExplainOptions()


def test_cases_are_spread_from_the_best_to_the_worst(explained: Run):
    scores = explained.require_scores()
    names = [case.name for case in sorted(scores.cases, key=lambda case: -(case.mean_dice or 0))]
    assert rank_cases(scores, 10) == tuple(names)
    assert rank_cases(scores, 1) == (names[0],)
