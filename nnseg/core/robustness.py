"""`Robustness`: the Dice of held-out cases whose scans were changed, beside that of the same scans as they are."""

from __future__ import annotations

from typing import Literal, NamedTuple

from nnseg.core.dataset import Finding
from nnseg.core.frozen import FrozenModel
from nnseg.core.names import CaseName
from nnseg.core.options import DegradationKind
from nnseg.core.scores import Finite, Interval
from nnseg.core.validation import Probability


class DegradationLevels(NamedTuple):
    """The strengths at which a degradation is tried.

    Args:
        unit: what a strength says, in words.
        strengths: weakest first.
    """

    unit: str
    strengths: tuple[float, ...]


DEGRADATIONS: dict[DegradationKind, DegradationLevels] = {
    "noise": DegradationLevels("standard deviation, as a share of the channel's", (0.1, 0.25, 0.5)),
    "bias_field": DegradationLevels("standard deviation of the logarithm of a smooth factor", (0.1, 0.2, 0.4)),
    "motion": DegradationLevels("largest shift during the scan, in voxels", (1.0, 2.0, 4.0)),
    "low_resolution": DegradationLevels("voxels so many times as long, in slices only where these are thick", (1.5, 2.0, 3.0)),
    "slice_thickness": DegradationLevels("slices so many times as thick", (2.0, 3.0, 4.0)),
}
"""Every kind of degradation, by the name that its augmentation has in a plan."""


class ChangedScore(FrozenModel):
    """The Dice of held-out cases whose scans were changed in one way.

    Args:
        change: kind of the degradation, or name of the channel that was left out.
        strength: of the degradation, see `DEGRADATIONS`; None for a channel.
        n: cases with a Dice of the scan as it is and of the changed one.
        unchanged, changed: mean over these cases of their mean over the labels.
        difference: changed less unchanged.
        interval: 95 %, by bootstrap over cases; None for fewer than five.
        p: two-sided, of the paired sign-flip test.
        p_adjusted: with Holm's correction for all changes of the table.
        labels: the difference for each label or region.
    """

    change: str
    strength: Finite | None = None
    n: int
    unchanged: Finite | None
    changed: Finite | None
    difference: Finite | None
    interval: Interval | None = None
    p: Probability
    p_adjusted: Probability
    labels: dict[str, Finite | None] = {}

    @property
    def title(self) -> str:
        """The change in words: "slice thickness 2", "without T1"."""
        return f"without {self.change}" if self.strength is None else f"{self.change.replace('_', ' ')} {self.strength:g}"


class Robustness(FrozenModel):
    """The content of ``robustness.json`` (degraded scans) and of ``channels.json`` (scans without a channel).

    Args:
        format: of this file.
        cases: held-out cases that were predicted; by name, a digest of the run's own prediction, to which the rest belongs.
        changes: each with its scores, in the order in which they were tried.
        findings: cases that could not be predicted.
    """

    format: Literal[1] = 1
    cases: dict[CaseName, str]
    changes: tuple[ChangedScore, ...]
    findings: tuple[Finding, ...] = ()
