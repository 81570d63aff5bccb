"""What people see of a comparison."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nnseg.evaluation.compare import Comparison, Row
    from nnseg.verbs.compare import Comparisons


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


def _cells(row: Row) -> tuple[str, ...]:
    from rich.markup import escape

    from nnseg.evaluation.metrics import metric_of

    digits = metric_of(row.metric).digits
    means = ["-" if value is None else f"{value:.{digits}f}" for value in (row.a, row.b)]
    difference = "-" if row.difference is None else f"{row.difference:+.{digits + 1}f}"
    if row.interval:
        difference += " ({:+.{d}f} to {:+.{d}f})".format(*row.interval, d=digits + 1)
    p_values = [f"{p:.2g}" for p in (row.p, row.p_adjusted, row.p_wilcoxon)]
    name = _title(row) if row.label is None else ""
    return name, escape(row.label or "mean"), *means, difference, *p_values, str(row.n), f"{row.wins}/{row.ties}/{row.losses}"


def _title(row: Row) -> str:
    from nnseg.evaluation.metrics import metric_of

    metric = metric_of(row.metric)
    size = "size of " if metric.better == "zero" else ""
    return f"{size}{metric.title}{f' ({metric.unit})' if metric.unit else ''}"


def _left_out(row: Row, found: Comparison) -> str:
    counts = ((found.a, row.only_a), (found.b, row.only_b))
    told = [f"{n} with a value from {name} alone" for name, n in counts if n]
    return f" (masks left out: {', '.join(told)})" if told else ""
