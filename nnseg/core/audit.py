"""`Audit`: what besides the anatomy may explain the scores of a model, and scans that a dataset holds twice."""

from __future__ import annotations

from typing import Literal

from nnseg.core.dataset import Finding
from nnseg.core.frozen import FrozenModel
from nnseg.core.scores import Finite, Interval
from nnseg.core.validation import Probability


class Association(FrozenModel):
    """The association of a property of the scans with an outcome.

    Args:
        predictor: "institution", "mark in the corner front right", ...
        outcome: "Dice", or "volume of LABEL" for the reference.
        n: patients with both; cases of one patient count as one.
        explained: share of the variance of the outcome's ranks that the predictor explains.
        p: of the permutation test of this predictor alone.
        p_adjusted: the chance that any of all associations tested looks as strong as this one although there is none.
    """

    predictor: str
    outcome: str
    n: int
    explained: Probability
    p: Probability
    p_adjusted: Probability


class Subgroup(FrozenModel):
    """The Dice of the held-out cases with one value of a predictor.

    Args:
        predictor: "institution", ...
        value: of the predictor; of numbers with many values a range.
        n: number of cases.
        dice: mean over the cases of their mean over the labels; None where no Dice is defined.
        interval: 95 %, by bootstrap over cases; None for fewer than five.
    """

    predictor: str
    value: str
    n: int
    dice: Finite | None
    interval: Interval | None = None


class SameScan(FrozenModel):
    """Two cases whose images show the same scan.

    Args:
        cases: names.
        how: in what the second differs, such as "mirrored along x, cropped"; "" if in nothing that was looked for.
        correlation: of the details of both images where they overlap.
        divided: some fold trains on one of them and holds out the other.
    """

    cases: tuple[str, str]
    how: str
    correlation: Finite
    divided: bool


class Audit(FrozenModel):
    """The content of ``audit.json``.

    Args:
        format: of this file.
        cases: whose scans were read.
        scored: held-out cases with scores among them.
        associations: all that were tested, the strongest first.
        subgroups: of each predictor with few values, and of those that are associated with the Dice.
        same_scans: cases of different patients, or without known patients, that show the same scan.
        groups: the group of each case that keeps same scans and patients in one fold; empty without same scans.
        unread: why each scan that could not be read could not, by case.
        findings: what should be looked at.
    """

    format: Literal[1] = 1
    cases: int
    scored: int
    associations: tuple[Association, ...]
    subgroups: tuple[Subgroup, ...]
    same_scans: tuple[SameScan, ...]
    groups: dict[str, str] = {}
    unread: dict[str, str] = {}
    findings: tuple[Finding, ...] = ()
