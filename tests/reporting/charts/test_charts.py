import math
from xml.etree import ElementTree

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nnseg.reporting.charts.charts import (
    MOST_TIPS,
    Guide,
    Point,
    Scale,
    curves_svg,
    histogram_svg,
    scatter_svg,
    spans_svg,
    strips_svg,
)
from nnseg.reporting.charts.drawing import Axes, round_range
from nnseg.reporting.formatting import number


def points(line: ElementTree.Element) -> list[tuple[float, float]]:
    return [tuple(float(v) for v in p.split(",")) for p in line.get("points").split()]


def curves(values: dict[str, list[float | None]], top: float | None = None, tip: str = "") -> ElementTree.Element:
    """Drawn over x = 0, 1, 2, ..."""
    series = {name: [Point(x=x, y=y, tip=tip and f"{tip} {x}") for x, y in enumerate(ys)] for name, ys in values.items()}
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
    assert first[0] == (54.0, 12.0)  # x = 0, the largest value: left, top
    assert third[0] == (350.0, 200.0)  # the last x, the smallest value: right, bottom
    assert len(list(svg.iter("circle"))) == 2  # single values show as dots


def test_each_curve_has_a_style_and_its_name():
    svg = curves({"<a>": [1.0, 2.0], "b": [2.0, 1.0]})
    lines = [g for g in svg.iter("g") if "line" in g.get("class", "")]
    assert [(g.get("class"), g.find("title").text) for g in lines] == [("line s0", "<a>"), ("line s1", "b")]


def test_points_of_a_curve_have_tooltips():
    svg = curves({"fold 0": [1.0, None, 0.123456]}, tip="epoch")
    tips = [c for c in svg.iter("circle") if c.get("class") == "tip"]
    assert [t.find("title").text for t in tips] == ["fold 0, epoch 2: 0.1235", "fold 0, epoch 0: 1"]
    assert [t.get("cx") for t in tips] == ["350.0", "54.0"]


