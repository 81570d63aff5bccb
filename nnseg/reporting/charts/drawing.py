"""SVG primitives: scales, axes, ticks and texts; quantities as text for people."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement

WIDTH = 360.0
"""Of most charts, in units that are about a pixel on a phone: text of 12 stays legible there."""
COMPACT = 180.0
"""Of small charts, several of which stand beside one another."""

Place = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Axes:
    """Where data lies on the drawing: ranges of the data, and pixels of the frame (y downwards)."""

    x: tuple[float, float]
    y: tuple[float, float]
    left: float = 46.0
    right: float = WIDTH - 10.0
    top: float = 12.0
    bottom: float = 200.0

    def place(self, x: float, y: float) -> Place:
        """Pixels of a data point."""
        across, up = (x - self.x[0]) / (self.x[1] - self.x[0]), (y - self.y[0]) / (self.y[1] - self.y[0])
        return self.left + across * (self.right - self.left), self.bottom - up * (self.bottom - self.top)


def canvas(title: str, *, height: float, width: float = WIDTH, kind: str = "chart") -> Element:
    """An empty drawing that says what it shows to those who cannot see it."""
    return Element("svg", {"viewBox": f"0 0 {width:g} {height:g}", "role": "img", "aria-label": title, "class": kind})


def frame(svg: Element, axes: Axes, x_label: str, y_label: str, *, whole: bool = False) -> None:
    """Grid, ticks and names of the axes; ``whole`` leaves out ticks between whole numbers along x."""
    for tick in ticks(*axes.y):
        _, y = axes.place(axes.x[0], tick)
        line(svg, "grid", (axes.left, y), (axes.right, y))
        text(svg, number(tick), (axes.left - 6, y + 4), "end")
    for tick in ticks(*axes.x):
        if not whole or tick == int(tick):
            x, _ = axes.place(tick, axes.y[0])
            line(svg, "tick", (x, axes.bottom), (x, axes.bottom + 4))
            text(svg, number(tick), (x, axes.bottom + 17), "middle")
    line(svg, "axis", (axes.left, axes.bottom), (axes.right, axes.bottom))
    text(svg, x_label, ((axes.left + axes.right) / 2, axes.bottom + 34), "middle")
    turned = SubElement(svg, "g", {"transform": f"translate(11 {(axes.top + axes.bottom) / 2:g}) rotate(-90)"})
    text(turned, y_label, (0.0, 0.0), "middle")


def line(parent: Element, kind: str, start: Place, end: Place) -> Element:
    """A straight line."""
    (x1, y1), (x2, y2) = start, end
    return SubElement(parent, "line", {"class": kind, "x1": f"{x1:.1f}", "y1": f"{y1:.1f}", "x2": f"{x2:.1f}", "y2": f"{y2:.1f}"})


def text(parent: Element, words: str, place: Place, anchor: str, kind: str = "") -> None:
    """Words beside a place: ``anchor`` is the "start", "middle" or "end" of them."""
    attributes = {"x": f"{place[0]:.1f}", "y": f"{place[1]:.1f}", "text-anchor": anchor} | ({"class": kind} if kind else {})
    SubElement(parent, "text", attributes).text = words


def dot(parent: Element, place: Place, told: str, *, kind: str = "", radius: float = 2.6) -> None:
    """A dot that tells about itself when it is pointed at."""
    attributes = {"class": kind} if kind else {}
    mark = SubElement(parent, "circle", {**attributes, "cx": f"{place[0]:.1f}", "cy": f"{place[1]:.1f}", "r": f"{radius:g}"})
    SubElement(mark, "title").text = told


def bar(parent: Element, start: Place, size: tuple[float, float], *, kind: str = "", told: str = "") -> None:
    """A box from its upper left corner."""
    attributes = {"x": f"{start[0]:.1f}", "y": f"{start[1]:.1f}", "width": f"{size[0]:.1f}", "height": f"{size[1]:.1f}"}
    mark = SubElement(parent, "rect", attributes | ({"class": kind} if kind else {}))
    if told:
        SubElement(mark, "title").text = told


TINY = 1e-12
"""What differs by less is the same, and what is smaller is nothing, to those who draw."""


def round_range(known: Sequence[float], *, top: float | None = None, bottom: float | None = None) -> tuple[float, float]:
    """A range with round ends that holds all values; an end that is given stays as it is."""
    low = min(known, default=0.0) if bottom is None else bottom
    high = max(known, default=1.0) if top is None else top
    if high - low < max(TINY, 1e-6 * abs(high), 1e-6 * abs(low)):
        low, high = _around(low, high, top=top, bottom=bottom)
    size = step(low, high)
    return (
        low if bottom is not None else math.floor(low / size + 1e-9) * size,
        high if top is not None else math.ceil(high / size - 1e-9) * size,
    )


def _around(low: float, high: float, *, top: float | None, bottom: float | None) -> tuple[float, float]:
    """A range that holds a single value: from 0 to its double, where no end is given."""
    if top is None and bottom is None and abs(high) > TINY:
        return min(0.0, 2 * high), max(0.0, 2 * high)
    return low - (0.5 if bottom is None else 0.0), high + (0.5 if top is None else 0.0)


def ticks(low: float, high: float) -> list[float]:
    """About five round numbers within the range."""
    size = step(low, high)
    first, last = math.ceil(low / size - 1e-9), math.floor(high / size + 1e-9)
    return [n * size for n in range(first, last + 1)]


def step(low: float, high: float) -> float:
    """The distance of about five round ticks: 1, 2 or 5 times a power of ten."""
    rough = (high - low) / 5
    power = float(10.0 ** math.floor(math.log10(rough)))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)


def number(value: float) -> str:
    """A round number, in thousands or millions where it has many digits: "0.25", "1,500", "200k", "1.5M"."""
    for size, unit in ((1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if unit == 'k' else size):,.4g}{unit}"
    return f"{round(value, 9):,.10g}" if abs(value) >= 1e-4 or value == 0 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """Seconds in words: "1 h 02 min", "3 min 20 s", "4.2 s"."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def moment(seconds: float) -> str:
    """A short time in words: "35 ms", "1.2 s"; longer ones as `duration` says them."""
    return f"{1000 * seconds:.3g} ms" if seconds < 0.9995 else duration(seconds)


def energy(joules: float) -> str:
    """Joules in watt-hours: "0.35 Wh", "2.1 kWh"."""
    hours = joules / 3600
    return f"{hours / 1000:.3g} kWh" if hours >= 1000 else f"{hours:.3g} Wh"


def short(value: float) -> str:
    """A number to three digits, whole where it has as many before the point: "0.0123", "4.56", "1,235"."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def decimals(value: float | None, digits: int = 3) -> str:
    """A number to so many decimals; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"  # noqa: RUF001 (a dash in a table is an en dash)


def by(values: Sequence[float]) -> str:
    """Lengths along axes: "40 × 56 × 40"."""
    return " × ".join(f"{v:.4g}" for v in values)  # noqa: RUF001 (times)
