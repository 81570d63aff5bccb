"""Tables of scores, groups and comparisons, printed to the terminal."""

from __future__ import annotations

import math
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby, zip_longest
from operator import attrgetter

from rich.cells import cell_len, set_cell_size

from nnseg.cli.output import show
from nnseg.commands.compare import Comparisons
from nnseg.commands.rank import RankedScans
from nnseg.core.audit import Association
from nnseg.core.dataset import counted, list_some, listed
from nnseg.core.detection import FALSE_POSITIVES, Detection
from nnseg.core.learning_curve import LearningCurve
from nnseg.core.metrics import Metric, metric_of
from nnseg.core.names import printable
from nnseg.core.robustness import Robustness
from nnseg.core.scores import Grouped, Mean, Scores
from nnseg.core.units import LengthUnit
from nnseg.evaluation.compare import Comparison, ComparisonRow
from nnseg.evaluation.external import Difference
from nnseg.system.progress import columns

GAP = "  "
"""Between two columns of a table."""

AT_A_GLANCE = ("dice", "iou", "hd95", "assd", "relative_volume_error", "lesion_f1", "panoptic_quality", "ap_50")
"""Metrics shown for each label, together with NSD."""

STRONGEST = 8
"""Associations that are printed."""


def print_scores(scores: Scores | None, *, cases: bool = False, averages: bool = True) -> None:
    """Print the metrics of every label, and their means.

    Args:
        scores: None if no case was held out.
        cases: also those of every case.
        averages: the three averages of each metric with their intervals; without, mean Dice alone.
    """
    if scores is None:
        show("no scores, because no case was held out")
        return
    show(f"scores of {counted(len(scores.cases), 'case')}")
    if cases:
        _print_cases(scores)
    of_averages, metrics = scores.averages, {name: metric_of(name, scores.length_unit) for name in scores.metrics}
    shown = {name: metric for name, metric in metrics.items() if name in AT_A_GLANCE or name.startswith("nsd")}
    per_label = (
        [label, *(_number(of_averages.per_mask[name].labels[label], metric.digits) for name, metric in shown.items())]
        for label in scores.labels
    )
    _print_table(["label", *map(_title, shown.values())], per_label)
    show()
    _print_detection(scores.detection)
    if not averages:
        dice = _with_interval(of_averages.per_mask["dice"], metrics["dice"], " (95 % interval {})")
        show(f"mean Dice {dice}; other averages and intervals are in the report")
        return
    three = (of_averages.per_mask, of_averages.per_image, of_averages.pooled)
    means = ([_title(metric), *(_with_interval(of[name], metric, " ({})") for of in three)] for name, metric in metrics.items())
    _print_table(["mean (95 % bootstrap interval)", "per mask", "per image", "pooled"], means)
    show()


def _print_detection(found: Mapping[str, Detection]) -> None:
    """Print the sensitivity of labels whose objects are detected one by one, by false positives a scan."""
    rows = [[label, *(_number(point.sensitivity) for point in of.froc)] for label, of in found.items() if of.froc]
    if rows:
        show("sensitivity for objects at so many false positives a scan; the report has the thresholds")
        _print_table(["", *(f"{most:g}" for most in FALSE_POSITIVES)], rows)
        show()


def _print_cases(scores: Scores) -> None:
    """Print Dice and IoU of each label of each case; on a terminal too narrow for it, their means over labels."""
    titles = ["case", *(f"{label} {title}" for label in scores.labels for title in ("Dice", "IoU"))]
    rows = [[c.name, *(_number(v) for m in c.labels.values() for v in (m.dice, m.iou))] for c in scores.cases]
    if len(_blocks(_widths(titles, [["", *row[1:]] for row in rows]), 1)) > 1:
        of_labels = [[c.name, [m.dice for m in c.labels.values()], [m.iou for m in c.labels.values()]] for c in scores.cases]
        titles = ["case", "mean Dice", "mean IoU"]
        rows = [[str(name), *(_number(_mean(values)) for values in more)] for name, *more in of_labels]  # type: ignore[arg-type]
        show("means over labels; those of each label: --out scores.csv")
    _print_table(titles, rows)
    show()


