"""Volumes as HTML: a page about a folder of predicted scans, and a sheet to print for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import accumulate
from statistics import fmean, median
from urllib.parse import quote

from jinja2 import Template
from markupsafe import Markup

from nnseg.core.dataset import counted
from nnseg.core.labels import Labels, find_side_pairs
from nnseg.core.population import Percentile, Population
from nnseg.core.trust import INTERVAL_LEVEL
from nnseg.evaluation.conformal import fewest_errors
from nnseg.reporting.case_images import CaseImages
from nnseg.reporting.formatting import Filters, template_environment
from nnseg.reporting.pictures import CasePictures, Picture, label_colours
from nnseg.reporting.report import page_file
from nnseg.reporting.viewer import script_hash, script_sources, viewer_html
from nnseg.volumetry.charts import format_ml, format_percentile, format_range, percentile_svg, visits_svg, volumes_svg
from nnseg.volumetry.lesions import Lesion, LesionChange, sum_of_largest
from nnseg.volumetry.visits import MeasuredVolume, VolumeChange
from nnseg.volumetry.volumes import CaseVolumes, Volumetry, length_of

MOST_COLUMNS = 8
"""Labels up to which the table of all cases has a column for each; more are in the sheets and in the CSV only."""
MOST_DRAWN = 24
"""Labels whose volumes are drawn."""
MOST_CHANGES = 300
"""Rows of the table of changes, and of that of lesions; all are in the CSV."""
MOST_LESIONS = 12
"""Lesions on a sheet."""
MOST_DOTS = 18_000
"""In these charts; of many cases fewer labels are drawn."""
MOST_PICTURES = 3_000_000
"""Characters of still pictures, so that the page stays below 15 MB; the first case is always shown."""
SHEETS = "sheets"
"""Folder of the sheets, beside the page."""
RESEARCH_USE = "For research use only. Not a medical device."


@dataclass(frozen=True, kw_only=True)
class LabelSummary:
    """The volumes of one label in all cases.

    Args:
        median, smallest, largest: in ml, or what stands for it.
        others: percentile of the median in the population; None without one.
        low, high: number of cases below and above the population's middle 90 %.
        chart: of all volumes; empty if there are too many labels.
    """

    name: str
    median: float
    smallest: float
    largest: float
    others: Percentile | None
    low: int
    high: int
    chart: Markup


def sheet_html(
    case: CaseVolumes,
    volumetry: Volumetry,
    labels: Labels,
    pictures: Sequence[Picture],
    changes: Mapping[str, VolumeChange] | None = None,
) -> str:
    """A page about one case, to be printed: one of A4 for a dozen labels.

    Args:
        case: that did not fail.
        volumetry: provenance and population; its cases are not used.
        labels: of the model.
        pictures: of the case; none if its scan could not be read.
        changes: since the patient's visit before, by label.
    """
    return _template("sheet.html.j2").render(
        case=case,
        about=volumetry,
        colours=label_colours(labels),
        percentile_svg=percentile_svg,
        pictures=pictures,
        paired=any(v.asymmetry is not None for v in case.labels.values()),
        expected=any(v.expected_dice is not None for v in case.labels.values()),
        counted=any(v.objects is not None for v in case.labels.values()),
        corrected=any(v.corrected is not None for v in case.labels.values()),
        compared=_describe_populations(case),
        changes=changes or {},
        lesions=_lesion_rows(case)[:MOST_LESIONS],
        summed=sum_of_largest(case.lesions),
        fewest=fewest_errors(INTERVAL_LEVEL),
        style=Markup(_text("sheet.css")),  # noqa: S704 (our own file)
        research_use=RESEARCH_USE,
    )


def report_html(
    volumetry: Volumetry,
    labels: Labels,
    *,
    population: Population | None = None,
    previews: Sequence[CasePictures] = (),
    viewed: Sequence[CaseImages] = (),
    sheets: bool = False,
) -> str:
    """The page about a folder.

    Args:
        volumetry: of all cases.
        labels: of the model.
        population: that volumes were compared with.
        previews: still pictures of some of the cases.
        viewed: cases in the viewer.
        sheets: True if each case has one to link to.
    """
    population = population.model_copy(update={"curves": {}}) if population else None  # the page as a whole is of no one age
    failed, done = [case for case in volumetry.cases if case.failed], [case for case in volumetry.cases if not case.failed]
    ordered = sorted(done, key=lambda c: (not c.flags, c.quality is None, c.quality or 0.0, c.name))
    flagged, previews = [case for case in ordered if case.flags], _fit_page(previews)
    title = f"{counted(len(done), 'scan')} measured" + (f", {len(failed)} failed" if failed else "")
    drawn = min(MOST_DRAWN, max(1, MOST_DOTS // max(1, len(done))))
    sections = {
        "flagged": ("Flagged", flagged),
        "labels": ("Labels", done),
        "changes": ("Changes between visits", volumetry.changes),
        "lesions": ("Lesions", volumetry.lesions and done),
        "cases": ("Every case", done),
        "pictures": ("Pictures", previews),
        "made": ("Provenance", volumetry),
    }
    script = page_file("report.js")
    return _template("page.html.j2").render(
        about=volumetry,
        title=title,
        sections={name: heading for name, (heading, content) in sections.items() if content},
        done=ordered,
        failed=failed,
        flagged=flagged,
        quality=fmean(known) if (known := [c.quality for c in done if c.quality is not None]) else None,
        outside=_percent_outside(done),
        corrected=bool(population and population.correction),
        aged=any(c.patient.age is not None or c.patient.sex for c in done),
        columns=volumetry.names if len(volumetry.names) <= MOST_COLUMNS else (),
        summaries=[_summarize(name, volumetry, population, drawn=i < drawn) for i, name in enumerate(volumetry.names) if done],
        pairs=_pairs(volumetry.names, done),
        changes=sorted(volumetry.changes, key=lambda change: not change.certain)[:MOST_CHANGES],
        courses=_draw_courses(volumetry, population),
        lesions=[(case, sum_of_largest(case.lesions)) for case in ordered][:MOST_CHANGES],
        lesion_changes=_lesion_changes(done)[:MOST_CHANGES],
        previews=previews,
        colours=label_colours(labels),
        viewed={case.name: i for i, case in enumerate(viewed)},
        viewer=viewer_html(viewed),
        sheets=sheets,
        style=Markup(page_file("report.css") + _text("page.css")),  # noqa: S704 (our own files, as is the script)
        script=Markup(script),  # noqa: S704
        script_sources=[Markup(s) for s in (script_hash(script), *(script_sources() if viewed else ()))],  # noqa: S704
        research_use=RESEARCH_USE,
    )


def sheet_name(case: str) -> str:
    """The file name of a case's sheet; a name that is a path stays in the folder."""
    return f"{case}.html".replace("/", "_").replace("\\", "_")


