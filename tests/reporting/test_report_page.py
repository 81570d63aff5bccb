import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from report_examples import HOSTILE, LABELS, METRICS, case, epochs, mask, plan, report_content, scores

from nnseg.core.dataset import Finding
from nnseg.core.schedule import Epoch
from nnseg.core.scores import CaseScore, Scores
from nnseg.evaluation.averages import averages
from nnseg.reporting.content import ReportContent
from nnseg.reporting.report import SECTIONS, render_report, write_report
from nnseg.reporting.viewer import MOST_BYTES, script_hash


class Page(HTMLParser):
    """Start tags with attributes, end tags, and visible text of a page."""

    VOID = ("meta", "br", "rect")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.closed: list[str] = []
        self.text = ""
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.inside = ""
        self.feed(html)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        self.closed.append(tag)
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif self.inside != "style":
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def html() -> str:
    return render_report(report_content())


@pytest.fixture(scope="module")
def page(html) -> Page:
    return Page(html)


def test_every_element_is_closed(page):
    blocks = "table tr td th div section figure p ul ol li details header main nav dl dt dd h2 h3 h4 select option article"
    for tag in [*blocks.split(), "svg", "g", "a", "span", "b"]:
        assert len(page.all(tag)) == page.closed.count(tag), tag


def test_the_page_has_all_sections_of_a_run_and_the_navigation_leads_to_them(page):
    names = [name for name in SECTIONS if name not in ("external", "cutoffs")]  # of a validation, and where a question was asked
    assert [a["aria-labelledby"] for a in page.all("section")] == names
    links = [a["href"] for a in page.all("a")]
    assert links[0] == "#main"
    assert links[1 : len(names) + 1] == [f"#{name}" for name in names]


def test_every_link_and_label_leads_somewhere(page):
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    for _, attributes in page.tags:
        targets = [attributes.get("for"), attributes.get("aria-labelledby"), (attributes.get("href") or "").lstrip("#")]
        assert {t for t in targets if t and not t.startswith("data:")} <= set(ids)


def test_no_level_of_headings_is_skipped(page):
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_names_from_files_cannot_become_markup(html, page):
    assert len(page.scripts) == 2  # the table's numbers, and ours
    assert "alert(1)</script>" not in html
    assert page.text.count("<script>alert(1)</script>") > 20


def test_only_our_script_may_run(page):
    (policy,) = [a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.split(None, 1) for rule in policy.split("; "))
    (ours,) = [text for attributes, text in page.scripts if attributes.get("type") != "application/json"]
    assert rules["default-src"] == rules["base-uri"] == "'none'"
    assert rules["script-src"] == script_hash(ours)