def print_groups(found: Grouped, metrics: Sequence[str], unit: LengthUnit = "mm") -> None:
    """Print each group's means of some metrics with intervals, and for each grouping whether its groups differ."""
    shown = {name: metric_of(name, unit) for name in metrics}
    rows = []
    for by, groups in groupby(found.groups, attrgetter("by")):
        for i, group in enumerate(groups):
            means = (_with_interval(group.averages[name], metric, "\n{}") for name, metric in shown.items())
            rows.append(["" if i else by, group.value, str(group.n), *means, group.warning])
    show("by group: mean over cases of their mean over labels; below each its 95 % bootstrap interval")
    _print_table(["", "", "cases", *(metric.title for metric in shown.values()), ""], rows, keys=2)
    for test in found.tests:
        verdict = "groups differ" if test.p_adjusted <= 0.05 else "no significant difference between groups"
        title, corrected = metric_of(test.metric, unit).title, f"corrected for {len(found.tests)} groupings {test.p_adjusted:.2g}"
        show(f"{test.by}: {verdict} in {title} ({test.n} cases, Kruskal-Wallis by permutation p = {test.p:.2g}, {corrected})")
    show()


def print_associations(found: Sequence[Association]) -> None:
    """Print the strongest associations of properties of the scans with outcomes."""
    rows = ([one.predictor, one.outcome, str(one.n), f"{one.explained:.0%}", f"{one.p_adjusted:.2g}"] for one in found[:STRONGEST])
    if found:
        _print_table(["property of the scan", "outcome", "patients", "explains", "p (corrected)"], rows, keys=2)
        show()


def print_learning_curve(found: LearningCurve) -> None:
    """Print the mean Dice after each training on a part of the cases."""
    rows = (
        [str(one.cases), f"{one.dice:.3f}", "{:.3f} to {:.3f}".format(*one.interval) if one.interval else ""]
        for one in found.points
    )
    _print_table(["training cases", "mean Dice", "95 %"], rows)
    show()


def print_ranking(found: RankedScans) -> None:
    """Print the scans to annotate next."""
    rows = (
        [
            str(number),
            one.case,
            f"{one.expected_dice:.3f}",
            "foreign" if one.foreign else "",
            list_some([f.name for f in one.images]),
        ]
        for number, one in enumerate(found.ranking, 1)
    )
    _print_table(["", "case", "expected Dice", "", "files"], rows, keys=2)
    show(f"{counted(len(found.ranking), 'scan')} of {found.scans} to annotate next, in this order")


def print_differences(found: Sequence[Difference], unit: LengthUnit = "mm") -> None:
    """Print the means of some metrics on held-out cases and on another dataset, and of the Dice those of each label."""
    rows = []
    for of in found:
        metric = metric_of(of.metric, unit)
        if of.metric in AT_A_GLANCE and (not of.label or of.metric == "dice"):
            ends = "{:+.{d}f} to {:+.{d}f}".format(*of.interval, d=metric.digits) if of.interval else ""
            means = [_number(value, metric.digits) for value in (of.internal, of.external)]
            rows.append([_title(metric), of.label or "mean", *means, _number(of.difference, metric.digits, sign="+"), ends])
    _print_table(["", "", "held-out cases", "this dataset", "difference", "95 %"], rows, keys=2)
    show()


def print_robustness(found: Robustness) -> None:
    """Print the Dice of held-out cases with each change of their scans."""
    rows = []
    for row in found.changes:
        ends = "{:+.4f} to {:+.4f}".format(*row.interval) if row.interval else ""
        means = [_number(row.unchanged), _number(row.changed), _number(row.difference, sign="+")]
        rows.append([row.title, str(row.n), *means, ends, f"{row.p_adjusted:.2g}"])
    _print_table(["scans", "cases", "Dice as they are", "Dice", "difference", "95 %", "p (Holm)"], rows)
    show()


def print_comparisons(found: Comparisons) -> None:
    """Print a table for each model against the first, the verdict of each metric, and the mean ranks of three or more models."""
    for comparison in found.comparisons:
        _print_comparison(comparison)
    if found.mean_ranks:
        ranks = sorted(found.mean_ranks.items(), key=lambda item: item[1])
        show(f"mean rank by {found.metric} (1 is best): " + ", ".join(f"{name} {rank:.2f}" for name, rank in ranks))


def _print_comparison(found: Comparison) -> None:
    show(f"{found.b} against {found.a}: {found.cases} cases with scores of both")
    for name, alone in ((found.a, found.only_a), (found.b, found.only_b)):
        if alone:
            show(f"left out, with scores of {name} only: {listed(alone)}")
    titles = ("", "", found.a, found.b, "difference (95 %)", "p", "p (Holm)", "p (Wilcoxon)", "cases", "better/ same/ worse")
    _print_table(titles, (_cells(row, found.length_unit) for row in found.rows), keys=2)
    show("p: two-sided sign-flip test; Holm: corrected for all rows; differences: cases with values of both models")
    for row in found.rows:
        if row.label is None:
            show(f"{_compared(row, found.length_unit)}: {row.verdict}{_left_out(row, found)}")
    show("intervals and tests describe other cases with these models; training again with another seed may change a model as much")
    show()


