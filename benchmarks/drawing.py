"""Charts of nnseg's reports as files of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from nnseg.reporting.charts.charts import SERIES_STYLES, Point, curves_svg
from nnseg.reporting.charts.drawing import WIDTH

HUES = ("#0072b2", "#c25700", "#007f5f", "#b0578d", "#8a6d00", "#2f8fc4", "#5b6470", "#7b3fb5")
STYLE = (
    "rect{fill:#fff} text{font:12px system-ui,sans-serif;fill:#3b424b} .title{font-size:13px;font-weight:600;fill:#1b1f24}"
    " .grid{stroke:#d9dde3} .axis,.tick{stroke:#5b6470} .line polyline{fill:none;stroke:var(--hue);stroke-width:1.8}"
    " .line circle{fill:var(--hue)} .key{stroke:var(--hue);stroke-width:3}"
    + "".join(f" .s{number}{{--hue:{hue}}}" for number, hue in enumerate(HUES))
)
HEIGHT, TITLE, GAP, LINE = 260, 30, 24, 17
FEW = 12

Chart = tuple[str, str, str, Mapping[str, Sequence[tuple[float, float]]]]
"""Title, labels of x and y, and points by the name of their series."""


def write_figure(path: Path, charts: Sequence[Chart]) -> None:
    """Write charts side by side as one SVG file, each with its key below; points show where they are few."""
    most = max(len(series) for *_, series in charts)
    width, height = len(charts) * (WIDTH + GAP), TITLE + HEIGHT + most * LINE + GAP
    svg = Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {width} {height}", "width": str(width)})
    SubElement(svg, "style").text = STYLE
    SubElement(svg, "rect", {"width": "100%", "height": "100%"})
    for number, chart in enumerate(charts):
        _draw(SubElement(svg, "g", {"transform": f"translate({number * (WIDTH + GAP) + GAP / 2:g} 0)"}), chart)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(ElementTree.tostring(svg, encoding="unicode") + "\n")


def _draw(group: Element, chart: Chart) -> None:
    title, x_label, y_label, series = chart
    SubElement(group, "text", {"class": "title", "x": "4", "y": "20"}).text = title
    told = {
        name: [Point(x=x, y=y, tip=f"{x:.4g}" if len(points) <= FEW else "") for x, y in points] for name, points in series.items()
    }
    inner = ElementTree.fromstring(curves_svg(title, told, x_label=x_label, y_label=y_label))
    inner.attrib |= {"y": str(TITLE), "width": str(WIDTH), "height": str(HEIGHT)}
    group.append(inner)
    for number, name in enumerate(series if len(series) > 1 else ()):
        y = TITLE + HEIGHT + 12 + number * LINE
        style = f"key s{number % SERIES_STYLES}"
        SubElement(group, "line", {"class": style, "x1": "50", "x2": "74", "y1": str(y - 4), "y2": str(y - 4)})
        SubElement(group, "text", {"x": "82", "y": str(y)}).text = name
