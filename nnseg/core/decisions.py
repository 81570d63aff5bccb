"""Decisions taken on held-out cases: postprocessing steps, and which plans are ensembled. Kept with their evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Annotated, Literal

from pydantic import Field, FiniteFloat, model_validator

from nnseg.core.frozen import FrozenModel
from nnseg.core.validation import NotNegative, Positive, Probability

Interval = tuple[FiniteFloat, FiniteFloat]
Weights = Annotated[dict[str, Positive], Field(min_length=1)]
"""What the answers of plans count beside one another, by their names."""


class Candidate(FrozenModel):
    """A plan, or several together, measured on held-out cases.

    Args:
        plans: their weights.
        dice: mean over all masks that any candidate or the reference shows; where a candidate rightly shows nothing, it is 1.
        interval: 95 %, by drawing cases; None for few.
        gain: how much the mean is above that of the best single plan, which was itself chosen for its mean; None for itself.
        gain_interval: the same 95 %, of the differences case by case.
        p: of the paired sign-flip test that it is above by chance alone.
        seconds: that a scan takes one network of each plan, from preprocessing to the label map.
    """

    plans: Weights
    dice: FiniteFloat
    interval: Interval | None = None
    gain: FiniteFloat | None = None
    gain_interval: Interval | None = None
    p: Probability | None = None
    seconds: NotNegative = 0.0

    @property
    def name(self) -> str:
        """As `name_of` gives it."""
        return name_of(self.plans)


class Nested(FrozenModel):
    """What the best ensemble is worth to cases that had no say in which it is.

    In each part of the cases the ensemble that was best in all other parts is compared with the best single plan.

    Args:
        gain: mean rise of Dice over the single plan, over all masks.
        interval: 95 %, by drawing cases.
    """

    gain: FiniteFloat
    interval: Interval | None


class Choice(FrozenModel):
    """The plans of a run that answer, and why these. Edit ``plans`` to overrule; plans that are not named do not answer.

    Args:
        plans: their weights.
        reason: in words.
        cases: held-out cases that were asked.
        decided: name of the plans that were decided on; of others that ``plans`` say by now, somebody has overruled it.
        best_single: name of the plan that is best alone.
        nested: what an ensemble gains; None for too few cases.
        p: that the best of all ensembles is as far above the best single plan by chance alone; None for too few cases.
        candidates: all that were measured, the best first.
        key: of the predictions and references that were asked; the choice stands while they are the same.
    """

    plans: Weights
    reason: str = ""
    cases: int = 0
    decided: str = ""
    best_single: str = ""
    nested: Nested | None = None
    p: Probability | None = None
    candidates: tuple[Candidate, ...] = ()
    key: str = ""

    @model_validator(mode="after")
    def _check(self) -> Choice:
        if self.candidates and self.best_single not in {c.name for c in self.candidates}:
            raise ValueError(f"the best single plan, {self.best_single}, is not among the candidates")
        return self

    def candidate(self, name: str) -> Candidate | None:
        """The one of that name; None if it was not measured."""
        return next((c for c in self.candidates if c.name == name), None)

    @property
    def explained(self) -> str:
        """The reason, and whether somebody has overruled it."""
        overruled = self.decided and name_of(self.plans) != self.decided
        return f"{self.reason}; overruled by hand: {name_of(self.plans)} answers" if overruled else self.reason

    @property
    def times_as_long(self) -> float | None:
        """How many times as long as the best single plan the chosen ones take; None if that was not measured."""
        chosen, single = self.candidate(name_of(self.plans)), self.candidate(self.best_single)
        return chosen.seconds / single.seconds if chosen and single and single.seconds else None


def name_of(plans: Mapping[str, float]) -> str:
    """A name for weighted plans, fit for a folder: "2d", "2d+3d", "2d+2x3d"; the same for weights in the same ratios."""
    least = min(plans.values())
    return "+".join(_times(plans[name] / least) + name for name in sorted(plans))


def ensembles_of(names: Sequence[str]) -> tuple[dict[str, float], ...]:
    """Weights of all candidates: each plan alone; each pair plain, and with either plan doubled; all plans likewise."""
    groups = [*combinations(names, 2), *([tuple(names)] if len(names) > 2 else [])]
    singles = [{name: 1.0} for name in names]
    return (*singles, *(_doubled(group, twice) for group in groups for twice in (None, *group)))


def _doubled(names: Sequence[str], twice: str | None) -> dict[str, float]:
    return {name: 2.0 if name == twice else 1.0 for name in names}


def _times(ratio: float) -> str:
    return "" if ratio == 1 else f"{ratio:.4g}x"


class PostprocessingStep(FrozenModel):
    """One change to the object that some labels form together: one label, a region, or all of the foreground.

    Args:
        action: "largest" keeps its largest connected component, and every other of the same size; "smaller" removes components
            below ``mm3``; "holes" fills the background that it encloses.
        labels: values of the labels that form the object.
        mm3: of "smaller": what has this volume stays.
        fill: of "holes": the value that is written.
    """

    action: Literal["largest", "smaller", "holes"]
    labels: tuple[int, ...] = Field(min_length=1)
    mm3: float | None = Field(default=None, gt=0)
    fill: int | None = None

    @model_validator(mode="after")
    def _check(self) -> PostprocessingStep:
        if (self.mm3 is not None) != (self.action == "smaller"):
            raise ValueError('"smaller" needs mm3, and no other action has it')
        if (self.fill is not None) != (self.action == "holes"):
            raise ValueError('"holes" needs fill, and no other action has it')
        if self.fill is not None and self.fill not in self.labels:
            raise ValueError(f"a hole cannot be filled with {self.fill}, which is not one of the labels {self.labels} around it")
        return self


class Tried(FrozenModel):
    """A candidate that changed held-out cases, on top of what was accepted before it.

    Args:
        mending: the candidate.
        cases: in which mean Dice changes.
        gain: mean rise of Dice over all cases and labels.
        p: of the paired sign-flip test that it rises by chance alone.
        accepted: or not,
        reason: in words.
    """

    mending: PostprocessingStep
    cases: int
    gain: float
    p: float
    accepted: bool
    reason: str


class Effect(FrozenModel):
    """What mending does to one label or region of held-out cases.

    Args:
        cases: that show it, in the reference or the prediction.
        dice_before, dice_after: mean over the cases where it is defined, as in ``scores.json``; None where it is nowhere. After:
            with the mendings, which these very cases chose.
        p: of the paired sign-flip test that Dice rises by chance alone; 1 where nothing changes.
        gain: mean rise of Dice when each part of the cases is mended as the other parts chose: what to expect of new cases. A
            label that is neither there nor predicted counts as Dice 1, so that a false alarm gone is a gain.
    """

    cases: int
    dice_before: float | None
    dice_after: float | None
    p: float
    gain: float


class Postprocessing(FrozenModel):
    """The mendings of a run's model, and why they are these. Edit or empty ``mendings`` to overrule.

    Args:
        mendings: in the order in which they are applied.
        cases: held-out cases that were asked.
        reason: in words.
        effects: of ``mendings``, by name of label or region.
        tried: all candidates that change any case.
        key: of the predictions and references that were asked; the choice stands while they are the same.
    """

    mendings: tuple[PostprocessingStep, ...] = ()
    cases: int = 0
    reason: str = ""
    effects: dict[str, Effect] = {}
    tried: tuple[Tried, ...] = ()
    key: str = ""
