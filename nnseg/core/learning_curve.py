"""`LearningCurve`: how the Dice of held-out cases grows with the number of training cases, and what more of them would bring."""

from __future__ import annotations

from typing import Literal

from nnseg.core.frozen import FrozenModel
from nnseg.core.scores import Finite, Interval


class CurvePoint(FrozenModel):
    """A training on a part of the cases.

    Args:
        cases: number that it was trained on.
        dice: mean over the held-out cases of their mean over the labels.
        interval: 95 %, by bootstrap over cases.
    """

    cases: int
    dice: Finite
    interval: Interval | None = None


class ExpectedGain(FrozenModel):
    """What more cases would add to the mean Dice.

    Args:
        cases: number of further cases.
        dice: the expected difference.
        interval: 95 %, by bootstrap over held-out cases; the chance of each training is not part of it.
    """

    cases: int
    dice: Finite
    interval: Interval | None = None


class LearningCurve(FrozenModel):
    """The content of ``learning_curve.json``.

    Args:
        format: of this file.
        plan: name of the plan that was trained.
        fold: whose held-out cases are scored.
        held_out: number of them.
        steps: of each training.
        points: trainings on parts, the smallest first; each part holds the ones before it.
        gains: of different numbers of further cases.
    """

    format: Literal[1] = 1
    plan: str
    fold: int
    held_out: int
    steps: int
    points: tuple[CurvePoint, ...]
    gains: tuple[ExpectedGain, ...]
