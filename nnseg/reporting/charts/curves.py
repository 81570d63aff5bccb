"""How trainings run, or ran: curves of their histories, and where each of them stands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from nnseg.core.schedule import Epoch
from nnseg.reporting.charts.charts import SERIES_STYLES, Point, curves_svg
from nnseg.reporting.charts.drawing import duration, energy

RECENT = 10
"""Epochs whose pace is taken for the steps to come."""

Histories = Mapping[str, Sequence[Epoch]]


@dataclass(frozen=True, kw_only=True)
class TrainingStatus:
    """Where one training stands.

    Args:
        name: such as "3d fold 0".
        style: of its curves.
        last: its last epoch.
        step_seconds: wall-clock of a step lately, with its share of what an epoch does besides.
        energy: taken so far, in words; empty where the machine does not tell.
    """

    name: str
    style: str
    last: Epoch
    step_seconds: float
    energy: str

    @property
    def runs(self) -> bool:
        """Are there steps left?"""
        return self.last.step < self.last.steps

    @property
    def left(self) -> str:
        """Time left, in words."""
        return duration((self.last.steps - self.last.step) * self.step_seconds) if self.runs else "finished"


def standings(histories: Histories) -> list[TrainingStatus]:
    """Where each training stands that has come to the end of an epoch."""
    return [
        TrainingStatus(
            name=name,
            style=f"s{number % SERIES_STYLES}",
            last=epochs[-1],
            step_seconds=_step_seconds(epochs),
            energy="" if epochs[-1].joules is None else energy(epochs[-1].joules),
        )
        for number, (name, epochs) in enumerate(histories.items())
        if epochs
    ]


def charts(histories: Histories) -> list[tuple[str, str]]:
    """Captions and drawings of loss, estimated Dice and learning rate over the steps; none before the first epoch's end."""
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
    return {name: [Point(x=e.step, y=value(e), told=_told(e)) for e in epochs] for name, epochs in histories.items()}


def _told(epoch: Epoch) -> str:
    return f"step {epoch.step:,} of {epoch.steps:,}, after {duration(epoch.total_seconds)}"


def _step_seconds(epochs: Sequence[Epoch]) -> float:
    """Of the last epochs together, since one alone may have been disturbed."""
    recent = epochs[-RECENT:]
    before = epochs[-RECENT - 1].step if len(epochs) > RECENT else 0
    return sum(e.seconds for e in recent) / max(1, recent[-1].step - before)
