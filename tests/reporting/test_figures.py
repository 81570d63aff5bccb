import math
from xml.etree import ElementTree

import pytest

from nnseg.reporting.figures import MOST_TIPS, Axes, Point, curves_svg, strips_svg


def points(line: ElementTree.Element) -> list[tuple[float, float]]:
    return [tuple(float(v) for v in p.split(",")) for p in line.get("points").split()]


def curves(values: dict[str, list[float | None]], top: float | None = None, told: str = "") -> ElementTree.Element:
    """Drawn over x = 0, 1, 2, ..."""
    series = {name: [Point(x=x, y=y, told=told and f"{told} {x}") for x, y in enumerate(ys)] for name, ys in values.items()}
    return ElementTree.fromstring(curves_svg("Loss", series, x_label="step", y_label="loss", top=top))


def test_axes_put_the_corners_of_the_data_in_the_corners_of_the_frame():
    axes = Axes(x=(1.0, 5.0), y=(0.0, 2.0), left=10.0, right=110.0, top=20.0, bottom=220.0)
    assert axes.place(1.0, 0.0) == (10.0, 220.0)
    assert axes.place(5.0, 2.0) == (110.0, 20.0)
    assert axes.place(3.0, 1.0) == (60.0, 120.0)


def test_a_curve_goes_through_its_values_with_gaps_where_there_are_none():
    svg = curves({"fold 0": [1.0, 0.5, None, 0.25, math.nan, 0.0]})
    first, second, third = (points(line) for line in svg.iter("polyline"))
    assert [len(first), len(second), len(third)] == [2, 1, 1]
    assert first[0] == (50.0, 12.0)  # x = 0, the largest value: left, top
    assert third[0] == (428.0, 220.0)  # the last x, the smallest value: right, bottom
    assert len(list(svg.iter("circle"))) == 2  # single values show as dots


def test_each_curve_has_a_style_and_its_name():
    svg = curves({"<a>": [1.0, 2.0], "b": [2.0, 1.0]})
    lines = [g for g in svg.iter("g") if "line" in g.get("class", "")]
    assert [(g.get("class"), g.find("title").text) for g in lines] == [("line s0", "<a>"), ("line s1", "b")]


def test_a_point_tells_about_itself_where_the_curve_passes_it():
    svg = curves({"fold 0": [1.0, None, 0.123456]}, told="epoch")
    tips = [c for c in svg.iter("circle") if c.get("class") == "tip"]
    assert [t.find("title").text for t in tips] == ["fold 0, epoch 2: 0.1235", "fold 0, epoch 0: 1"]
    assert [t.get("cx") for t in tips] == ["428.0", "50.0"]


@pytest.mark.parametrize("count", [1, MOST_TIPS, MOST_TIPS + 1, 1000])
def test_a_long_curve_answers_at_few_places_and_always_at_its_end(count):
    tips = [c.find("title").text for c in curves({"a": [0.5] * count}, told="epoch").iter("circle") if c.get("class") == "tip"]
    assert min(count, MOST_TIPS // 2) <= len(tips) <= MOST_TIPS
    assert tips[0] == f"a, epoch {count - 1}: 0.5"


@pytest.mark.parametrize("values", [[], [None], [0.3], [0.3, 0.3], [1e-9, 1e-9], [math.nan, math.inf], [-3.0, 12000.0]])
def test_odd_curves_can_be_drawn(values):
    assert b"nan" not in ElementTree.tostring(curves({"a": values}, told="epoch"))
    assert b"nan" not in ElementTree.tostring(curves({"a": [v if v is None else min(v, 1.0) for v in values]}, top=1.0))


def test_ticks_are_round_numbers():
    labels = [t.text for t in curves({"a": [0.13, 0.87] * 10 + [0.5]}).iter("text")]
    assert labels == ["0", "0.2", "0.4", "0.6", "0.8", "1", "0", "5", "10", "15", "20", "step", "loss"]
    many = ElementTree.fromstring(curves_svg("Loss", {"a": [Point(x=250_000, y=1.0)]}, x_label="step", y_label="loss"))
    assert "200,000" in [t.text for t in many.iter("text")]


def test_a_strip_marks_each_case_and_the_median():
    svg = ElementTree.fromstring(strips_svg("Dice", {"front": {"c1": 0.8, "c2": 0.9, "c3": 1.0}, "back": {}}))
    assert [d.find("title").text for d in svg.iter("circle")] == ["c1: 0.800", "c2: 0.900", "c3: 1.000"]
    assert [float(d.get("cx")) for d in svg.iter("circle")] == [14.0, 220.0, 426.0]
    (mark,) = [line for line in svg.iter("line") if line.get("class") == "median"]
    assert float(mark.get("x1")) == 220.0
    texts = [t.text for t in svg.iter("text")]
    assert "front: median 0.900, lowest 0.800" in texts
    assert "back: no case shows it" in texts


def test_dots_that_crowd_are_piled_up_within_their_row():
    svg = ElementTree.fromstring(strips_svg("Dice", {"front": {f"c{i}": 0.9 for i in range(500)} | {"low": 0.5}}))
    heights = [float(d.get("cy")) for d in svg.iter("circle")]
    assert len(set(heights)) > 50
    assert max(heights) - min(heights) <= 46
