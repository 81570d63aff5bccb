"""What commands print with --json has one form, which docs/json.md describes."""

import json
import re
import sys
from pathlib import Path

import pytest
from ball_dataset import write_balls
from faults import PLAN, RECIPE

from nnseg import cli

ROOT = Path(__file__).parents[2]
WHOLE = ["format", "nnseg", "command", "error", "findings", "result"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("place")
    write_balls(place / "balls", cases=3)
    (place / "recipe.toml").write_text(RECIPE)
    return place


@pytest.fixture
def printed(place, monkeypatch, capfd):
    """Runs a command in the place; what it printed, and its exit code."""

    def run(*arguments):
        monkeypatch.chdir(place)
        monkeypatch.setattr(sys, "argv", ["nnseg", *arguments])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
        return json.loads(capfd.readouterr().out), code or 0

    return run


def documented(command):
    """Keys of a command's result in docs/json.md: those outside brackets."""
    row = next(line for line in (ROOT / "docs/json.md").read_text().splitlines() if line.startswith(f"| `{command}` |"))
    while (shorter := re.sub(r"\([^()]*\)", "", row)) != row:
        row = shorter
    return set(re.findall(r"`(\w+)`", row.split("|")[2].split(". Each")[0]))


def check(printed, command, *arguments, code=0):
    whole, ended = printed(command, *arguments, "--json")
    assert (list(whole), whole["command"], whole["error"], ended) == (WHOLE, command, None, code)
    assert set(whole["result"]) == documented(command)
    return whole


def test_every_command_prints_the_documented_form(printed, place):
    checked = check(printed, "check", "balls")
    assert [case["name"] for case in checked["result"]["cases"]] == ["ball_00", "ball_01", "ball_02"]
    planned = check(printed, "plan", "balls", "run", *PLAN)
    assert planned["result"]["plans"][0]["plan"]["training"]["steps"] == 2
    assert planned["result"]["costs"][0]["folds"] == 1
    assert check(printed, "info")["result"]["cores"] >= 1


def test_predictions_and_scores_too(printed, place, monkeypatch, capfd):
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", ["nnseg", "run", "balls", "trained", *PLAN, "--quiet"])
    with pytest.raises(SystemExit, match="0"):
        cli.main()
    capfd.readouterr()
    predicted = check(printed, "predict", "balls/imagesTr", "out", "--model", "trained")
    assert {one["status"] for one in predicted["result"]["scans"].values()} == {"done"}
    explained = printed("explain", "trained", "balls/imagesTr/ball_00.nii.gz", "maps", "--method", "occlusion", "--json")[0]
    assert set(explained["result"]) == documented("explain")
    scored = check(printed, "evaluate", "out", "balls/labelsTr", "--tolerances", "none")
    assert len(scored["result"]["scores"]["cases"]) == 3


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("check", "none"), "NS-D001"),
        (("plan", "balls", "balls"), "NS-R001"),
        (("predict", "balls", "new", "--model", "none"), "NS-M001"),
        (("evaluate", "balls", "none"), "NS-E001"),
    ],
)
def test_an_error_that_ends_a_command_is_told_in_the_same_form(printed, arguments, code):
    whole, ended = printed(*arguments, "--json")
    assert (list(whole), whole["command"], whole["result"], ended) == (WHOLE, arguments[0], None, 2)
    assert whole["error"]["code"] == code
    assert whole["error"]["advice"]
