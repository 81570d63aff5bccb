import re
from html import unescape

import numpy as np
import pytest
from browser import Browser, needs_browser
from markupsafe import Markup

from nnseg.core.geometry import Grid
from nnseg.core.labels import Labels
from nnseg.core.population import Person, Population, make_population
from nnseg.core.trust import Agreement, Confidence
from nnseg.reporting.case_images import CaseImages
from nnseg.reporting.pictures import CasePictures, Picture, draw_case
from nnseg.reporting.viewer import MOST_BYTES
from nnseg.volumetry.page import RESEARCH_USE, report_html, sheet_html, sheet_name
from nnseg.volumetry.volumes import CaseVolumes, Patient, Volumetry, describe_volumes


def labels(count: int) -> Labels:
    names = [f"{side} part {i}" for i in range((count + 1) // 2) for side in ("Left", "Right")][:count]
    return Labels(names=("background", *names), values=tuple(range(count + 1)))


def confidence(names, quality: float) -> Confidence:
    agreement = Agreement(labels=dict.fromkeys(names, 0.9), foreground=0.9, voxels=dict.fromkeys(names, 9.0))
    return Confidence(
        quality=quality, expected_dice=dict.fromkeys(names, quality), flagged=quality < 0.5, unlike=(), agreement=agreement
    )


def population(count: int) -> Population:
    names = labels(count).foreground
    return make_population([Person(volumes=dict.fromkeys(names, 100.0 + i)) for i in range(99)], "training set of Test")


def volumetry(count: int, cases=("a", "<b>", "c#1 %"), **changes) -> Volumetry:
    names = labels(count).foreground
    others = population(count)
    made = [
        describe_volumes(
            name,
            {label: 100.0 + 10 * i + 7 * k for k, label in enumerate(names)},
            population=others,
            confidence=confidence(names, 0.4 + 0.2 * i),
            **changes,
        )
        for i, name in enumerate(cases)
    ]
    failed = CaseVolumes(name="broken & gone", failed="<it> is no image")
    about = {"nnseg": "0.1.0", "model": "m.nnseg", "model's hash": "0123456789abcdef"}
    return Volumetry(made_by=about, population=others.source, names=names, cases=(*made, failed))


def drawn(count: int):
    map_ZYX = np.zeros((12, 40, 40), np.uint8)
    for i in range(count):
        map_ZYX[4:8, 3 + 3 * (i // 12) : 5 + 3 * (i // 12), 3 + 3 * (i % 12) : 5 + 3 * (i % 12)] = i + 1
    grid = Grid(shape=map_ZYX.shape)
    image = map_ZYX[None].astype(np.float32)
    return draw_case(CaseImages(name="a", caption="", image=image, grid=grid, prediction=map_ZYX, labels=labels(count))).pictures


def words(html: str) -> str:
    return re.sub(r"\s+", " ", unescape(re.sub(r"<(style|script|svg).*?</\1>|<[^>]+>", " ", html, flags=re.S)))


def sheet(count: int = 4, **changes) -> str:
    measured = volumetry(count, **changes)
    return sheet_html(measured.cases[0], measured, labels(count), drawn(count))


def test_a_sheet_has_volumes_percentiles_asymmetry_quality_and_provenance():
    measured = words(sheet(patient=Patient(age=71.5, sex="F")))
    assert "Left part 0 100 < 1 low 104 to 194 -6.8 0.40" in measured
    assert "Right part 0 107 8 104 to 194 -6.8 0.40" in measured
    assert "female, 71.5 years" in measured
    assert "low expected quality, Dice 0.40" in measured
    assert "model's hash 0123456789abcdef" in measured
    assert "the training set of Test: all 99 (ages and sexes of these are not known)" in measured
    assert measured.count(RESEARCH_USE) == 2


def test_a_sheet_gives_intervals_beside_volume_and_dice():
    names = labels(2).foreground
    known = confidence(names, 0.8).model_copy(
        update={"dice_intervals": {names[0]: (0.71, 0.88)}, "volume_factors": {names[0]: (0.9, 1.5)}}
    )
    case = describe_volumes("a", dict.fromkeys(names, 100.0), confidence=known)
    shown = words(sheet_html(case, Volumetry(names=names, cases=()), labels(2), ()))
    assert "Left part 0 100 90.0 to 150 +0.0 0.80 0.71 to 0.88" in shown
    assert "Right part 0 100 +0.0 0.80" in shown
    assert "a label that fewer than 9 held-out cases have" in shown


def test_a_sheet_without_population_or_scan_leaves_out_what_is_unknown():
    case = describe_volumes("a", {"Left part 0": 1.5, "Right part 0": 0.0})
    measured = words(sheet_html(case, Volumetry(names=labels(2).foreground, cases=()), labels(2), ()))
    assert "Left part 0 1.50 +200.0 Right part 0 0 +200.0" in measured
    assert "no reference population" in measured
    assert "No picture" in measured
    assert "Expected Dice" not in measured


def test_the_page_lists_every_case_and_failure_and_escapes_names():
    measured = volumetry(2)
    page = report_html(measured, labels(2), sheets=True, previews=[CasePictures(name="<b>", caption="x", pictures=drawn(2))])
    assert "3 scans measured, 1 failed" in words(page)
    assert "broken & gone : <it> is no image" in words(page)
    assert 'href="sheets/c%231%20%25.html"' in page
    assert 'href="sheets/%3Cb%3E.html"' in page
    assert "<b>.html" not in page
    assert not re.search(r'(src|href)="(?!#|sheets/|data:)', page)


def test_scans_without_uncertainty_are_not_called_free_of_doubt():
    measured = Volumetry(names=labels(2).foreground, cases=(describe_volumes("a", dict.fromkeys(labels(2).foreground, 1.0)),))
    page = words(report_html(measured, labels(2)))
    assert "0 of 1 scan flagged uncertainty was not estimated" in page
    assert "none is doubtful" not in page
    assert "their expected quality" not in page


def test_many_labels_leave_the_table_of_cases_narrow():
    page = report_html(volumetry(30), labels(30), population=population(30))
    assert page.count('aria-sort="none"') == 4  # case, expected Dice, low, high
    assert page.count("<figcaption>") == 24


def test_many_cases_and_noisy_pictures_leave_the_page_below_fifteen_megabytes():
    few = volumetry(30)
    measured = few.model_copy(update={"cases": tuple(few.cases[0].model_copy(update={"name": f"case {i}"}) for i in range(1500))})
    noisy = Picture(title="", svg=Markup("n" * 1_400_000), aspect=1.0)
    shown = [CasePictures(name=f"case {i}", caption="x", pictures=(noisy,)) for i in range(12)]
    page = report_html(measured, labels(30), population=population(30), previews=shown)
    assert page.count('class="example"') == 2
    assert page.count("<circle") == 18_000
    assert len(page) < 15_000_000 - MOST_BYTES
    larger = [CasePictures(name="a", caption="x", pictures=(noisy,) * 3)]
    assert 'class="example"' in report_html(volumetry(2), labels(2), previews=larger)


def test_the_sheet_of_a_case_whose_name_is_a_path_stays_in_its_folder():
    assert sheet_name("../../a\\b") == ".._.._a_b.html"


def test_a_folder_in_which_all_failed_has_a_page_too():
    measured = volumetry(2, cases=())
    assert "0 scans measured, 1 failed" in words(report_html(measured, labels(2)))


def of_long_names() -> str:
    long = "x" * 200
    named, cells = Labels(names=("background", long), values=(0, 1)), np.ones((1, 8, 8), np.uint8)
    case = describe_volumes(long, {long: 1.0}, notes=(long,))
    seen = CaseImages(
        name=long, caption=long, image=cells[None].astype(np.float32), grid=Grid(shape=cells.shape), prediction=cells, labels=named,
        notes=case.notes,
    )  # fmt: skip
    shown = [CasePictures(name=long, caption=long, pictures=drawn(1))]
    return report_html(Volumetry(names=(long,), cases=(case,)), named, previews=shown, viewed=[seen], sheets=True)


@needs_browser
def test_a_browser_sorts_the_page_and_finds_no_error_in_it_and_prints_a_sheet_on_one_page(tmp_path):
    measured = volumetry(12)
    shown = [CasePictures(name="a", caption="x", pictures=drawn(12))]
    (tmp_path / "report.html").write_text(report_html(measured, labels(12), population=population(12), previews=shown, sheets=True))
    (tmp_path / "few.html").write_text(report_html(volumetry(2), labels(2)))
    (tmp_path / "long.html").write_text(of_long_names())
    case = measured.cases[0].model_copy(update={"notes": ("2 voxels were not numbers",)})
    (tmp_path / sheet_name("s")).write_text(sheet_html(case, measured, labels(12), drawn(12)))
    with Browser(tmp_path) as browser:
        for page in ("report.html", "few.html", "long.html", "s.html"):
            for width in (360, 1400):
                browser.open(tmp_path / page, width=width, dark=width == 360)
                assert browser.errors == []
                assert browser.ask("document.documentElement.scrollWidth") == width
        browser.open(tmp_path / "few.html")
        order = "[...document.querySelectorAll('#case-table tbody tr')].map(row => row.dataset.case).join()"
        assert browser.ask(order) == "a,<b>,c#1 %"
        press = "document.querySelectorAll('#case-table thead button')[{}].click()"
        browser.ask(press.format(1) + ";" + press.format(1))
        assert browser.ask(order) == "c#1 %,<b>,a"
        assert browser.ask("document.querySelectorAll('#case-table th')[1].getAttribute('aria-sort')") == "descending"
        browser.open(tmp_path / "s.html")
        browser.print_pdf(tmp_path / "s.pdf")
    printed = (tmp_path / "s.pdf").read_bytes()
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) == 1
    assert re.search(rb"/MediaBox\s*\[0 0 59[45]\.\d+ 84[12]\.\d+\]", printed)


@pytest.mark.parametrize("count", [1, 12])
def test_a_sheet_takes_little_room(count):
    assert len(sheet(count)) < 400_000


def test_every_class_on_the_page_has_a_style():
    measured = volumetry(2, patient=Patient(age=71.5, sex="F"))
    page = report_html(
        measured, labels(2), population=population(2), previews=[CasePictures(name="a", caption="x", pictures=drawn(2))]
    )
    style = page[page.index("<style>") : page.index("</style>")]
    used = {name for group in re.findall(r'class="([^"]*)"', page) for name in group.split()}
    assert {name for name in used if f".{name}" not in style} == set()
