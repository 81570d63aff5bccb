"""`Epoch`, one line of a training's history; `Course`, its learning rate; `Schedule`, what is fixed when it starts."""

from __future__ import annotations

import math
from typing import Literal, Self

from nnseg.core.frozen import FrozenModel
from nnseg.core.options import FreezePart
from nnseg.core.plan import Training
from nnseg.core.validation import Positive


class Epoch(FrozenModel):
    """Results of one epoch of training.

    Args:
        number: from 1.
        step: optimizer steps since the start.
        steps: of the whole schedule.
        loss: mean over its steps.
        learning_rate: at the end of the epoch.
        dice: per scored label, pooled over held-out patches, as an estimate; None where the label was in no patch.
        seconds: wall-clock of the epoch, validation included.
        total_seconds: wall-clock of training so far, without interruptions.
        joules: energy of processors and cards so far, see `nnseg.system.energy`; None where it cannot be measured.
        cpu_seconds: processor time so far, of all threads and workers.
        losses: of each step of the epoch, to five digits; empty in runs of earlier versions.
        repeated_steps: steps of the epoch that were computed again in float32, since they were not finite in lower precision.
    """

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
    losses: tuple[float, ...] = ()
    repeated_steps: int = 0

    @property
    def mean_dice(self) -> float | None:
        """Mean of the estimates that exist."""
        known = [d for d in self.dice.values() if d is not None]
        return sum(known) / len(known) if known else None

    @property
    def step_losses(self) -> list[tuple[int, float]]:
        """Number and loss of each step; in runs of earlier versions the last step with the mean loss."""
        if not self.losses:
            return [(self.step, self.loss)]
        return list(enumerate(self.losses, self.step - len(self.losses) + 1))


POLY_POWER = 0.9
MOST_WARMUP = 0.1
"""Largest share of steps for the warm-up, so that short trainings do not consist of it."""

RESTART = 0.5
"""Progress to which the rate of a continued training returns."""


class Segment(FrozenModel):
    """A segment of a course, over which progress rises linearly to 1 at the end.

    Args:
        progress: at the first step, from 0 (highest rate) to 1 (rate zero).
        end: number of steps of the training.
    """

    step: int
    progress: float
    end: int

    def at(self, step: int) -> float:
        """Progress at a step."""
        if step >= self.end:
            return 1.0
        return self.progress + (1 - self.progress) * (step - self.step) / (self.end - self.step)


class Course(FrozenModel):
    """The progress of a training at each step, from 0 to 1, which determines the learning rate.

    It is fixed when a training starts. Segments are only ever added, and recorded before their first step: a training that is
    resumed, or repeated, takes the same ones.

    Args:
        warmup: steps at the beginning over which the rate rises.
        legs: segments in order; each is left where the next one begins.
    """

    warmup: int
    legs: tuple[Segment, ...]

    @classmethod
    def of(cls, steps: int, training: Training) -> Self:
        """The course of a training without changes."""
        warmup = min(training.warmup_steps, int(MOST_WARMUP * steps))
        return cls(warmup=warmup, legs=(Segment(step=warmup, progress=0.0, end=steps),))

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return self.legs[-1].end

    def progress(self, step: int) -> float:
        """Progress at a step, from 0 to 1; 0 during the warm-up."""
        segment = next((one for one in reversed(self.legs) if one.step <= step), self.legs[0])
        return segment.at(max(step, segment.step))

    def ending_at(self, end: int, *, at: int) -> Self:
        """The course continued without a jump, but with another number of steps.

        Args:
            end: new number of steps; at least one step is left.
            at: the next step.
        """
        at = max(at, self.warmup)
        return self._with(Segment(step=at, progress=self.progress(at), end=max(end, at + 1)))

    def continued(self, steps: int, *, at: int) -> Self:
        """The course with further steps, from its end or an earlier step on.

        The rate falls to zero again, from its present value, or from half of the highest (on a cosine) if it is lower.
        """
        return self._with(Segment(step=at, progress=min(RESTART, self.progress(at)), end=at + steps))

    def _with(self, segment: Segment) -> Self:
        return self.model_copy(update={"legs": (*self.legs, segment)})


def learning_rate(step: int, course: Course, training: Training) -> float:
    """The rate for step 0, 1, ...: it rises linearly first and then falls, to 0 after the last step.

    Sources: Chen et al. 2018 (poly); Loshchilov & Hutter 2017 (cosine).
    """
    if step < course.warmup:
        return training.learning_rate * (step + 1) / (course.warmup + 1)
    progress = course.progress(step)
    if training.schedule == "cosine":
        return training.learning_rate * (1 + math.cos(math.pi * progress)) / 2
    return training.learning_rate * math.pow(1 - progress, POLY_POWER)


class Origin(FrozenModel):
    """The pretrained weights that a training starts with.

    Args:
        model: file or run folder of a trained model.
        freeze: part of the network that is not trained.
        rate: by which the plan's learning rate is multiplied.
    """

    model: str
    key: str
    freeze: FreezePart | None = None
    rate: Positive = 1.0


class Schedule(FrozenModel):
    """What is fixed when a training starts; only its course may get further segments.

    Args:
        key: digest of everything the weights depend on: plan and cases.
        course: progress of the learning rate, with the number of steps.
        asked_steps: the number of steps requested, if no time was.
        seconds: wall-clock requested, if any.
        patience: epochs without a better estimate after which the rate is reduced to zero.
        since: first step whose estimates count for the patience: 0, or where a finished training was continued.
        plateau: the step at which the patience was exhausted.
        ended: the last step done: that of the course, or an earlier one if the file STOP was found.
        spent: seconds that the training had taken by then.
        more: seconds by which it was continued after it had ended, all times together.
        precision: of the arithmetic on this device.
        threads: of the processor used by torch; with another number, sums may differ in the last bit.
        seconds_per_step: as measured; 0 if the steps were given.
        compiled: whether the network is compiled, by measured speed.
        fused_norm: whether the network computes channels-last with a norm in Triton, by measured speed.
    """

    format: Literal[2] = 2
    key: str
    course: Course
    asked_steps: int | None = None
    seconds: float | None = None
    patience: int | None = None
    since: int = 0
    plateau: int | None = None
    ended: int | None = None
    spent: float = 0.0
    more: float = 0.0
    precision: str
    device: str
    threads: int
    seconds_per_step: float = 0.0
    compiled: bool = False
    fused_norm: bool = False
    origin: Origin | None = None

    @property
    def steps(self) -> int:
        """Steps of the whole training, as far as known."""
        return self.course.steps

    def describe(self) -> str:
        """The length in words."""
        length = f"{self.steps} steps" + ("" if self.seconds is None else f" within {self.seconds:.0f} s")
        return length if self.ended in (None, self.steps) else f"ended at step {self.ended} of {length}"

    def on_course(self, course: Course, *, plateau: int | None) -> Schedule:
        """The same work on another course, and with the step of a plateau if there was one."""
        return self.model_copy(update={"course": course, "plateau": plateau})

    def finished(self, step: int, spent: float) -> Schedule:
        """The schedule of a training that has ended."""
        return self.model_copy(update={"ended": step, "spent": spent})

    def continued(self, seconds: float) -> Schedule:
        """The schedule of an ended training that is continued for some time."""
        assert self.ended is not None
        each = self.seconds_per_step or self.spent / max(1, self.ended)
        course = self.course.continued(max(1, int(seconds / max(each, 1e-6))), at=self.ended)
        changes = {"course": course, "seconds": self.spent + seconds, "more": self.more + seconds, "since": self.ended}
        return self.model_copy(update={**changes, "plateau": None, "ended": None})