def test_nothing_is_loaded_from_anywhere(html, page):
    assert not re.findall(r"https?://", html)
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        for name in ("src", "href", "srcset", "action"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/png;base64,"))
        assert not [name for name in attributes if name.startswith("on")]


def test_drawings_say_what_they_show_or_are_hidden(page):
    drawings = page.all("svg")
    assert len(drawings) > 15
    assert all(d.get("aria-hidden") == "true" or (d["role"] == "img" and d["aria-label"]) for d in drawings)


def test_regions_that_scroll_can_be_reached_and_have_a_name(page):
    regions = [a for a in page.all("div") if a.get("role") == "region"]
    assert len(regions) > 8
    assert all(a["tabindex"] == "0" and (a.get("aria-label") or a.get("aria-labelledby")) for a in regions)


def test_tables_name_their_rows_and_columns(page):
    assert all(a.get("scope") in ("row", "col") for a in page.all("th"))


def test_headline_numbers_come_before_everything_else(html, page):
    known = report_content().scores
    dice = known.averages.per_image["dice"]
    low, high = dice.interval
    assert html.index(f"{dice.mean:.3f}") < html.index('id="data"')
    assert f"{dice.mean:.3f} mean Dice per image {low:.3f} to {high:.3f} (95 %)" in page.text
    assert "networks that were not trained on it" in page.text
    assert "1 case could not be scored" in page.text


def test_errors_are_listed_before_notes(html):
    assert html.index("worse") < html.index("odd &lt;script")


def test_files_that_could_not_be_read_are_listed(page):
    assert "Left out of this page" in page.text
    assert f"old.json {HOSTILE}" in page.text


def test_a_run_that_has_hardly_begun_has_a_page():
    page = Page(render_report(ReportContent(title="just begun", dataset="2 cases", histories={"3d fold 0": ()})))
    assert "just begun" in page.text
    assert not page.all("section")
    assert not page.all("nav")


def test_scores_without_any_case_have_a_page():
    page = Page(render_report(ReportContent(title="t", dataset="d", scores=scores([]))))
    assert [a["aria-labelledby"] for a in page.all("section")] == ["scores"]
    one = Page(render_report(ReportContent(title="t", dataset="d", scores=scores([case("blank", None, None)]))))
    assert "No held-out case has any label" in one.text


def test_only_a_live_page_reloads_itself(html):
    live = Page(render_report(replace(report_content(), live="2026-11-21 17:25:03")))
    assert {"http-equiv": "refresh", "content": "60"} in live.all("meta")
    assert "As of 2026-11-21 17:25:03" in live.text
    assert 'http-equiv="refresh"' not in html


def test_a_live_page_shows_the_progress_of_the_trainings():
    def epoch(step: int) -> Epoch:
        return Epoch(number=step, step=step, steps=3000, loss=1, learning_rate=0.1, dice={}, seconds=0.5, total_seconds=step / 2)

    histories = {"3d fold 0": [epoch(n) for n in range(1, 3001, 2999)], "3d fold 1": [epoch(1), epoch(2)], "3d fold 2": []}
    live = Page(render_report(ReportContent(title="t", dataset="d", histories=histories, live="now")))
    assert "Training: 3d fold 1, step 2 of 3,000, 24 min 59 s left As of now." in live.text
    assert "scores below" not in live.text
    waiting = Page(render_report(ReportContent(title="t", dataset="d", histories={"3d fold 0": ()}, live="now")))
    assert "Training As of now." in waiting.text


def test_many_findings_are_cut_and_counted():
    many = Page(
        render_report(
            ReportContent(title="t", dataset="d", findings=[Finding(level="note", message=f"number {i}.") for i in range(43)])
        )
    )
    assert "number 29." in many.text
    assert "number 30." not in many.text
    assert "And 13 more" in many.text


def test_the_report_is_written_whole_and_small(tmp_path):
    write_report(tmp_path / "report.html", report_content())
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").stat().st_size < 200_000


def test_a_large_run_stays_below_fifteen_megabytes():
    many = scores([case(f"case_{i:04}", 0.5 + i / 4000, 0.9) for i in range(1500)])
    page = render_report(
        ReportContent(title="t", dataset="d", scores=many, plans=(plan(),), histories={f"fold {i}": epochs() for i in range(5)})
    )
    assert len(page) < 4_000_000
    assert page.count('<tr data-case="') == 1500
    assert len(LABELS.foreground) == 2


def test_a_large_run_of_many_labels_stays_below_fifteen_megabytes():
    names = tuple(f"label {i}" for i in range(60))
    one = mask(0.5)
    cases = tuple(
        CaseScore(name=f"case_{i:04}", labels=dict.fromkeys(names, one), mean_dice=0.5, mean_iou=0.3) for i in range(1500)
    )
    many = Scores(labels=names, metrics=METRICS, cases=cases, averages=averages(cases[:2], names, METRICS))
    page = render_report(ReportContent(title="t", dataset="d", scores=many))
    assert len(page) < 15_000_000 - MOST_BYTES - 2_500_000  # the viewer, its program, and still pictures
    assert page.count('<tr data-case="') == 1500
    assert "scores.json also holds the other" in page
