"""A command line that cannot be understood is answered in one line of the form of all errors, with what to type."""

import json
import sys

import pytest

from nnseg import cli

ANSWERS = {
    "trian run": 'nnseg has no command "trian"; did you mean train?',
    "frobnicate": 'nnseg has no command "frobnicate"; nnseg --help lists them',
    "models pul a b": 'nnseg models has no command "pul"; did you mean pull?',
    "models pull a": "NAME is missing; write nnseg models pull HUB NAME",
    "models pull a b --licence": "nnseg models pull has no option --licence; did you mean --accept-licence?",
    "models push a b c": "--licence TEXT is missing; write nnseg models push FILE HUB NAME --licence TEXT",
    "--quiet check a": "--quiet stands before the command; write it behind: nnseg COMMAND --quiet",
    "--vrsion": "nnseg has no option --vrsion; did you mean --version?",
    "run a b --bugdet 5m": "nnseg run has no option --bugdet; did you mean --budget?",
    "run a b --bugdet=5m": "nnseg run has no option --bugdet; did you mean --budget?",
    "run a b -epochs 5": "nnseg run has no option -epochs; did you mean --epochs?",
    "predict a b -m m --prob": "nnseg predict has no option --prob; did you mean --probabilities?",
    "check a --tta": "nnseg check has no option --tta; nnseg check --help lists them",
    "run a": "RUN is missing; write nnseg run DATASET RUN",
    "predict a b": "--model MODEL is missing; write nnseg predict SCANS OUT --model MODEL",
    "check a b c": '"b c" is too much for nnseg check DATASET; a path with spaces needs quotes',
    "run a b --folds": "--folds needs a value; nnseg run --help says which",
    "run a b --verbose=1": "--verbose takes no value; nnseg run --help says which",
    "run a b --epochs ten": '--epochs: "ten" is not a whole number; write digits alone, like 100',
    "run a b --workers 1.5": '--workers: "1.5" is not a whole number; write digits alone, like 100',
    "run a b --steps 0": "--steps: 0 is too small; write 1 or more",
    "demo --steps none": '--steps: "none" is not a whole number; write digits alone, like 100',
    "run a b --budget soon": '--budget: "soon" is not a time; write it like 90s, 20m or 1h30m',
    "run a b --device gpu": '--device: "gpu" is no device; write auto, cpu, cuda, cuda:1 or mps',
    "run a b --freeze decoder": '--freeze: "decoder" is no part that can be left untrained; write encoder',
    "figure a --what curve": '--what: "curve" is none of curves, scores, cases, plan; did you mean curves?',
    "evaluate a b --format xml": '--format: "xml" is none of nnseg, nnunet; write nnseg or nnunet',
    "predict a b -m m --step 5": '--step: "5" is not a fraction of the patch; write a number from 0.05 to 1, like 0.5',
    "predict a b -m m --step half": '--step: "half" is not a fraction of the patch; write a number from 0.05 to 1, like 0.5',
    "predict a b -m m --memory much": '--memory: "much" is not an amount of memory; write GB, like 8 or 7.5, from 0.1 on',
    "check a --allow D020": '--allow: "NS-D020" is a finding that does not stop a run; write some of NS-',
    "check a --allow D9": '--allow: "NS-D9" cannot be allowed; write some of NS-',
}


def refused(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["nnseg", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2


@pytest.mark.parametrize(("typed", "answer"), ANSWERS.items())
def test_a_mistake_is_answered_in_one_line(
    typed: str, answer: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    refused(typed.split(), monkeypatch)
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"nnseg: {answer}")
    assert said.err.count("\n") == 1


def test_a_mistake_is_json_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    refused(["check", "a", "--layuot", "bids", "--json"], monkeypatch)
    assert "did you mean --layout?" in json.loads(capfd.readouterr().out)["error"]["message"]


def test_nnseg_alone_prints_its_help(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    refused([], monkeypatch)
    said = capfd.readouterr()
    assert "Usage: nnseg" in said.out + said.err
    assert "nnseg:" not in said.err


@pytest.mark.parametrize(("command", "most"), [("run", 110), ("predict", 80)])
def test_the_help_of_the_longest_commands_is_short(
    command: str, most: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "argv", ["nnseg", command, "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) <= most
    assert max(map(len, lines)) <= 80
