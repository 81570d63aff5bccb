"""The work of a training: `Epoch` (one line of its record), `Course` (the learning rate), `Schedule` (fixed before it starts)."""

from __future__ import annotations

import math
from typing import Literal, Self

from nnseg.core.frozen import FrozenModel
from nnseg.core.options import FreezePart
from nnseg.core.plan import Training


class Epoch(FrozenModel):
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
        joules: that processors and cards have taken so far, see `nnseg.system.energy`; None where the machine does not tell.
        cpu_seconds: processor time so far, of all threads and workers together.
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

    @property
    def mean_dice(self) -> float | None:
        """Mean of the estimates that exist."""
        known = [d for d in self.dice.values() if d is not None]
        return sum(known) / len(known) if known else None


POLY_POWER = 0.9
MOST_WARMUP = 0.1
"""Of a schedule's steps: so that short trainings do not only warm up."""

RESTART = 0.5
"""Progress that the rate of a continued training goes back to."""


class Segment(FrozenModel):
    """A stretch of a course: from a step on, progress rises evenly so that it is 1 at the end.

    Args:
        step: where it begins.
        progress: there, from 0 (highest rate) to 1 (rate zero).
        end: the step that the training ends before.
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
    """The rate's way to zero: which steps a training has, and how far along each of them is.

    It is fixed when a training starts, and only ever gets further legs, each written down before its first step: a training that
    is resumed, or repeated, takes the same ones.

    Args:
        warmup: steps over which the rate rises, at the very beginning.
        legs: in order; each begins where the one before is left.
    """

    warmup: int
    legs: tuple[Segment, ...]

    @classmethod
    def of(cls, steps: int, training: Training) -> Self:
        """The course of an undisturbed training."""
        warmup = min(training.warmup_steps, int(MOST_WARMUP * steps))
        return cls(warmup=warmup, legs=(Segment(step=warmup, progress=0.0, end=steps),))

    @property
    def steps(self) -> int:
        """Of the whole training."""
        return self.legs[-1].end

    def progress(self, step: int) -> float:
        """How far along a step is, from 0 to 1; 0 while the rate still rises."""
        leg = next((leg for leg in reversed(self.legs) if leg.step <= step), self.legs[0])
        return leg.at(max(step, leg.step))

    def ending(self, end: int, *, at: int) -> Self:
        """The course that goes on without a jump, but so that it ends before another step.

        Args:
            end: the new number of steps; at least one step is left.
            at: the next step.
        """
        at = max(at, self.warmup)
        return self._with(Segment(step=at, progress=self.progress(at), end=max(end, at + 1)))

    def continued(self, steps: int, *, at: int) -> Self:
        """The course with further steps from a step on, its end or one where it was left.

        The rate goes on from where it was, but from half of the highest (on a cosine) if it was below, and falls to zero again.
        """
        return self._with(Segment(step=at, progress=min(RESTART, self.progress(at)), end=at + steps))

    def _with(self, leg: Segment) -> Self:
        return self.model_copy(update={"legs": (*self.legs, leg)})


def learning_rate(step: int, course: Course, training: Training) -> float:
    """The rate for step 0, 1, ...: rising linearly first, then falling to 0, which the step after the last would have.

    Sources: Chen et al. 2018 (poly); Loshchilov & Hutter 2017 (cosine).
    """
    if step < course.warmup:
        return training.learning_rate * (step + 1) / (course.warmup + 1)
    progress = course.progress(step)
    if training.schedule == "cosine":
        return training.learning_rate * (1 + math.cos(math.pi * progress)) / 2
    return training.learning_rate * math.pow(1 - progress, POLY_POWER)


class Origin(FrozenModel):
    """The weights that a training begins with, where they are not fresh.

    Args:
        model: file or run folder of a trained model.
        key: digest of the model.
        freeze: part of the network that is left as it is.
    """

    model: str
    key: str
    freeze: FreezePart | None = None


class Schedule(FrozenModel):
    """The work of one training, fixed when it starts; only its course may get further legs.

    Args:
        key: digest of all that the weights depend on: plan and cases.
        course: the learning rate's way, and with it the number of steps.
        asked_steps: the number of steps asked for, if they and no time were.
        seconds: wall-clock given, if any.
        patience: epochs without a better estimate after which the rate is brought to zero.
        since: the step from which on estimates count for that: 0, or where a finished training was continued.
        plateau: the step at which it was brought to zero.
        ended: the step that nothing is to follow: the course's last, or an earlier one if the file STOP asked for it.
        spent: seconds that the training had taken by then.
        precision: the arithmetic chosen for this device.
        device: what it was fixed on.
        threads: of the processor used by torch; sums may differ in the last bit with another number.
        seconds_per_step: as measured; 0 if the steps were given.
        compiled: the network is compiled, because that was measured to pay.
        origin: where the first weights are from.
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
    precision: str
    device: str
    threads: int
    seconds_per_step: float = 0.0
    compiled: bool = False
    origin: Origin | None = None

    @property
    def steps(self) -> int:
        """Of the whole training, as things stand."""
        return self.course.steps

    def describe(self) -> str:
        """Its length in words."""
        length = f"{self.steps} steps" + ("" if self.seconds is None else f" within {self.seconds:.0f} s")
        return length if self.ended in (None, self.steps) else f"ended at step {self.ended} of {length}"

    def on_course(self, course: Course, *, plateau: int | None) -> Schedule:
        """The same work on another course, and with the step of a plateau if there was one."""
        return self.model_copy(update={"course": course, "plateau": plateau})

    def finished(self, step: int, spent: float) -> Schedule:
        """The work as it was done: nothing is to follow."""
        return self.model_copy(update={"ended": step, "spent": spent})

    def continued(self, seconds: float) -> Schedule:
        """The work of a training that has ended, and is to go on for a time."""
        assert self.ended is not None
        each = self.seconds_per_step or self.spent / max(1, self.ended)
        course = self.course.continued(max(1, int(seconds / max(each, 1e-6))), at=self.ended)
        changes = {"course": course, "seconds": self.spent + seconds, "since": self.ended, "plateau": None, "ended": None}
        return self.model_copy(update=changes)
