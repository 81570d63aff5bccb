"""Charts of volumes, as SVG: one volume against the distribution of a population, and the volumes of many cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from xml.etree.ElementTree import Element, SubElement, tostring

from markupsafe import Markup

from nnseg.core.population import Percentile
from nnseg.reporting.charts.drawing import Axes, bar, canvas, dot, frame, line, round_range, text, ticks
from nnseg.reporting.formatting import number
from nnseg.volumetry.visits import DAYS_OF_YEAR, MeasuredVolume

WIDTH, HEIGHT = 200.0, 22.0
LEFT, RIGHT = 50.0, 150.0
"""x of the 5th and the 95th percentile in every drawing, so that rows of a table can be compared at a glance."""
EDGE = 7.0
"""Pixels from an end within which the mark becomes an arrow."""
WIDE = 360.0
GOLDEN = 0.618
"""Vertical shift from dot to dot as a share of the height, so that neighbours do not overlap."""


def percentile_svg(name: str, ml: float, percentile: Percentile, unit: str = "ml") -> Markup:
    """A volume on the bars of the population's middle 50 % and 90 %, with a line at its median.

    The mark is a diamond, or an arrow at the end that it lies beyond.

    Args:
        name: of the label, for screen readers.
        ml: its volume.
        percentile: of the volume in the population.
        unit: what stands for ml.
    """
    low, first, middle, third, high = (_place(value, percentile) for value in percentile.band)
    others = f"5 to 95 % of others have {format_range(percentile)} {unit}"
    title = f"{name}: {format_ml(ml)} {unit}, percentile {format_percentile(percentile)}; {others}"
    svg = canvas(title, height=HEIGHT, width=WIDTH, kind="band")
    SubElement(svg, "title").text = title
    line(svg, "scale", (0.0, HEIGHT / 2), (WIDTH, HEIGHT / 2))
    bar(svg, (low, 4.0), (high - low, HEIGHT - 8.0), kind="most")
    bar(svg, (first, 4.0), (third - first, HEIGHT - 8.0), kind="half")
    line(svg, "median", (middle, 2.0), (middle, HEIGHT - 2.0))
    _mark(svg, _place(ml, percentile), unusual=bool(percentile.unusual))
    return Markup(tostring(svg, encoding="unicode"))  # noqa: S704 (made of elements, which escape)


def format_ml(ml: float) -> str:
    """A volume to three digits: "0.376", "1.80", "1,235"."""
    return "0" if ml == 0 else f"{ml:,.0f}" if ml >= 99.95 else f"{ml:#.3g}"


def format_percentile(percentile: Percentile) -> str:
    """A percentile as "< 1", "37" or "> 99"."""
    if percentile.percent <= 1 or percentile.percent >= 99:
        return "< 1" if percentile.percent <= 1 else "> 99"
    return f"{percentile.percent:.0f}"


def format_range(percentile: Percentile) -> str:
    """The 5th and 95th percentile of the population in ml: "1.19 to 2.06"."""
    return f"{format_ml(percentile.band[0])} to {format_ml(percentile.band[-1])}"


def _place(ml: float, percentile: Percentile) -> float:
    """x in pixels, which may lie outside of the drawing; its middle if all volumes of the population are the same."""
    low, high = percentile.band[0], percentile.band[-1]
    if high <= low:
        return (LEFT + RIGHT) / 2 + (0.0 if ml == low else WIDTH if ml > low else -WIDTH)
    return LEFT + (ml - low) / (high - low) * (RIGHT - LEFT)


def _mark(svg: Element, x: float, *, unusual: bool) -> None:
    """A diamond, or an arrow at the end that the mark lies beyond."""
    y, kind = HEIGHT / 2, "mark unusual" if unusual else "mark"
    if x < EDGE:
        corners = [(0.5, y), (9.0, y - 6), (9.0, y + 6)]
    elif x > WIDTH - EDGE:
        corners = [(WIDTH - 0.5, y), (WIDTH - 9.0, y - 6), (WIDTH - 9.0, y + 6)]
    else:
        corners = [(x, y - 7), (x + 6, y), (x, y + 7), (x - 6, y)]
    SubElement(svg, "polygon", {"class": kind, "points": " ".join(f"{a:.1f},{b:.1f}" for a, b in corners)})


def visits_svg(name: str, measured: Sequence[MeasuredVolume], band: Sequence[float] | None, unit: str = "ml") -> Markup:
    """The volumes of a label over time, with their intervals, above the bars of the population if there is one.

    Args:
        name: of patient and label.
        measured: at least two, in order of time.
        band: ml of the population at the percentiles `BAND`.
        unit: what stands for ml.
    """
    years = [(one.date - measured[0].date).days / DAYS_OF_YEAR for one in measured]
    heights = [height for one in measured for height in (one.ml, *(one.interval or ()))]
    axes = Axes(x=round_range(years, bottom=0.0), y=round_range([*heights, *(band or ())]), bottom=150.0)
    svg = canvas(f"{name}: volumes at {len(measured)} visits", height=188.0)
    if band:
        group = SubElement(svg, "g", {"class": "band"})
        for low, high, kind in ((0, 4, "most"), (1, 3, "half")):
            top, bottom = (axes.place(0.0, band[i])[1] for i in (high, low))
            bar(group, (axes.left, top), (axes.right - axes.left, bottom - top), kind=kind)
    frame(svg, axes, "years since the first visit", unit)
    group = SubElement(svg, "g", {"class": "visits"})
    places = [axes.place(year, one.ml) for year, one in zip(years, measured, strict=True)]
    for start, end in pairwise(places):
        line(group, "course", start, end)
    for (x, y), one in zip(places, measured, strict=True):
        if one.interval:
            bottom, top = (axes.place(0.0, end)[1] for end in one.interval)
            line(group, "ends", (x, bottom), (x, top))
        dot(group, (x, y), f"{one.date}, {one.case}: {format_ml(one.ml)} {unit}", radius=3)
    return Markup(tostring(svg, encoding="unicode"))  # noqa: S704 (made of elements, which escape)


def volumes_svg(name: str, volumes: Mapping[str, float], band: Sequence[float] | None, unit: str = "ml") -> Markup:
    """A dot for each case, above the bars of the population if there is one.

    Args:
        name: of the label.
        volumes: ml, by case.
        band: ml of the population at the percentiles `BAND`.
        unit: what stands for ml.
    """
    low, high = round_range([*volumes.values(), *(band or ())])
    axes = Axes(x=(low, high), y=(0.0, 1.0), left=14.0, right=WIDE - 14.0, top=6.0, bottom=58.0)
    svg = canvas(f"{name}: volumes of {len(volumes)} cases in {unit}", height=84.0, width=WIDE)
    for tick in ticks(low, high):
        x, _ = axes.place(tick, 0.0)
        line(svg, "grid", (x, axes.top), (x, axes.bottom))
        text(svg, number(tick), (x, axes.bottom + 17), "middle")
    if band:
        group = SubElement(svg, "g", {"class": "band"})
        at = [axes.place(ml, 0.0)[0] for ml in band]
        bar(group, (at[0], 44.0), (at[-1] - at[0], 10.0), kind="most")
        bar(group, (at[1], 44.0), (at[3] - at[1], 10.0), kind="half")
        line(group, "median", (at[2], 41.0), (at[2], 57.0))
    group = SubElement(svg, "g", {"class": "dots"})
    for i, (case, ml) in enumerate(sorted(volumes.items(), key=lambda item: item[1])):
        dot(group, (axes.place(ml, 0.0)[0], 24.0 + 26.0 * (i * GOLDEN % 1.0 - 0.5)), f"{case}: {format_ml(ml)} {unit}")
    return Markup(tostring(svg, encoding="unicode"))  # noqa: S704 (made of elements, which escape)
