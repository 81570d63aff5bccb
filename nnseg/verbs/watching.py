"""`Watch`: how a training goes, on the terminal, in the log, in the report and in TensorBoard."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from nnseg.core.energy import EnergyMeter
from nnseg.core.history import Epoch
from nnseg.reporting.tensorboard import TensorBoard
from nnseg.storage.runs import RunFolder
from nnseg.training.learner import Learner
from nnseg.verbs.report import report_quietly

log = logging.getLogger(__name__)

REFRESH = 60.0
"""Seconds between two reports while training runs."""

METER_SECONDS = 60.0
"""Seconds after which the energy is looked at, whose counters begin anew every few minutes."""


@dataclass(frozen=True, kw_only=True)
class Watch:
    """What is kept up to date while training runs.

    Args:
        run: whose report is; None for none.
        tensorboard: also write events for TensorBoard, beside the history.
    """

    run: RunFolder | None = None
    tensorboard: bool = False

    @contextmanager
    def on(self, name: str, learner: Learner, past: Sequence[Epoch] = (), *, folder: Path, shown: bool = True) -> Iterator[Watched]:
        """One training under observation.

        Args:
            name: of the training.
            learner: that trains.
            past: epochs that are on record already.
            folder: of the training.
            shown: False for ranks that do not write.
        """
        run = self.run if shown else None
        board = TensorBoard(folder / "tensorboard") if self.tensorboard and shown else None
        watched = Watched(name, learner, past, run=run, board=board, bar=shown and sys.stderr.isatty())
        try:
            yield watched
        finally:
            watched.close()


class Watched:
    """One training under observation."""

    def __init__(
        self, name: str, learner: Learner, past: Sequence[Epoch], *, run: RunFolder | None, board: TensorBoard | None, bar: bool
    ) -> None:
        self._name, self._learner, self._run, self._board = name, learner, run, board
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
        if self._run and time.monotonic() - self._reported > REFRESH:
            report_quietly(self._run)
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
