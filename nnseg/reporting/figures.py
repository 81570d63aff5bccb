"""Charts as inline SVG: colours come from the page's style, so that they follow its light and dark mode.

Built as element trees, never as text, so that no name can break out of its place.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from xml.etree.ElementTree import Element, SubElement, tostring

WIDTH = 440
SERIES_STYLES = 8
"""Line styles the page knows, ``s0`` to ``s7``."""
DOT = 2.6

MOST_TIPS = 60
"""Places on a curve that answer when they are pointed at."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A point of a curve; the curve has a gap where ``y`` is missing or not finite.

    Args:
        told: about the point, to those who point at it.
    """

    x: float
    y: float | None
    told: str = ""


@dataclass(frozen=True, kw_only=True)
class Axes:
    """Where data lies on the drawing: ranges of the data, and pixels of the frame (y downwards)."""

    x: tuple[float, float]
    y: tuple[float, float]
    left: float = 50.0
    right: float = WIDTH - 12.0
    top: float = 12.0
    bottom: float = 220.0

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Pixels of a data point."""
        across, up = (x - self.x[0]) / (self.x[1] - self.x[0]), (y - self.y[0]) / (self.y[1] - self.y[0])
        return self.left + across * (self.right - self.left), self.bottom - up * (self.bottom - self.top)


def curves_svg(title: str, series: Mapping[str, Sequence[Point]], *, x_label: str, y_label: str, top: float | None = None) -> str:
    """A line for each series, from x = 0 on.

    Args:
        title: what the chart shows, for those who cannot see it.
        series: points in order of x, by name.
        x_label, y_label: of the axes; empty for none.
        top: of the vertical axis; the largest value if None.
    """
    everything = [point for points in series.values() for point in points]
    known = [y for point in everything if (y := _finite(point)) is not None]
    axes = Axes(x=(0.0, max([1.0, *(point.x for point in everything)])), y=_range(known, top))
    svg = _canvas(f"{title}: {', '.join(series)}", height=260)
    _frame(svg, axes, x_label, y_label)
    for number, (name, points) in enumerate(series.items()):
        group = SubElement(svg, "g", {"class": f"line s{number % SERIES_STYLES}"})
        SubElement(group, "title").text = name
        for run in _runs(points):
            _curve(group, [axes.place(x, y) for x, y in run])
        _tips(group, name, points, axes)
    return tostring(svg, encoding="unicode")


def strips_svg(title: str, strips: Mapping[str, Mapping[str, float]]) -> str:
    """A row of dots for each label, one a case, piled up where they crowd, with a mark at the median.

    Args:
        title: what the chart shows, for those who cannot see it.
        strips: for each label, the value of each case by the case's name.
    """
    row, top = 74.0, 8.0
    low, high = _range([v for cases in strips.values() for v in cases.values()], 1.0)
    bottom = top + row * len(strips)
    axes = Axes(x=(low, high), y=(0.0, 1.0), left=14.0, right=WIDTH - 14.0, top=top, bottom=bottom)
    svg = _canvas(title, height=bottom + 26)
    for tick in _ticks(low, high):
        x, _ = axes.place(tick, 0.0)
        _line(svg, "grid", (x, top), (x, bottom))
        _text(svg, _number(tick), (x, bottom + 16), "middle")
    for number, (label, cases) in enumerate(strips.items()):
        _strip(SubElement(svg, "g", {"class": "strip"}), label, cases, axes=axes, top=top + number * row)
    return tostring(svg, encoding="unicode")


def _curve(group: Element, places: Sequence[tuple[float, float]]) -> None:
    if len(places) == 1:
        SubElement(group, "circle", {"cx": f"{places[0][0]:.1f}", "cy": f"{places[0][1]:.1f}", "r": "2.5"})
    SubElement(group, "polyline", {"points": " ".join(f"{x:.1f},{y:.1f}" for x, y in places)})


def _tips(group: Element, name: str, points: Sequence[Point], axes: Axes) -> None:
    """Marks, unseen until pointed at, at the last point and at others evenly before it."""
    telling = [(point, y) for point in points if point.told and (y := _finite(point)) is not None]
    for point, y in telling[:: -max(1, math.ceil(len(telling) / MOST_TIPS))]:
        across, down = axes.place(point.x, y)
        mark = SubElement(group, "circle", {"class": "tip", "cx": f"{across:.1f}", "cy": f"{down:.1f}", "r": "4"})
        SubElement(mark, "title").text = f"{name}, {point.told}: {y:.4g}"