@pytest.mark.parametrize("count", [1, MOST_TIPS, MOST_TIPS + 1, 1000])
def test_a_long_curve_has_few_tooltips_and_always_one_at_its_end(count):
    tips = [c.find("title").text for c in curves({"a": [0.5] * count}, tip="epoch").iter("circle") if c.get("class") == "tip"]
    assert min(count, MOST_TIPS // 2) <= len(tips) <= MOST_TIPS
    assert tips[0] == f"a, epoch {count - 1}: 0.5"


@pytest.mark.parametrize("values", [[], [None], [0.3], [0.3, 0.3], [1e-9, 1e-9], [math.nan, math.inf], [-3.0, 12000.0]])
def test_odd_curves_can_be_drawn(values):
    assert b"nan" not in ElementTree.tostring(curves({"a": values}, tip="epoch"))
    assert b"nan" not in ElementTree.tostring(curves({"a": [v if v is None else min(v, 1.0) for v in values]}, top=1.0))


def test_ticks_are_round_numbers():
    labels = [t.text for t in curves({"a": [0.13, 0.87] * 10 + [0.5]}).iter("text")]
    assert labels == ["0", "0.2", "0.4", "0.6", "0.8", "1", "0", "5", "10", "15", "20", "step", "loss"]
    many = ElementTree.fromstring(curves_svg("Loss", {"a": [Point(x=250_000, y=1.0)]}, x_label="step", y_label="loss"))
    assert "200k" in [t.text for t in many.iter("text")]


def test_a_strip_marks_each_case_and_the_median():
    svg = ElementTree.fromstring(strips_svg("Dice", {"front": {"c1": 0.8, "c2": 0.9, "c3": 1.0}, "back": {}}))
    assert [d.find("title").text for d in svg.iter("circle")] == ["c1: 0.800", "c2: 0.900", "c3: 1.000"]
    assert [float(d.get("cx")) for d in svg.iter("circle")] == [14.0, 180.0, 346.0]
    (mark,) = [line for line in svg.iter("line") if line.get("class") == "median"]
    assert float(mark.get("x1")) == 180.0
    texts = [t.text for t in svg.iter("text")]
    assert "front: median 0.900, mean 0.900" in texts
    assert "back: no case shows it" in texts


def test_dots_that_crowd_are_piled_up_within_their_row():
    svg = ElementTree.fromstring(strips_svg("Dice", {"front": {f"c{i}": 0.9 for i in range(500)} | {"low": 0.5}}))
    heights = [float(d.get("cy")) for d in svg.iter("circle")]
    assert len(set(heights)) > 50
    assert max(heights) - min(heights) <= 46


def test_a_histogram_counts_every_value_once_and_draws_counts_to_scale():
    svg = ElementTree.fromstring(histogram_svg("Size", [1.0, 1.1, 1.2, 4.0, 5.0], label="mm"))
    bars = [b for b in svg.iter("rect") if b.get("class") == "bin"]
    counts = [int(b.find("title").text.split()[0]) for b in bars]
    assert sum(counts) == 5
    heights = [float(b.get("height")) for b in bars]
    assert all(h == pytest.approx(c * max(heights) / max(counts), abs=0.1) for c, h in zip(counts, heights, strict=True))
    assert svg.get("aria-label") == "Size: 1.2 in the median, from 1 to 5"


def test_a_histogram_over_orders_of_magnitude_has_powers_of_ten_as_ticks():
    svg = ElementTree.fromstring(histogram_svg("Volume", [0.01, 0.1, 1.0, 10.0, 100.0], label="ml"))
    texts = [t.text for t in svg.iter("text")]
    assert {"0.01", "0.1", "1", "10", "100"} <= set(texts)


@pytest.mark.parametrize("values", [[0.0], [3.0] * 5, [-1.0, 1.0], [1e-9, 1.0], [1e6, 2e6]])
def test_odd_histograms_can_be_drawn(values):
    assert "nan" not in histogram_svg("x", values, label="mm")


def test_a_scatter_puts_dots_and_guides_where_they_belong():
    dots = [Point(x=0.0, y=0.0, tip="<a>"), Point(x=1.0, y=1.0, tip="b", kind="flagged")]
    scale = Scale(label="expected", low=0.0, high=1.0)
    svg = ElementTree.fromstring(scatter_svg("True", dots, x=scale, y=scale, guides=[Guide(left=0.0, right=1.0, label="equal")]))
    circles = list(svg.iter("circle"))
    assert [(c.get("cx"), c.get("cy"), c.get("class")) for c in circles] == [("54.0", "230.0", None), ("350.0", "12.0", "flagged")]
    assert [c.find("title").text for c in circles] == ["<a>", "b"]
    (guide,) = [line for line in svg.iter("line") if line.get("class") == "guide"]
    assert [guide.get(k) for k in ("x1", "y1", "x2", "y2")] == ["54.0", "230.0", "350.0", "12.0"]


def test_spans_stand_in_order_of_their_middles():
    svg = ElementTree.fromstring(spans_svg("MRI", {"high": (0, 1, 5, 6, 9), "low": (0, 1, 2, 3, 4)}, label="normalized"))
    assert [g.find("title").text.split(":")[0] for g in svg.iter("g") if g.find("title") is not None] == ["low", "high"]
    middles = [float(line.get("y1")) + 1 for line in svg.iter("line") if line.get("class") == "middle"]
    assert middles[0] > middles[1]  # y goes down


def test_a_diagonal_goes_from_corner_to_corner():
    points = {"a": [Point(x=0.5, y=0.4)]}
    svg = ElementTree.fromstring(curves_svg("t", points, x_label="", y_label="", top=1.0, right=1.0, diagonal=True))
    (guide,) = [line for line in svg.iter("line") if line.get("class") == "guide"]
    assert [guide.get(k) for k in ("x1", "y1", "x2", "y2")] == ["54.0", "200.0", "350.0", "12.0"]


@pytest.mark.parametrize(
    ("values", "expected"), [([3.0], (0.0, 6.0)), ([-2.0, -2.0], (-4.0, 0.0)), ([0.0], (-0.6, 0.6)), ([], (0.0, 1.0))]
)
def test_a_range_holds_a_single_value_in_its_middle(values, expected):
    assert round_range(values) == pytest.approx(expected)


@example([5e-324])
@given(st.lists(st.floats(-1e9, 1e9), min_size=1))
def test_a_range_holds_all_values_between_round_ends(values):
    low, high = round_range(values)
    slack = 1e-6 * (1 + abs(low) + abs(high))
    assert low - slack <= min(values)
    assert max(values) <= high + slack
    assert low < high


def test_numbers_are_short():
    assert [number(v) for v in (0.25, 1500.0, 200000.0, 1.5e6, 0.00003, 0.0, -0.5)] == [
        "0.25",
        "1,500",
        "200k",
        "1.5M",
        "3e-05",
        "0",
        "-0.5",
    ]
