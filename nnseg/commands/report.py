"""The report of a run: everything in its folder that the page shows; missing or older files are left out."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache
from typing import Any, TypeVar

from nnseg.commands.case_pictures import draw_still_pictures, pack_viewer_cases
from nnseg.commands.plan import findings_of
from nnseg.core.dataset import Dataset, Finding, Fold
from nnseg.core.decisions import Choice, Postprocessing
from nnseg.core.errors import NnsegError, RunError
from nnseg.core.fingerprint import Fingerprint
from nnseg.core.plan import Plan
from nnseg.core.scores import Grouped, Scores
from nnseg.core.trust import Trust
from nnseg.crossval.trust import HeldOutCase, cross_fitted, held_of
from nnseg.evaluation.calibration import Calibration, calibration
from nnseg.reporting.content import ExpectedQuality, PredictedCase, ReportContent, StageTiming
from nnseg.reporting.report import write_report
from nnseg.storage.files import StoredFile
from nnseg.storage.images.formats import LOSSLESS_PICTURE, TIFF
from nnseg.storage.predictions import ScanRecord, held_out_predictions
from nnseg.storage.run import Run

Content = TypeVar("Content")

MOST_STILL = 4
"""Cases with still pictures, of those that the viewer shows."""


@dataclass(frozen=True, kw_only=True)
class RunEvidence:
    """What held-out cases left behind.

    Args:
        scores: None before there are any.
        trust, postprocessing, choice: None where nothing was decided.
        written: how each case was predicted, by name.
        held: cases that were predicted with their confidence, and scored.
        groups: scores by group, where somebody asked for them.
        missing: what could not be read, and why.
    """

    scores: Scores | None = None
    trust: Trust | None = None
    postprocessing: Postprocessing | None = None
    choice: Choice | None = None
    written: Mapping[str, ScanRecord] = field(default_factory=dict)
    held: Sequence[HeldOutCase] = ()
    groups: Grouped | None = None
    missing: Sequence[str] = ()


def story_of(run: Run, *, live: bool = False, device: str = "auto") -> ReportContent:
    """What there is to tell about a run.

    Args:
        run: its folder; trainings may be under way in it.
        live: a training runs: pictures of cases, which take long, are left out.
        device: to find the uncertainty of the cases that are shown.

    Raises:
        RunError: the folder holds no run.
    """
    if not run.exists:
        raise RunError(f"{run.path} is not a run folder; make one with nnseg run")
    dataset, fingerprint = run.dataset, run.fingerprint
    evidence, record = _evidence(run), run.record
    plans = [folder.plan for folder in run.plans]
    story = ReportContent(
        title=dataset.name,
        dataset=dataset.describe(),
        fingerprint=fingerprint,
        findings=(*_unmeasured(dataset, fingerprint), *findings_of(fingerprint)),
        plans=plans,
        histories=run.histories,
        scores=evidence.scores,
        groups=evidence.groups,
        choice=evidence.choice,
        postprocessing=evidence.postprocessing,
        trust=evidence.trust,
        expected_quality=_foreseen(evidence),
        calibration=_calibration(evidence),
        stages=_stages(record),
        predicted=_predicted(evidence.written),
        provenance=_provenance(run, dataset, fingerprint, plans, record),
        missing=evidence.missing,
        live=datetime.now().astimezone().isoformat(" ", "seconds") if live else "",
    )
    return story if live or evidence.scores is None else _with_pictures(story, run, dataset, device)


def _unmeasured(dataset: Dataset, fingerprint: Fingerprint) -> tuple[Finding, ...]:
    """That lengths are not known, where files of a kind that stores no spacing came without one."""
    if dataset.suffix not in (LOSSLESS_PICTURE, *TIFF) or (fingerprint.spacings != 1.0).any():
        return ()
    told = f"{dataset.suffix} files say nothing of a pixel's size: in what follows 1 mm stands for one pixel, and ml for 1000"
    return (Finding(level="note", message=told),)


def _with_pictures(story: ReportContent, run: Run, dataset: Dataset, device: str) -> ReportContent:
    assert story.scores is not None
    viewed = pack_viewer_cases(run, dataset, story.scores, story.trust, device=device)
    captions = {case.name: case.caption for case in viewed[:MOST_STILL]}
    return replace(story, viewed=viewed, examples=draw_still_pictures(run, dataset, captions))


def _evidence(run: Run) -> RunEvidence:
    missing: list[str] = []

    def read(file: StoredFile[Content | None]) -> Content | None:
        try:
            return file.of(run)
        except RunError:
            missing.append(f"{file.name} is damaged, or of another version of nnseg; nnseg run makes it anew")
            return None

    scores, trust = read(Run.scores), read(Run.trust)
    written: dict[str, ScanRecord] = {}
    folds: Mapping[int, Fold] = {}
    with suppress(NnsegError):  # folds that were not made yet
        folds = run.folds
        written = held_out_predictions(run.predictions_folder, folds)
    return RunEvidence(
        scores=scores,
        trust=trust,
        postprocessing=read(Run.postprocessing),
        choice=read(Run.choice),
        written=written,
        held=_held(written, scores, folds) if scores else (),
        groups=read(Run.groups),
        missing=missing,
    )


def _held(written: Mapping[str, ScanRecord], scores: Scores, folds: Mapping[int, Fold]) -> tuple[HeldOutCase, ...]:
    """Those whose confidence is of the same labels as the scores, which may be of other times."""
    held = held_of(written, scores.cases, folds)
    return tuple(h for h in held if set(h.confidence.agreement.labels) == set(scores.labels))


def _foreseen(evidence: RunEvidence) -> list[ExpectedQuality]:
    if evidence.trust is None or not evidence.held:
        return []
    return [
        ExpectedQuality(
            name=held.score.name,
            expected=quality,
            dice=held.score.mean_dice,
            unlike=evidence.trust.ranges.differences(held.confidence.facts)
            if evidence.trust.ranges and held.confidence.facts
            else (),
        )
        for held, quality in zip(evidence.held, cross_fitted(evidence.held), strict=True)
    ]


def _calibration(evidence: RunEvidence) -> Calibration | None:
    known = [held.confidence.reliability for held in evidence.held if held.confidence.reliability]
    return calibration(known, evidence.trust.temperature) if evidence.trust else None


def _stages(record: Mapping[str, Any]) -> dict[str, StageTiming]:
    peaks = record.get("peak_gb", {})
    return {name: StageTiming(seconds=seconds, peak_gb=peaks.get(name)) for name, seconds in record.get("seconds", {}).items()}


def _predicted(written: Mapping[str, ScanRecord]) -> list[PredictedCase]:
    return [
        PredictedCase(
            name=name,
            seconds=one.seconds,
            peak_gb=one.peak_gb,
            findings=one.findings,
            facts=one.confidence.facts if one.confidence else None,
        )
        for name, one in written.items()
        if one.status == "done"
    ]


def _provenance(
    run: Run, dataset: Dataset, fingerprint: Fingerprint, plans: Sequence[Plan], record: Mapping[str, Any]
) -> dict[str, dict[str, str]]:
    folds = {}
    with suppress(NnsegError):
        folds = {"folds": f"{len(run.folds)}, {_words(record.get('folds', {}))}"}
    groups = {
        "This run": {
            "command": str(record.get("command", "")),
            "finished": str(record.get("finished", "")),
            "machine": str(record.get("machine", "")),
            "folder": run.path.name,
        },
        "Data": {"dataset": dataset.name, "key of its files": fingerprint.key, **dataset.about, **folds},
        "Plans": {f"{plan.name} plan": f"key {plan.key()}, seed {plan.training.seed}, recipe {plan.recipe}" for plan in plans},
        "Software": {name: str(version) for name, version in record.get("versions", {}).items()},
    }
    told = {group: {name: value for name, value in items.items() if value} for group, items in groups.items()}
    return {group: items for group, items in told.items() if items}


def _words(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in settings.items() if value is not None) or "by default"


log = logging.getLogger(__name__)


def report(run: Run, *, live: bool = False, device: str = "auto") -> None:
    """Write ``report.html`` from what the run has so far.

    Args:
        run: its folder; trainings may be under way in it.
        live: a training runs: the page says so and looks for news by itself, and pictures of cases, which take long, are left out.
        device: to find the uncertainty of the cases that are shown.

    Raises:
        RunError: the folder holds no run.
    """
    write_report(run.report_file, story_of(run, live=live, device=device))


def report_quietly(run: Run) -> None:
    """Write the page of a run that is training. What goes wrong is warned of once and costs the training nothing."""
    try:
        report(run, live=True)
    except Exception as error:  # whatever it is, training is worth more
        _warn(f"the report of {run.path} cannot be kept up to date: {error}")


@cache
def _warn(message: str) -> None:
    """Once in each process."""
    log.warning("%s", message)
