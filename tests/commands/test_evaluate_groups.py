"""Scores by group, from tables and from the headers of scans."""

import json
import logging
from dataclasses import replace

import pytest
from dicom_series import write_series
from typer.testing import CliRunner

from nnseg.cli import app
from nnseg.commands.evaluate import group
from nnseg.core.dataset import Case, Dataset
from nnseg.core.errors import EvaluationError, ScanError
from nnseg.core.labels import Labels
from nnseg.core.scores import Counts, Failure
from nnseg.evaluation.evaluate import case_score, summarize
from nnseg.storage.files import write_json
from nnseg.storage.run import Run

LABELS = Labels(names=("background", "ball"), values=(0, 1))
SCORES = summarize([case_score(f"c{i}", {"ball": Counts(tp=60 + i, fp=5, fn=40 - i, tn=99)}) for i in range(12)], LABELS)


@pytest.fixture
def run(tmp_path):
    """A run with scores, whose scans are DICOM series of two scanners."""
    cases = []
    for i in range(12):
        write_series(tmp_path / "scans" / f"c{i}", slices=1, Manufacturer="ACME" if i < 5 else "Other", PatientAge=f"0{40 + i}Y")
        cases.append(Case(name=f"c{i}", images=(tmp_path / "scans" / f"c{i}",)))
    path = tmp_path / "run"
    path.mkdir()
    dataset = Dataset(name="balls", folder=tmp_path, layout="", cases=tuple(cases), channels=("MR",), labels=LABELS, suffix=".dcm")
    Run(path).dataset = dataset
    Run(path).scores = SCORES
    return Run(path)


@pytest.mark.parametrize("of_run", [True, False])
def test_groups_are_read_off_the_headers_of_scans(run, tmp_path, of_run):
    found = group(SCORES, "dicom", run=run) if of_run else group(SCORES, str(tmp_path / "scans"))
    known = [(g.by, g.value, g.n) for g in found.groups]
    assert known == [
        *(("manufacturer", "ACME", 5), ("manufacturer", "Other", 7)),
        *(("age", "40 to 43", 4), ("age", "44 to 47", 4), ("age", "48 to 51", 4)),
    ]
    assert {t.by: t.p_adjusted < 0.05 for t in found.tests} == {"manufacturer": True, "age": True}


def test_a_scan_that_cannot_be_read_is_left_out_and_named(run, tmp_path, caplog):
    broken = tmp_path / "scans" / "c3" / "01.dcm"
    broken.write_bytes(bytes(128) + b"DICM" + b"rubbish" * 9)
    with caplog.at_level(logging.WARNING, "nnseg"):
        found = group(SCORES, "dicom", run=run)
    assert (found.groups[0].value, found.groups[0].n) == ("ACME", 4)
    assert "case c3: " in caplog.text


def test_a_scan_that_the_disk_does_not_give_ends_the_command(run, tmp_path):
    broken = tmp_path / "c3.dcm"
    broken.symlink_to("x" * 300)  # which no disk can look up
    cases = tuple(replace(case, images=(broken,)) if case.name == "c3" else case for case in run.dataset.cases)
    run.dataset = replace(run.dataset, cases=cases)
    with pytest.raises((ScanError, OSError), match="File name too long"):
        group(SCORES, "dicom", run=run)


def test_scans_without_headers_are_refused(tmp_path):
    with pytest.raises(EvaluationError, match="none of 0 scans is DICOM"):
        group(SCORES, str(tmp_path))
    with pytest.raises(EvaluationError, match="name it with --run"):
        group(SCORES, "dicom")


def test_the_verb_shows_a_runs_scores_by_group_and_keeps_them(run, tmp_path):
    table = tmp_path / "sites.csv"
    table.write_text("case,site\n" + "".join(f"c{i},{'AB'[i > 3]}\n" for i in range(12)))
    result = CliRunner().invoke(app, ["evaluate", str(run.path), "--groups", str(table)])
    assert result.exit_code == 0, result.output
    assert "4 cases: too few for a reliable mean" in result.output
    assert "site: groups differ in Dice (12 cases, Kruskal-Wallis by permutation" in result.output
    written = json.loads((run.path / "groups.json").read_text())
    assert [(g["by"], g["value"], g["n"]) for g in written["groups"]] == [("site", "A", 4), ("site", "B", 8)]


def test_the_verb_writes_groups_beside_the_scores(tmp_path, ball_dataset):
    table, out = tmp_path / "sites.csv", tmp_path / "scores.json"
    table.write_text("case,site\n" + "".join(f"ball_{i:02},{'AB'[i % 2]}\n" for i in range(6)))
    folder = str(ball_dataset / "labelsTr")
    asked = ["evaluate", folder, folder, "--groups", str(table), "--out", str(out), "--tolerances", "none", "--workers", "1"]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0, result.output
    assert "site: no significant difference between groups in Dice" in result.output
    assert [g["averages"]["dice"]["mean"] for g in json.loads((tmp_path / "groups.json").read_text())["groups"]] == [1.0, 1.0]


def test_the_verb_asks_for_references_where_there_is_no_run(run, tmp_path):
    for asked in ([str(tmp_path)], [str(run.path), "--out", "scores.json"]):
        result = CliRunner().invoke(app, ["evaluate", *asked])
        assert isinstance(result.exception, EvaluationError)
        assert "needs REFERENCES" in str(result.exception)


def test_failed_cases_of_a_run_are_named_whenever_its_scores_are_shown(run):
    write_json(
        (run.path / "scores.json"), SCORES.model_copy(update={"failed": (Failure(name="c99", reason="its label map is gone"),)})
    )
    result = CliRunner().invoke(app, ["evaluate", str(run.path)])
    assert result.exit_code == 1
    assert "case c99: its label map is gone" in result.output
