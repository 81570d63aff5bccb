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

Values = Sequence[float | None]


@dataclass(frozen=True, kw_only=True)
class Axes:
    """Where data lies on the drawing: ranges of the data, and pixels of the frame (y downwards)."""

    x: tuple[float, float]
    y: tuple[float, float]
    left: float = 44.0
    right: float = WIDTH - 12.0
    top: float = 12.0
    bottom: float = 220.0

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Pixels of a data point."""
        across, up = (x - self.x[0]) / (self.x[1] - self.x[0]), (y - self.y[0]) / (self.y[1] - self.y[0])
        return self.left + across * (self.right - self.left), self.bottom - up * (self.bottom - self.top)


def curves_svg(title: str, series: Mapping[str, Values], *, y_label: str, top: float | None = None) -> str:
    """A line for each series over epochs 1, 2, ...; gaps where a value is missing or not finite.

    Args:
        title: what the chart shows, for those who cannot see it.
        series: values per epoch, by name.
        y_label: of the vertical axis.
        top: of the vertical axis; the largest value if None.
    """
    known = [v for values in series.values() for v in values if _is_number(v)]
    longest = max([2, *(len(values) for values in series.values())])
    axes = Axes(x=(1.0, float(longest)), y=_range(known, top))
    svg = _canvas(f"{title}: {', '.join(series)}", height=260)
    _frame(svg, axes, y_label)
    for number, (name, values) in enumerate(series.items()):
        group = SubElement(svg, "g", {"class": f"line s{number % SERIES_STYLES}"})
        for run in _runs(values):
            points = [axes.place(x, y) for x, y in run]
            if len(points) == 1:
                SubElement(group, "circle", {"cx": f"{points[0][0]:.1f}", "cy": f"{points[0][1]:.1f}", "r": "2.5"})
            SubElement(group, "polyline", {"points": " ".join(f"{x:.1f},{y:.1f}" for x, y in points)})
        SubElement(group, "title").text = name
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


def _frame(svg: Element, axes: Axes, y_label: str) -> None:
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
    _text(svg, "epoch", ((axes.left + axes.right) / 2, axes.bottom + 34), "middle")
    turned = SubElement(svg, "g", {"transform": f"translate(11 {(axes.top + axes.bottom) / 2:g}) rotate(-90)"})
    _text(turned, y_label, (0.0, 0.0), "middle")


def _line(parent: Element, kind: str, start: tuple[float, float], end: tuple[float, float]) -> None:
    (x1, y1), (x2, y2) = start, end
    SubElement(parent, "line", {"class": kind, "x1": f"{x1:.1f}", "y1": f"{y1:.1f}", "x2": f"{x2:.1f}", "y2": f"{y2:.1f}"})


def _text(parent: Element, text: str, place: tuple[float, float], anchor: str) -> None:
    SubElement(parent, "text", {"x": f"{place[0]:.1f}", "y": f"{place[1]:.1f}", "text-anchor": anchor}).text = text


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _runs(values: Values) -> Iterator[list[tuple[float, float]]]:
    """Stretches of consecutive values, each with its epoch, counted from 1."""
    run: list[tuple[float, float]] = []
    for number, value in enumerate(values, 1):
        if value is not None and math.isfinite(value):
            run.append((float(number), value))
        elif run:
            yield run
            run = []
    if run:
        yield run


def _range(known: Sequence[float | None], top: float | None) -> tuple[float, float]:
    """A range with round ends that holds all values."""
    numbers = [v for v in known if v is not None]
    low = min(numbers, default=0.0)
    high = max(numbers, default=1.0) if top is None else top
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
    return f"{round(value, 6):g}"
