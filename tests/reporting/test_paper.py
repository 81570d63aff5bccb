import re
import sys

import numpy as np
import pytest
from PIL import Image
from report_examples import plan

from nnseg.core.geometry import Grid
from nnseg.core.labels import Labels
from nnseg.core.schedule import Epoch
from nnseg.core.scores import CaseScore, LabelScore, Scores
from nnseg.evaluation.averages import averages
from nnseg.reporting.case_images import CaseImages
from nnseg.storage.overwrite import is_made

paper_network = pytest.importorskip("nnseg.reporting.paper", reason="matplotlib is not installed")
paper = pytest.importorskip("nnseg.reporting.paper", reason="matplotlib is not installed")


def history(slope: float, steps=(10, 20, 30)) -> list[Epoch]:
    return [
        Epoch(
            number=i,
            step=s,
            steps=30,
            loss=slope * s,
            learning_rate=0.1,
            dice={"a": s / 100 if i else None},
            seconds=1,
            total_seconds=s,
        )
        for i, s in enumerate(steps)
    ]


def scores(labels=("liver", "spleen"), cases=12, metrics=("dice", "iou", "hd95")) -> Scores:
    random = np.random.default_rng(0)
    found = []
    for i in range(cases):
        masks = {}
        for k, label in enumerate(labels):
            dice = float(random.uniform(0.5, 0.9)) - 0.01 * k
            masks[label] = LabelScore(tp=1, fp=0, fn=0, tn=0, dice=dice, iou=dice / (2 - dice), hd95=None if i == 3 else 3.0 + i)
        found.append(CaseScore(name=f"c{i}", labels=masks, mean_dice=0.7, mean_iou=0.6))
    made = averages(found, labels, metrics)
    return Scores(labels=labels, metrics=metrics, cases=tuple(found), failed=(), averages=made)


def example(name: str, shape=(8, 30, 40)) -> CaseImages:
    reference = np.zeros(shape, np.uint8)
    reference[..., 8:20, 10:30] = 1
    return CaseImages(
        name=name,
        caption=f"{name}, mean Dice 0.9",
        image=np.random.default_rng(0).normal(size=shape)[None],
        grid=Grid(shape=shape),
        reference=reference,
        prediction=np.roll(reference, 2, axis=-1),
        labels=Labels(names=("background", "liver"), values=(0, 1)),
    )


BUILDERS = {
    "plan": lambda: paper_network.plan_figure([plan(), plan(name="2d")]),
    "curves": lambda: paper.curves_figure({"3d fold 0": history(1.0), "3d fold 1": history(3.0)}),
    "scores": lambda: paper.scores_figure(scores()),
    "cases": lambda: paper.cases_figure([example("best"), example("worst")]),
    "flat": lambda: paper.cases_figure([example("best", (1, 30, 40)), example("worst", (1, 30, 40))]),
}


@pytest.mark.parametrize("what", BUILDERS)
def test_a_figure_is_300_dpi_and_a_pdf_with_embedded_type_42_fonts_and_the_same_bytes_each_time(what, tmp_path):
    png, pdf = paper.write_figure(BUILDERS[what], tmp_path / "one" / what)
    again = paper.write_figure(BUILDERS[what], tmp_path / "two" / what)
    assert [p.read_bytes() for p in (png, pdf)] == [p.read_bytes() for p in again]
    with Image.open(png) as image:
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
        width_mm = image.width / 300 * 25.4
        assert width_mm == pytest.approx(85 if what in ("curves", "plan") else 174, abs=0.1)
        assert image.height / 300 * 25.4 <= 230
        assert image.info.keys() == {"dpi", "Software"}
    content = pdf.read_bytes()
    assert b"/FontFile2" in content  # TrueType, embedded
    assert b"/Type3" not in content
    assert not re.search(rb"/(CreationDate|Producer)", content)
    assert is_made(png, "picture")
    assert is_made(pdf, "picture")


def test_a_label_that_looks_like_a_formula_is_drawn_as_it_is(tmp_path):
    paper.write_figure(lambda: paper.scores_figure(scores(labels=(r"a $\frac$ b", "$x$"))), tmp_path / "scores")
    assert (tmp_path / "scores.pdf").stat().st_size > 1000


def test_the_mean_of_folds_is_drawn_where_all_of_them_are():
    figure = paper.curves_figure({"3d fold 0": history(1.0), "3d fold 1": history(3.0, steps=(10, 20))})
    mean = next(line for line in figure.axes[0].lines if line.get_label() == "mean of 2 folds")
    assert mean.get_xydata().tolist() == [[10.0, 20.0], [20.0, 40.0]]


def test_plans_differ_in_colour_and_in_dashes():
    figure = paper.curves_figure({f"{plan} fold {k}": history(k + 1.0) for plan in ("2d", "3d") for k in range(2)})
    means = [line for line in figure.axes[0].lines if "mean" in line.get_label()]
    assert len({line.get_color() for line in means}) == len({line.get_linestyle() for line in means}) == 2


def test_scores_are_drawn_case_by_case_with_their_median():
    known = scores()
    figure = paper.scores_figure(known)
    panel = figure.axes[0]
    assert [axes.get_xlabel() for axes in figure.axes] == ["Dice", "HD95 (mm)"]  # IoU says the same as Dice
    assert [t.get_text() for t in panel.get_yticklabels()] == ["liver", "spleen"]
    dots = [line for line in panel.lines if line.get_marker() == "o"]
    values = [case.labels["liver"].dice for case in known.cases]
    assert sorted(dots[0].get_xdata()) == sorted(values)
    assert next(line.get_xdata()[0] for line in panel.lines if line.get_marker() == "D") == np.median(values)
    assert len(next(line for line in figure.axes[1].lines if line.get_marker() == "o").get_xdata()) == 11  # one is undefined


def test_of_many_labels_those_with_the_lowest_medians_are_drawn():
    known = scores(labels=tuple(f"label {i}" for i in range(40)), metrics=("dice",))
    shown = [t.get_text() for t in paper.scores_figure(known).axes[0].get_yticklabels()]
    medians = {n: np.median([c.labels[n].dice for c in known.cases]) for n in known.labels}
    assert shown == [n for n in known.labels if n in sorted(medians, key=medians.get)[:30]]


def test_letters_are_seven_points_high_at_the_width_of_a_column():
    assert paper.STYLE["font.size"] == 7
    assert round(paper.ONE_COLUMN * 25.4, 6) == 85


def test_matplotlibs_own_settings_stay_as_they_were(tmp_path):
    matplotlib = sys.modules["matplotlib"]
    before = dict(matplotlib.rcParams)
    paper.write_figure(BUILDERS["curves"], tmp_path / "curves")
    assert dict(matplotlib.rcParams) == before
