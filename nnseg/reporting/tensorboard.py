"""`TensorBoard`: a training's record as events that TensorBoard shows, by way of the extra ``nnseg[tensorboard]``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nnseg.core.errors import NnsegError
from nnseg.core.history import Epoch

FLUSH_SECONDS = 10


class TensorBoard:
    """Writes epochs as events. A training that goes on may write into the same folder again: its steps replace those there.

    Args:
        folder: of one training; made when the first epoch is written. TensorBoard takes the folder above it as a set of trainings.

    Raises:
        NnsegError: the extra is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from tensorboardX import SummaryWriter  # noqa: PLC0415 (an optional extra)
        except ImportError as error:
            raise NnsegError('events for TensorBoard need an extra: pip install "nnseg[tensorboard]"') from error
        self._make, self._folder = SummaryWriter, folder
        self._writer: Any = None
        self._step: int | None = None

    def write(self, epoch: Epoch) -> None:
        """Add an epoch: loss, learning rate, Dice of each label and their mean, seconds a step, and energy where it is known."""
        if self._writer is None:
            file = {"filename_suffix": f".{epoch.step:010d}"}  # files are read in the order of their names, which else hold seconds
            self._writer = self._make(str(self._folder), purge_step=epoch.step, flush_secs=FLUSH_SECONDS, **file)
        before = 0 if epoch.number == 1 else self._step
        self._step = epoch.step
        values = {
            "loss": epoch.loss,
            "learning_rate": epoch.learning_rate,
            "Dice/mean": epoch.mean_dice,
            **{f"Dice/{label}": value for label, value in epoch.dice.items()},
            "seconds_a_step": None if before is None or before == epoch.step else epoch.seconds / (epoch.step - before),
            "joules": epoch.joules,
        }
        for name, value in values.items():
            if value is not None:
                self._writer.add_scalar(name, value, epoch.step)

    def close(self) -> None:
        """Write what is still waiting; an epoch may follow, into a file of its own."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
