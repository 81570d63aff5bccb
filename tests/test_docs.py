"""Documentation names files that exist."""

import re
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
