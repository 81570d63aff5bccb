"""Charts as inline SVG; their colours come from the page's style sheet, so that they follow its light and dark mode."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from xml.etree.ElementTree import Element, SubElement, tostring

from nnseg.reporting.charts.drawing import (
    COMPACT,
    WIDTH,
    Axes,
    Place,
    bar,
    canvas,
    dot,
    frame,
    line,
    round_range,
    text,
    ticks,
)
from nnseg.reporting.formatting import number

SERIES_STYLES = 8
"""Line styles in the page's style sheet, ``s0`` to ``s7``."""
DOT = 2.6

MOST_TIPS = 60
"""Tooltips along a curve."""
MOST_BINS = 16
WIDE_SPREAD = 30.0
"""Ratio of largest to smallest value above which a histogram is logarithmic."""


Figure = tuple[str, str]
"""Caption and SVG of a chart."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A point of a curve or scatter plot; a curve has a gap where ``y`` is missing or not finite.

    Args:
        tip: tooltip.
        kind: CSS class of a scatter's dot: "flagged", or "s0" to "s7".
    """

    x: float
    y: float | None
    tip: str = ""
    kind: str = ""


@dataclass(frozen=True, kw_only=True)
class Guide:
    """A reference line across a scatter plot.

    Args:
        left, right: heights at both edges.
        label: text beside it.
        kind: "guide", or "bound" for a limit.
    """

    left: float
    right: float
    label: str = ""
    kind: str = "guide"


@dataclass(frozen=True, kw_only=True)
class Scale:
    """An axis: its name and range; an end without value follows the data."""

    label: str
    low: float | None = None
    high: float | None = None

    def over(self, values: Sequence[float]) -> tuple[float, float]:
        """The range that holds all values."""
        return round_range(values, bottom=self.low, top=self.high)


def curves_svg(
    title: str,
    series: Mapping[str, Sequence[Point]],
    *,
    x_label: str,
    y_label: str,
    top: float | None = None,
    right: float | None = None,
    diagonal: bool = False,
) -> str:
    """A line for each series, from x = 0 on.

    Args:
        title: text for screen readers.
        series: points in order of x, by name.
        x_label, y_label: of the axes; empty for none.
        top: of the vertical axis; the largest value if None.
        right: end of the horizontal axis; of the longest series, in whole numbers, if None.
        diagonal: draw where y equals x, and begin at 0 upwards too.
    """
    everything = [point for points in series.values() for point in points]
    known = [y for point in everything if (y := _finite(point)) is not None]
    end = max([1.0, *(point.x for point in everything)]) if right is None else right
    axes = Axes(x=(0.0, end), y=round_range(known, top=top, bottom=0.0 if diagonal else None))
    svg = canvas(f"{title}: {', '.join(series)}", height=238)
    frame(svg, axes, x_label, y_label, whole=right is None)
    if diagonal:
        line(svg, "guide", axes.place(0.0, 0.0), axes.place(end, end))
    for count, (name, points) in enumerate(series.items()):
        group = SubElement(svg, "g", {"class": f"line s{count % SERIES_STYLES}"})
        SubElement(group, "title").text = name
        for run in _runs(points):
            _curve(group, [axes.place(x, y) for x, y in run])
        _tips(group, name, points, axes)
    return tostring(svg, encoding="unicode")


def scatter_svg(title: str, dots: Sequence[Point], *, x: Scale, y: Scale, guides: Sequence[Guide] = ()) -> str:
    """A scatter plot with reference lines.

    Args:
        title: text for screen readers.
        dots: at least one.
        x, y: the axes.
        guides: reference lines.
    """
    heights = [h for d in dots if (h := _finite(d)) is not None] + [h for g in guides for h in (g.left, g.right)]
    axes = Axes(x=x.over([d.x for d in dots]), y=y.over(heights), bottom=230.0)
    svg = canvas(title, height=268)
    frame(svg, axes, x.label, y.label)
    for guide in guides:
        ends = axes.place(axes.x[0], guide.left), axes.place(axes.x[1], guide.right)
        line(svg, guide.kind, *ends)
        text(svg, guide.label, (axes.right - 2, ends[1][1] - 5), "end", "onchart")
    group = SubElement(svg, "g", {"class": "dots"})
    for one in dots:
        if (height := _finite(one)) is not None:
            dot(group, axes.place(one.x, height), one.tip, kind=one.kind, radius=3)
    return tostring(svg, encoding="unicode")


