"""Decisions made on held-out cases, with their evidence: the ensemble of plans, and the postprocessing steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat, model_validator

from nnseg.core.frozen import FrozenModel
from nnseg.core.plan import Plan
from nnseg.core.validation import NotNegative, Positive, Probability

Interval = tuple[FiniteFloat, FiniteFloat]
Weights = Annotated[dict[str, Positive], Field(min_length=1)]
"""Weights of plans in an ensemble, by name."""

Threshold = Annotated[float, Field(gt=0, lt=1)]
"""A probability from which on a voxel gets a label."""


class EnsembleCandidate(FrozenModel):
    """A plan or an ensemble of plans, measured on held-out cases.

    Args:
        plans: weights of its plans, by name.
        dice: mean over all masks that are not empty in some candidate or the reference; correctly empty masks count 1.
        interval: 95 %, by bootstrap over cases; None for few.
        gain: difference to the mean of the best single plan, which was itself chosen by its mean; None for that plan.
        gain_interval: 95 %, of the differences case by case.
        p: p-value of the gain by a paired sign-flip test.
        seconds: per scan with one network of each plan, from preprocessing to the label map.
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
        """See `ensemble_name`."""
        return ensemble_name(self.plans)


class Nested(FrozenModel):
    """Gain of the best ensemble on cases that were not used to choose it.

    In each part of the cases the ensemble that was best in all other parts is compared with the best single plan.

    Args:
        gain: mean difference in Dice to the single plan, over all masks.
        interval: 95 %, by bootstrap over cases.
    """

    gain: FiniteFloat
    interval: Interval | None


class Choice(FrozenModel):
    """The plans of a run that are used for prediction, with the evidence. Edit ``plans`` to overrule; others are not used.

    Args:
        plans: weights of those that are used, by name.
        reason: in words.
        cases: number of held-out cases.
        decided: name of the ensemble as decided; if ``plans`` differs, it was overruled by hand.
        best_single: name of the best single plan.
        nested: gain of an ensemble by nested cross-validation; None for too few cases.
        p: p-value of the gain of the best ensemble, corrected for their number; None for too few cases.
        candidates: all that were measured, the best first.
        key: of the predictions and references used; the choice is valid while they are the same.
    """

    plans: Weights
    reason: str = ""
    cases: int = 0
    decided: str = ""
    best_single: str = ""
    nested: Nested | None = None
    p: Probability | None = None
    candidates: tuple[EnsembleCandidate, ...] = ()
    key: str = ""

    @model_validator(mode="after")
    def _check(self) -> Choice:
        if self.candidates and self.best_single not in {c.name for c in self.candidates}:
            raise ValueError(f"the best single plan, {self.best_single}, is not among the candidates")
        return self

    def candidate(self, name: str) -> EnsembleCandidate | None:
        """The candidate of that name; None if it was not measured."""
        return next((c for c in self.candidates if c.name == name), None)

    @property
    def explained(self) -> str:
        """The reason, and whether it was overruled by hand."""
        overruled = self.decided and ensemble_name(self.plans) != self.decided
        return f"{self.reason}; overruled by hand: {ensemble_name(self.plans)} is used" if overruled else self.reason

    @property
    def time_ratio(self) -> float | None:
        """Time per scan relative to the best single plan; None if it was not measured."""
        chosen, single = self.candidate(ensemble_name(self.plans)), self.candidate(self.best_single)
        return chosen.seconds / single.seconds if chosen and single and single.seconds else None


def ensemble_name(plans: Mapping[str, float]) -> str:
    """A name of weighted plans for folders: "2d", "2d+3d", "2d+2x3d"; equal for weights in the same ratios."""
    least = min(plans.values())
    return "+".join(_times(plans[name] / least) + name for name in sorted(plans))


def candidate_ensembles(names: Sequence[str]) -> tuple[dict[str, float], ...]:
    """Weights of all candidates: each plan; each pair with equal weights and with either weight doubled; all plans likewise."""
    groups = [*combinations(names, 2), *([tuple(names)] if len(names) > 2 else [])]
    singles = [{name: 1.0} for name in names]
    return (*singles, *(_doubled(group, twice) for group in groups for twice in (None, *group)))


def _doubled(names: Sequence[str], twice: str | None) -> dict[str, float]:
    return {name: 2.0 if name == twice else 1.0 for name in names}


def _times(ratio: float) -> str:
    return "" if ratio == 1 else f"{ratio:.4g}x"


class WindowCandidate(FrozenModel):
    """A sliding window, perhaps measured on some held-out cases.

    Args:
        step: distance of neighbouring tiles as a share of the patch.
        mirror_axes: axes mirrored in all combinations.
        values: that the network's convolutions make for all held-out cases, in billions.
        share: forward passes for all held-out cases, relative to the work of training.
        dice: mean over the measured cases and their labels; a label that is correctly absent counts 1. None if not measured.
        gain: mean difference to the cheapest candidate, case by case.
        interval: 95 % of the gain, by bootstrap over cases.
        seconds: of a scan in the mean, from its preprocessed voxels to the label map.
    """

    step: Annotated[float, Field(gt=0, le=1)]
    mirror_axes: tuple[int, ...] = ()
    values: NotNegative
    share: NotNegative
    dice: Probability | None = None
    gain: FiniteFloat | None = None
    interval: Interval | None = None
    seconds: NotNegative | None = None

    @property
    def name(self) -> str:
        """Its tiles and copies in words: "step 0.5 in 8 mirrored copies"."""
        copies = f"in {2 ** len(self.mirror_axes)} mirrored copies" if self.mirror_axes else "without mirroring"
        return f"step {self.step:g} {copies}"


