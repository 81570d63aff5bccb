"""Changes to a training's course on the way: so that it ends in time, or because it gets no better."""

from __future__ import annotations

from collections.abc import Sequence

from nnseg.core.history import Epoch
from nnseg.training.course import Course
from nnseg.training.learner import Learner

CLOSING = 0.003
"""Of a budget, for what follows the last step."""

TOLERANCE = 0.01
"""Of a budget, by which a training may be expected to end too early or too late before its course is changed."""

GLANCES = 100
"""At most so often, evenly over a budget, the clock is looked at."""

WINDOW = 0.15
"""Of a budget, the past that the expectation is made from."""

SETTLED = 3
"""Steps after which the speed is believed; the first ones also warm up."""

SMOOTHING = 0.9
"""Of the estimate of Dice over epochs: what of the last smoothed value stays. Source: nnU-Net's pseudo Dice."""

TAIL = 0.25
"""Of the steps done so far: over how many the rate falls to zero once nothing improves."""


class Timekeeper:
    """Keeps a training to its time by ending its course earlier or later; the rate never jumps.

    Args:
        budget: seconds of wall-clock for the training.
        learner: whose clock counts.
    """

    def __init__(self, budget: float, learner: Learner) -> None:
        self._budget = budget
        self._marks = [(learner.seconds, learner.step)]
        self.closing = 0.0  # seconds of the last save

    def course(self, learner: Learner) -> Course:
        """The learner's course, or the one that ends in time."""
        now, budget, course = learner.seconds, self._budget, learner.course
        if now - self._marks[-1][0] < budget / GLANCES or learner.step >= course.steps:
            return course
        self._marks.append((now, learner.step))
        while len(self._marks) > 2 and self._marks[1][0] < now - WINDOW * budget:
            self._marks.pop(0)
        then, step = self._marks[0]
        if learner.step - step < SETTLED and now < WINDOW * budget:
            return course
        each = (now - then) / (learner.step - step)
        left = budget * (1 - CLOSING) - self.closing - now
        late = (course.steps - learner.step) * each - left
        if abs(late) <= TOLERANCE * budget:
            return course
        return course.ending(learner.step + max(1, int(left / each)), at=learner.step)


def smoothed_dice(epochs: Sequence[Epoch]) -> list[float]:
    """The running estimate of mean Dice after each epoch that has one."""
    values: list[float] = []
    for epoch in epochs:
        if (dice := epoch.mean_dice) is not None:
            values.append(dice if not values else SMOOTHING * values[-1] + (1 - SMOOTHING) * dice)
    return values


def has_stalled(epochs: Sequence[Epoch], patience: int) -> bool:
    """Is the best estimate older than ``patience`` epochs?"""
    values = smoothed_dice(epochs)
    return len(values) > patience and values.index(max(values)) < len(values) - patience


def wound_up(course: Course, step: int) -> Course:
    """The course with its rate brought to zero soon, but not later than it would have been."""
    return course.ending(min(course.steps, step + max(1, int(TAIL * step))), at=step)
