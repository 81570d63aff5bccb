"""The section on the trainings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nnseg.reporting.charts.curves import TrainingStatus, draw_histories, training_statuses
from nnseg.reporting.content import ReportContent


def summarize_training(content: ReportContent) -> dict[str, Any] | None:
    """Variables of ``training.html.j2``; None before the end of the first epoch."""
    charts, statuses = draw_histories(content.histories), training_statuses(content.histories)
    if not charts:
        return None
    energy = any(status.last.joules is not None for status in statuses)
    repeated = _describe_repeated_steps(content)
    return {"charts": charts, "statuses": statuses, "verdict": _compare(statuses), "repeated": repeated, "energy": energy}


def _compare(statuses: Sequence[TrainingStatus]) -> str:
    """The estimates of Dice at the ends of the trainings; empty while one of them runs."""
    estimates = [status.last.mean_dice for status in statuses if not status.runs and status.last.mean_dice is not None]
    if len(estimates) < len(statuses) or not estimates:
        return ""
    if len(estimates) == 1:
        return f"The training ran to the end of its schedule, with an estimated Dice of {estimates[0]:.3f}."
    low, high = min(estimates), max(estimates)
    return (
        f"All {len(estimates)} trainings ran to the end of their schedules. Their last estimates of Dice lie {high - low:.3f} "
        f"apart ({low:.3f} to {high:.3f}); each was taken on other cases, so that some of this is chance."
    )


def _describe_repeated_steps(content: ReportContent) -> str:
    """How many steps of each training were computed again in float32; empty if none was."""
    counts = {name: sum(epoch.repeated_steps for epoch in epochs) for name, epochs in content.histories.items()}
    named = ", ".join(f"{count:,} in {name}" for name, count in counts.items() if count)
    return f"Steps computed again in float32, since they were not finite in lower precision: {named}." if named else ""
