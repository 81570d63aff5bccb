"""`Epoch`: one line of a training's record."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Epoch(BaseModel):
    """What one epoch of training came to.

    Args:
        number: from 1.
        step: optimizer steps done since the start.
        steps: of the whole schedule.
        loss: mean training loss.
        learning_rate: at the end of the epoch.
        dice: per scored label, on held-out patches, pooled; None where the label was in no patch. An estimate, not a score.
        seconds: wall-clock of the epoch, validation included.
        total_seconds: wall-clock of training so far, interruptions not counted.
        joules: that processors and cards have taken so far, see `nnseg.core.energy`; None where the machine does not tell.
        cpu_seconds: processor time so far, of all threads and workers together.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    step: int
    steps: int
    loss: float
    learning_rate: float
    dice: dict[str, float | None]
    seconds: float
    total_seconds: float
    joules: float | None = None
    cpu_seconds: float | None = None

    @property
    def mean_dice(self) -> float | None:
        """Mean of the estimates that exist."""
        known = [d for d in self.dice.values() if d is not None]
        return sum(known) / len(known) if known else None