def _strip(group: Element, label: str, cases: Mapping[str, float], *, axes: Axes, top: float) -> None:
    if not cases:
        _text(group, f"{label}: no case shows it", (axes.left, top + 14), "start")
        return
    values = sorted((v, name) for name, v in cases.items())
    middle, room = top + 46, 22.0
    for (value, name), offset in zip(values, _pile([axes.place(v, 0.0)[0] for v, _ in values], room), strict=True):
        dot = SubElement(group, "circle", {"cx": f"{axes.place(value, 0.0)[0]:.1f}", "cy": f"{middle + offset:.1f}", "r": f"{DOT}"})
        SubElement(dot, "title").text = f"{name}: {value:.3f}"
    centre = median(v for v, _ in values)
    x, _ = axes.place(centre, 0.0)
    _line(group, "median", (x, middle - room - 3), (x, middle + room + 3))
    _text(group, f"{label}: median {centre:.3f}, lowest {values[0][0]:.3f}", (axes.left, top + 14), "start")


def _pile(positions: Sequence[float], room: float) -> list[float]:
    """Vertical offsets within ``room`` that keep dots at these ascending positions apart; squeezed where they are too many."""
    columns: dict[int, list[int]] = {}
    for number, x in enumerate(positions):
        columns.setdefault(int(x // (2 * DOT)), []).append(number)
    tallest = max(len(c) for c in columns.values())
    step = min(2 * DOT, 2 * room / max(1, tallest - 1))
    offsets = [0.0] * len(positions)
    for column in columns.values():
        for place, number in enumerate(column):
            offsets[number] = step * ((place + 1) // 2) * (-1 if place % 2 else 1)
    return offsets


def _canvas(title: str, *, height: float) -> Element:
    return Element("svg", {"viewBox": f"0 0 {WIDTH} {height:g}", "role": "img", "aria-label": title, "class": "chart"})


def _frame(svg: Element, axes: Axes, x_label: str, y_label: str) -> None:
    for tick in _ticks(*axes.y):
        _, y = axes.place(axes.x[0], tick)
        _line(svg, "grid", (axes.left, y), (axes.right, y))
        _text(svg, _number(tick), (axes.left - 6, y + 4), "end")
    for tick in _ticks(*axes.x):
        if tick == int(tick):
            x, _ = axes.place(tick, axes.y[0])
            _line(svg, "tick", (x, axes.bottom), (x, axes.bottom + 4))
            _text(svg, _number(tick), (x, axes.bottom + 17), "middle")
    _line(svg, "axis", (axes.left, axes.bottom), (axes.right, axes.bottom))
    _text(svg, x_label, ((axes.left + axes.right) / 2, axes.bottom + 34), "middle")
    turned = SubElement(svg, "g", {"transform": f"translate(11 {(axes.top + axes.bottom) / 2:g}) rotate(-90)"})
    _text(turned, y_label, (0.0, 0.0), "middle")


def _line(parent: Element, kind: str, start: tuple[float, float], end: tuple[float, float]) -> None:
    (x1, y1), (x2, y2) = start, end
    SubElement(parent, "line", {"class": kind, "x1": f"{x1:.1f}", "y1": f"{y1:.1f}", "x2": f"{x2:.1f}", "y2": f"{y2:.1f}"})


def _text(parent: Element, text: str, place: tuple[float, float], anchor: str) -> None:
    SubElement(parent, "text", {"x": f"{place[0]:.1f}", "y": f"{place[1]:.1f}", "text-anchor": anchor}).text = text


def _finite(point: Point) -> float | None:
    return point.y if point.y is not None and math.isfinite(point.y) else None


def _runs(points: Sequence[Point]) -> Iterator[list[tuple[float, float]]]:
    """Stretches of consecutive points that have a value."""
    run: list[tuple[float, float]] = []
    for point in points:
        y = _finite(point)
        if y is not None:
            run.append((point.x, y))
        elif run:
            yield run
            run = []
    if run:
        yield run


def _range(known: Sequence[float], top: float | None) -> tuple[float, float]:
    """A range with round ends that holds all values."""
    low = min(known, default=0.0)
    high = max(known, default=1.0) if top is None else top
    if high - low < 1e-6:
        low, high = high - 0.5, high + (0.5 if top is None else 0.0)
    step = _step(low, high)
    return math.floor(low / step + 1e-9) * step, high if top is not None else math.ceil(high / step - 1e-9) * step


def _ticks(low: float, high: float) -> list[float]:
    step = _step(low, high)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _step(low: float, high: float) -> float:
    """The distance of about five round ticks: 1, 2 or 5 times a power of ten."""
    rough = (high - low) / 5
    power = float(10.0 ** math.floor(math.log10(rough)))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)


def _number(value: float) -> str:
    return f"{round(value, 6):,.10g}"
