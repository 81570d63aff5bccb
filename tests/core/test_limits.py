"""Limits of what a file may ask for: one table, which the environment changes and the documentation lists."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import nnseg
from nnseg.core.labels import Labels
from nnseg.core.limits import LIMITS, limit, wrong_entries

ROOT = Path(nnseg.__file__).parents[1]


def test_the_environment_changes_a_limit_and_no_other(monkeypatch):
    monkeypatch.setenv("NNSEG_LIMITS", "labels=3 plane_pixels=4e8")
    assert (limit("labels"), limit("plane_pixels"), limit("folds")) == (3, 400_000_000, LIMITS["folds"])
    with pytest.raises(ValueError, match="4 labels, the most is 3; NNSEG_LIMITS=labels=NUMBER raises the limit"):
        Labels(names=("background", "a", "b", "c"), values=(0, 1, 2, 3))


def test_entries_that_are_no_limits_are_named_and_not_heeded(monkeypatch):
    monkeypatch.setenv("NNSEG_LIMITS", "labels=-1 label=5 folds=7 pages=1e999 text_bytes=9e19 channels=0")
    assert wrong_entries() == "labels=-1, label=5, pages=1e999, text_bytes=9e19, channels=0"
    assert (limit("labels"), limit("folds")) == (LIMITS["labels"], 7)
    done = subprocess.run([sys.executable, "-m", "nnseg", "--help"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, "NNSEG_LIMITS has labels=-1, label=5, pages=1e999" in done.stderr) == (2, True)


def test_the_documentation_lists_every_limit_and_each_is_asked():
    text = (ROOT / "docs" / "limits.md").read_text()
    assert set(re.findall(r"`([a-z_]+)`", "".join(re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)))) == set(LIMITS)
    code = "\n".join(path.read_text() for path in (ROOT / "nnseg").rglob("*.py") if path.name != "limits.py")
    computed = {f"{kind}_{what}" for kind in ("text", "plan", "run") for what in ("bytes", "entries")}
    assert [name for name in LIMITS if not re.search(rf"""["']{name}["']""", code) and name not in computed] == []
