"""`CutOff`: the predicted volume from which a yes/no question about a scan is answered with yes, and how good the answers are."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated

from pydantic import Field, FiniteFloat

from nnseg.core.errors import EvaluationError
from nnseg.core.frozen import FrozenModel, digest
from nnseg.core.scores import Scores
from nnseg.core.units import LengthUnit, volume_name
from nnseg.core.validation import NotNegative, Probability, Shares


class Question(FrozenModel):
    """A question about a scan: is a label present, or, where ``below_ml`` is given, is its volume below that.

    Args:
        label: name of the label or region.
        below_ml: ml, or what stands for it.
    """

    label: str
    below_ml: Annotated[FiniteFloat, Field(gt=0)] | None = None

    def is_true(self, ml: float) -> bool:
        """The answer for a reference volume."""
        return ml > 0 if self.below_ml is None else ml < self.below_ml

    def describe(self, unit: LengthUnit = "mm") -> str:
        """The question in words: "lesion present", "hippocampus below 3 ml"."""
        rest = "present" if self.below_ml is None else f"below {self.below_ml:g} {volume_name(unit)}"
        return f"{self.label} {rest}"


def parse_question(text: str, label: str) -> Question:
    """The question "present" or "below:ML" about a label.

    Raises:
        EvaluationError: the text is neither.
    """
    kind, _, number = text.partition(":")
    with suppress(ValueError):
        if text == "present":
            return Question(label=label)
        if kind == "below":
            return Question(label=label, below_ml=float(number))
    raise EvaluationError(f'"{text}" is no question; write present, or below:ML with a volume in ml, like below:2.5')


def parse_share(text: str) -> float:
    """A share above 0 and up to 1.

    Raises:
        EvaluationError: the text is none.
    """
    with suppress(ValueError):
        if 0 < (share := float(text)) <= 1:
            return share
    raise EvaluationError(f'"{text}" is not a share; write a number above 0 and up to 1, like 0.95')


class AnswerRates(FrozenModel):
    """How often answers are right.

    Args:
        sensitivity: share of the scans with the answer yes for which yes was answered.
        specificity: share of the others for which no was answered.
        sensitivity_interval, specificity_interval: 95 %, after Wilson, with patients for the number of scans.
    """

    sensitivity: Probability
    specificity: Probability
    sensitivity_interval: Shares
    specificity_interval: Shares


class RocPoint(FrozenModel):
    """Sensitivity and specificity of one cut-off.

    Args:
        cutoff_ml: one of those that answer alike.
        sensitivity, specificity: of the same scans, without leaving patients out.
    """

    cutoff_ml: NotNegative
    sensitivity: Probability
    specificity: Probability


class NetBenefit(FrozenModel):
    """Net benefit of acting upon the answers, in scans rightly acted upon, as a share of all scans.

    Args:
        probability: least probability of yes at which one would act; its odds are what a false yes costs.
        chosen: of the chosen cut-off, each patient's scans answered with the cut-off that the others give.
        usual: of the label map as it is: any voxel, or the volume that was asked for.
        every: of acting upon every scan; acting upon none has 0.
    """

    probability: Probability
    chosen: FiniteFloat
    usual: FiniteFloat
    every: FiniteFloat


class CutOff(FrozenModel):
    """The cut-off for a question, chosen on held-out cases.

    Args:
        key: of the volumes that it was chosen on; it is valid while they are the same.
        unit: of length, whose volume all volumes here are in.
        cutoff_ml: yes is answered where the predicted volume is above it, of a question "below" where it is below.
        least_sensitivity: that was asked for; None where sensitivity + specificity was to be largest.
        scans, yes, patients: numbers of held-out scans, of those with the answer yes in the reference, and of patients.
        auc: area under the ROC curve, ties counted half.
        auc_interval: 95 %, by bootstrap over patients.
        rates: each patient's scans answered with the cut-off that the other patients give.
        usual: of the label map as it is.
        roc: by falling number of scans that are answered with yes.
        benefit: by rising probability.
    """

    question: Question
    key: str
    unit: LengthUnit = "mm"
    cutoff_ml: NotNegative
    least_sensitivity: Probability | None = None
    scans: int
    yes: int
    patients: int
    auc: Probability
    auc_interval: Shares | None
    rates: AnswerRates
    usual: AnswerRates
    roc: tuple[RocPoint, ...]
    benefit: tuple[NetBenefit, ...]

    def answer(self, ml: float) -> Answer:
        """The answer for a predicted volume."""
        below = self.question.below_ml is not None
        side, unit = "below" if below else "above", volume_name(self.unit)
        return Answer(
            question=self.question.describe(self.unit),
            yes=ml < self.cutoff_ml if below else ml > self.cutoff_ml,
            ml=ml,
            rule=f"yes {side} {self.cutoff_ml:.4g} {unit} predicted: sensitivity {self.rates.sensitivity:.2f}, specificity "
            f"{self.rates.specificity:.2f} on {self.scans} held-out scans",
        )


class Answer(FrozenModel):
    """The answer to a question about a predicted scan.

    Args:
        question: in words.
        yes: False for no.
        ml: the predicted volume.
        rule: the cut-off, and how good it was on held-out scans, in words.
    """

    question: str
    yes: bool
    ml: NotNegative
    rule: str


class CutOffs(FrozenModel):
    """The content of ``cutoffs.json``: the cut-offs of a run, in the order in which questions were asked."""

    cutoffs: tuple[CutOff, ...]

    def replaced(self, cutoff: CutOff) -> CutOffs:
        """These with another one in the place of that for the same question."""
        return CutOffs(cutoffs=(*(one for one in self.cutoffs if one.question != cutoff.question), cutoff))

    def valid_for(self, scores: Scores | None) -> CutOffs | None:
        """Those that were chosen on the same volumes as the scores have; None if none were."""
        kept = tuple(one for one in self.cutoffs if scores and one.key == volumes_key(scores, one.question.label))
        return CutOffs(cutoffs=kept) if kept else None


def volume_pairs(scores: Scores, label: str) -> Mapping[str, tuple[float, float]]:
    """Predicted and reference volume of a label, by name of each case in which it was annotated."""
    of = {case.name: case.labels[label] for case in scores.cases if label in case.labels}
    return {
        name: (one.volume_ml, one.reference_ml)
        for name, one in of.items()
        if one.volume_ml is not None and one.reference_ml is not None
    }


def volumes_key(scores: Scores, label: str) -> str:
    """A digest of what cut-offs of a label are chosen on."""
    return digest([label, scores.length_unit, sorted(volume_pairs(scores, label).items())])
