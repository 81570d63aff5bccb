"""The page and the sheets of volumes as HTML, with label outlines on slices of the scan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import accumulate
from statistics import fmean, median
from urllib.parse import quote

from jinja2 import Environment, FunctionLoader, StrictUndefined, Template
from markupsafe import Markup

from nnseg.core.dataset import counted
from nnseg.core.labels import Labels, find_side_pairs
from nnseg.core.population import Population
from nnseg.reporting.case_images import CaseImages
from nnseg.reporting.formatting import decimals
from nnseg.reporting.pictures import CasePictures, Picture, label_colours
from nnseg.reporting.report import page_file
from nnseg.reporting.viewer import script_hash, script_sources, viewer_html
from nnseg.volumetry.bands import band_svg, format_ml, percent, span, spread_svg
from nnseg.volumetry.volumes import CaseVolumes, LabelVolume, Volumetry

MOST_COLUMNS = 8
"""Labels that the table of all cases has a column for; of more, those cases' sheets and the CSV tell."""
MOST_SPREADS = 24
"""Labels whose volumes are drawn."""
MOST_DOTS = 18_000
"""In these drawings; of many cases fewer labels are drawn."""
MOST_PICTURES = 3_000_000
"""Characters of still pictures, so that the page stays below 15 MB; the first case's are shown whatever they take."""
SHEETS = "sheets"
"""Folder of the sheets, beside the page."""
RESEARCH_USE = "For research use only. Not a medical device."


@dataclass(frozen=True, kw_only=True)
class SheetRow:
    """One label of a sheet, ready to print."""

    name: str
    colour: str
    volume: LabelVolume
    band: Markup


@dataclass(frozen=True, kw_only=True)
class Spread:
    """One label over all cases.

    Args:
        middle, least, most: of the volumes, in words.
        low, high: how many lie below and above the band; None where nothing is known of others.
        others: n, median and span of the population, in words.
        drawing: of all volumes; empty if there are too many labels.
    """

    name: str
    middle: str
    least: str
    most: str
    low: int | None
    high: int | None
    others: str
    drawing: Markup


@dataclass(frozen=True, kw_only=True)
class LabelPair:
    """Two labels that are left and right of the same.

    Args:
        middle: median asymmetry in percent.
        worst: the case with the largest.
        most: that case's.
    """

    left: str
    right: str
    middle: float
    worst: str
    most: float


def sheet_html(case: CaseVolumes, volumetry: Volumetry, labels: Labels, pictures: Sequence[Picture]) -> str:
    """A page about one case, to be printed: one of A4 for a dozen labels.

    Args:
        case: that did not fail.
        volumetry: says what made it, and who it is compared with; its cases do not matter.
        labels: of the model.
        pictures: of the case; none if its scan could not be read.
    """
    colours = label_colours(labels)
    rows = [
        SheetRow(
            name=name,
            colour=colours[name],
            volume=volume,
            band=band_svg(name, volume.ml, volume.percentile) if volume.percentile else Markup(),
        )
        for name, volume in case.labels.items()
    ]
    return _template("sheet.html.j2").render(
        case=case,
        rows=rows,
        about=volumetry,
        pictures=pictures,
        paired=any(v.asymmetry is not None for v in case.labels.values()),
        expected=any(v.expected_dice is not None for v in case.labels.values()),
        compared=_comparisons(case),
        style=Markup(_text("sheet.css")),  # noqa: S704 (our own file)
        research_use=RESEARCH_USE,
    )


