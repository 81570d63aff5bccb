"""A training's progress: the live line, or lines in the log; the report; and events for TensorBoard (an extra)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nnseg.core.schedule import Epoch
from nnseg.system.energy import EnergyMeter
from nnseg.system.extras import check_extra
from nnseg.system.progress import Stage, TimeLeft, clock, fit, stage
from nnseg.training.learner import Learner

log = logging.getLogger(__name__)

FLUSH_SECONDS = 10

REFRESH = 60.0
"""Seconds between two updates of the report while training runs."""

LOSS_SECONDS = 1.0
"""Seconds between two looks at the loss, for which a GPU must finish its step."""

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
        check_extra("tensorboard", "events for TensorBoard")
        from tensorboardX import SummaryWriter  # noqa: PLC0415 (an optional extra)

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
        place: of the training among others, "2 of 5"; "" for a single one.
    """

    refresh: Callable[[], None] | None = None
    tensorboard: bool = False
    place: str = ""

    @contextmanager
    def track(
        self,
        name: str,
        learner: Learner,
        past: Sequence[Epoch] = (),
        *,
        folder: Path,
        shown: bool = True,
        budget: float | None = None,
    ) -> Iterator[TrainingProgress]:
        """The progress of one training.

        Args:
            name: of the training.
            learner: that trains.
            past: epochs in the history already.
            folder: of the training.
            shown: False for ranks that do not write.
            budget: seconds that the training is to take; None if its steps are given.
        """
        name += f" ({self.place})" if self.place else ""
        with ExitStack() as stack:
            line = stack.enter_context(stage(name)) if shown else None
            progress = TrainingProgress(name, learner, past, line=line, budget=budget)
            stack.callback(progress.close)
            if shown:
                progress.refresh = self.refresh
                progress.board = TensorBoard(folder / "tensorboard") if self.tensorboard else None
            yield progress


class TrainingProgress:
    """The progress of one training: shows steps and epochs, and adds energy and processor time to the epochs.

    Attributes:
        refresh, board: updates the report, and writes events, after each epoch; None for neither.
    """

    def __init__(
        self, name: str, learner: Learner, past: Sequence[Epoch], *, line: Stage | None = None, budget: float | None = None
    ) -> None:
        self._learner = learner
        self._line = line or Stage(name)
        self._shown = ShownTraining(name, learner, budget, dict(past[-1].dice) if past else {})
        self._line.text = self._shown.line
        self.refresh: Callable[[], None] | None = None
        self.board: TensorBoard | None = None
        self._meter, self._cpu = EnergyMeter(gpus=_gpu_ids(learner.context.device)), time.process_time()
        self._joules, self._cpu_seconds = (past[-1].joules, past[-1].cpu_seconds or 0.0) if past else (0.0, 0.0)
        self._metered = self._reported = time.monotonic()

    def step(self) -> None:
        """Show that a step is finished."""
        self._shown.step()
        self._line.tell(self._shown.describe)
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
        self._shown.loss, self._shown.dice = epoch.loss, epoch.dice
        self._to_board(lambda board: board.write(epoch))
        if self.refresh and time.monotonic() - self._reported > REFRESH:
            self.refresh()
            self._reported = time.monotonic()
        return epoch

    def close(self) -> None:
        """Write what is buffered."""
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


def describe_result(epoch: Epoch) -> str:
    """Loss and Dice of an epoch: "loss 1.42, Dice 0.44 (nuclei 0.61, lesion 0.27)"."""
    return f"loss {epoch.loss:.2f}{_dice_words(', Dice ', epoch.dice)[0]}"


def _dice_words(word: str, dice: Mapping[str, float | None]) -> list[str]:
    """Mean Dice with that of all labels, of the worst label, or alone, or nothing."""
    known = {label: value for label, value in dice.items() if value is not None}
    if not known:
        return [""]
    mean, worst = f"{word}{sum(known.values()) / len(known):.2f}", min(known, key=lambda label: known[label])
    each = ", ".join(f"{label} {value:.2f}" for label, value in known.items())
    more = [f" ({each})", f" (worst: {worst} {known[worst]:.2f})"] if len(known) > 1 else []
    return [*(mean + one for one in more), mean, ""]


class ShownTraining:
    """How far a training is, in words.

    Args:
        name: of the training.
        learner: that trains.
        budget: seconds that the training is to take; None if its steps are given.
        dice: of each label on held-out patches, as last estimated.

    Attributes:
        loss: of the last steps; None before the first.
    """

    def __init__(self, name: str, learner: Learner, budget: float | None, dice: Mapping[str, float | None]) -> None:
        self._name, self._learner, self._budget = name, learner, budget
        self.loss: float | None = None
        self.dice = dice
        self._first, self._looked = learner.step, time.monotonic()
        self._left = TimeLeft(learner.course.steps - learner.step, self._looked)

    def step(self) -> None:
        """Count a step as finished."""
        now = time.monotonic()
        self._left.total = self._learner.course.steps - self._first
        self._left.finish(1.0, now)
        if now - self._looked > LOSS_SECONDS:
            recent = self._learner.recent_loss()
            self._looked, self.loss = now, self.loss if recent is None else recent

    def line(self, width: int) -> str:
        """The training in one line of at most so many columns."""
        start = f"{self._name}  {self._time(' / ')}"
        if self.loss is None:
            return start
        return fit([f"{start}  loss {self.loss:.2f}{dice}" for dice in _dice_words("  Dice ", self.dice)], width)

    def describe(self) -> str:
        """The training in words, with all labels."""
        loss = "" if self.loss is None else f", loss {self.loss:.2f}"
        return f"{self._name}: {self._time(' of ')}{loss}{_dice_words(', Dice ', self.dice)[0]}"

    def _time(self, of: str) -> str:
        if self._budget:
            return f"{clock(self._learner.seconds)}{of}{clock(self._budget)}"
        left = self._left.seconds(time.monotonic())
        more = "" if left is None else f", {clock(left)} left"
        return f"step {self._learner.step}{of}{self._learner.course.steps}{more}"
