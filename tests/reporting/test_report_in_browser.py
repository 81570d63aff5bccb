"""The viewer in a real browser, under the policy of the page: nothing but its own scripts, and no network."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import Browser, needs_browser
from PIL import Image

from nnseg.core.geometry import Grid
from nnseg.core.labels import Labels
from nnseg.reporting.case_images import CaseImages
from nnseg.reporting.content import ReportContent
from nnseg.reporting.report import render_report

pytestmark = needs_browser

LABELS = Labels(names=("background", "front", "back"), values=(0, 3, 7))
SHAPE = (10, 14, 18)
VIEWER = "document.getElementById('viewer')"
READY = f"{VIEWER}.dataset.ready"


def case(number: int, **others) -> CaseImages:
    """A block of two labels whose prediction lies one voxel to the left; the scan says where its voxels are."""
    z, y, x = np.mgrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    reference = np.zeros(SHAPE, np.uint8)
    reference[3:7, 4:9, 5 : 9 + number], reference[3:7, 4:9, 9 + number : 13] = 3, 7
    prediction = np.roll(reference, 1, axis=2)
    return CaseImages(
        **{
            "name": f"case_{number}",
            "caption": ("best", "worst")[number],
            "image": (100.0 * z + 10.0 * y + x).astype(np.float32)[None] + 1000 * number,
            "grid": Grid(shape=SHAPE, spacing=(2.0, 1.0, 1.0), origin=(-9.0, -7.0, 100.0)),
            "prediction": prediction,
            "reference": reference,
            "uncertainty": np.where(prediction != reference, 0.4, 0.0).astype(np.float32),
            "labels": LABELS,
            **others,
        }
    )


def without_reference() -> CaseImages:
    return case(0, reference=None, uncertainty=None)


def picture() -> CaseImages:
    """One slice in colours."""
    colours = np.zeros((3, 1, 24, 32), np.float32)
    colours[0], colours[1, :, :, 16:] = 200, 90
    cells = np.zeros((1, 24, 32), np.uint8)
    cells[0, 5:12, 6:20] = 3
    return case(0, image=colours, grid=Grid(shape=(1, 24, 32)), prediction=cells, reference=cells, uncertainty=None)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser"), webgl=True) as opened:
        yield opened


def show(browser: Browser, folder: Path, *cases: CaseImages, width: int = 1200) -> None:
    page = folder / "report.html"
    page.write_text(render_report(ReportContent(title="viewed", dataset="d", viewed=cases)), "utf-8")
    browser.open(page, width=width)
    browser.ask(f"{VIEWER}.scrollIntoView()")
    browser.wait_for(READY)


@pytest.fixture
def shown(browser: Browser, tmp_path: Path) -> Iterator[Browser]:
    """A page with two cases."""
    show(browser, tmp_path, case(0), case(1))
    yield browser
    assert browser.errors == []


def pixels(browser: Browser, folder: Path) -> np.ndarray:
    """What is seen where the viewer draws, once two frames have passed."""
    browser.ask("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    left, top, right, bottom = browser.ask(
        "(r => [r.left, r.top, r.right, r.bottom])(document.querySelector('[data-viewer=stage]').getBoundingClientRect())"
    )
    browser.screenshot(folder / "seen.png")
    return np.asarray(Image.open(folder / "seen.png").convert("RGB").crop((left, top, right, bottom))).astype(int)


def click(browser: Browser, selector: str) -> None:
    browser.ask(f"document.querySelector('{selector}').click()")


def place(browser: Browser, text: str) -> str:
    """What is said of the crosshair, once it holds a text."""
    element = "document.querySelector('[data-viewer=place]').textContent"
    browser.wait_for(f"{element}.includes({text!r})")
    return browser.ask(element)


def focus_on_the_picture(browser: Browser) -> None:
    browser.ask("document.querySelector('[data-viewer=canvas]').focus()")


def test_nothing_is_unpacked_before_the_viewer_is_near_the_window(browser, tmp_path):
    page = tmp_path / "report.html"
    html = render_report(ReportContent(title="viewed", dataset="d", viewed=[case(0)]))
    page.write_text(html.replace("<main", "<p style='height: 4000px'></p><main"), "utf-8")
    browser.open(page)
    assert browser.ask("typeof niivue") == "undefined"
    browser.ask(f"{VIEWER}.scrollIntoView()")
    assert browser.wait_for(READY)
    assert browser.errors == []


def test_voxels_are_seen_and_labels_in_their_colours(shown, tmp_path):
    seen = pixels(shown, tmp_path)
    assert len(np.unique(seen.reshape(-1, 3), axis=0)) > 100
    orange, blue = (np.abs(seen - np.array(rgb)).sum(axis=2) < 60 for rgb in ((230, 159, 0), (86, 180, 233)))
    assert orange.sum() > 50  # outlines of the front
    assert blue.sum() > 50  # and of the back


def test_niivue_has_each_voxel_where_the_case_has_it(shown):
    """Its axes count to the right, anterior and superior; ours to the left, posterior and superior."""
    z, y, x = 4, 5, 11
    script = f"{VIEWER}.niivue.volumes.map(v => v.getValue({SHAPE[2] - 1 - x}, {SHAPE[1] - 1 - y}, {z}))"
    scan, reference, prediction, uncertainty = shown.ask(script)
    step = float(np.ptp(case(0).image)) / 255
    assert scan == pytest.approx(100 * z + 10 * y + x, abs=step)
    assert (reference, prediction) == (2, 2)
    assert uncertainty == 0
    there = shown.ask(
        f"Array.from({VIEWER}.niivue.frac2mm({VIEWER}.niivue.vox2frac([{SHAPE[2] - 1 - x}, {SHAPE[1] - 1 - y}, {z}]), 0, true))"
    )
    lps = case(0).grid.world((z, y, x))
    assert there[:3] == pytest.approx([-lps[0], -lps[1], lps[2]], abs=1e-3)


def test_the_position_of_the_crosshair_is_shown_and_moved_by_keys(shown):
    click(shown, "[data-viewer-jump=axial]")
    first = place(shown, "Voxel")
    x, y, z = map(int, first.split("(x, y, z) ")[1].split(" ·")[0].split(", "))
    assert z == 3
    focus_on_the_picture(shown)
    shown.press("ArrowRight", code=39)
    place(shown, f"(x, y, z) {x + 1}, {y}, {z} ")
    shown.press("ArrowUp", code=38)
    place(shown, f"(x, y, z) {x + 1}, {y - 1}, {z} ")
    shown.press("PageUp", code=33)
    shown_text = place(shown, f"(x, y, z) {x + 1}, {y - 1}, {z + 1} ")
    position = case(0).grid.world((z + 1, y - 1, x + 1))
    assert f"{abs(position[0]):.1f} mm {'L' if position[0] > 0 else 'R'}" in shown_text
    assert f"{position[2]:.1f} mm S" in shown_text


def test_labels_under_the_crosshair_are_named(shown):
    click(shown, "[data-viewer-jump=axial]")
    focus_on_the_picture(shown)
    shown_text = place(shown, "uncertainty 0.40")
    sides = {(r, p) for r in ("background", "front", "back") for p in ("background", "front", "back") if r != p}
    assert any(f"reference {r} · prediction {p} ·" in shown_text for r, p in sides)


def test_switches_change_what_is_seen(shown, tmp_path):
    before = pixels(shown, tmp_path)
    for name in ("prediction", "reference", "uncertainty", "lines"):
        click(shown, f"[data-viewer={name}]")
        shown.ask("new Promise(done => setTimeout(done, 50))")
        after = pixels(shown, tmp_path)
        assert (np.abs(after - before).sum(axis=2) > 30).sum() > 20, name
        click(shown, f"[data-viewer={name}]")
        shown.ask("new Promise(done => setTimeout(done, 50))")
    assert (np.abs(pixels(shown, tmp_path) - before).sum(axis=2) > 30).sum() < 20


def test_outlines_lie_around_the_filled_labels(shown, tmp_path):
    """The prediction filled without its outline, and its outline: one is inside of the other's box, to the voxel's part."""
    click(shown, '[name="viewer-layout"][value="axial"]')
    click(shown, "[data-viewer=reference]")
    shown.ask("(o => { o.value = 100; o.dispatchEvent(new Event('input')); })(document.querySelector('[data-viewer=opacity]'))")
    shown.ask("document.querySelector('[data-viewer=outlines]').style.visibility = 'hidden'")
    filled = pixels(shown, tmp_path)
    shown.ask("document.querySelector('[data-viewer=outlines]').style.visibility = ''")
    click(shown, "[data-viewer=lines]")
    lines = pixels(shown, tmp_path)
    voxel = shown.ask(f"{VIEWER}.niivue.screenSlices[0].leftTopWidthHeight.map(Math.abs)[2] / {SHAPE[2]}")

    def box(image: np.ndarray) -> np.ndarray:
        coloured = np.argwhere(np.ptp(image, axis=2) > 90)
        return np.array([coloured.min(axis=0), coloured.max(axis=0)])

    assert np.abs(box(filled) - box(lines)).max() < 0.8 * voxel
    assert box(lines)[1, 1] - box(lines)[0, 1] == pytest.approx(8 * voxel, abs=0.4 * voxel)  # x 6 to 13


def test_cases_are_switched_by_keyboard(shown, tmp_path):
    before = pixels(shown, tmp_path)
    shown.ask("document.querySelector('[data-viewer=case]').focus()")
    shown.press("ArrowDown", code=40)
    assert shown.ask("document.querySelector('[data-viewer=case]').value") == "1"
    shown.wait_for(f"{VIEWER}.niivue.volumes[0].hdr.scl_inter > 900")
    focus_on_the_picture(shown)
    place(shown, "intensity 1")
    assert (np.abs(pixels(shown, tmp_path) - before).sum(axis=2) > 30).sum() > 20
    assert "case_1" in shown.ask("document.querySelector('[data-viewer=canvas]').ariaLabel")


def test_each_layout_is_drawn(shown, tmp_path):
    seen = []
    for layout in ("axial", "coronal", "sagittal", "render"):
        click(shown, f'[name="viewer-layout"][value="{layout}"]')
        seen.append(pixels(shown, tmp_path))
        assert np.ptp(seen[-1], axis=2).max() > 90, layout  # labels are in colour
        assert all((seen[-1] != other).any() for other in seen[:-1])


def test_a_narrow_page_is_not_wider_than_the_window(browser, tmp_path):
    show(browser, tmp_path, case(0), case(1), width=360)
    assert browser.ask("document.documentElement.scrollWidth") <= 360
    assert browser.ask("document.querySelector('[data-viewer=stage]').clientWidth") > 250


def test_a_case_without_reference_is_shown_with_what_there_is(browser, tmp_path):
    show(browser, tmp_path, without_reference())
    assert browser.ask("document.querySelectorAll('[data-viewer=reference], [data-viewer=uncertainty]').length") == 0
    assert "reference" not in place(browser, "prediction")
    assert np.ptp(pixels(browser, tmp_path), axis=2).max() > 90
    assert browser.errors == []


def test_a_picture_in_colours_is_shown_as_it_is(browser, tmp_path):
    show(browser, tmp_path, picture())
    assert browser.ask("document.querySelector('[data-viewer=layouts]').hidden")
    assert "Pixel (x, y)" in place(browser, "Pixel")
    seen = pixels(browser, tmp_path)
    for colour in ((200, 0, 0), (200, 90, 0)):
        assert (np.abs(seen - np.array(colour)).sum(axis=2) < 12).sum() > 1000
    assert browser.errors == []


def test_without_webgl_the_page_says_so_and_goes_on(tmp_path_factory, tmp_path):
    page = tmp_path / "report.html"
    page.write_text(render_report(ReportContent(title="viewed", dataset="d", viewed=[case(0)])), "utf-8")
    with Browser(tmp_path_factory.mktemp("browser")) as plain:
        plain.call("Page.addScriptToEvaluateOnNewDocument", source="HTMLCanvasElement.prototype.getContext = () => null;")
        plain.open(page)
        plain.ask(f"{VIEWER}.scrollIntoView()")
        plain.wait_for("!document.querySelector('[data-viewer=problem]').hidden")
        assert "no WebGL 2" in plain.ask("document.querySelector('[data-viewer=problem]').textContent")
        assert plain.ask("document.querySelector('[data-viewer=frame]').hidden")
        assert plain.errors == []
