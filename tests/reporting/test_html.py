import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from nnseg.core.dataset import Finding
from nnseg.core.history import Epoch
from nnseg.core.labels import Labels
from nnseg.core.plan import Augmentation, Inference, Network, Normalization, Plan, Preprocessing, Training
from nnseg.evaluation.evaluate import Failure, case_score, summarize
from nnseg.evaluation.metrics import Counts
from nnseg.reporting.contours import ExamplePicture
from nnseg.reporting.html import Story, decisions, describe, render, typical_cases, write_report

HOSTILE = "<script>alert(1)</script>\"'&amp;"
LABELS = Labels(names=("background", "front", HOSTILE), values=(0, 1, 2))


def plan() -> Plan:
    return Plan(
        name="2d",
        dataset="cells",
        recipe="auto",
        channels=("light",),
        patch=(64, 32),
        labels=LABELS,
        why={"patch": "all images are this large"},
        preprocessing=Preprocessing(axes=(0, 1, 2), spacing=(1.0, 0.5), normalization=(Normalization(scheme="zscore"),)),
        network=Network(
            kind="plain", features=(8, 16), strides=((1, 1), (2, 2)), kernels=((3, 3),) * 2, blocks=(2, 2), decoder_blocks=(2,)
        ),
        training=Training(
            batch_size=4, augmentation=Augmentation(mirror_axes=(0, 1), why={"mirror_axes": f"no side differs {HOSTILE}"})
        ),
        inference=Inference(mirror_axes=(0, 1)),
    )


def counts(tp: int) -> Counts:
    return Counts(tp=tp, fp=10 - tp, fn=10 - tp, tn=50)  # Dice tp / 10


def story() -> Story:
    empty = Counts(tp=0, fp=0, fn=0, tn=70)
    dices = {"case_2": (9, 7), "case_10": (8, 6), "case_1": (5, 1), HOSTILE: (3, 2), "case_3": (2, 9)}
    cases = [case_score(name, {"front": counts(a), HOSTILE: counts(b)}) for name, (a, b) in dices.items()]
    cases.append(case_score("blank", {"front": empty, HOSTILE: empty}))
    scores = summarize(cases, LABELS, failed=[Failure(name=HOSTILE, reason=f"broken {HOSTILE}")])
    mask = np.zeros((8, 8), np.uint8)
    mask[2:5, 2:5], mask[5:7, 2:5] = 1, 2
    image = np.arange(64.0).reshape(8, 8)
    example = ExamplePicture(
        name=HOSTILE, caption=f"best {HOSTILE}", image=image, spacing=(1.0, 1.0), reference=mask, prediction=mask, labels=LABELS
    )
    epochs = [
        Epoch(
            number=n, step=n, steps=3, loss=1 / n, learning_rate=0.1, dice={"front": n / 4, "x": None}, seconds=1, total_seconds=n
        )
        for n in (1, 2, 3)
    ]
    return Story(
        title=f"Cells {HOSTILE}",
        dataset="plain folders, 5 cases",
        findings=(Finding(level="note", message=f"odd {HOSTILE}", case=HOSTILE), Finding(level="error", message="worse")),
        plans=(plan(),),
        histories={f"2d fold 0 {HOSTILE}": tuple(epochs)},
        scores=scores,
        examples=(example,),
        timings={"train": 75.0, "predict": 3.21},
        provenance={"command": f"nnseg run {HOSTILE}"},
    )


