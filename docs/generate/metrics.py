"""The metrics with their formulas."""

from __future__ import annotations

from generate.docstrings import in_table, markdown_of
from nnseg.core.metrics import METRICS, Metric
from nnseg.evaluation import averages

BETTER = {"higher": "higher is better", "lower": "lower is better", "zero": "signed: zero is perfect"}


def metrics() -> str:
    """Markdown of all metrics of a mask."""
    return "\n\n".join(_metric(name, metric) for name, metric in METRICS.items())


def three_averages() -> str:
    """Markdown of how scores are averaged, as the module that does it says."""
    return markdown_of((averages.__doc__ or "").partition("\n\n")[2])


def _metric(name: str, metric: Metric) -> str:
    unit = f"; {metric.unit}" if metric.unit else ""
    meaning = in_table(metric.meaning)
    return f"### {metric.title}\n\n`{name}`: {meaning} ({BETTER[metric.better]}{unit}).\n\n$$\n{metric.formula}\n$$"
