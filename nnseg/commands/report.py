"""``nnseg report``: the report of a run, from what its folder holds; missing or damaged files are left out."""

from __future__ import annotations

import base64
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from nnseg.commands.case_pictures import draw_still_pictures, pack_viewer_cases
from nnseg.commands.patch_pictures import draw_patches
from nnseg.core.dataset import Dataset, Finding, by_severity
from nnseg.core.decisions import WindowChoice, with_window
from nnseg.core.errors import NnsegError, RunError, suppress_unless_fault
from nnseg.core.explanation import EXPLANATIONS, Explanations
from nnseg.core.fingerprint import Fingerprint
from nnseg.core.limits import limit
from nnseg.core.plan import Plan
from nnseg.core.robustness import Robustness
from nnseg.core.scores import Scores
from nnseg.core.trust import Trust
from nnseg.core.units import length_name
from nnseg.crossval.trust import HeldOutCase, cross_validate_expected_dice, join_scores
from nnseg.evaluation.calibration import calibration
from nnseg.planning.verdict import give_verdict
from nnseg.reporting.content import ExpectedQuality, PicturedExplanation, PredictedCase, ReportContent, StageTiming
from nnseg.reporting.report import write_report
from nnseg.storage.files import StoredFile, read_json
from nnseg.storage.images.formats import LOSSLESS_PICTURE, TIFF
from nnseg.storage.overwrite import is_made
from nnseg.storage.predictions import ScanRecord
from nnseg.storage.pseudo_labels import count_pseudo_labels, read_pseudo_labels
from nnseg.storage.run import Folds, Run
from nnseg.storage.temporary import sweep_ended
from nnseg.system.progress import stage

log = logging.getLogger(__name__)

Content = TypeVar("Content")

MOST_STILL = 4
"""Cases with still pictures, of those that the viewer shows."""


def gather_report_content(run: Run, *, live: bool = False, device: str = "auto") -> ReportContent:
    """Everything that the report of a run shows, as far as it exists.

    Args:
        run: perhaps while it trains.
        live: the run trains: pictures of cases, which take long, are left out.
        device: to compute the uncertainty of the cases that are shown.

    Raises:
        RunError: the folder holds no run.
    """
    if not run.exists:
        raise RunError(f"{run.path} is not a run folder; make one with nnseg run")
    missing: list[str] = []

    def read(file: StoredFile[Content | None]) -> Content | None:
        try:
            return file.of(run)
        except RunError as error:
            if error.is_fault:
                raise
            missing.append(f"{file.name} is damaged, or of another version of nnseg; nnseg run makes it anew")
            return None

    dataset, fingerprint, plans = run.dataset, run.fingerprint, [folder.plan for folder in run.plans]
    windows = read(Run.windows) or dict[str, WindowChoice]()
    scores, trust, (folds, records) = read(Run.scores), read(Run.trust), _predictions(run)
    held = _same_labels(join_scores(records, scores.cases, folds), scores) if scores else ()
    reliabilities = [h.confidence.reliability for h in held if h.confidence.reliability]
    content = ReportContent(
        title=dataset.name,
        dataset=dataset.describe(),
        fingerprint=fingerprint,
        pseudo_labels=count_pseudo_labels(read_pseudo_labels(run.pseudo_labels_folder, fingerprint.cases)),
        findings=(*_pixel_units(dataset, fingerprint), *by_severity(fingerprint.findings)),
        plans=[with_window(plan, windows[plan.name]) if plan.name in windows else plan for plan in plans],
        histories=run.histories,
        continued=run.continued,
        scores=scores,
        groups=read(Run.groups),
        choice=read(Run.choice),
        windows=windows,
        postprocessing=read(Run.postprocessing),
        objects=read(Run.objects),
        trust=trust,
        expected_quality=_expected_quality(held, trust) if trust else [],
        intervals=trust.label_intervals([h.confidence.agreement for h in held]) if trust else (),
        calibration=calibration(reliabilities, trust.temperature) if trust else None,
        audit=read(Run.audit),
        learning_curve=read(Run.learning_curve),
        robustness=_of_these_predictions(read(Run.robustness), records),
        channel_scores=_of_these_predictions(read(Run.channel_scores), records),
        cutoffs=cutoffs.valid_for(scores) if (cutoffs := read(Run.cutoffs)) else None,
        explanations=_explanations(run, records),
        stages=_stages(run.record),
        predicted=PredictedCase.all_of(records),
        provenance=_provenance(run, dataset, fingerprint, plans, folds),
        missing=missing,
        verdict=None if live else give_verdict(scores, run.histories, trust, folds=len(folds)),
        live=datetime.now().astimezone().isoformat(" ", "seconds") if live else "",
    )
    return content if live or scores is None else _with_pictures(content, run, scores, device)


def _pixel_units(dataset: Dataset, fingerprint: Fingerprint) -> tuple[Finding, ...]:
    """A note that lengths are in pixels or voxels, where files came without a size."""
    if not fingerprint.has_spacing:
        unit = length_name(fingerprint.length_unit)
        message = f"the files give no voxel size: lengths are in {unit}; mm in settings of the plan are {unit}"
        return (Finding.of("NS-D033", message),)
    if dataset.suffix not in (LOSSLESS_PICTURE, *TIFF) or (fingerprint.spacings != 1.0).any():
        return ()
    message = f"{dataset.suffix} files store no pixel size: in what follows 1 mm stands for one pixel, and 1 ml for 1000"
    return (Finding.of("NS-D033", message),)


