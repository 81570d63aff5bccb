"""What people see of scores by group."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nnseg.evaluation.cohorts import Grouped
    from nnseg.evaluation.scores import Mean


def print_groups(found: Grouped, metrics: tuple[str, ...]) -> None:
    """A table of the groups' means of some metrics with intervals, and for each grouping whether its groups differ."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from nnseg.evaluation.metrics import metric_of

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
