"""What docs/generate makes of the code is complete; it needs nothing that builds the site."""

import re
from pathlib import Path

import pytest

import nnseg
from nnseg.core.metrics import METRICS

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _generators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))


def rows(markdown: str) -> list[list[str]]:
    lines = (re.split(r" *(?<!\\)\| *", line.strip("| ")) for line in markdown.splitlines() if line.startswith("| `"))
    return list(lines)


def test_every_command_and_option_has_a_meaning() -> None:
    from generate.commands import commands

    text = commands()
    assert set(re.findall(r"^### nnseg (\w+)$", text, re.MULTILINE)) >= {"run", "check", "predict", "evaluate", "info"}
    assert [row for row in rows(text) if len(row) != 2 or not row[1]] == []
    assert not re.findall(r"`--[\w-]+ (?:str|path|list|int|float)\b", text)  # a value is named by what it is, not by Python's type
    assert "`--no-probe`" in text
    assert "`--budget TIME`" in text


def test_every_key_of_plans_and_recipes_has_a_meaning() -> None:
    from generate.settings import challenge_keys, plan_keys, recipe_keys

    for text in (plan_keys(), recipe_keys(), challenge_keys()):
        assert [row for row in rows(text) if len(row) != 4 or not row[1] or not row[3]] == []
    assert "## `[[preprocessing.normalization]]`" in plan_keys()
    assert "| `learning_rate` | a number above 0 | `0.01` | the highest of the schedule. |" in plan_keys()
    assert "## `[planner.3d]`" in recipe_keys()


def test_every_metric_has_a_formula() -> None:
    from generate.metrics import metrics

    text = metrics()
    assert all(f"### {metric.title}\n\n`{name}`: {metric.meaning}" in text for name, metric in METRICS.items())
    assert all(metric.formula.strip() for metric in METRICS.values())


def test_keys_of_json_files_are_those_of_their_models() -> None:
    from generate.files import JSON_FILES, json_files, run_folder

    of_runs = re.findall(r'json_file\("(\w+\.json)"', (ROOT / "nnseg/storage/run.py").read_text())
    assert set(of_runs) <= set(JSON_FILES)
    text = json_files()
    assert [row[0] for row in rows(text) if len(row) != 3 or not row[2]] == []
    assert "| `cases[].labels.*.dice` | number or null | None where both masks are empty. |" in text
    assert "| `averages.pooled.*.interval` |" in text  # in a table within a table
    assert "manifest.jsonl" in run_folder()


def test_every_key_of_results_has_a_meaning() -> None:
    from generate.files import JSON_RESULTS, json_results

    text = json_results()
    assert re.findall(r"^### (\S+)$", text, re.MULTILINE) == list(JSON_RESULTS)
    assert [row[0] for row in rows(text) if len(row) != 3 or not row[2]] == []
    assert "| `costs[].train.ram_gb` | number | peak RAM. |" in text
    assert "`findings" not in text  # beside the result, not in it
    assert "`scores.averages" not in text  # scores.json has a table of its own


def test_every_public_name_is_documented_with_its_call() -> None:
    from generate.api import api

    text = api()
    assert set(re.findall(r"^### nnseg\.(\w+)$", text, re.MULTILINE)) == set(nnseg.__all__)
    assert "### TrainingRun" in text  # what train returns
    assert not re.search(r"(?<!`)``(?!`)|:class:|^Args:", text, re.MULTILINE)
