"""The report of a run: one HTML file that needs nothing else, not even a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from nnseg.reporting.charts.curves import standings
from nnseg.reporting.charts.drawing import decimals, duration
from nnseg.reporting.content import ReportContent
from nnseg.reporting.sections.cases import Shown, cases
from nnseg.reporting.sections.cost import cost
from nnseg.reporting.sections.data import data
from nnseg.reporting.sections.decided import decided
from nnseg.reporting.sections.groups import groupings
from nnseg.reporting.sections.headline import headline
from nnseg.reporting.sections.plan import plans
from nnseg.reporting.sections.scores import AVERAGES, scored
from nnseg.reporting.sections.training import training
from nnseg.reporting.sections.trust import trusted
from nnseg.reporting.sections.volumes import agreeing
from nnseg.reporting.viewer import script_hash, script_sources, viewer_html
from nnseg.storage.files import write_text

RELOAD_SECONDS = 60
"""Between two looks of a live page for news."""

SECTIONS: dict[str, tuple[str, str, Callable[[ReportContent], Any]]] = {
    "data": ("Data", "The data, as found", data),
    "plan": ("Plan", "The plan, and why", plans),
    "training": ("Training", "How training went", training),
    "scores": ("Scores", "Scores of held-out cases", scored),
    "cases": ("Cases", "Cases to look at", cases),
    "trust": ("Trust", "How far to trust an answer", trusted),
    "cost": ("Cost", "Time, memory and energy", cost),
    "provenance": ("Provenance", "Provenance", lambda content: content.provenance or None),
}
"""In their order: a name that is the anchor and the template; what navigation and heading call it; what is told there."""


@dataclass(frozen=True, kw_only=True)
class ReportSection:
    """A section of the page; ``told`` is what its template shows."""

    name: str
    title: str
    heading: str
    told: Any


def write_report(path: Path, content: ReportContent) -> None:
    """Write the report.

    Raises:
        RunError: the file cannot be written.
    """
    write_text(path, render_report(content))


def render_report(content: ReportContent) -> str:
    """The report as HTML. Every text is escaped: names of cases and labels come from files of unknown origin."""
    told = {n: ReportSection(name=n, title=t, heading=h, told=tell(content)) for n, (t, h, tell) in SECTIONS.items()}
    script = page_file("report.js")
    shown: list[Shown] = told["cases"].told or []
    template = _environment().get_template("report.html.j2")
    return template.render(
        content=content,
        headline=headline(content),
        sections=[section for section in told.values() if section.told is not None],
        standings=standings(content.histories) if content.live else [],
        decided=decided(content),
        groupings=groupings(content.groups) if content.groups else [],
        volumes=agreeing(content.scores) if content.scores else None,
        averages=AVERAGES,
        anchors={case.name: case.anchor for case in shown},
        viewed={name: number for number, name in enumerate(one.name for one in content.viewed)},
        viewer=viewer_html(content.viewed),
        reload_seconds=RELOAD_SECONDS,
        style=page_file("report.css"),
        script=script,
        script_sources=[script_hash(script), *(script_sources() if content.viewed else ())],
    )


@cache
def _environment() -> Environment:
    loader = PackageLoader("nnseg.reporting", "page")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"duration": duration, "decimals": decimals}
    return environment


def page_file(name: str) -> str:
    """Content of a file of the page: style sheet or script."""
    return resources.files("nnseg.reporting").joinpath("page", name).read_text("utf-8")
