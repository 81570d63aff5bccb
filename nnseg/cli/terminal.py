"""What people see: log lines, findings, scores, and exit codes."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from nnseg.core.dataset import Finding
    from nnseg.evaluation.metrics import Metric
    from nnseg.evaluation.scores import Mean, Scores

AT_A_GLANCE = ("dice", "iou", "hd95", "assd", "relative_volume_error", "lesion_f1", "panoptic_quality")
"""Metrics shown of each label, with NSD."""


class BesideBars(logging.Handler):
    """Log lines on stderr that do not tear a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        from tqdm import tqdm

        tqdm.write(self.format(record), file=sys.stderr)


def log_to_terminal(verbose: bool) -> None:
    """Show what nnseg logs, details too if asked for."""
    handler: logging.Handler = BesideBars() if sys.stderr.isatty() else logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("nnseg")
    logger.handlers = [handler]
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    logger.propagate = False


def print_findings(findings: Iterable[Finding]) -> None:
    """One line each."""
    for finding in findings:
        print(f"{finding.level:8}{finding}")


def print_scores(scores: Scores | None, *, cases: bool = False) -> None:
    """Tables of the three averages and of every label, and of every case if asked for."""
    if scores is None:
        print("no case was held out, so there is nothing to score")
        return
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 200)
    print(f"scores of {len(scores.cases)} case{'s' if len(scores.cases) != 1 else ''}")
    for table in (*((_of_cases(scores),) if cases else ()), _of_labels(scores), _of_averages(scores)):
        console.print(table)
        print()


def _of_cases(scores: Scores) -> Table:
    from rich.table import Table

    table = Table("case", *(f"{label} {title}" for label in scores.labels for title in ("Dice", "IoU")), box=None)
    for case in scores.cases:
        table.add_row(case.name, *(number(value, 4) for mask in case.labels.values() for value in (mask.dice, mask.iou)))
    return table


def _of_labels(scores: Scores) -> Table:
    from rich.table import Table

    from nnseg.evaluation.metrics import metric_of

    shown = [(name, metric_of(name)) for name in scores.metrics if name in AT_A_GLANCE or name.startswith("nsd")]
    table = Table("label", *(_headed(metric) for _, metric in shown), box=None)
    for label in scores.labels:
        table.add_row(label, *(number(scores.averages.per_mask[name].labels[label], metric.digits) for name, metric in shown))
    return table


def _of_averages(scores: Scores) -> Table:
    from rich.table import Table

    from nnseg.evaluation.metrics import metric_of

    table = Table("mean (95 % of what draws of cases give)", "per_mask", "per_image", "pooled", box=None)
    averages = (scores.averages.per_mask, scores.averages.per_image, scores.averages.pooled)
    for name in scores.metrics:
        metric = metric_of(name)
        table.add_row(_headed(metric), *(_with_interval(average[name], metric.digits) for average in averages))
    return table


def _headed(metric: Metric) -> str:
    return f"{metric.title} ({metric.unit})" if metric.unit else metric.title


def _with_interval(mean: Mean, digits: int) -> str:
    low_high = f" ({mean.interval[0]:.{digits}f} to {mean.interval[1]:.{digits}f})" if mean.interval else ""
    return number(mean.mean, digits) + low_high


def number(value: float | None, digits: int) -> str:
    """Of a table; a dash where nothing is defined."""
    return "-" if value is None else f"{value:.{digits}f}"


def exit_for(problems: Iterable[Finding], *, code: int = 1) -> None:
    """Name what failed and end with the exit code, or go on if nothing did."""
    failed = list(problems)
    if failed:
        print(f"\n{len(failed)} failed, all others are done:", file=sys.stderr)
        for problem in failed:
            print(f"  {problem}", file=sys.stderr)
        raise typer.Exit(code)
