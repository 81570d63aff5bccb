"""A training's progress: a bar, one line an epoch in the log, the report, and events for TensorBoard (an extra)."""

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

log = logging.getLogger(__name__)

FLUSH_SECONDS = 10

REFRESH = 60.0
"""Seconds between two updates of the report while training runs."""

METER_SECONDS = 60.0
"""Seconds between two readings of the energy counters, which restart from zero every few minutes."""


class TensorBoard:
    """Writes epochs as events. In the same folder, a resumed training replaces the events after its step.

    Args:
        folder: of one training; created with the first epoch. TensorBoard shows the folder above it as a set of trainings.

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
        """Write what is buffered; another epoch goes into a new file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


@dataclass(frozen=True, kw_only=True)
class ProgressSettings:
    """What is kept up to date while training runs.

    Args:
        refresh: updates the report; called at most once in `REFRESH` seconds. None for no report.
        tensorboard: also write events for TensorBoard, beside the history.
    """

    refresh: Callable[[], None] | None = None
    tensorboard: bool = False

    @contextmanager
    def track(
        self, name: str, learner: Learner, past: Sequence[Epoch] = (), *, folder: Path, shown: bool = True
    ) -> Iterator[TrainingProgress]:
        """The progress of one training.

        Args:
            name: of the training.
            learner: that trains.
            past: epochs in the history already.
            folder: of the training.
            shown: False for ranks that do not write.
        """
        progress = TrainingProgress(name, learner, past, bar=shown and sys.stderr.isatty())
        try:
            if shown:
                progress.refresh = self.refresh
                progress.board = TensorBoard(folder / "tensorboard") if self.tensorboard else None
            yield progress
        finally:
            progress.close()


class TrainingProgress:
    """The progress of one training: shows steps and epochs, and adds energy and processor time to the epochs.

    Attributes:
        refresh, board: updates the report, and writes events, after each epoch; None for neither.
    """

    def __init__(self, name: str, learner: Learner, past: Sequence[Epoch], *, bar: bool) -> None:
        self._name, self._learner = name, learner
        self.refresh: Callable[[], None] | None = None
        self.board: TensorBoard | None = None
        self._meter, self._cpu = EnergyMeter(gpus=_gpu_ids(learner.context.device)), time.process_time()
        self._joules, self._cpu_seconds = (past[-1].joules, past[-1].cpu_seconds or 0.0) if past else (0.0, 0.0)
        self._metered = self._reported = time.monotonic()
        total, done = learner.course.steps, learner.step
        self._bar = tqdm(total=total, initial=done, desc=name, unit="step", leave=False, dynamic_ncols=True, disable=not bar)

    def step(self) -> None:
        """Show that a step is finished."""
        self._bar.total = self._learner.course.steps
        self._bar.update(self._learner.step - self._bar.n)
        if time.monotonic() - self._metered > METER_SECONDS:
            self._metered = time.monotonic()
            self._meter.joules()

    def epoch(self, epoch: Epoch) -> Epoch:
        """Show that an epoch is finished; returns it with the energy and processor time that the training has used so far."""
        joules, before = self._meter.joules(), self._joules
        used = {
            "joules": None if joules is None or before is None else before + joules,
            "cpu_seconds": round(self._cpu_seconds + time.process_time() - self._cpu, 1),
        }
        epoch = epoch.model_copy(update=used)
        dice = "none" if epoch.mean_dice is None else f"{epoch.mean_dice:.3f}"
        self._bar.set_postfix({"loss": f"{epoch.loss:.3f}", "Dice": dice}, refresh=False)
        log.info("%s: %s", self._name, _describe(epoch))
        self._to_board(lambda board: board.write(epoch))
        if self.refresh and time.monotonic() - self._reported > REFRESH:
            self.refresh()
            self._reported = time.monotonic()
        return epoch

    def close(self) -> None:
        """Remove the bar, and write what is buffered."""
        self._bar.close()
        self._to_board(lambda board: board.close())

    def _to_board(self, write: Callable[[TensorBoard], None]) -> None:
        """Write to TensorBoard, if that is wanted and possible; the history has the same numbers, so training goes on without."""
        if self.board:
            try:
                write(self.board)
            except OSError as error:
                log.warning("events for TensorBoard cannot be written any more: %s", error)
                self.board = None


def _gpu_ids(device: torch.device) -> list[str]:
    """The GPU that trains, by its NVML name; empty for other devices."""
    return [f"GPU-{torch.cuda.get_device_properties(device).uuid}"] if device.type == "cuda" else []


def _describe(epoch: Epoch) -> str:
    dice = ", ".join(f"{label} {value:.3f}" for label, value in epoch.dice.items() if value is not None)
    left = (epoch.steps - epoch.step) * epoch.total_seconds / epoch.step
    progress = f"step {epoch.step}/{epoch.steps}, {left:.0f} s left"
    return f"{progress}, loss {epoch.loss:.4f}, Dice on held-out patches {dice or 'none'}"
