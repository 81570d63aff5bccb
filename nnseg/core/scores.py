"""Nouns of scores. A *mask* is one label or region of one case. None stands for what is not defined, in JSON too.

``scores.json`` is `Scores`; `nnseg.evaluation.averages` says what its averages mean.
"""

from __future__ import annotations

from pydantic import ConfigDict, Field, FiniteFloat, RootModel, model_validator

from nnseg.core.frozen import FrozenModel
from nnseg.core.metrics import is_metric

Number = FiniteFloat | None
Interval = tuple[FiniteFloat, FiniteFloat]


class Surfaces(FrozenModel):
    """What pooled distances are made of; of a mask that only one side shows, area alone.

    Args:
        area_mm2: of both surfaces together (in 2D their length, mm).
        distance_mm3: the sum over all of it of area times distance from the other surface.
        within_mm2: area that lies within each tolerance of the other surface, by the tolerance in mm ("1", "0.5").
    """

    area_mm2: FiniteFloat
    distance_mm3: FiniteFloat
    within_mm2: dict[str, FiniteFloat]


class Lesions(FrozenModel):
    """How the connected components of a mask agree.

    Args:
        reference, predicted: how many there are.
        matched: pairs of them with an IoU of 0.1 or more.
        matched_half: pairs with an IoU above 0.5.
        sum_iou_matched: of these.
        f1, sensitivity, precision: of ``matched``; None where there is nothing to find, or nothing was found.
        false_positives: predicted ones without a partner.
        panoptic_quality: of ``matched_half``; None where neither side shows any.
    """

    reference: int
    predicted: int
    matched: int
    matched_half: int
    sum_iou_matched: FiniteFloat
    f1: Number
    sensitivity: Number
    precision: Number
    false_positives: int
    panoptic_quality: Number


class Counts(FrozenModel):
    """How a predicted mask agrees with a reference mask, in voxels."""

    tp: int
    fp: int
    fn: int
    tn: int

    def __add__(self, other: Counts) -> Counts:
        return Counts(tp=self.tp + other.tp, fp=self.fp + other.fp, fn=self.fn + other.fn, tn=self.tn + other.tn)


class LabelScore(Counts):
    """One mask: its voxel counts and what else was measured.

    Args:
        dice, iou: None where both sides are empty.
        hd, hd95, assd: mm; None where a side is empty: there is nothing to be distant from.
        nsd: at each tolerance, by the tolerance in mm ("1", "0.5"); 0 where one side is empty.
        volume_ml, reference_ml: of the prediction and of the reference; None where nobody annotated it.
        volume_error_ml: predicted minus reference; None where both are empty.
        relative_volume_error, absolute_volume_error: this, and its size, over the reference; None where that is empty.
        surfaces: parts of pooled distances.
        lesions: of labels whose components count one by one.
    """

    dice: Number
    iou: Number
    hd: Number = None
    hd95: Number = None
    assd: Number = None
    nsd: dict[str, Number] = Field(default_factory=dict)
    volume_ml: Number = None
    reference_ml: Number = None
    volume_error_ml: Number = None
    relative_volume_error: Number = None
    absolute_volume_error: Number = None
    surfaces: Surfaces | None = None
    lesions: Lesions | None = None

    def metric(self, name: str) -> float | None:
        """A metric by its name in `METRICS`: "nsd_1" is NSD at 1 mm, and "lesion_f1" the ``f1`` of `Lesions`."""
        if name.startswith("nsd_"):
            return self.nsd.get(name.removeprefix("nsd_"))
        holder = self if name in LabelScore.model_fields else self.lesions
        value: float | None = getattr(holder, name.removeprefix("lesion_")) if holder else None
        return value


class CaseScore(FrozenModel):
    """One case: a score per label, and their mean over the defined ones."""

    name: str
    labels: dict[str, LabelScore]
    mean_dice: Number
    mean_iou: Number


class Failure(FrozenModel):
    """A case without a score, and why."""

    name: str
    reason: str


class Mean(FrozenModel):
    """One metric averaged: over everything, and per label.

    Args:
        mean: None where nothing is defined.
        labels: by name, the same.
        n: how many values the mean is taken over: masks, cases or labels.
        n_undefined: how many were left out.
        interval: in which the mean lies by 95 % of all draws of cases; None for few.
        intervals: the same of each label.
    """

    mean: Number
    labels: dict[str, Number]
    n: int
    n_undefined: int
    interval: Interval | None = None
    intervals: dict[str, Interval | None] = Field(default_factory=dict)


class Average(RootModel[dict[str, Mean]]):
    """One way of averaging, by metric: ``average["dice"].mean``."""

    model_config = ConfigDict(frozen=True)

    def __getitem__(self, metric: str) -> Mean:
        return self.root[metric]

    def __contains__(self, metric: str) -> bool:
        return metric in self.root


class Averages(FrozenModel):
    """The three declared averages; `nnseg.evaluation.averages` defines them."""

    per_mask: Average
    per_image: Average
    pooled: Average


class Scores(FrozenModel):
    """What a set of predictions is worth.

    Args:
        labels: the scored names, in order.
        metrics: what was measured, in order.
        cases: by name.
        failed: cases that could not be scored; they count in no average.
        averages: of all ``cases``.
    """

    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    cases: tuple[CaseScore, ...]
    failed: tuple[Failure, ...] = ()
    averages: Averages

    @model_validator(mode="after")
    def _check(self) -> Scores:
        if unknown := [name for name in self.metrics if not is_metric(name)]:
            raise ValueError(f"{unknown[0]} is no metric")
        of_all = (self.averages.per_mask, self.averages.per_image, self.averages.pooled)
        if not self.metrics or any(name not in average for name in self.metrics for average in of_all):
            raise ValueError("the averages must be those of the metrics")
        if len({case.name for case in self.cases}) < len(self.cases):
            raise ValueError("two cases have the same name")
        if any(set(case.labels) != set(self.labels) for case in self.cases):
            raise ValueError("every case must have a score of every label")
        return self

    @property
    def tolerances(self) -> tuple[float, ...]:
        """Of the surface distances, mm."""
        return tuple(float(name.removeprefix("nsd_")) for name in self.metrics if name.startswith("nsd_"))


class GroupScores(FrozenModel):
    """The cases of one group.

    Args:
        by: what they were grouped by ("site").
        value: what they have in common.
        n: how many they are.
        averages: by metric, `per_image`: the mean per label, and of the cases' means over labels, with intervals.
        warning: what to mind; empty if nothing.
    """

    by: str
    value: str
    n: int
    averages: Average
    warning: str = ""


class GroupTest(FrozenModel):
    """Whether the groups of one grouping differ beyond chance.

    Args:
        by: what the cases were grouped by.
        metric: whose mean over the labels was tested.
        n: cases with a group and a value.
        groups: how many they are in.
        p: of a permutation test of Kruskal and Wallis' statistic.
        p_adjusted: the same after Holm's correction for all groupings.
    """

    by: str
    metric: str
    n: int
    groups: int
    p: float
    p_adjusted: float


class Grouped(FrozenModel):
    """All groups of some scores: what ``groups.json`` holds."""

    groups: tuple[GroupScores, ...]
    tests: tuple[GroupTest, ...]
