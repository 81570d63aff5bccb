"""Section: how the trainings went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nnseg.reporting.charts.curves import TrainingStatus, charts, standings
from nnseg.reporting.content import ReportContent


@dataclass(frozen=True, kw_only=True)
class TrainingSection:
    """What is told of the trainings.

    Args:
        charts: captions and drawings.
        standings: where each stands.
        verdict: what the curves' ends say, in a sentence or two.
        energy: do any of them know what they took?
    """

    charts: Sequence[tuple[str, str]]
    standings: Sequence[TrainingStatus]
    verdict: str
    energy: bool


def training(content: ReportContent) -> TrainingSection | None:
    """What is told of the trainings; None before the first epoch's end."""
    drawn, known = charts(content.histories), standings(content.histories)
    if not drawn:
        return None
    return TrainingSection(charts=drawn, standings=known, verdict=_verdict(known), energy=any(at.energy for at in known))


def _verdict(known: Sequence[TrainingStatus]) -> str:
    ended = [at for at in known if not at.runs and at.last.mean_dice is not None]
    if len(ended) < len(known) or not ended:
        return ""
    estimates = [at.last.mean_dice or 0.0 for at in ended]
    if len(ended) == 1:
        return f"The training ran to the end of its schedule, with an estimated Dice of {estimates[0]:.3f}."
    spread = max(estimates) - min(estimates)
    return (
        f"All {len(ended)} trainings ran to the end of their schedules. Their last estimates of Dice lie {spread:.3f} apart "
        f"({min(estimates):.3f} to {max(estimates):.3f}); each was taken on other cases, so that some of this is chance."
    )