def histogram_svg(title: str, values: Sequence[float], *, label: str) -> str:
    """A histogram; logarithmic where values span orders of magnitude.

    Args:
        title: text for screen readers.
        values: at least one, finite.
        label: their name and unit.
    """
    logarithmic = min(values) > 0 and max(values) > WIDE_SPREAD * min(values)
    shown = [math.log10(v) for v in values] if logarithmic else list(values)
    low, high = round_range(shown)
    bins = min(MOST_BINS, max(4, math.ceil(2 * len(values) ** 0.5)))
    counts = [0] * bins
    for value in shown:
        counts[min(bins - 1, int((value - low) / (high - low) * bins))] += 1
    axes = Axes(x=(low, high), y=(0.0, float(max(counts))), left=10.0, right=COMPACT - 10.0, top=18.0, bottom=84.0)
    svg = canvas(f"{title}: {axis_range(values)}", height=120, width=COMPACT, kind="chart small")
    text(svg, f"{max(counts)}", (axes.left, 13.0), "start")
    edges = [low + (high - low) * i / bins for i in range(bins + 1)]
    for count, start, end in zip(counts, edges, edges[1:], strict=False):
        _bin(svg, axes, count, (start, end), logarithmic=logarithmic)
    line(svg, "axis", (axes.left, axes.bottom), (axes.right, axes.bottom))
    for tick in _few_ticks(low, high, whole=logarithmic):
        place, _ = axes.place(tick, 0.0)
        line(svg, "tick", (place, axes.bottom), (place, axes.bottom + 4))
        text(svg, number(10**tick if logarithmic else tick), (place, axes.bottom + 17), "middle")
    text(svg, label, (COMPACT / 2, axes.bottom + 33), "middle")
    return tostring(svg, encoding="unicode")


def spans_svg(title: str, spans: Mapping[str, Sequence[float]], *, label: str) -> str:
    """An upright span for each scan, in order of its middle: from the least to the greatest value, thicker between the inner ones.

    Args:
        title: text for screen readers.
        spans: by name five ascending values, of which the first and last are the ends.
        label: of the vertical axis.
    """
    ordered = sorted(spans.items(), key=lambda item: item[1][2])
    axes = Axes(
        x=(0.0, float(len(ordered))), y=round_range([v for _, values in ordered for v in (values[0], values[-1])]), bottom=150.0
    )
    svg = canvas(title, height=180)
    for tick in ticks(*axes.y):
        _, y = axes.place(0.0, tick)
        line(svg, "grid", (axes.left, y), (axes.right, y))
        text(svg, number(tick), (axes.left - 6, y + 4), "end")
    wide = max(0.6, min(6.0, 0.62 * (axes.right - axes.left) / len(ordered)))
    group = SubElement(svg, "g", {"class": "spans", "stroke-width": f"{wide:.2f}"})
    for at, (name, values) in enumerate(ordered):
        places = [axes.place(at + 0.5, v) for v in values]
        one = SubElement(group, "g")
        SubElement(one, "title").text = f"{name}: {', '.join(f'{v:.3g}' for v in values)}"
        line(one, "outer", places[0], places[-1])
        line(one, "inner", places[1], places[-2])
        line(one, "middle", (places[2][0], places[2][1] - 1), (places[2][0], places[2][1] + 1))
    text(svg, f"{len(ordered)} scans, in order of their median", ((axes.left + axes.right) / 2, axes.bottom + 20), "middle")
    turned = SubElement(svg, "g", {"transform": f"translate(11 {(axes.top + axes.bottom) / 2:g}) rotate(-90)"})
    text(turned, label, (0.0, 0.0), "middle")
    return tostring(svg, encoding="unicode")


def strips_svg(title: str, strips: Mapping[str, Mapping[str, float]], *, digits: int = 3, top: float | None = 1.0) -> str:
    """A row of dots for each label, one a case, piled up where they crowd, with a mark at the median.

    Args:
        title: text for screen readers.
        strips: for each label, the value of each case by the case's name.
        digits: decimals of values in texts.
        top: right end of the axis; the largest value if None.
    """
    row, above = 74.0, 8.0
    low, high = round_range([v for cases in strips.values() for v in cases.values()], top=top)
    bottom = above + row * len(strips)
    axes = Axes(x=(low, high), y=(0.0, 1.0), left=14.0, right=WIDTH - 14.0, top=above, bottom=bottom)
    svg = canvas(title, height=bottom + 26)
    for tick in ticks(low, high):
        x, _ = axes.place(tick, 0.0)
        line(svg, "grid", (x, above), (x, bottom))
        text(svg, number(tick), (x, bottom + 16), "middle")
    for count, (label, cases) in enumerate(strips.items()):
        _strip(SubElement(svg, "g", {"class": "strip"}), label, cases, axes=axes, above=above + count * row, digits=digits)
    return tostring(svg, encoding="unicode")