def _fit_page(previews: Sequence[CasePictures]) -> Sequence[CasePictures]:
    """The first previews, up to `MOST_PICTURES`."""
    sizes = accumulate(sum(len(picture.svg) for picture in preview.pictures) for preview in previews)
    return previews[: max(1, sum(size <= MOST_PICTURES for size in sizes))]


def _describe_populations(case: CaseVolumes) -> list[str]:
    """The populations that the labels were compared with; usually one for all labels."""
    percentiles = [v.percentile for v in case.labels.values() if v.percentile]
    counts = [p.n for p in percentiles if "all" not in p.among]
    effective = f"; effective number {min(counts):.0f}" if counts else ""
    return list(dict.fromkeys(p.among + (f" ({p.note})" if p.note else "") + effective for p in percentiles))


def _summarize(name: str, volumetry: Volumetry, population: Population | None, *, drawn: bool) -> LabelSummary:
    cases = [case for case in volumetry.cases if not case.failed]
    volumes = {case.name: case.labels[name].ml for case in cases}
    middle, unusual = median(volumes.values()), [case.unusual.get(name) for case in cases]
    compared = {case.name: case.labels[name] for case in cases}
    if population and population.correction:
        compared = {case: volume for case, volume in compared.items() if volume.corrected is not None}
    values = {case: volume.compared for case, volume in compared.items()}
    others = population.percentile(name, median(values.values())) if population and values else None
    return LabelSummary(
        name=name,
        median=middle,
        smallest=min(volumes.values()),
        largest=max(volumes.values()),
        others=others,
        low=unusual.count("low"),
        high=unusual.count("high"),
        chart=volumes_svg(name, values or volumes, others.band if others else None, volumetry.unit) if drawn else Markup(),
    )


