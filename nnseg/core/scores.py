"""Scores of predictions. A *mask* is one label or region of one case. An undefined value is None, in JSON too.

``scores.json`` is `Scores`; `nnseg.evaluation.averages` defines its averages.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field, FiniteFloat, RootModel, model_validator

from nnseg.core.detection import Detection
from nnseg.core.frozen import FrozenModel, short_repr
from nnseg.core.metrics import is_metric
from nnseg.core.units import LengthUnit, common_unit

Finite = Annotated[FiniteFloat, Field(ge=-1e100, le=1e100)]
"""A number with which sums and squares can be computed."""

Number = Finite | None
Interval = tuple[Finite, Finite]


class Surfaces(FrozenModel):
    """What pooled distances are made of; of a mask that only one side shows, area alone.

    Args:
        area_mm2: of both surfaces together (in 2D their length, mm).
        distance_mm3: integral over both surfaces of the distance from the other one.
        within_mm2: area within each tolerance of the other surface, by the tolerance in mm ("1", "0.5").
    """

    area_mm2: Finite
    distance_mm3: Finite
    within_mm2: dict[str, Finite]


OBJECT_IOUS = (0.5, 0.6, 0.7, 0.8, 0.9)
"""IoU from which on two objects match, as in StarDist's tables: Schmidt et al. 2018, arXiv:1806.03535."""


class Lesions(FrozenModel):
    """Agreement of the objects of a predicted and a reference mask, which are connected components unless they are numbered.

    Args:
        reference, predicted: numbers of components.
        matched: pairs with an IoU of 0.1 or more.
        matched_half, sum_iou_matched: pairs with an IoU above 0.5, and the sum of their IoUs.
        f1, sensitivity, precision: of ``matched``; None where their denominator is 0.
        false_positives: predicted components without a match.
        panoptic_quality: of ``matched_half``; None where neither mask has a component.
        matched_iou: pairs matched one to one at each of `OBJECT_IOUS`.
        ap_50, mean_ap: average precision, matched pairs over all objects, at an IoU of 0.5, and its mean over `OBJECT_IOUS`.
        object_f1: at an IoU of 0.5.
        count_error: ``predicted`` minus ``reference``.
        v_rand, v_info: agreement of the divisions into objects, of references that number theirs.
    """

    reference: int
    predicted: int
    matched: int
    matched_half: int
    sum_iou_matched: Finite
    f1: Number
    sensitivity: Number
    precision: Number
    false_positives: int
    panoptic_quality: Number
    matched_iou: tuple[int, ...] = ()
    ap_50: Number = None
    mean_ap: Number = None
    object_f1: Number = None
    count_error: Number = None
    v_rand: Number = None
    v_info: Number = None


class Counts(FrozenModel):
    """Voxels of a predicted mask that agree with a reference mask or not.

    Args:
        tp: in both masks.
        fp: in the predicted mask alone.
        fn: in the reference mask alone.
        tn: in neither; ignored voxels are in no count.
    """

    tp: int
    fp: int
    fn: int
    tn: int

    def __add__(self, other: Counts) -> Counts:
        return Counts(tp=self.tp + other.tp, fp=self.fp + other.fp, fn=self.fn + other.fn, tn=self.tn + other.tn)


