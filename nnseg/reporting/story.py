"""`ReportContent`: what there is to tell about a run. Whatever is empty is left out of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nnseg.core.dataset import Finding
from nnseg.core.decisions import Choice, Postprocessing
from nnseg.core.fingerprint import Fingerprint
from nnseg.core.plan import Plan
from nnseg.core.schedule import Epoch
from nnseg.core.scores import Grouped, Scores
from nnseg.core.trust import Facts, Trust
from nnseg.evaluation.calibration import Calibration
from nnseg.reporting.contours import CaseViews
from nnseg.reporting.payload import PackedCase, ViewerCase


@dataclass(frozen=True, kw_only=True)
class PredictedCase:
    """What became of one held-out case.

    Args:
        seconds: of each stage, by name.
        peak_gb: most RAM that its process held; 0 if not watched.
        findings: what was noticed.
        facts: what its scan is like.
    """

    name: str
    seconds: Mapping[str, float] = field(default_factory=dict)
    peak_gb: float = 0.0
    findings: tuple[str, ...] = ()
    facts: Facts | None = None


@dataclass(frozen=True, kw_only=True)
class ExpectedQuality:
    """What was expected of a held-out case before anybody looked at its reference, and what came.

    Args:
        expected: mean Dice, by what the other folds' cases say.
        dice: the true one; None where it is undefined.
        unlike: in what the scan differs from others.
    """

    name: str
    expected: float
    dice: float | None
    unlike: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class StageTiming:
    """What a stage of the run took; ``peak_gb`` is None where nobody watched."""

    seconds: float
    peak_gb: float | None = None


@dataclass(frozen=True, kw_only=True)
class ReportContent:
    """What there is to tell about a run.

    Args:
        title: of the page.
        dataset: the dataset in one line (`Dataset.describe`).
        fingerprint: the dataset as it was measured.
        findings: what was seen while looking through the dataset.
        plans: the decisions, with reasons.
        histories: epochs of each training, by a name such as "3d fold 0".
        scores: of held-out cases.
        examples: cases to look at, best first.
        viewed: cases that the viewer shows.
        groups: scores by site, sex, age or whatever else is known of the cases.
        choice: which plans answer, of several.
        postprocessing: what is mended in answers.
        trust: how far answers can be trusted.
        foreseen: what was expected of each held-out case.
        calibration: whether probabilities say how often they are right.
        stages: what each stage took, by its name.
        predicted: what each held-out case took.
        provenance: versions, hashes, command, date: whatever it takes to do it again, by name, in groups.
        missing: what could not be read, and why.
        live: when this was, in words, if trainings still run; the page then looks for news by itself.
    """

    title: str
    dataset: str
    fingerprint: Fingerprint | None = None
    findings: Sequence[Finding] = ()
    plans: Sequence[Plan] = ()
    histories: Mapping[str, Sequence[Epoch]] = field(default_factory=dict)
    scores: Scores | None = None
    examples: Sequence[CaseViews] = ()
    viewed: Sequence[ViewerCase] | Sequence[PackedCase] = ()
    groups: Grouped | None = None
    choice: Choice | None = None
    postprocessing: Postprocessing | None = None
    trust: Trust | None = None
    foreseen: Sequence[ExpectedQuality] = ()
    calibration: Calibration | None = None
    stages: Mapping[str, StageTiming] = field(default_factory=dict)
    predicted: Sequence[PredictedCase] = ()
    provenance: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    missing: Sequence[str] = ()
    live: str = ""

    @property
    def flagged(self) -> frozenset[str]:
        """Names of the cases that would have been flagged, had they been new."""
        threshold = self.trust.threshold if self.trust else None
        return frozenset() if threshold is None else frozenset(f.name for f in self.foreseen if f.expected < threshold)
