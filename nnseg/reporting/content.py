"""`ReportContent`: all results of a run that its report shows. What is empty is left out of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from nnseg.core.audit import Audit
from nnseg.core.cutoffs import CutOffs
from nnseg.core.dataset import Finding
from nnseg.core.decisions import Choice, ObjectRules, Postprocessing, WindowChoice
from nnseg.core.explanation import Explanation
from nnseg.core.fingerprint import Fingerprint
from nnseg.core.learning_curve import LearningCurve
from nnseg.core.plan import Plan
from nnseg.core.robustness import Robustness
from nnseg.core.scan_ranges import ScanFacts
from nnseg.core.schedule import Epoch
from nnseg.core.scores import Grouped, Scores
from nnseg.core.trust import LabelInterval, Trust
from nnseg.core.verdict import Verdict
from nnseg.evaluation.calibration import Calibration
from nnseg.evaluation.external import ExternalValidation
from nnseg.reporting.case_images import CaseImages
from nnseg.reporting.payload import PackedCase
from nnseg.reporting.pictures import CasePictures, Picture
from nnseg.storage.predictions import ScanRecord


@dataclass(frozen=True, kw_only=True)
class PredictedCase:
    """Cost of predicting one held-out case, and what was noticed.

    Args:
        seconds: wall-clock time of each stage, by its name.
        peak_gb: peak RAM of its process; 0 if it was not measured.
        findings: warnings and notes about the scan.
        facts: spacing, size and intensities of the scan.
    """

    name: str
    seconds: Mapping[str, float] = field(default_factory=dict)
    peak_gb: float = 0.0
    findings: tuple[str, ...] = ()
    facts: ScanFacts | None = None

    @classmethod
    def all_of(cls, records: Mapping[str, ScanRecord]) -> list[Self]:
        """The cases that were predicted, from the records of their predictions by name."""
        return [
            cls(
                name=name,
                seconds=record.seconds,
                peak_gb=record.peak_gb,
                findings=record.findings,
                facts=record.confidence.facts if record.confidence else None,
            )
            for name, record in records.items()
            if record.status == "done"
        ]


@dataclass(frozen=True, kw_only=True)
class ExpectedQuality:
    """Expected and true quality of one held-out case.

    Args:
        expected: mean Dice, estimated without the reference from the cases of the other folds.
        dice: the true mean Dice; None where it is undefined.
        unlike: properties in which the scan differs from the training data.
    """

    name: str
    expected: float
    dice: float | None
    unlike: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class StageTiming:
    """Time and peak RAM of one stage of the run; ``peak_gb`` is None if it was not measured."""

    seconds: float
    peak_gb: float | None = None


@dataclass(frozen=True, kw_only=True)
class PicturedExplanation:
    """The explanation of one label of a case; ``picture`` is a ``data:`` URL, "" if the map was withheld."""

    explanation: Explanation
    picture: str = ""


@dataclass(frozen=True, kw_only=True)
class ReportContent:
    """All results of a run that its report shows.

    Args:
        title: of the page.
        dataset: the dataset in one line (`Dataset.describe`).
        fingerprint: measurements of the dataset.
        pseudo_labels: number of cases in which a model predicted a label that was not annotated, by the label.
        findings: problems found while reading the dataset.
        plans: all plans of the run.
        histories: epochs of each training, by a name such as "3d fold 0".
        continued: seconds by which trainings were continued after they had ended, by these names.
        scores: of held-out cases.
        examples: cases shown as still pictures, best first.
        patches: pictures of training patches.
        viewed: cases in the interactive viewer.
        groups: scores by site, sex, age or other covariates of the cases.
        choice: the plan or ensemble that was chosen, and the candidates.
        windows: the sliding window of each plan, where it was chosen on held-out cases.
        postprocessing: the chosen postprocessing steps.
        objects: how objects are told apart.
        trust: calibration of the model's own estimate of quality.
        expected_quality: expected and true quality of each held-out case.
        intervals: of the Dice and volume of each label of a new scan.
        calibration: of the predicted probabilities.
        audit: what may explain the scores, and scans that are in the dataset twice.
        learning_curve: how the Dice grows with the number of training cases.
        robustness: scores of held-out cases whose scans were degraded.
        cutoffs: by which questions about scans are answered.
        channel_scores: scores of held-out cases without each channel of their scans.
        external: the comparison with the model's own held-out cases, where the scores are of another dataset.
        explanations: maps of what predictions of held-out cases rest on, those that were withheld too.
        stages: time and memory of each stage, by its name.
        predicted: cost of predicting each held-out case.
        provenance: versions, hashes, command and date needed to reproduce the run, by name, in groups.
        missing: files that could not be read, and why.
        verdict: on the model, with the command that comes next.
        live: time of writing, if trainings still run; the page then reloads itself.
    """

    title: str
    dataset: str
    fingerprint: Fingerprint | None = None
    pseudo_labels: Mapping[str, int] = field(default_factory=dict)
    findings: Sequence[Finding] = ()
    plans: Sequence[Plan] = ()
    histories: Mapping[str, Sequence[Epoch]] = field(default_factory=dict)
    continued: Mapping[str, float] = field(default_factory=dict)
    scores: Scores | None = None
    examples: Sequence[CasePictures] = ()
    patches: Sequence[Picture] = ()
    viewed: Sequence[CaseImages] | Sequence[PackedCase] = ()
    groups: Grouped | None = None
    choice: Choice | None = None
    windows: Mapping[str, WindowChoice] = field(default_factory=dict)
    postprocessing: Postprocessing | None = None
    objects: ObjectRules | None = None
    trust: Trust | None = None
    expected_quality: Sequence[ExpectedQuality] = ()
    intervals: Sequence[LabelInterval] = ()
    calibration: Calibration | None = None
    audit: Audit | None = None
    learning_curve: LearningCurve | None = None
    robustness: Robustness | None = None
    channel_scores: Robustness | None = None
    cutoffs: CutOffs | None = None
    external: ExternalValidation | None = None
    explanations: Sequence[PicturedExplanation] = ()
    stages: Mapping[str, StageTiming] = field(default_factory=dict)
    predicted: Sequence[PredictedCase] = ()
    provenance: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    missing: Sequence[str] = ()
    verdict: Verdict | None = None
    live: str = ""

    def _trainings(self, plan: str) -> list[str]:
        """Names of the trainings of a plan that have epochs."""
        return [name for name, epochs in self.histories.items() if epochs and name.startswith(f"{plan} fold ")]

    def steps_done(self, plan: str) -> list[int]:
        """Steps of each training of a plan, if all that began have ended."""
        last = [self.histories[name][-1] for name in self._trainings(plan)]
        return [epoch.step for epoch in last] if all(epoch.step == epoch.steps for epoch in last) else []

    def seconds_more(self, plan: str) -> list[float]:
        """Seconds by which each training of a plan was continued after it had ended."""
        return [self.continued.get(name, 0.0) for name in self._trainings(plan)]

    @property
    def flagged(self) -> frozenset[str]:
        """Names of the cases whose expected quality lies below the threshold of `Trust`."""
        threshold = self.trust.threshold if self.trust else None
        return frozenset() if threshold is None else frozenset(q.name for q in self.expected_quality if q.expected < threshold)