class LabelScore(Counts):
    """Voxel counts and metrics of one mask; lengths in mm and volumes in ml, or as `CaseScore.length_unit` says.

    Args:
        dice, iou: None where both masks are empty.
        hd, hd95, assd: mm; None where a mask is empty.
        nsd: by the tolerance in mm ("1", "0.5"); 0 where one mask is empty.
        volume_ml, reference_ml: of the prediction and of the reference; None where the label was not annotated.
        volume_error_ml: predicted minus reference; None where both are empty.
        relative_volume_error, absolute_volume_error: this, and its size, over the reference; None where that is empty.
        surfaces: for pooled distances.
        lesions: of labels whose connected components are objects.
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
        """A metric by its name in `METRICS`, such as "nsd_1" (NSD at 1 mm) or "lesion_f1" (``f1`` of `Lesions`)."""
        if name.startswith("nsd_"):
            return self.nsd.get(name.removeprefix("nsd_"))
        holder = self if name in LabelScore.model_fields else self.lesions
        value: float | None = getattr(holder, name.removeprefix("lesion_")) if holder else None
        return value


class CaseScore(FrozenModel):
    """Scores of the labels of one case, and their means without undefined ones.

    Args:
        name: of the case.
        mean_dice, mean_iou: over the labels where it is defined; None if it is for none.
        length_unit: what stands for mm in all lengths, and its cube for mm3 in volumes: "voxel", or "pixel" of a picture, where
            the files give no voxel size; the files' own unit where that is smaller, as in microscopy.
    """

    name: str
    labels: dict[str, LabelScore]
    mean_dice: Number
    mean_iou: Number
    length_unit: LengthUnit = "mm"


class Failure(FrozenModel):
    """A case without a score.

    Args:
        name: of the case.
        reason: in one line.
    """

    name: str
    reason: str


class Mean(FrozenModel):
    """Mean of one metric, over all labels and for each; None where no value is defined.

    Args:
        mean: over all labels.
        labels: mean of each label, by name.
        n: number of values: masks, cases or labels.
        n_undefined: number of undefined values, which are left out.
        interval: 95 %, by bootstrap over cases; None for few.
        intervals: the same for each label.
    """

    mean: Number
    labels: dict[str, Number]
    n: int
    n_undefined: int
    interval: Interval | None = None
    intervals: dict[str, Interval | None] = Field(default_factory=dict)


class Average(RootModel[dict[str, Mean]]):
    """Means of one kind by metric: ``average["dice"].mean``."""

    model_config = ConfigDict(frozen=True)

    __repr__ = __str__ = short_repr

    def __getitem__(self, metric: str) -> Mean:
        return self.root[metric]

    def __contains__(self, metric: str) -> bool:
        return metric in self.root


class Averages(FrozenModel):
    """The means of all three kinds."""

    per_mask: Average
    per_image: Average
    pooled: Average


class Scores(FrozenModel):
    """Scores of a set of predictions.

    Args:
        labels: names of the scored labels or regions, in order.
        metrics: names, in order.
        cases: sorted by name.
        failed: cases that could not be scored; they are in no average.
        detection: of the objects of labels whose connected components are objects, by name; of held-out cases of a run.
        notes: how files were paired and read, as far as files or users did not say it, in one line each.
    """

    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    cases: tuple[CaseScore, ...]
    failed: tuple[Failure, ...] = ()
    averages: Averages
    detection: dict[str, Detection] = Field(default_factory=dict, exclude_if=lambda found: not found)
    notes: tuple[str, ...] = ()

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
    def length_unit(self) -> LengthUnit:
        """That of the cases; mm if it is not the same for all."""
        return common_unit(case.length_unit for case in self.cases)

    @property
    def tolerances(self) -> tuple[float, ...]:
        """Tolerances of the surface distances in mm."""
        return tuple(float(name.removeprefix("nsd_")) for name in self.metrics if name.startswith("nsd_"))


class GroupScores(FrozenModel):
    """Scores of the cases of one group.

    Args:
        by: the variable that defines the groups ("site").
        value: of this variable.
        n: number of cases.
        averages: ``per_image``, by metric: for each label, and of the cases' means over labels, with intervals.
        warning: about the use of these numbers; "" if there is none.
    """

    by: str
    value: str
    n: int
    averages: Average
    warning: str = ""


class GroupTest(FrozenModel):
    """A test for differences between groups.

    Args:
        by: the variable that defines the groups.
        metric: whose mean over the labels was tested.
        n: cases with a group and a value.
        groups: number of groups.
        p: of a permutation test of Kruskal and Wallis' statistic.
        p_adjusted: with Holm's correction for all variables.
    """

    by: str
    metric: str
    n: int
    groups: int
    p: float
    p_adjusted: float


class Grouped(FrozenModel):
    """The content of ``groups.json``: scores and tests of all groups."""

    groups: tuple[GroupScores, ...]
    tests: tuple[GroupTest, ...]
