import pytest
import typer

from nnseg.cli.output import exit_for_failed
from nnseg.core.dataset import Finding


def test_many_cases_that_failed_for_one_reason_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    empty = [Finding(level="error", case=f"c{i}", message=f"/my scans/c{i}.nii: is empty") for i in range(11)]
    other = [Finding(level="error", case=f"d{i}", message=f"d{i}.png: has no channel") for i in range(2)]
    with pytest.raises(typer.Exit):
        exit_for_failed([*empty, *other, Finding(level="error", message="the disk is full")])
    assert capsys.readouterr().err.splitlines()[1:] == [
        "14 failed, all others are done:",
        "  cases c0, c1, c10, c2, c3 and 6 more: is empty",
        "  case d0: d0.png: has no channel",
        "  case d1: d1.png: has no channel",
        "  the disk is full",
    ]
