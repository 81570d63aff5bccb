"""The report's page in a real browser: no errors, no sideways scrolling, and everything can be worked."""

import base64
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browser import Browser, needs_browser
from report_examples import HOSTILE, LABELS, case, report_content, scores

from nnseg.core.geometry import Grid
from nnseg.reporting.case_images import CaseImages
from nnseg.reporting.report import render_report

pytestmark = needs_browser

NAMES = "[...document.querySelectorAll('#case-table tbody tr')].map(row => row.dataset.case)"
COLUMN = "[...document.querySelectorAll('#case-table tbody tr')].map(row => row.cells[{}].textContent)"
SORTS = "[...document.querySelectorAll('#case-table thead th')].map(head => head.getAttribute('aria-sort'))"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render_report(report_content()), "utf-8")
    return path


def click(browser: Browser, column: int) -> None:
    browser.ask(f"document.querySelectorAll('#case-table thead button')[{column}].click()")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 820, 1400])
def test_the_page_loads_without_errors_and_never_scrolls_sideways(browser, page, width, dark):
    browser.open(page, width=width, dark=dark)
    assert browser.errors == []
    assert browser.ask("document.documentElement.scrollWidth") == width


def test_on_a_phone_no_table_is_cut_and_what_is_touched_is_44_pixels_high(browser, page):
    browser.open(page, width=360)
    cut = "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.ariaLabel)"
    assert browser.ask(cut) == []
    labels = "document.querySelector('[aria-label=\\'Trainings\\'] tbody td').dataset.label"
    assert browser.ask(labels.replace("\\'", '"')) == "epochs"
    heights = "[...document.querySelectorAll('nav a, summary, select, .cases button')].map(e => e.getBoundingClientRect().height)"
    assert min(height for height in browser.ask(heights) if height) >= 44


def pages(browser: Browser, file: Path) -> int:
    browser.open(file)
    pdf = base64.b64decode(browser.call("Page.printToPDF", preferCSSPageSize=True)["data"])
    return len(re.findall(rb"/Type\s*/Page\b", pdf))


def test_a_report_prints_on_few_pages(browser, page, tmp_path):
    """Eight of a usual run, on which no further analysis was made."""
    content = report_content()
    usual = replace(content, learning_curve=None, robustness=None, scores=content.scores.model_copy(update={"detection": {}}))
    (tmp_path / "report.html").write_text(render_report(usual), "utf-8")
    assert 2 <= pages(browser, tmp_path / "report.html") <= 8
    assert pages(browser, page) <= 10


def test_a_heading_sorts_numbers_up_and_down_with_missing_ones_last(browser, page):
    browser.open(page)
    assert browser.ask(NAMES) == [HOSTILE, "case_1", "case_3", "case_10", "case_2", "blank"]
    click(browser, 1)
    assert browser.ask(SORTS) == ["none", "descending", "none", "none"]
    assert browser.ask(NAMES) == ["case_2", "case_10", "case_3", "case_1", HOSTILE, "blank"]
    click(browser, 2)
    assert browser.ask(COLUMN.format(2))[:-1] == ["0.200", "0.300", "0.500", "0.800", "0.900"]
    assert browser.ask(NAMES)[-1] == "blank"


def test_numbers_in_names_are_sorted_by_value(browser, page):
    browser.open(page)
    click(browser, 0)
    assert [n for n in browser.ask(NAMES) if n.startswith("case")] == ["case_1", "case_2", "case_3", "case_10"]


def test_headings_can_be_used_from_the_keyboard(browser, page):
    browser.open(page)
    browser.ask("document.querySelector('#case-table thead button').focus()")
    browser.press("Tab", code=9)
    assert browser.ask("document.activeElement.textContent") == "mean Dice"
    browser.press("Enter", code=13, text="\r")
    assert browser.ask(SORTS)[1] == "descending"


def test_another_metric_fills_the_table_worst_first(browser, page):
    browser.open(page)
    browser.ask("(m => { m.value = 'hd95'; m.dispatchEvent(new Event('change')); })(document.getElementById('metric'))")
    assert browser.ask(SORTS) == ["none", "descending", "none", "none"]
    assert browser.ask(COLUMN.format(1))[:-1] == ["7.50", "7.00", "4.50", "3.00", "2.00"]
    assert browser.ask("[...document.querySelectorAll('.panel')].filter(p => !p.hidden).map(p => p.dataset.metric)") == ["hd95"]
    assert "mean HD95, mm" in browser.ask("document.querySelector('#case-table thead').textContent")


def test_an_error_with_a_sign_is_sorted_by_its_size(browser, page):
    browser.open(page)
    browser.ask("(m => { m.value = 'volume_error_ml'; m.dispatchEvent(new Event('change')); })(document.getElementById('metric'))")
    sizes = [abs(float(v)) for v in browser.ask(COLUMN.format(1))[:-1]]
    assert sizes == sorted(sizes, reverse=True)


def test_a_case_leads_to_its_pictures(browser, page):
    browser.open(page)
    browser.ask("document.querySelector('#case-table tbody a').click()")
    assert browser.ask("document.querySelector(location.hash).dataset.case") == HOSTILE


