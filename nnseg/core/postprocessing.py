"""What is mended in a label map after the network has answered: decided on held-out cases, stored with the model as data."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Mending(BaseModel):
    """One change to the object that some labels form together: one label, a region, or all of the foreground.

    Args:
        action: "largest" keeps its largest connected component, and every other of the same size; "smaller" removes components
            below ``mm3``; "holes" fills the background that it encloses.
        labels: values of the labels that form the object.
        mm3: of "smaller": what has this volume stays.
        fill: of "holes": the value that is written.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    action: Literal["largest", "smaller", "holes"]
    labels: tuple[int, ...] = Field(min_length=1)
    mm3: float | None = Field(default=None, gt=0)
    fill: int | None = None

    @model_validator(mode="after")
    def _check(self) -> Mending:
        if (self.mm3 is not None) != (self.action == "smaller"):
            raise ValueError('"smaller" needs mm3, and no other action has it')
        if (self.fill is not None) != (self.action == "holes"):
            raise ValueError('"holes" needs fill, and no other action has it')
        if self.fill is not None and self.fill not in self.labels:
            raise ValueError(f"a hole cannot be filled with {self.fill}, which is not one of the labels {self.labels} around it")
        return self


class Tried(BaseModel):
    """A candidate that changed held-out cases, on top of what was accepted before it.

    Args:
        mending: the candidate.
        cases: in which mean Dice changes.
        gain: mean rise of Dice over all cases and labels.
        p: of the paired sign-flip test that it rises by chance alone.
        accepted: or not,
        reason: in words.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mending: Mending
    cases: int
    gain: float
    p: float
    accepted: bool
    reason: str


class Effect(BaseModel):
    """What mending does to one label or region of held-out cases.

    Args:
        cases: that show it, in the reference or the prediction.
        dice_before, dice_after: mean over the cases where it is defined, as in ``scores.json``; None where it is nowhere. After:
            with the mendings, which these very cases chose.
        p: of the paired sign-flip test that Dice rises by chance alone; 1 where nothing changes.
        gain: mean rise of Dice when each part of the cases is mended as the other parts chose: what to expect of new cases. A
            label that is neither there nor predicted counts as Dice 1, so that a false alarm gone is a gain.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cases: int
    dice_before: float | None
    dice_after: float | None
    p: float
    gain: float


class Postprocessing(BaseModel):
    """The mendings of a run's model, and why they are these. Edit or empty ``mendings`` to overrule.

    Args:
        mendings: in the order in which they are applied.
        cases: held-out cases that were asked.
        reason: in words.
        effects: of ``mendings``, by name of label or region.
        tried: all candidates that change any case.
        key: of the predictions and references that were asked; the choice stands while they are the same.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mendings: tuple[Mending, ...] = ()
    cases: int = 0
    reason: str = ""
    effects: dict[str, Effect] = {}
    tried: tuple[Tried, ...] = ()
    key: str = ""
