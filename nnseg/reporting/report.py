"""The report of a run: one HTML file that needs no other file and no network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment
from markupsafe import Markup

from nnseg.core.metrics import metric_of
from nnseg.planning.describe import list_decisions, summarize_plan
from nnseg.reporting.charts.curves import training_statuses
from nnseg.reporting.charts.network import describe_network, network_stages, network_svg
from nnseg.reporting.content import ReportContent
from nnseg.reporting.formatting import template_environment
from nnseg.reporting.pictures import label_colours
from nnseg.reporting.sections.audit import summarize_audit
from nnseg.reporting.sections.cost import summarize_cost
from nnseg.reporting.sections.cutoffs import summarize_cutoffs
from nnseg.reporting.sections.data import summarize_data
from nnseg.reporting.sections.decisions import describe_gain_and_time, describe_step
from nnseg.reporting.sections.explanations import summarize_explanations
from nnseg.reporting.sections.external import summarize_external
from nnseg.reporting.sections.head import summarize_head
from nnseg.reporting.sections.learning import summarize_learning
from nnseg.reporting.sections.lesions import summarize_lesions
from nnseg.reporting.sections.robustness import summarize_robustness
from nnseg.reporting.sections.scores import AVERAGES, GROUP_METRICS, summarize_groups, summarize_scores
from nnseg.reporting.sections.training import summarize_training
from nnseg.reporting.sections.trust import summarize_trust
from nnseg.reporting.sections.volumes import summarize_volumes
from nnseg.reporting.viewer import script_hash, script_sources, viewer_html
from nnseg.storage.files import write_text

RELOAD_SECONDS = 60
"""Time after which a live page reloads itself."""

SECTIONS: Final[Mapping[str, tuple[str, str, Callable[[ReportContent], Any]]]] = {
    "external": ("Comparison", "Beside the model's own held-out cases", summarize_external),
    "scores": ("Scores", "Scores of held-out cases", summarize_scores),
    "cases": ("Cases", "Cases to look at", lambda content: content.examples or content.viewed or None),
    "lesions": ("Detection", "Objects detected one by one", summarize_lesions),
    "cutoffs": ("Questions", "Yes/no questions about scans", summarize_cutoffs),
    "training": ("Training", "Training", summarize_training),
    "learning": ("More cases", "What more training cases would bring", summarize_learning),
    "trust": ("Trust", "Expected quality and calibration", summarize_trust),
    "explanations": ("Explanations", "What predictions rest on", summarize_explanations),
    "audit": ("Audit", "Shortcuts and same scans", summarize_audit),
    "robustness": ("Robustness", "Degraded scans and missing channels", summarize_robustness),
    "data": ("Data", "The dataset", summarize_data),
    "plan": ("Plan", "The plan, with reasons", lambda content: content.plans or None),
    "cost": ("Cost", "Time, memory and energy", summarize_cost),
    "provenance": ("Provenance", "Provenance", lambda content: content.provenance or None),
}
"""In order, by the name of the template and anchor: short title, heading, and a function that computes the template's variables
or returns None if the section is empty."""


def write_report(path: Path, content: ReportContent) -> None:
    """Write the report.

    Raises:
        RunError: the file cannot be written.
    """
    write_text(path, render_report(content))


def render_report(content: ReportContent) -> str:
    """The report as HTML. Every text is escaped: names of cases and labels come from files of unknown origin."""
    sections = {name: summarize(content) for name, (_, _, summarize) in SECTIONS.items()}
    script = page_file("report.js")
    labels = content.plans[0].labels if content.plans else None
    steps = content.postprocessing.steps if content.postprocessing else ()
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            content=content,
            flagged=content.flagged,
            head=summarize_head(content),
            titles=SECTIONS,
            sections={name: variables for name, variables in sections.items() if variables is not None},
            statuses=training_statuses(content.histories) if content.live else [],
            gain_and_time=describe_gain_and_time(content.choice) if content.choice else "",
            steps=[describe_step(step, labels) for step in steps],
            groupings=summarize_groups(content.groups) if content.groups else {},
            group_metrics={name: metric_of(name, content.scores.length_unit if content.scores else "mm") for name in GROUP_METRICS},
            volumes=summarize_volumes(content.scores) if content.scores else None,
            averages=AVERAGES,
            anchors={example.name: f"case-{number}" for number, example in enumerate(content.examples)},
            viewed={name: number for number, name in enumerate(case.name for case in content.viewed)},
            viewer=viewer_html(content.viewed, still=_first_still(content)),
            legend=label_colours(labels) if labels and len(labels.foreground) > 1 else {},
            reload_seconds=RELOAD_SECONDS,
            style=page_file("report.css"),
            script=script,
            script_sources=[script_hash(script), *(script_sources() if content.viewed else ())],
        )
    )


def _first_still(content: ReportContent) -> Markup:
    """The picture of the first case of the viewer, which is shown before it is started."""
    first = next((case.name for case in content.viewed), None)
    return next((e.pictures[0].svg for e in content.examples if e.name == first and e.pictures), Markup())


@cache
def _environment() -> Environment:
    functions = (describe_network, list_decisions, network_stages, network_svg, summarize_plan)
    return template_environment("nnseg.reporting", "page", filters={function.__name__: function for function in functions})


def page_file(name: str) -> str:
    """Content of a file of the page: style sheet or script."""
    return resources.files("nnseg.reporting").joinpath("page", name).read_text("utf-8")
