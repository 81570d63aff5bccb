"""SVG primitives: scales, axes, ticks, lines and texts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement

from nnseg.reporting.formatting import number

WIDTH = 360.0
"""Of most charts, in units of about a pixel on a phone, where text of 12 units is legible."""
COMPACT = 180.0
"""Of small charts, several of which stand beside one another."""

Place = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Axes:
    """Ranges of the data along x and y, and pixels of the frame that shows them (y downwards)."""

    x: tuple[float, float]
    y: tuple[float, float]
    left: float = 54.0
    right: float = WIDTH - 10.0
    top: float = 12.0
    bottom: float = 200.0

    def place(self, x: float, y: float) -> Place:
        """The pixel (x, y) of a data point."""
        across, up = (x - self.x[0]) / (self.x[1] - self.x[0]), (y - self.y[0]) / (self.y[1] - self.y[0])
        return self.left + across * (self.right - self.left), self.bottom - up * (self.bottom - self.top)


def canvas(title: str, *, height: float, width: float = WIDTH, kind: str = "chart") -> Element:
    """An empty drawing; ``title`` is its text for screen readers."""
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


def text(parent: Element, content: str, place: Place, anchor: str, kind: str = "") -> None:
    """Text at a place; ``anchor`` is the part of it that stands there: "start", "middle" or "end"."""
    attributes = {"x": f"{place[0]:.1f}", "y": f"{place[1]:.1f}", "text-anchor": anchor} | ({"class": kind} if kind else {})
    SubElement(parent, "text", attributes).text = content


def dot(parent: Element, place: Place, tip: str, *, kind: str = "", radius: float = 2.6) -> None:
    """A dot with a tooltip."""
    attributes = {"class": kind} if kind else {}
    mark = SubElement(parent, "circle", {**attributes, "cx": f"{place[0]:.1f}", "cy": f"{place[1]:.1f}", "r": f"{radius:g}"})
    SubElement(mark, "title").text = tip


def bar(parent: Element, start: Place, size: tuple[float, float], *, kind: str = "", tip: str = "") -> None:
    """A box from its upper left corner, with a tooltip if there is one."""
    attributes = {"x": f"{start[0]:.1f}", "y": f"{start[1]:.1f}", "width": f"{size[0]:.1f}", "height": f"{size[1]:.1f}"}
    mark = SubElement(parent, "rect", attributes | ({"class": kind} if kind else {}))
    if tip:
        SubElement(mark, "title").text = tip


TINY = 1e-12
"""Ranges below this width, and values below this size, count as 0."""


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
