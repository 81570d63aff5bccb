"""Documentation names files that exist."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
USERS = ("tutorials", "how-to", "concepts")
"""Folders of pages that name users' folders instead of modules."""
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_linked_files_exist(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", [p for p in PAGES if p.parent.name not in USERS], ids=lambda page: str(page.relative_to(ROOT)))
def test_named_modules_exist(page: Path) -> None:
    named = re.findall(r"`((?:nnseg/|tests/|benchmarks/)?[a-z_]+(?:/[a-z_0-9]+)+(?:\.py|/)?)[`:]", page.read_text())
    missing = [name for name in named if not any((root / name).exists() for root in (ROOT, ROOT / "nnseg"))]
    modules = [name for name in missing if not any((root / f"{name}.py").exists() for root in (ROOT, ROOT / "nnseg"))]
    assert [name for name in modules if name.split("/")[0] not in ("images", "labels")] == []


def test_the_start_page_leads_to_every_page_on_how_to_do_something() -> None:
    linked = re.findall(r"\]\(how-to/([a-z-]+)\.md\)", (ROOT / "docs/index.md").read_text())
    assert sorted(linked) == sorted(page.stem for page in (ROOT / "docs/how-to").glob("*.md"))


def test_every_extra_is_explained() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].keys() - {"test", "dev", "docs"}
    assert set(re.findall(r"^\| `([a-z-]+)` \|", (ROOT / "docs/how-to/install.md").read_text(), re.M)) == extras