def _with_pictures(content: ReportContent, run: Run, scores: Scores, device: str) -> ReportContent:
    viewed = pack_viewer_cases(run, scores, content.trust, device=device)
    captions = {case.name: case.caption for case in viewed[:MOST_STILL]}
    return replace(content, viewed=viewed, examples=draw_still_pictures(run, captions), patches=draw_patches(run))


def _predictions(run: Run) -> tuple[Folds, Mapping[str, ScanRecord]]:
    """The folds and the predictions of their held-out cases, as far as there are any yet."""
    folds: Folds = {}
    with suppress_unless_fault(NnsegError):
        folds = run.folds
        return folds, run.predictions(folds)
    return folds, {}


def _same_labels(held: Sequence[HeldOutCase], scores: Scores) -> Sequence[HeldOutCase]:
    """The cases whose prediction is of the labels that were scored; after a change of labels either may be of earlier ones."""
    return [h for h in held if set(h.confidence.agreement.labels) == set(scores.labels)]


def _expected_quality(held: Sequence[HeldOutCase], trust: Trust) -> list[ExpectedQuality]:
    return [
        ExpectedQuality(
            name=case.score.name,
            expected=quality,
            dice=case.score.mean_dice,
            unlike=trust.ranges.differences(case.confidence.facts) if trust.ranges and case.confidence.facts else (),
        )
        for case, quality in zip(held, cross_validate_expected_dice(held), strict=True)
    ]


def _of_these_predictions(found: Robustness | None, records: Mapping[str, ScanRecord]) -> Robustness | None:
    """What was measured with the networks that made the predictions that the run has now; what is of earlier ones is left out."""
    if found is None or any(name not in records or records[name].prediction_key != key for name, key in found.cases.items()):
        return None
    return found


def _explanations(run: Run, records: Mapping[str, ScanRecord]) -> list[PicturedExplanation]:
    """The explanations of the predictions that the run has now; earlier ones are left out."""
    folder, found = run.explanations_folder, list[PicturedExplanation]()
    if not (folder / EXPLANATIONS).exists():
        return found
    with suppress_unless_fault(RunError):
        for one in read_json(folder / EXPLANATIONS, Explanations).explanations:
            if one.case in records and one.key == records[one.case].prediction_key:
                picture = folder / one.picture if one.picture else None
                found.append(PicturedExplanation(explanation=one, picture=_data_url(picture) if picture else ""))
    return found


def _data_url(picture: Path) -> str:
    """A PNG as a ``data:`` URL; "" if there is none."""
    if not picture.is_file() or picture.stat().st_size > limit("text_bytes") or not is_made(picture, "picture"):
        return ""
    return "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()


def _stages(record: Mapping[str, Any]) -> dict[str, StageTiming]:
    peaks = record.get("peak_gb", {})
    return {name: StageTiming(seconds=seconds, peak_gb=peaks.get(name)) for name, seconds in record.get("seconds", {}).items()}


def _provenance(
    run: Run, dataset: Dataset, fingerprint: Fingerprint, plans: Sequence[Plan], folds: Folds
) -> dict[str, dict[str, str]]:
    """What the run was made from and with, by topic; empty values are left out."""
    record = run.record
    topics = {
        "This run": {
            "command": str(record.get("command", "")),
            "finished": str(record.get("finished", "")),
            "machine": str(record.get("machine", "")),
            "folder": _below_here(run.path),
        },
        "Data": {
            "dataset": dataset.name,
            "key of its files": fingerprint.key,
            **dataset.about,
            "folds": f"{len(folds)}, {_division(record.get('folds', {}))}" if folds else "",
        },
        "Plans": {f"{plan.name} plan": f"key {plan.key()}, seed {plan.training.seed}, recipe {plan.recipe}" for plan in plans},
        "Software": {name: str(version) for name, version in record.get("versions", {}).items()},
    }
    known = {topic: {name: value for name, value in entries.items() if value} for topic, entries in topics.items()}
    return {topic: entries for topic, entries in known.items() if entries}


def _below_here(folder: Path) -> str:
    """The path of a folder from the current one, if it lies below it; else its name alone, as reports are shown to others."""
    try:
        return str(folder.resolve().relative_to(Path.cwd()))
    except (OSError, ValueError):
        return folder.name


def _division(settings: Mapping[str, Any]) -> str:
    """How the cases were divided, by the options that are not absent."""
    asked = {name: value for name, value in settings.items() if value and name != "written"}
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in asked.items()) or "by default"


def report(run: Run, *, live: bool = False, device: str = "auto") -> None:
    """Write ``report.html`` from what the run has so far.

    Args:
        run: perhaps while it trains.
        live: the run trains: the page says so and reloads by itself, and pictures of cases, which take long, are left out.
        device: to compute the uncertainty of the cases that are shown.

    Raises:
        RunError: the folder holds no run.
    """
    sweep_ended(run.path)
    with stage("" if live else "writing the report", noted=True):
        write_report(run.report_file, gather_report_content(run, live=live, device=device))


def report_quietly(run: Run) -> None:
    """Write the report of a run that trains; if that fails, training goes on, with one warning."""
    try:
        report(run, live=True)
    except Exception as error:  # whatever it is, training matters more
        _warn_once(f"the report of {run.path} cannot be kept up to date: {error}")


@cache
def _warn_once(message: str) -> None:
    """Once in each process."""
    log.warning("%s", message)
