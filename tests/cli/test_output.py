import ast
import json
import logging
import os
import shutil
import sys
from pathlib import Path

import pytest
import typer

from nnseg import cli
from nnseg.cli.output import exit_for_errors, exit_for_failed, log_to_terminal, show
from nnseg.cli.tables import print_scores
from nnseg.core.dataset import Finding
from nnseg.core.labels import Labels
from nnseg.core.scores import LabelScore
from nnseg.evaluation.evaluate import case_score, summarize

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egpj"
SHOWN = r"\x1b]0;owned\x07\x1b[2J\x9b31m\u202egpj"


def test_many_cases_that_failed_for_one_reason_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    empty = [Finding(level="error", case=f"c{i}", message=f"/my scans/c{i}.nii: is empty") for i in range(11)]
    other = [Finding(level="error", case=f"d{i}", message=f"d{i}.png: has no channel") for i in range(2)]
    larger = [Finding(level="error", case=f"e{i}", message=f"e{i}.png: has {i} voxels") for i in range(2)]
    with pytest.raises(typer.Exit):
        exit_for_failed([*empty, *other, *larger, Finding(level="error", message="the disk is full")])
    assert capsys.readouterr().err.splitlines()[1:] == [
        "16 failed, all others are done:",
        "  cases c0, c1, c10, c2, c3 and 6 more: is empty",
        "  cases d0, d1: has no channel",
        "  case e0: e0.png: has 0 voxels",
        "  case e1: e1.png: has 1 voxels",
        "  the disk is full",
    ]


def test_reasons_that_differ_in_names_of_files_are_one_line_with_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        exit_for_failed(Finding(level="error", case=f"c{i}", message=f"image /d/c{i}.nii is not there") for i in range(11))
    assert capsys.readouterr().err.splitlines()[2:] == [
        "  cases c0, c1, c10, c2, c3 and 6 more: the first: image /d/c0.nii is not there"
    ]


def test_findings_of_many_cases_or_files_are_one_line_with_their_level(capsys: pytest.CaptureFixture[str]) -> None:
    unknown = [Finding(level="error", case=f"c{i}", message="has another name", code="NS-C001") for i in range(11)]
    values = [Finding(level="error", file=f"{i}.mha", message="holds the values 7", code="NS-C001") for i in range(2)]
    both = [Finding(level=level, message="none of a file") for level in ("error", "warning", "error")]
    with pytest.raises(typer.Exit):
        exit_for_errors([*unknown, *values, *both])
    assert capsys.readouterr().out.splitlines() == [
        "error   cases c0, c1, c10, c2, c3 and 6 more: has another name [NS-C001]",
        "error   files 0.mha, 1.mha: holds the values 7 [NS-C001]",
        "error   none of a file",
        "warning none of a file",
    ]


def test_text_findings_log_lines_and_tables_are_shown_without_what_steers_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    log_to_terminal()
    logging.getLogger("nnseg.x").warning("case %s\nand more", EVIL)
    assert logging.lastResort
    assert (
        logging.lastResort.format(logging.makeLogRecord({"msg": f"a library's warning {EVIL}"})) == f"a library's warning {SHOWN}"
    )
    show(f"report: {EVIL}\nsecond line")
    with pytest.raises(typer.Exit):
        exit_for_failed([Finding(level="error", case=EVIL, message="is empty")])
    mask = LabelScore(tp=1, fp=0, fn=0, tn=1, volume_ml=1, reference_ml=1, dice=1, iou=1)
    labels = Labels(names=("background", f"{EVIL}[red]"), values=(0, 1))
    print_scores(summarize([case_score(EVIL, {f"{EVIL}[red]": mask})], labels), cases=True)
    said = capsys.readouterr()
    assert f"report: {SHOWN}\\nsecond line\n" in said.out
    assert f"case {SHOWN}\nand more\n" in said.err
    assert f"case {SHOWN}: is empty\n" in said.err
    assert f"{SHOWN}[red] Dice" in said.out
    assert all(line.isprintable() for text in said for line in text.split("\n"))


def test_all_printing_goes_through_one_function() -> None:
    for file in Path(cli.__file__).parent.glob("*.py"):
        calls = [node.func for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
        printing = [call for call in calls if isinstance(call, ast.Name) and call.id == "print"]
        assert len(printing) == (file.name == "output.py"), file


def test_names_of_files_do_not_reach_the_terminal_as_they_are(
    ball_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In names of scans and of others, in folders, in dataset.json; also bytes that are no text."""
    folder = tmp_path / f"balls {EVIL}"
    shutil.copytree(ball_dataset, folder)
    content = json.loads((folder / "dataset.json").read_text())
    for part in ("image", "label"):
        moved = f"{part}sTr/ball{EVIL}.nii.gz"
        (folder / f"{part}sTr/ball_05.nii.gz").rename(folder / moved)
        content["training"][5][part] = moved
        shutil.copy(folder / f"{part}sTr/ball_04.nii.gz", folder / f"{part}sTr/extra\n{EVIL}.nii.gz")
    content |= {"labels": {"0": "background", "1": f"ball {EVIL}"}, "modality": {"0": f"MRI {EVIL}"}, "name": EVIL}
    (folder / "dataset.json").write_text(json.dumps(content))
    (folder / os.fsdecode(b"notes \xff.nii.gz")).touch()
    for arguments in (("check", folder), ("check", folder, "--json"), ("plan", folder, folder / "run"), ("check", folder / EVIL)):
        monkeypatch.setattr(sys, "argv", ["nnseg", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        assert ended.value.code in (1, 2), said.err
        assert all(line.isprintable() for text in said for line in text.split("\n")), arguments
