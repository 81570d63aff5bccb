"""What people see: log lines, findings, scores, and exit codes."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from nnseg.commands.compare import Comparisons
    from nnseg.core.dataset import Finding
    from nnseg.core.metrics import Metric
    from nnseg.core.scores import Grouped, Mean, Scores
    from nnseg.evaluation.compare import Comparison, ComparisonRow


def print_comparisons(found: Comparisons) -> None:
    """A table for each model against the first, the verdict of each metric, and the mean ranks of several."""
    for comparison in found.comparisons:
        _print_comparison(comparison)
    if found.mean_ranks:
        ranks = sorted(found.mean_ranks.items(), key=lambda item: item[1])
        print(f"mean rank by {found.metric} (1 is best): " + ", ".join(f"{name} {rank:.2f}" for name, rank in ranks))


def _print_comparison(found: Comparison) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from nnseg.core.dataset import listed

    a, b = escape(found.a), escape(found.b)
    print(f"{found.b} against {found.a}: {found.cases} cases that both have scores of")
    for name, alone in ((found.a, found.only_a), (found.b, found.only_b)):
        if alone:
            print(f"left out, with scores of {name} alone: {listed(alone)}")
    columns = ("", "", a, b, "difference (95 %)", "p", "p (Holm)", "p (Wilcoxon)", "cases", "better/same/worse")
    table = Table(*columns, box=None)
    for row in found.rows:
        table.add_row(*_cells(row))
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    print("p: two-sided sign-flip test, Holm: corrected for all rows; differences are of cases with a value from both")
    for row in found.rows:
        if row.label is None:
            print(f"{_title(row)}: {row.verdict}{_left_out(row, found)}")
    print("intervals and tests are about other cases for these models; trained again with another seed, a model may differ as much")
    print()


def _cells(row: ComparisonRow) -> tuple[str, ...]:
    from rich.markup import escape

    from nnseg.core.metrics import metric_of

    digits = metric_of(row.metric).digits
    means = ["-" if value is None else f"{value:.{digits}f}" for value in (row.a, row.b)]
    difference = "-" if row.difference is None else f"{row.difference:+.{digits + 1}f}"
    if row.interval:
        difference += " ({:+.{d}f} to {:+.{d}f})".format(*row.interval, d=digits + 1)
    p_values = [f"{p:.2g}" for p in (row.p, row.p_adjusted, row.p_wilcoxon)]
    name = _title(row) if row.label is None else ""
    return name, escape(row.label or "mean"), *means, difference, *p_values, str(row.n), f"{row.wins}/{row.ties}/{row.losses}"


def _title(row: ComparisonRow) -> str:
    from nnseg.core.metrics import metric_of

    metric = metric_of(row.metric)
    size = "size of " if metric.better == "zero" else ""
    return f"{size}{metric.title}{f' ({metric.unit})' if metric.unit else ''}"


def _left_out(row: ComparisonRow, found: Comparison) -> str:
    counts = ((found.a, row.only_a), (found.b, row.only_b))
    told = [f"{n} with a value from {name} alone" for name, n in counts if n]
    return f" (masks left out: {', '.join(told)})" if told else ""


def print_groups(found: Grouped, metrics: tuple[str, ...]) -> None:
    """A table of the groups' means of some metrics with intervals, and for each grouping whether its groups differ."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from nnseg.core.metrics import metric_of

    shown = [(name, metric_of(name)) for name in metrics]
    table = Table("", "", "cases", *(m.title for _, m in shown), "", box=None)
    last = ""
    for group in found.groups:
        means = [_text(group.averages[name], m.digits) for name, m in shown]
        table.add_row(escape(group.by) if group.by != last else "", escape(group.value), str(group.n), *means, group.warning)
        last = group.by
    print("by group, means of the cases' means over labels; below each, 95 % of what draws of cases give")
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    for test in found.tests:
        said = "its groups differ" if test.p_adjusted <= 0.05 else "no difference beyond chance between its groups"
        title, corrected = metric_of(test.metric).title, f"corrected for {len(found.tests)} groupings {test.p_adjusted:.2g}"
        print(f"{test.by}: {said} in {title} ({test.n} cases, Kruskal-Wallis by permutation p = {test.p:.2g}, {corrected})")


def _text(mean: Mean, digits: int) -> str:
    low, high = mean.interval or (None, None)
    below = "" if low is None else f"\n{low:.{digits}f} to {high:.{digits}f}"
    return "-" if mean.mean is None else f"{mean.mean:.{digits}f}{below}"


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

    from nnseg.core.metrics import metric_of

    shown = [(name, metric_of(name)) for name in scores.metrics if name in AT_A_GLANCE or name.startswith("nsd")]
    table = Table("label", *(_headed(metric) for _, metric in shown), box=None)
    for label in scores.labels:
        table.add_row(label, *(number(scores.averages.per_mask[name].labels[label], metric.digits) for name, metric in shown))
    return table


def _of_averages(scores: Scores) -> Table:
    from rich.table import Table

    from nnseg.core.metrics import metric_of

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
