"""A training's progress: one line an epoch in the log and in ``history.jsonl``, and events for TensorBoard (an extra)."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from nnseg.core.errors import NnsegError
from nnseg.core.schedule import Epoch
from nnseg.system.energy import EnergyMeter
from nnseg.training.learner import Learner

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


log = logging.getLogger(__name__)

REFRESH = 60.0
"""Seconds between two reports while training runs."""

METER_SECONDS = 60.0
"""Seconds after which the energy is looked at, whose counters begin anew every few minutes."""


@dataclass(frozen=True, kw_only=True)
class ProgressSettings:
    """What is kept up to date while training runs.

    Args:
        refresh: writes the report anew; called at most once in `REFRESH` seconds. None for no report.
        tensorboard: also write events for TensorBoard, beside the history.
    """

    refresh: Callable[[], None] | None = None
    tensorboard: bool = False

    @contextmanager
    def on(
        self, name: str, learner: Learner, past: Sequence[Epoch] = (), *, folder: Path, shown: bool = True
    ) -> Iterator[TrainingProgress]:
        """One training under observation.

        Args:
            name: of the training.
            learner: that trains.
            past: epochs that are on record already.
            folder: of the training.
            shown: False for ranks that do not write.
        """
        refresh = self.refresh if shown else None
        board = TensorBoard(folder / "tensorboard") if self.tensorboard and shown else None
        watched = TrainingProgress(name, learner, past, refresh=refresh, board=board, bar=shown and sys.stderr.isatty())
        try:
            yield watched
        finally:
            watched.close()


class TrainingProgress:
    """One training under observation."""

    def __init__(
        self,
        name: str,
        learner: Learner,
        past: Sequence[Epoch],
        *,
        refresh: Callable[[], None] | None,
        board: TensorBoard | None,
        bar: bool,
    ) -> None:
        self._name, self._learner, self._refresh, self._board = name, learner, refresh, board
        self._meter, self._cpu = EnergyMeter(gpus=_cards(learner.setting.device)), time.process_time()
        self._joules, self._cpu_seconds = (past[-1].joules, past[-1].cpu_seconds or 0.0) if past else (0.0, 0.0)
        self._looked = self._reported = time.monotonic()
        total, done = learner.course.steps, learner.step
        self._bar = tqdm(total=total, initial=done, desc=name, unit="step", leave=False, dynamic_ncols=True, disable=not bar)

    def step(self) -> None:
        """One more step is done."""
        self._bar.total = self._learner.course.steps
        self._bar.update(self._learner.step - self._bar.n)
        if time.monotonic() - self._looked > METER_SECONDS:
            self._looked = time.monotonic()
            self._meter.joules()

    def epoch(self, epoch: Epoch) -> Epoch:
        """One more epoch is done; returns its line of the record, with what the training has taken so far."""
        joules, before = self._meter.joules(), self._joules
        taken = {
            "joules": None if joules is None or before is None else before + joules,
            "cpu_seconds": round(self._cpu_seconds + time.process_time() - self._cpu, 1),
        }
        epoch = epoch.model_copy(update=taken)
        dice = "none" if epoch.mean_dice is None else f"{epoch.mean_dice:.3f}"
        self._bar.set_postfix({"loss": f"{epoch.loss:.3f}", "Dice": dice}, refresh=False)
        log.info("%s", _in_words(self._name, epoch))
        if self._board:
            self._tell_board(epoch)
        if self._refresh and time.monotonic() - self._reported > REFRESH:
            self._refresh()
            self._reported = time.monotonic()
        return epoch

    def close(self) -> None:
        """Remove the bar, and write what waits."""
        self._bar.close()
        if self._board:
            self._board.close()

    def _tell_board(self, epoch: Epoch) -> None:
        assert self._board is not None
        try:
            self._board.write(epoch)
        except OSError as error:  # a record beside the record is no reason to end a training
            log.warning("events for TensorBoard cannot be written any more: %s", error)
            self._board = None


def _cards(device: torch.device) -> list[str]:
    """The card that trains, as NVML calls it; none for other devices."""
    if device.type != "cuda":
        return []
    return [f"GPU-{torch.cuda.get_device_properties(device).uuid}"]


def _in_words(name: str, epoch: Epoch) -> str:
    dice = ", ".join(f"{label} {value:.3f}" for label, value in epoch.dice.items() if value is not None)
    left = (epoch.steps - epoch.step) * epoch.total_seconds / epoch.step
    progress = f"step {epoch.step}/{epoch.steps}, {left:.0f} s left"
    return f"{name}: {progress}, loss {epoch.loss:.4f}, Dice on held-out patches {dice or 'none'}"
