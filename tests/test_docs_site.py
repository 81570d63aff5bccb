"""The documentation site: it builds without a warning, needs no network, is searched without a server, and fits each width."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from browser import Browser, needs_browser

from nnseg.cli import app

ROOT = Path(__file__).parents[1]

CUT = """
[...document.querySelectorAll("article *")].filter(one => {
    const scrolls = (box) => ["auto", "scroll"].includes(getComputedStyle(box).overflowX)
    for (let box = one; box; box = box.parentElement) if (scrolls(box)) return false
    const hidden = getComputedStyle(one).overflowX !== "visible" && one.scrollWidth > one.clientWidth + 1
    return hidden || one.getBoundingClientRect().right > innerWidth + 1
}).map(one => one.tagName + ": " + one.textContent.slice(0, 60))
"""
"""What is beyond the window's right edge or its own frame, and cannot be scrolled to."""

NOT_SHOWN = "[...document.images].filter(one => !one.naturalWidth).map(one => one.src)"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(importlib.util.find_spec("sphinx") is None, reason='needs the extra "docs"'),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", folder / "cache", ROOT / "docs", folder / "html"]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr[-5000:]
    return folder / "html"


@pytest.fixture
def browser(tmp_path: Path):
    with Browser(tmp_path) as opened:
        yield opened


def test_nothing_is_loaded_from_a_network(site: Path) -> None:
    texts = {file: file.read_text() for suffix in ("html", "css") for file in site.rglob(f"*.{suffix}")}
    loaded = r"""(?:<(?:script|img|iframe)[^>]*\ssrc=|<link[^>]*\shref=|url\()["']?(?:https?:)?//[^"')]+"""
    assert {file.name: found for file, text in texts.items() if (found := re.findall(loaded, text))} == {}


def test_llms_txt_links_to_pages_that_exist(site: Path) -> None:
    links = re.findall(r"^- \[.+\]\((\S+)\): \S", (site / "llms.txt").read_text(), re.MULTILINE)
    assert len(links) > 20
    assert [link for link in links if not (site / link).exists()] == []


def test_llms_txt_has_a_line_for_each_command(site: Path) -> None:
    text = (site / "llms.txt").read_text()
    assert re.search(r"^- \[nnseg models pull\]\(reference/commands.html\): Download a model", text, re.MULTILINE)
    missing = [name for name in typer.main.get_command(app).commands if f"[nnseg {name}" not in text]
    assert missing == []


@needs_browser
def test_search_works_without_a_server(site: Path, browser: Browser) -> None:
    browser.open(site / "search.html", fragment="?q=budget")
    browser.wait_for("document.querySelectorAll('#search-results ul.search li a').length > 3", seconds=120)


@needs_browser
@pytest.mark.parametrize("width", [360, 820, 1400])
def test_every_page_is_whole_and_shows_its_pictures(site: Path, browser: Browser, width: int) -> None:
    faults = {}
    for page in sorted(site.rglob("*.html")):
        browser.open(page, width=width, dark=width == 820)
        found = [*browser.ask(CUT), *browser.ask(NOT_SHOWN)]
        if (needed := browser.ask("document.documentElement.scrollWidth")) > width:
            found.append(f"{needed} pixels wide")
        if found:
            faults[str(page.relative_to(site))] = found[:5]
    assert faults == {}
