"""Curves of the trainings' histories, and the progress of each training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from nnseg.core.schedule import Epoch
from nnseg.reporting.charts.charts import SERIES_STYLES, Figure, Point, curves_svg
from nnseg.reporting.formatting import duration

RECENT = 10
"""Last epochs whose mean time per step predicts the time of further steps."""

MOST_POINTS = 240
"""Of a curve of losses."""

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
        ("Dice on held-out patches (an estimate)", "Dice", lambda epoch: epoch.mean_dice, 1.0),
        ("Learning rate", "", lambda epoch: epoch.learning_rate, None),
    ]
    if max(map(len, histories.values())) < 2:
        del parts[-1]  # a single point shows nothing of a schedule
    losses = {name: _loss_points(epochs) for name, epochs in histories.items()}
    loss = "Training loss", curves_svg("Training loss by step", losses, x_label="step", y_label="loss")
    return [loss] + [
        (caption, curves_svg(f"{caption} by step", _series(histories, value), x_label="step", y_label=label, top=top))
        for caption, label, value, top in parts
    ]


def _loss_points(epochs: Sequence[Epoch]) -> list[Point]:
    """The loss of every step; of many steps means over as many as make `MOST_POINTS` points."""
    losses = [(*of_step, epoch) for epoch in epochs for of_step in epoch.step_losses]
    size = -(-len(losses) // MOST_POINTS)
    parts = [losses[start : start + size] for start in range(0, len(losses), size)] if losses else []
    return [Point(x=part[-1][0], y=fmean(loss for _, loss, _ in part), tip=_tip(part[-1][2], part[-1][0])) for part in parts]


def _series(histories: Histories, value: Callable[[Epoch], float | None]) -> dict[str, list[Point]]:
    return {name: [Point(x=e.step, y=value(e), tip=_tip(e, e.step)) for e in epochs] for name, epochs in histories.items()}


def _tip(epoch: Epoch, step: int) -> str:
    after = f", after {duration(epoch.total_seconds)}" if step == epoch.step else ""
    return f"step {step:,} of {epoch.steps:,}{after}"


def _recent_step_seconds(epochs: Sequence[Epoch]) -> float:
    """Mean over the last epochs, since a single one may have been disturbed."""
    recent = epochs[-RECENT:]
    before = epochs[-RECENT - 1].step if len(epochs) > RECENT else 0
    return sum(e.seconds for e in recent) / max(1, recent[-1].step - before)
