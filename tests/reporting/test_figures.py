import math
from xml.etree import ElementTree

import pytest

from nnseg.reporting.figures import Axes, curves_svg, strips_svg


def points(line: ElementTree.Element) -> list[tuple[float, float]]:
    return [tuple(float(v) for v in p.split(",")) for p in line.get("points").split()]


def test_axes_put_the_corners_of_the_data_in_the_corners_of_the_frame():
    axes = Axes(x=(1.0, 5.0), y=(0.0, 2.0), left=10.0, right=110.0, top=20.0, bottom=220.0)
    assert axes.place(1.0, 0.0) == (10.0, 220.0)
    assert axes.place(5.0, 2.0) == (110.0, 20.0)
    assert axes.place(3.0, 1.0) == (60.0, 120.0)


def test_a_curve_goes_through_its_values_with_gaps_where_there_are_none():
    svg = ElementTree.fromstring(curves_svg("Loss", {"fold 0": [1.0, 0.5, None, 0.25, math.nan, 0.0]}, y_label="loss"))
    first, second, third = (points(line) for line in svg.iter("polyline"))
    assert [len(first), len(second), len(third)] == [2, 1, 1]
    assert first[0] == (44.0, 12.0)  # epoch 1, the largest value: left, top
    assert third[0] == (428.0, 220.0)  # the last epoch, the smallest value: right, bottom
    assert len(list(svg.iter("circle"))) == 2  # single values show as dots


def test_each_curve_has_a_style_and_its_name():
    svg = ElementTree.fromstring(curves_svg("Loss", {"<a>": [1.0, 2.0], "b": [2.0, 1.0]}, y_label="loss"))
    lines = [g for g in svg.iter("g") if "line" in g.get("class", "")]
    assert [(g.get("class"), g.find("title").text) for g in lines] == [("line s0", "<a>"), ("line s1", "b")]


@pytest.mark.parametrize("values", [[], [None], [0.3], [0.3, 0.3], [1e-9, 1e-9], [math.nan, math.inf], [-3.0, 12000.0]])
def test_odd_curves_can_be_drawn(values):
    assert "nan" not in curves_svg("Dice", {"a": values}, y_label="Dice", top=None)
    assert "nan" not in curves_svg("Dice", {"a": [v if v is None else min(v, 1.0) for v in values]}, y_label="Dice", top=1.0)


def test_ticks_are_round_numbers():
    svg = ElementTree.fromstring(curves_svg("Loss", {"a": [0.13, 0.87] * 10}, y_label="loss"))
    labels = [t.text for t in svg.iter("text")]
    assert labels == ["0", "0.2", "0.4", "0.6", "0.8", "1", "5", "10", "15", "20", "epoch", "loss"]


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
