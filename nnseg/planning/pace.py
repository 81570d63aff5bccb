"""How many steps fit into a time."""

from __future__ import annotations

SAFE_SHARE = 0.97
"""Of a budget that is planned for: the rest is for checkpoints and a machine that slows down."""


def steps_within(seconds: float, *, step_seconds: float, pause_seconds: float, epoch_steps: int) -> int:
    """The steps of a training that ends within a time, at least one.

    Args:
        seconds: wall-clock of the training.
        step_seconds: of one step, its batch included.
        pause_seconds: between two epochs.
        epoch_steps: steps of an epoch.
    """
    return max(1, int(seconds * SAFE_SHARE / (step_seconds + pause_seconds / epoch_steps)))
