"""What people see: log lines, findings, scores, and exit codes."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from nnseg.core.dataset import Finding
    from nnseg.evaluation.evaluate import Scores


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
    """A table of the averages, with a line for each case if asked for."""
    if scores is None:
        print("no case was held out, so there is nothing to score")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("", *(f"{name} {metric}" for name in (*scores.labels, "mean") for metric in ("Dice", "IoU")), box=None)
    for case in scores.cases if cases else ():
        values = [v for s in case.labels.values() for v in (s.dice, s.iou)]
        table.add_row(case.name, *map(number, (*values, case.mean_dice, case.mean_iou)))
    for name in ("per_mask", "per_image", "pooled"):
        average = getattr(scores.averages, name)
        values = [v for label in scores.labels for v in (average.dice.labels[label], average.iou.labels[label])]
        table.add_row(name, *map(number, (*values, average.dice.mean, average.iou.mean)))
    print(f"scores of {len(scores.cases)} cases")
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def number(value: float | None) -> str:
    """Of a table."""
    return "-" if value is None else f"{value:.4f}"


def exit_for(problems: Iterable[Finding], *, code: int = 1) -> None:
    """Name what failed and end with the exit code, or go on if nothing did."""
    failed = list(problems)
    if failed:
        print(f"\n{len(failed)} failed, all others are done:", file=sys.stderr)
        for problem in failed:
            print(f"  {problem}", file=sys.stderr)
        raise typer.Exit(code)
