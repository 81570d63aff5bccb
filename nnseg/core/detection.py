"""How well the objects of a label are detected, by the threshold of the label's probability and by false positives a scan."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, FiniteFloat

from nnseg.core.frozen import FrozenModel
from nnseg.core.validation import NotNegative, Probability

FALSE_POSITIVES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Mean numbers of false positives a scan at which sensitivity is given. Source: LUNA16, Setio et al. 2017, arXiv:1612.08012."""

Share = Annotated[FiniteFloat, Field(ge=0, le=1)] | None


class OperatingPoint(FrozenModel):
    """Detection by one threshold.

    Args:
        threshold: least probability of the label; null for the label map as predicted without one.
        sensitivity: share of the reference's objects that are matched.
        precision: share of the predicted objects that are matched.
        f1: of both.
        false_positives: predicted objects without a match, mean over scans.
        specificity: of the scans without an object, the share in which none is predicted.
        ap_10, ap_50: average precision of the boxes, ranked by score, at an IoU of 0.1 and 0.5.
    """

    threshold: Share
    sensitivity: Share
    precision: Share
    f1: Share
    false_positives: NotNegative
    specificity: Share
    ap_10: Share
    ap_50: Share


class FrocPoint(FrozenModel):
    """The highest sensitivity with at most so many false positives.

    Args:
        false_positives: mean over scans, at most.
        sensitivity: 0 where every threshold gives more.
        interval: 95 %, by bootstrap over scans; null for few.
        threshold: that gives it; null where none does, or where it is that of the label map.
    """

    false_positives: NotNegative
    sensitivity: Probability
    interval: tuple[Probability, Probability] | None = None
    threshold: Share = None


class Detection(FrozenModel):
    """How well the objects of one label are detected. An object is a connected component, and is matched by its box.

    Args:
        scans: in which the label was annotated.
        scans_without: of these, those without an object in the reference.
        objects: in all references.
        mean_sensitivity: of ``froc``; null where no reference has an object.
        interval: 95 % of it, by bootstrap over scans; null for few.
        froc: sensitivity by false positives a scan.
        points: of the label map, then by falling threshold.
    """

    scans: int
    scans_without: int
    objects: int
    mean_sensitivity: Share
    interval: tuple[Probability, Probability] | None = None
    froc: tuple[FrocPoint, ...] = ()
    points: tuple[OperatingPoint, ...]