def _lesion_rows(case: CaseVolumes) -> list[tuple[Lesion | None, LesionChange | None]]:
    """The lesions of a case, the largest first, each with what became of it; then those that vanished."""
    changes = case.lesion_changes.changes if case.lesion_changes else ()
    known = {(one.label, lesion.number): one for one in changes for lesion in one.after}
    largest = sorted(case.lesions, key=lambda lesion: -lesion.ml)
    return [*((one, known.get((one.label, one.number))) for one in largest), *((None, one) for one in changes if not one.after)]


def _lesion_changes(cases: Sequence[CaseVolumes]) -> list[tuple[CaseVolumes, LesionChange]]:
    """What became of lesions in each case, of each case the largest ones first."""
    return [
        (case, one)
        for case in cases
        if case.lesion_changes
        for one in sorted(case.lesion_changes.changes, key=lambda change: -max(change.ml))
    ]


def _draw_courses(volumetry: Volumetry, population: Population | None) -> list[tuple[str, Markup]]:
    """The course of the labels that certainly changed, then of others, up to `MOST_DRAWN`, with captions."""
    courses: dict[tuple[str, str], list[MeasuredVolume]] = {}
    population = None if population and population.correction else population  # volumes of visits are not corrected
    for change in sorted(volumetry.changes, key=lambda change: not change.certain):
        course = courses.setdefault((change.patient, change.label), [])
        course += [one for one in (change.before, change.after) if one not in course]
    drawn = []
    for (patient, label), course in list(courses.items())[:MOST_DRAWN]:
        others = population.percentile(label, course[0].ml) if population else None
        ordered = sorted(course, key=lambda one: (one.date, one.case))
        chart = visits_svg(f"{patient}, {label}", ordered, others.band if others else None, volumetry.unit)
        drawn.append((f"{patient}: {label}, {volumetry.unit}", chart))
    return drawn


def _percent_outside(cases: Sequence[CaseVolumes]) -> float:
    """Percent of all volumes that lie outside of the population's middle 90 %."""
    compared = sum(volume.percentile is not None for case in cases for volume in case.labels.values())
    return 100 * sum(len(case.unusual) for case in cases) / max(1, compared)


def _pairs(names: Sequence[str], cases: Sequence[CaseVolumes]) -> list[tuple[str, str, float, str, float]]:
    """For each pair of labels: left, right, median asymmetry in percent, and the case with the largest asymmetry with its value."""
    found = []
    for left, right in find_side_pairs(names):
        known = {c.name: a for c in cases if (a := c.labels[names[left]].asymmetry) is not None}
        if known:
            largest = max(known, key=lambda case: abs(known[case]))
            found.append((names[left], names[right], median(known.values()), largest, known[largest]))
    return found


@cache
def _template(name: str) -> Template:
    filters: Filters = {
        "ml": format_ml,
        "percentile": format_percentile,
        "range": format_range,
        "sheet": _link,
        "length_of": length_of,
    }
    return template_environment("nnseg.volumetry", filters=filters).get_template(name)


def _link(case: str) -> str:
    return f"{SHEETS}/{quote(sheet_name(case))}"


def _text(name: str) -> str:
    return resources.files("nnseg.volumetry").joinpath(name).read_text("utf-8")