class WindowChoice(FrozenModel):
    """The sliding window of a plan's networks in predictions, with the evidence.

    Args:
        step, mirror_axes: of the window.
        reason: in words.
        cases: number of held-out cases that candidates were measured on; 0 if none were.
        candidates: the cheapest first.
        key: of the networks and cases it was chosen for.
    """

    step: Annotated[float, Field(gt=0, le=1)]
    mirror_axes: tuple[int, ...] = ()
    reason: str
    cases: int = 0
    candidates: tuple[WindowCandidate, ...] = ()
    key: str = ""


def with_window(plan: Plan, window: WindowCandidate | WindowChoice) -> Plan:
    """A plan that predicts with a window; one that was chosen gives the reason."""
    why = {"why": {"mirror_axes": window.reason}} if isinstance(window, WindowChoice) else {}
    inference = plan.inference.model_copy(update={"step": window.step, "mirror_axes": window.mirror_axes, **why})
    return plan.model_copy(update={"inference": inference})


class PostprocessingStep(FrozenModel):
    """One change to the object that some labels form: one label, a region, or all of the foreground.

    Args:
        action: "largest" keeps its largest connected component, and every other of the same size; "smaller" removes components
            below ``mm3``; "holes" fills enclosed background.
        labels: values of the labels that form the object.
        mm3: of "smaller": least volume that is kept.
        fill: of "holes": the value written.
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


def _renamed(content: Any, old: str, new: str) -> Any:
    """The content of a file with a key's new name in the place of the one that it has in older files."""
    return {new if key == old else key: value for key, value in content.items()} if isinstance(content, dict) else content


class Tried(FrozenModel):
    """A step that was tested on held-out cases, after the steps accepted before it.

    Args:
        cases: number of cases whose mean Dice changes.
        gain: mean difference in Dice over all cases and labels.
        p: p-value of the gain by a paired sign-flip test.
        accepted: whether it became a step of the model.
        reason: in words.
    """

    step: PostprocessingStep
    cases: int
    gain: float
    p: float
    accepted: bool
    reason: str

    @model_validator(mode="before")
    @classmethod
    def _rename(cls, content: Any) -> Any:
        return _renamed(content, "mending", "step")


class Effect(FrozenModel):
    """The effect of all steps on one label or region of held-out cases.

    Args:
        cases: number of cases with it in the reference or the prediction.
        dice_before, dice_after: mean over the cases where it is defined, as in ``scores.json``; None if there is none. After: with
            the steps, chosen on these same cases.
        p: p-value of the difference by a paired sign-flip test; 1 where nothing changes.
        gain: mean difference in Dice by nested cross-validation, an estimate for new cases. A label that is neither in the
            reference nor predicted counts as Dice 1, so that a removed false positive is a gain.
    """

    cases: int
    dice_before: float | None
    dice_after: float | None
    p: float
    gain: float


class Postprocessing(FrozenModel):
    """The postprocessing steps of a model, with the evidence. Edit or empty ``steps`` to overrule.

    Args:
        cases: number of held-out cases that steps were tried on.
        reason: in words.
        effects: of the steps, by name of label or region.
        tried: all steps that change any case.
        key: of the predictions and references used; the choice is valid while they are the same.
    """

    steps: tuple[PostprocessingStep, ...] = ()
    cases: int = 0
    reason: str = ""
    effects: dict[str, Effect] = {}
    tried: tuple[Tried, ...] = ()
    key: str = ""

    @model_validator(mode="before")
    @classmethod
    def _rename(cls, content: Any) -> Any:
        return _renamed(content, "mendings", "steps")


class ObjectRule(FrozenModel):
    """How objects of a label are told apart in a prediction.

    Args:
        seed: least share of the interior, beside the border, in a label's probability, where an object begins to grow.
        smallest_mm3: volume below which an object counts as part of its neighbour or, if it has none, as no object.
    """

    seed: Annotated[float, Field(gt=0, le=1)] = 0.5
    smallest_mm3: NotNegative = 0.0


class ObjectCandidate(FrozenModel):
    """A rule that was measured on held-out cases.

    Args:
        average_precision: mean over thresholds of IoU, of the objects of all cases together.
    """

    rule: ObjectRule
    average_precision: Probability


class ObjectRules(FrozenModel):
    """How a model's objects are found and told apart, with the evidence. Edit ``rules`` and ``thresholds`` to overrule.

    Args:
        rules: by name of the label.
        thresholds: by name of each label whose connected components are objects, such as lesions: the least probability with which
            a voxel gets the label, whatever the others have; null for the most probable label.
        cases: number of held-out cases that candidates were measured on.
        reason: of the choice, in words.
        candidates: by name of the label, the best first.
        key: of the predictions and references used; the choice is valid while they are the same.
    """

    rules: dict[str, ObjectRule]
    thresholds: dict[str, Threshold | None] = Field(default={}, exclude_if=lambda thresholds: not thresholds)  # as `Labels.borders`
    cases: int = 0
    reason: str = ""
    candidates: dict[str, tuple[ObjectCandidate, ...]] = {}
    key: str = ""
