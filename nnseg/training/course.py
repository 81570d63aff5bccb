"""`Course`: how the learning rate runs over a training, from the first step to zero, and how that may change on the way."""

from __future__ import annotations

import math
from typing import Self

from pydantic import BaseModel, ConfigDict

from nnseg.core.plan import Training

POLY_POWER = 0.9
MOST_WARMUP = 0.1
"""Of a schedule's steps: so that short trainings do not only warm up."""

RESTART = 0.5
"""Progress that the rate of a continued training goes back to."""


class Leg(BaseModel):
    """A stretch of a course: from a step on, progress rises evenly so that it is 1 at the end.

    Args:
        step: where it begins.
        progress: there, from 0 (highest rate) to 1 (rate zero).
        end: the step that the training ends before.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int
    progress: float
    end: int

    def at(self, step: int) -> float:
        """Progress at a step."""
        if step >= self.end:
            return 1.0
        return self.progress + (1 - self.progress) * (step - self.step) / (self.end - self.step)


class Course(BaseModel):
    """The rate's way to zero: which steps a training has, and how far along each of them is.

    It is fixed when a training starts, and only ever gets further legs, each written down before its first step: a training that
    is resumed, or repeated, takes the same ones.

    Args:
        warmup: steps over which the rate rises, at the very beginning.
        legs: in order; each begins where the one before is left.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    warmup: int
    legs: tuple[Leg, ...]

    @classmethod
    def of(cls, steps: int, training: Training) -> Self:
        """The course of an undisturbed training."""
        warmup = min(training.warmup_steps, int(MOST_WARMUP * steps))
        return cls(warmup=warmup, legs=(Leg(step=warmup, progress=0.0, end=steps),))

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
        return self._with(Leg(step=at, progress=self.progress(at), end=max(end, at + 1)))

    def continued(self, steps: int, *, at: int) -> Self:
        """The course with further steps from a step on, its end or one where it was left.

        The rate goes on from where it was, but from half of the highest (on a cosine) if it was below, and falls to zero again.
        """
        return self._with(Leg(step=at, progress=min(RESTART, self.progress(at)), end=at + steps))

    def _with(self, leg: Leg) -> Self:
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