def axis_range(values: Sequence[float]) -> str:
    """A range of values as text: "all 1", or "1.8 in the median, from 0.9 to 4.1"."""
    low, middle, high = (f"{v:,.4g}" for v in (min(values), median(values), max(values)))
    return f"all {middle}" if low == high else f"{middle} in the median, from {low} to {high}"


def _curve(group: Element, places: Sequence[Place]) -> None:
    if len(places) == 1:
        SubElement(group, "circle", {"cx": f"{places[0][0]:.1f}", "cy": f"{places[0][1]:.1f}", "r": "2.5"})
    SubElement(group, "polyline", {"points": " ".join(f"{x:.1f},{y:.1f}" for x, y in places)})


def _tips(group: Element, name: str, points: Sequence[Point], axes: Axes) -> None:
    """Invisible marks with tooltips at the last point and at evenly spaced ones before it."""
    tipped = [(point, y) for point in points if point.tip and (y := _finite(point)) is not None]
    for point, y in tipped[:: -max(1, math.ceil(len(tipped) / MOST_TIPS))]:
        dot(group, axes.place(point.x, y), f"{name}, {point.tip}: {y:.4g}", kind="tip", radius=4)


def _bin(svg: Element, axes: Axes, count: int, ends: tuple[float, float], *, logarithmic: bool) -> None:
    (left, top), (right, _) = axes.place(ends[0], count), axes.place(ends[1], count)
    start, end = (f"{10**e if logarithmic else e:,.4g}" for e in ends)
    bar(svg, (left + 0.5, top), (right - left - 1, axes.bottom - top), kind="bin", tip=f"{count} from {start} to {end}")


def _few_ticks(low: float, high: float, *, whole: bool) -> list[float]:
    """Whole powers if there are two of them within; else every other round number."""
    found = ticks(low, high)
    powers = [float(t) for t in range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)]
    return powers if whole and len(powers) > 1 else found[:: 2 if len(found) > 3 else 1]


def _strip(group: Element, label: str, cases: Mapping[str, float], *, axes: Axes, above: float, digits: int) -> None:
    if not cases:
        text(group, f"{label}: no case shows it", (axes.left, above + 14), "start")
        return
    values = sorted((v, name) for name, v in cases.items())
    middle, room = above + 46, 22.0
    for (value, name), offset in zip(values, _pile([axes.place(v, 0.0)[0] for v, _ in values], room), strict=True):
        dot(group, (axes.place(value, 0.0)[0], middle + offset), f"{name}: {value:.{digits}f}", radius=DOT)
    centre = median(v for v, _ in values)
    x, _ = axes.place(centre, 0.0)
    line(group, "median", (x, middle - room - 3), (x, middle + room + 3))
    summary = f"median {centre:.{digits}f}, mean {fmean(v for v, _ in values):.{digits}f}"
    text(group, f"{label}: {summary}", (axes.left, above + 14), "start")


def _pile(positions: Sequence[float], room: float) -> list[float]:
    """Vertical offsets within ``room`` that keep dots at these ascending positions apart; squeezed where they are too many."""
    columns: dict[int, list[int]] = {}
    for count, x in enumerate(positions):
        columns.setdefault(int(x // (2 * DOT)), []).append(count)
    tallest = max(len(c) for c in columns.values())
    apart = min(2 * DOT, 2 * room / max(1, tallest - 1))
    offsets = [0.0] * len(positions)
    for column in columns.values():
        for place, count in enumerate(column):
            offsets[count] = apart * ((place + 1) // 2) * (-1 if place % 2 else 1)
    return offsets


def _finite(point: Point) -> float | None:
    return point.y if point.y is not None and math.isfinite(point.y) else None


def _runs(points: Sequence[Point]) -> Iterator[list[Place]]:
    """Stretches of consecutive points that have a value."""
    run: list[Place] = []
    for point in points:
        y = _finite(point)
        if y is not None:
            run.append((point.x, y))
        elif run:
            yield run
            run = []
    if run:
        yield run