class Page(HTMLParser):
    """Start tags with attributes, end tags, and visible text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.closed: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        self.closed.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def html() -> str:
    return render(story())


def test_every_element_is_closed(html):
    page = Page(html)
    for tag in ("table", "tr", "td", "th", "div", "section", "figure", "p", "ul", "li", "svg", "g", "details", "header", "main"):
        assert sum(t == tag for t, _ in page.tags) == page.closed.count(tag), tag


def test_names_from_files_cannot_become_markup(html):
    assert html.count("<script>") == 1  # our own
    assert "alert(1)</script>" not in html
    assert Page(html).text.count(HOSTILE) >= 8


def test_nothing_is_loaded_from_anywhere(html):
    assert not re.findall(r"https?://", html)
    assert "default-src 'none'" in html
    for tag, attributes in Page(html).tags:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        for name in ("src", "href", "srcset", "action"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/png;base64,"))


def test_the_page_holds_the_numbers(html):
    text = " ".join(Page(html).text.split())
    scores = story().scores
    for average in (scores.averages.per_mask, scores.averages.per_image, scores.averages.pooled):
        assert f"{average.dice.mean:.3f}Dice" in text
        assert f"{average.iou.mean:.3f}IoU" in text
    assert "10 masks; 2 more left out" in text
    assert "1 min 15 s" in text
    assert "never saw it in training" in text
    assert "all images are this large" in text
    assert "1 case could not be scored" in text
    assert re.search(r"± 0\.\d{3} \(95 %", text)


def test_cases_come_worst_first_and_undefined_ones_last(html):
    body = re.search(r'id="case-table".*?<tbody>(.*?)</tbody>', html, re.S).group(1)
    names = re.findall(r'<th scope="row">(.*?)</th>', body)
    assert names[0].startswith("&lt;script&gt;")
    assert names[1:] == ["case_1", "case_3", "case_10", "case_2", "blank"]


def test_the_case_table_is_marked_as_sortable(html):
    heads = [attributes for tag, attributes in Page(html).tags if tag == "th" and "aria-sort" in attributes]
    assert [h["aria-sort"] for h in heads] == ["none", "ascending", *["none"] * 5]


def test_pictures_and_charts_say_what_they_show(html):
    drawings = [attributes for tag, attributes in Page(html).tags if tag == "svg"]
    assert len(drawings) == 5
    assert all(d["role"] == "img" and d["aria-label"] for d in drawings)


def test_errors_are_listed_before_notes(html):
    assert html.index("worse") < html.index("odd &lt;script")


def test_many_findings_are_cut_and_counted():
    many = Story(title="t", dataset="d", findings=[Finding(level="note", message=f"number {i}.") for i in range(130)])
    text = render(many)
    assert "number 99." in text
    assert "number 100." not in text
    assert "And 30 more" in text


def test_a_story_that_has_hardly_begun_can_be_told():
    text = render(Story(title="just begun", dataset="2 cases", histories={"3d fold 0": ()}))
    assert "just begun" in text
    assert 'id="scores"' not in text
    assert 'id="training"' not in text


def test_only_a_live_page_looks_for_news_by_itself(html):
    live = render(replace(story(), live="2026-11-21 17:25:03"))
    assert ("meta", {"http-equiv": "refresh", "content": "60"}) in Page(live).tags
    assert "As of 2026-11-21 17:25:03" in Page(live).text
    assert 'http-equiv="refresh"' not in html


def test_a_live_page_says_how_far_trainings_are():
    def epoch(step: int) -> Epoch:
        return Epoch(number=step, step=step, steps=3000, loss=1, learning_rate=0.1, dice={}, seconds=0.5, total_seconds=step / 2)

    histories = {"3d fold 0": [epoch(n) for n in range(1, 3001, 2999)], "3d fold 1": [epoch(1), epoch(2)], "3d fold 2": []}
    live = render(Story(title="t", dataset="d", histories=histories, live="now"))
    text = " ".join(Page(live).text.split())
    assert "Training: 3d fold 1, step 2 of 3,000, 24 min 59 s left As of now." in text
    assert "scores below" not in text
    waiting = " ".join(Page(render(Story(title="t", dataset="d", histories={"3d fold 0": ()}, live="now"))).text.split())
    assert "Training As of now." in waiting


def test_the_report_is_written_whole_and_small(tmp_path):
    write_report(tmp_path / "report.html", story())
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").stat().st_size < 200_000


def test_typical_cases_are_the_best_the_median_and_the_worst():
    scores = story().scores
    assert typical_cases(scores) == {"best": "case_2", "median": "case_3", "worst": HOSTILE}
    by_name = {c.name: c for c in scores.cases}
    two = summarize([by_name["blank"], by_name["case_1"], by_name["case_2"]], LABELS)
    assert typical_cases(two) == {"best": "case_2", "worst": "case_1"}
    assert typical_cases(summarize([by_name["case_1"]], LABELS)) == {"best": "case_1"}
    assert typical_cases(summarize([], LABELS)) == {}


def test_a_plan_is_told_in_words_and_settings():
    assert "spacing of 1 x 0.5 mm" in describe(plan())
    assert "plain 2D U-Net of 2 stages" in describe(plan())
    assert "4 mirrored copies" in describe(plan())
    settings = {d.setting: (d.value, d.why) for d in decisions(plan())}
    assert settings["patch"] == ("64, 32", "all images are this large")
    assert settings["network.strides"] == ("1 x 1, 2 x 2", "")
    assert settings["training.deep_supervision"] == ("yes", "")
    assert settings["training.augmentation.mirror_axes"] == ("0, 1", f"no side differs {HOSTILE}")
    assert settings["preprocessing.normalization"] == ("scheme zscore", "")
    assert settings["training.steps"] == ("not set", "")


def test_a_browser_shows_the_page_without_errors_and_sorts(tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium on this machine")
    click = "<script>for (let i = 0; i < 2; i++) document.querySelectorAll('#case-table button')[0].click();</script></body>"
    page = tmp_path / "report.html"
    page.write_text(render(story()).replace("</body>", click), "utf-8")
    done = _dump(browser, page, tmp_path / "profile")
    body = re.search(r'id="case-table".*?<tbody>(.*?)</tbody>', done.stdout, re.S).group(1)
    names = re.findall(r'<th scope="row">(.*?)</th>', body)
    assert [n for n in names if n.startswith("case")] == ["case_10", "case_3", "case_2", "case_1"]  # as people count, downwards
    assert 'aria-sort="descending"' in done.stdout
    assert "CONSOLE" not in done.stderr


def _dump(browser: str, page: Path, profile: Path) -> subprocess.CompletedProcess[str]:
    quiet = ["--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    options = ["--headless", "--no-sandbox", "--disable-gpu", *quiet, f"--user-data-dir={profile}", "--enable-logging=stderr"]
    return subprocess.run([browser, *options, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=60, check=True)
