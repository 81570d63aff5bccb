"""docs/troubleshooting.md quotes messages that exist, and leaves out no class of errors."""

import re
from functools import cache
from pathlib import Path

import pytest

from nnseg.core.codes import CODES

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
QUOTED = [text for cell in re.findall(r"^\| (`.+?) \| ", PAGE, re.MULTILINE) for text in re.findall(r"`([^`]+)`", cell)]
OTHERS = ["nnseg: command not found", "nvidia-..."]
"""Messages of the shell and pip; those of the system are texts of errno."""
SYSTEM = ["No space left on device", "Permission denied"]


@cache
def source() -> str:
    """The package's modules, with texts that stand on several lines put together."""
    modules = (file.read_text() for file in (ROOT / "nnseg").rglob("*.py"))
    return re.sub(r"""["']\s*\n\s*f?["']""", "", "\n".join(modules))


def error_classes() -> set[str]:
    found = {"NnsegError"}
    defined = re.findall(r"^class (\w+)\(([\w, ]+)\):", source(), re.MULTILINE)
    while new := {name for name, parents in defined if found & set(parents.split(", "))} - found:
        found |= new
    return {name for name in found if not name.startswith("_")}


def test_every_class_of_errors_has_cause_and_remedy() -> None:
    rows = {row[1]: row for row in re.finditer(r"^\| `(\w+)` \| (.+) \| (.+) \|$", PAGE, re.MULTILINE)}
    assert error_classes() <= set(rows)


@pytest.mark.parametrize("message", [quoted for quoted in QUOTED if quoted not in OTHERS])
def test_quoted_messages_stand_in_the_code(message: str) -> None:
    for code in re.findall(r"NS-[A-Z]\d{3}", message):
        assert code in CODES
    parts = re.split(r"\.\.\.|%s|%d|\[NS-[A-Z]\d{3}\],?|; expected |: |; |\(|\)", message)
    fragments = [part.strip(' "') for part in parts if len(part.strip(' "')) > 2 and part.strip() not in SYSTEM]
    assert [one for one in fragments if one not in source()] == []