def test_a_case_that_the_viewer_has_is_chosen_there(browser, tmp_path):
    known, block = report_content(), np.zeros((4, 6, 8), np.uint8)
    block[1:3, 2:4, 3:6] = 1
    viewed = [
        CaseImages(
            name=name, caption="c", image=np.ones((1, 4, 6, 8), np.float32), prediction=block, labels=LABELS,
            grid=Grid(shape=(4, 6, 8), spacing=(1.0, 1.0, 1.0), origin=(0.0, 0.0, 0.0)),
        )
        for name in ("case_2", "case_1")
    ]  # fmt: skip
    page = tmp_path / "report.html"
    page.write_text(render_report(replace(known, viewed=viewed)), "utf-8")
    browser.open(page)
    assert browser.errors == []
    browser.ask("document.querySelector('#case-table [data-case=case_1] a').click()")
    assert browser.ask("document.getElementById('viewer-case').selectedOptions[0].textContent").endswith("case_1")
    assert browser.ask("document.activeElement.id") == "viewer-case"


def test_the_first_link_skips_to_the_contents(browser, page):
    browser.open(page)
    browser.press("Tab", code=9)
    assert browser.ask("document.activeElement.textContent") == "Skip to the contents"
    assert browser.ask("document.activeElement.getBoundingClientRect().top") >= 0
    browser.press("Enter", code=13, text="\r")
    assert browser.ask("document.activeElement.id") == "main"


def test_the_navigation_stays_visible_and_marks_the_current_section(browser, page):
    browser.open(page, width=360)
    browser.ask("document.documentElement.style.scrollBehavior = 'auto', document.getElementById('trust').scrollIntoView()")
    browser.wait_for("document.querySelector('nav [aria-current]').hash === '#trust'")
    assert 0 <= browser.ask("document.querySelector('nav').getBoundingClientRect().top") < 5
    assert browser.ask("document.querySelector('nav [aria-current]').getBoundingClientRect().right") <= 360


def test_without_scripts_the_table_and_a_metric_are_there(browser, page):
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(page)
        assert browser.ask(NAMES)[0] == HOSTILE
        assert browser.ask("document.querySelector('.panel').getBoundingClientRect().height") > 100
        assert browser.ask("document.querySelector('.chooser').hidden")
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


def test_a_script_that_is_not_ours_does_not_run(browser, tmp_path):
    page = tmp_path / "report.html"
    page.write_text(render_report(report_content()).replace("</main>", "<script>document.title = 'mine'</script></main>"), "utf-8")
    browser.open(page)
    assert browser.ask("document.title") != "mine"
    assert any("Content Security Policy" in error for error in browser.errors)


@pytest.mark.parametrize("dark", [False, True])
def test_text_has_enough_contrast(browser, page, dark):
    """Contrast of 4.5 for words, in each pair of the palette that the page puts on one another. Source: WCAG 2.2, 1.4.3."""
    browser.open(page, dark=dark)
    names = ["page", "panel", "ink", "soft", "accent", "accent-panel", "bad", "bad-panel", "warn", "warn-panel"]
    read = f"{names!r}.map(n => getComputedStyle(document.documentElement).getPropertyValue('--' + n).trim())"
    colours = dict(zip(names, browser.ask(read), strict=True))
    pairs = [(word, ground) for word in ("ink", "soft", "accent") for ground in ("page", "panel", "accent-panel")]
    pairs += [
        ("bad", "page"),
        ("warn", "page"),
        ("warn", "warn-panel"),
        ("ink", "bad-panel"),
        ("ink", "warn-panel"),
        ("page", "accent"),
    ]
    for word, ground in pairs:
        assert contrast(colours[word], colours[ground]) >= 4.5, (word, ground)


@pytest.mark.parametrize("dark", [False, True])
def test_lines_of_charts_have_enough_contrast(browser, page, dark):
    """Contrast of 3 for drawings. Source: WCAG 2.2, 1.4.11."""
    browser.open(page, dark=dark)
    names = ["page", "edge", *(f"s{i}" for i in range(8))]
    read = f"{names!r}.map(n => getComputedStyle(document.documentElement).getPropertyValue('--' + n).trim())"
    ground, *hues = browser.ask(read)
    assert min(contrast(hue, ground) for hue in hues) >= 3


def test_a_printed_page_shows_every_case_and_no_button(browser, page, tmp_path):
    browser.open(page)
    browser.print_pdf(tmp_path / "report.pdf")
    pages = len(re.findall(rb"/Type\s*/Page\b", (tmp_path / "report.pdf").read_bytes()))
    assert 4 <= pages <= 12
    browser.call("Emulation.setEmulatedMedia", media="print")
    assert browser.ask("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert browser.ask("getComputedStyle(document.querySelector('.cases')).maxHeight") == "none"
    browser.call("Emulation.setEmulatedMedia", media="")


def test_many_labels_scroll_within_their_table(browser, tmp_path):
    wide = replace(
        report_content(), scores=scores([case(f"a_case_with_quite_a_long_name_{i}" * 3, 0.5, 0.1 * i) for i in range(8)])
    )
    page = tmp_path / "report.html"
    page.write_text(render_report(wide), "utf-8")
    browser.open(page, width=360)
    assert browser.ask("document.documentElement.scrollWidth") == 360


def contrast(first: str, second: str) -> float:
    """The contrast ratio of two colours like "#0a5ea8"."""
    low, high = sorted(luminance(c) for c in (first, second))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