def report_html(
    volumetry: Volumetry,
    labels: Labels,
    *,
    population: Population | None = None,
    previews: Sequence[CasePictures] = (),
    seen: Sequence[CaseImages] = (),
    sheets: bool = False,
) -> str:
    """The page about a folder.

    Args:
        volumetry: of all cases.
        labels: of the model.
        population: that volumes were compared with.
        previews: of some of the cases.
        seen: what the viewer shows.
        sheets: True if each case has one to link to.
    """
    done = [case for case in volumetry.cases if not case.failed]
    failed, flagged = [case for case in volumetry.cases if case.failed], [case for case in done if case.flags]
    title = f"{counted(len(done), 'scan')} measured" + (f", {len(failed)} failed" if failed else "")
    script, previews = page_file("report.js"), _fitting(previews)
    many = min(MOST_SPREADS, max(1, MOST_DOTS // max(1, len(done))))
    sections = {"flagged": "Flagged", "labels": "Labels", "cases": "Every case", "pictures": "Pictures", "made": "Provenance"}
    there = {"flagged": flagged, "labels": done, "cases": done, "pictures": previews, "made": True}
    return _template("page.html.j2").render(
        about=volumetry,
        title=title,
        sections={name: words for name, words in sections.items() if there[name]},
        done=sorted(done, key=lambda c: (not c.flags, c.quality is None, c.quality or 0.0, c.name)),
        failed=failed,
        flagged=sorted(flagged, key=lambda c: (c.quality is None, c.quality or 0.0, c.name)),
        quality=fmean(known) if (known := [c.quality for c in done if c.quality is not None]) else None,
        outside=_outside(done),
        aged=any(c.patient.age is not None or c.patient.sex for c in done),
        columns=volumetry.names if len(volumetry.names) <= MOST_COLUMNS else (),
        spreads=[_spread(name, done, population, drawn=i < many) for i, name in enumerate(volumetry.names)] if done else [],
        pairs=_pairs(volumetry.names, done),
        previews=previews,
        colours=label_colours(labels),
        seen={case.name: i for i, case in enumerate(seen)},
        viewer=viewer_html(seen),
        sheets=sheets,
        style=Markup(page_file("report.css") + _text("page.css")),  # noqa: S704 (our own files, as is the script)
        script=Markup(script),  # noqa: S704
        script_sources=[Markup(s) for s in (script_hash(script), *(script_sources() if seen else ()))],  # noqa: S704
        research_use=RESEARCH_USE,
    )


def sheet_name(case: str) -> str:
    """The file name of a case's sheet; a name that is a path stays in the folder."""
    return f"{case}.html".replace("/", "_").replace("\\", "_")


def _fitting(previews: Sequence[CasePictures]) -> Sequence[CasePictures]:
    """The first previews, as many as there is room for."""
    sizes = accumulate(sum(len(picture.svg) for picture in preview.pictures) for preview in previews)
    return previews[: max(1, sum(size <= MOST_PICTURES for size in sizes))]


def _comparisons(case: CaseVolumes) -> list[str]:
    """With whom the labels were compared, in words; usually the same for all."""
    said = [f"{p.among}" + (f" ({p.note})" if p.note else "") for v in case.labels.values() if (p := v.percentile)]
    counts = [p.n for v in case.labels.values() if (p := v.percentile) and "all" not in p.among]
    effective = f"; effective number {min(counts):.0f}" if counts else ""
    return [f"{words}{effective}" for words in dict.fromkeys(said)]


def _spread(name: str, cases: Sequence[CaseVolumes], population: Population | None, *, drawn: bool) -> Spread:
    volumes = {case.name: case.labels[name].ml for case in cases}
    middle, unusual = median(volumes.values()), [case.unusual.get(name) for case in cases]
    stands = population.percentile(name, middle) if population else None
    return Spread(
        name=name,
        middle=format_ml(middle),
        least=format_ml(min(volumes.values())),
        most=format_ml(max(volumes.values())),
        low=unusual.count("low") if stands else None,
        high=unusual.count("high") if stands else None,
        others=f"{format_ml(stands.band[2])} ({span(stands)})" if stands else "",
        drawing=spread_svg(name, volumes, stands.band if stands else None) if drawn else Markup(),
    )


def _outside(cases: Sequence[CaseVolumes]) -> float:
    """Percent of all volumes that lie outside of the population's band."""
    compared = sum(volume.percentile is not None for case in cases for volume in case.labels.values())
    return 100 * sum(len(case.unusual) for case in cases) / max(1, compared)


def _pairs(names: Sequence[str], cases: Sequence[CaseVolumes]) -> list[LabelPair]:
    """Asymmetry of every pair of labels that some case has."""
    found = []
    for left, right in find_side_pairs(names):
        known = {c.name: a for c in cases if (a := c.labels[names[left]].asymmetry) is not None}
        if known:
            worst = max(known, key=lambda case: abs(known[case]))
            found.append(
                LabelPair(left=names[left], right=names[right], middle=median(known.values()), worst=worst, most=known[worst])
            )
    return found


@cache
def _template(name: str) -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=FunctionLoader(_text)
    )
    environment.filters |= {"ml": format_ml, "decimals": decimals, "percent": percent, "span": span, "sheet": _link}
    return environment.get_template(name)


def _link(case: str) -> str:
    return f"{SHEETS}/{quote(sheet_name(case))}"


def _text(name: str) -> str:
    return resources.files("nnseg.volumetry").joinpath(name).read_text("utf-8")