def _cells(row: ComparisonRow, unit: LengthUnit) -> list[str]:
    digits = metric_of(row.metric).digits
    difference = _number(row.difference, digits + 1, sign="+")
    if row.interval:
        difference += " ({:+.{d}f} to {:+.{d}f})".format(*row.interval, d=digits + 1)
    name = ["", row.label] if row.label is not None else [_compared(row, unit), "mean"]
    p_values = [f"{p:.2g}" for p in (row.p, row.p_adjusted, row.p_wilcoxon)]
    counts = [str(row.n), f"{row.wins}/{row.ties}/{row.losses}"]
    return [*name, _number(row.a, digits), _number(row.b, digits), difference, *p_values, *counts]


def _compared(row: ComparisonRow, unit: LengthUnit) -> str:
    metric = metric_of(row.metric, unit)
    return f"{'size of ' if metric.better == 'zero' else ''}{_title(metric)}"


def _left_out(row: ComparisonRow, found: Comparison) -> str:
    counts = ((found.a, row.only_a), (found.b, row.only_b))
    alone = [f"{n} with a value of {name} only" for name, n in counts if n]
    return f" (masks left out: {', '.join(alone)})" if alone else ""


def _print_table(titles: Sequence[str], rows: Iterable[Sequence[str]], *, keys: int = 1) -> None:
    """Print a table; on a terminal that is too narrow for it, as several below one another.

    Args:
        titles: of the columns, which are wrapped between words where the terminal is narrow.
        rows: cells, perhaps of several lines. Where the first ones are very long, they are printed above their rows.
        keys: columns at the left that each of several tables begins with.
    """
    titles, cells = [_shown(title) for title in titles], [[_shown(cell) for cell in row] for row in rows]
    names = [""] * len(cells)
    if max((cell_len(row[0]) for row in cells), default=0) > _terminal() / 2:
        names, cells = [row[0] for row in cells], [["", *row[1:]] for row in cells]
    widths = _widths(titles, cells)
    for number, block in enumerate(_blocks(widths, keys)):
        if number:
            show()
        own = [widths[c] for c in block]
        for line in _lines([textwrap.fill(titles[c], max(1, widths[c]), break_long_words=False) for c in block], own):
            show(line, block=True, title=True)
        for name, row in zip(names, cells, strict=True):
            show(*([name] if name else []), *_lines([row[c] for c in block], own), block=True)


def _terminal() -> float:
    """Columns that a table may take."""
    return columns() - 1 if sys.stdout.isatty() else math.inf


def _blocks(widths: Sequence[int], keys: int) -> list[list[int]]:
    """The columns, by number, of each of the tables that are as wide as the terminal at most."""
    first, most = list(range(keys)), _terminal()
    blocks = [list(first)]
    for column in range(keys, len(widths)):
        if len(blocks[-1]) > keys and sum(widths[c] + len(GAP) for c in blocks[-1]) + widths[column] > most:
            blocks.append(list(first))
        blocks[-1].append(column)
    return blocks


def _widths(titles: Sequence[str], cells: Sequence[Sequence[str]]) -> list[int]:
    """The width of each column of a table: of its widest line, and for its title, in two lines if it is too wide in one."""
    lines = [max((cell_len(line) for row in cells for line in row[c].split("\n")), default=0) for c in range(len(titles))]
    whole = [max(cell_len(title), width) for title, width in zip(titles, lines, strict=True)]
    if sum(whole) + len(GAP) * (len(whole) - 1) <= _terminal():
        return whole
    return [max(_half(title), width) for title, width in zip(titles, lines, strict=True)]


def _half(title: str) -> int:
    """Columns of a title in two lines."""
    words = title.split()
    halves = ((words[:cut], words[cut:]) for cut in range(1, len(words) + 1))
    return min((max(cell_len(" ".join(half)) for half in two) for two in halves), default=0)


def _lines(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    """The lines of a row."""
    lines = zip_longest(*(cell.split("\n") for cell in cells), fillvalue="")
    return [GAP.join(set_cell_size(text, width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def _shown(text: str) -> str:
    return printable(text, lines=True)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _title(metric: Metric) -> str:
    return f"{metric.title} ({metric.unit})" if metric.unit else metric.title


def _number(value: float | None, digits: int = 4, *, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.{digits}f}"


def _with_interval(mean: Mean, metric: Metric, form: str) -> str:
    interval = " to ".join(_number(end, metric.digits) for end in mean.interval or ())
    return _number(mean.mean, metric.digits) + (form.format(interval) if interval else "")
