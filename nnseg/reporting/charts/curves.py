"""Curves of the trainings' histories, and the progress of each training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from nnseg.core.schedule import Epoch
from nnseg.reporting.charts.charts import SERIES_STYLES, Figure, Point, curves_svg
from nnseg.reporting.formatting import duration

RECENT = 10
"""Last epochs whose mean time per step predicts the time of further steps."""

Histories = Mapping[str, Sequence[Epoch]]


@dataclass(frozen=True, kw_only=True)
class TrainingStatus:
    """Progress of one training.

    Args:
        name: such as "3d fold 0".
        style: CSS class of its curves.
        last: its last epoch.
        step_seconds: recent wall-clock time per step, with validation and other work of an epoch.
    """

    name: str
    style: str
    last: Epoch
    step_seconds: float

    @property
    def runs(self) -> bool:
        """True if there are steps left."""
        return self.last.step < self.last.steps

    @property
    def left(self) -> str:
        """Time left in words."""
        return duration((self.last.steps - self.last.step) * self.step_seconds) if self.runs else "finished"


def training_statuses(histories: Histories) -> list[TrainingStatus]:
    """The progress of each training that has finished an epoch."""
    return [
        TrainingStatus(name=name, style=f"s{number % SERIES_STYLES}", last=epochs[-1], step_seconds=_recent_step_seconds(epochs))
        for number, (name, epochs) in enumerate(histories.items())
        if epochs
    ]


def draw_histories(histories: Histories) -> list[Figure]:
    """Charts of loss, estimated Dice and learning rate by step; none before the end of the first epoch."""
    if not any(histories.values()):
        return []
    parts: list[tuple[str, str, Callable[[Epoch], float | None], float | None]] = [
        ("Training loss", "loss", lambda epoch: epoch.loss, None),
        ("Dice on held-out patches (an estimate)", "Dice", lambda epoch: epoch.mean_dice, 1.0),
        ("Learning rate", "", lambda epoch: epoch.learning_rate, None),
    ]
    return [
        (caption, curves_svg(f"{caption} by step", _series(histories, value), x_label="step", y_label=label, top=top))
        for caption, label, value, top in parts
    ]


def _series(histories: Histories, value: Callable[[Epoch], float | None]) -> dict[str, list[Point]]:
    return {name: [Point(x=e.step, y=value(e), tip=_tip(e)) for e in epochs] for name, epochs in histories.items()}


def _tip(epoch: Epoch) -> str:
    return f"step {epoch.step:,} of {epoch.steps:,}, after {duration(epoch.total_seconds)}"


def _recent_step_seconds(epochs: Sequence[Epoch]) -> float:
    """Mean over the last epochs, since a single one may have been disturbed."""
    recent = epochs[-RECENT:]
    before = epochs[-RECENT - 1].step if len(epochs) > RECENT else 0
    return sum(e.seconds for e in recent) / max(1, recent[-1].step - before)
