"""``nnseg validate``: a model on a labelled dataset that it was not trained on, beside its own held-out cases."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from nnseg.core.card import MetricSummary
from nnseg.core.dataset import Case, Dataset, Finding, Reading, listed
from nnseg.core.errors import EvaluationError, NnsegError, suppress_unless_fault
from nnseg.core.frozen import FrozenModel
from nnseg.core.labels import Labels
from nnseg.core.options import Options
from nnseg.core.scores import Failure, Scores
from nnseg.crossval.predict import PredictionJob, predict_with_model
from nnseg.crossval.score import pair_files
from nnseg.evaluation.case_score import Measures
from nnseg.evaluation.evaluate import evaluate
from nnseg.evaluation.external import ExternalValidation, InternalSource, assess_confidence, compare_scores
from nnseg.network.bundle import Model
from nnseg.network.load import load_model
from nnseg.reporting.content import ExpectedQuality, PredictedCase, ReportContent
from nnseg.reporting.report import write_report
from nnseg.serving.folder import begun, check_label_folder
from nnseg.storage.datasets.content import case_key
from nnseg.storage.datasets.read import read_dataset
from nnseg.storage.datasets.read_case import find_unreadable
from nnseg.storage.files import write_json
from nnseg.storage.locks import locked
from nnseg.storage.overwrite import check_overwrite, is_made
from nnseg.storage.predictions import ScanRecord, read_predictions
from nnseg.storage.run import Run
from nnseg.storage.temporary import sweep
from nnseg.system.regular import resolved

log = logging.getLogger(__name__)

VALIDATION, SCORES, PAGE = "validation.json", "scores.json", "validation.html"
"""Files beside the label maps."""


class ValidatedFolder(FrozenModel):
    """What ``nnseg validate`` finds.

    Args:
        validation: the comparison, as in ``validation.json``.
        scores: of the dataset, as in ``scores.json``.
        files: that were written beside the label maps.
    """

    validation: ExternalValidation
    scores: Scores
    files: tuple[Path, ...] = Field(default=(), exclude=True)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Cases that could not be predicted or scored, and those that the model was trained on."""
        failed = tuple(Finding.read(case.reason, "NS-E001", case=case.name) for case in self.scores.failed)
        if not (known := self.validation.known):
            return failed
        found = f"the model was trained on {listed(known)} of this dataset"
        return (
            *failed,
            Finding.of("NS-A004", f"{found}; expected cases that it has not seen; remove them, or trust no score here"),
        )


@dataclass(frozen=True, kw_only=True)
class _Internal:
    """What is known of the model's own held-out cases."""

    scores: Scores | tuple[MetricSummary, ...] | None
    cases: int

    @property
    def source(self) -> InternalSource:
        """As `ExternalValidation` names it."""
        return "scores of a run" if isinstance(self.scores, Scores) else "model card" if self.scores else "none"


def validate(folder: Path, out: Path, path: Path, options: Options, *, force: bool = False) -> ValidatedFolder:
    """The model at a path on a labelled dataset; label maps, scores, the comparison and a page are written to a folder.

    Args:
        folder: of the dataset, which is not written to.
        out: folder for the results; label maps that are there already, of the same model, are not made again.
        path: run folder, or exported model.
        options: how the dataset is read, device, folds and workers.
        force: also overwrite files that nnseg did not make.

    Raises:
        EvaluationError: the dataset's labels or channels are not those of the model, or no case could be scored.
        RunError: the folder cannot be written to, or has images or results that nnseg did not make.
        NnsegError: the model or the dataset cannot be read.
    """
    if resolved(folder) in (resolved(out), *resolved(out).parents):
        raise EvaluationError(f"{out} lies in the dataset, which is never written to; choose a folder outside of {folder}")
    check_label_folder(out, force=force)
    own = force or is_made(out / VALIDATION, "validation")  # then the page is, too
    check_overwrite(out / SCORES, "scores", force=force)
    for name in (VALIDATION, PAGE):
        check_overwrite(out / name, "validation", force=own)
    model = load_model(path, folds=options.folds)
    dataset = read_dataset(folder, reading=Reading.of(options), workers=options.workers)
    _check_fit(dataset, model)
    unreadable = find_unreadable(dataset.cases, workers=options.workers)
    cases = tuple(case for case in dataset.cases if case.name not in unreadable)
    with locked(out, busy="another nnseg is writing to {}; wait for it, or choose another folder"):
        sweep(out)
        job = PredictionJob(cases=cases, out=out, key=model.key(), model=path)
        with begun(out, {case.name for case in dataset.cases}, read_predictions(out), force=force):
            records = predict_with_model(job, model, device=options.device, label="predicting")
        scores = _score(dataset, model.labels, out, records, unreadable, options.workers)
        confidences = {name: record.confidence for name, record in records.items() if record.confidence}
        internal = _find_internal(path, model)
        found = ExternalValidation(
            model=job.key,
            dataset=dataset.name,
            cases=len(scores.cases),
            internal_cases=internal.cases,
            internal_source=internal.source,
            differences=tuple(compare_scores(scores, internal.scores)),
            known=_find_known(path, dataset.cases),
            **assess_confidence(scores, confidences, model.trust),
        )
        write_json(out / SCORES, scores)
        write_json(out / VALIDATION, found)
        write_report(out / PAGE, _page(dataset, scores, found, records, model))
    return ValidatedFolder(validation=found, scores=scores, files=tuple(out / name for name in (SCORES, VALIDATION, PAGE)))


def _check_fit(dataset: Dataset, model: Model) -> None:
    """Raise EvaluationError unless the dataset's label maps have the model's values, and its scans as many channels."""
    if len(dataset.channels) != len(model.channels):
        given, needed = ", ".join(dataset.channels), ", ".join(model.channels)
        raise EvaluationError(
            f"{dataset.folder} has the channels {given}, and the model needs {needed}; choose some with --channels"
        )
    ours = model.labels.by_name
    for name, value in dataset.labels.named.items():
        if ours.get(name, value) != value or value not in model.labels.values:
            meant = f"the model has {name} as {ours[name]}" if name in ours else f"the model has {model.labels.describe()}"
            advice = "give the label maps the model's values"
            raise EvaluationError(f"{dataset.folder}: its label {name} has the value {value}, and {meant}; {advice}")


def _score(
    dataset: Dataset,
    labels: Labels,
    out: Path,
    records: Mapping[str, ScanRecord],
    unreadable: Mapping[str, str],
    workers: int,
) -> Scores:
    pairs = pair_files({case.name: case for case in dataset.cases}, out, records)
    reasons = {**unreadable, **{name: one.reason for name, one in records.items() if one.status != "done"}}
    failed = [Failure(name=name, reason=reason) for name, reason in reasons.items()]
    instances = tuple(name for name in dataset.instances if name in labels.foreground)
    scores = evaluate(pairs, labels, failed=failed, measures=Measures(instances=instances), workers=workers)
    if not scores.cases:
        why = scores.failed[0].reason if scores.failed else "it has no labelled case"
        raise EvaluationError(f"no case of {dataset.folder} could be scored: {why}")
    return scores


def _find_internal(path: Path, model: Model) -> _Internal:
    """The scores of the run at the path, or else what the model's card says."""
    with suppress_unless_fault(NnsegError):
        if path.is_dir() and (scores := Run(path).scores):
            return _Internal(scores=scores, cases=len(scores.cases))
    card = model.card
    return _Internal(scores=card.scores if card and card.scores else None, cases=card.held_out if card else 0)


def _find_known(path: Path, cases: Sequence[Case]) -> tuple[str, ...]:
    """The cases whose files a run was trained on; none of a model file, which does not list them."""
    run = Run(path)
    if not path.is_dir() or not Run.fingerprint.path(run).exists():
        return ()
    keys = {case.key for case in run.fingerprint_of_folds.cases}
    return tuple(case.name for case in cases if case_key(case) in keys)


def _page(
    dataset: Dataset, scores: Scores, found: ExternalValidation, records: Mapping[str, ScanRecord], model: Model
) -> ReportContent:
    dice = {case.name: case.mean_dice for case in scores.cases}
    calibrated = model.trust if model.trust and model.trust.is_calibrated else None
    return ReportContent(
        title=f"External validation on {dataset.name}",
        dataset=dataset.describe(),
        scores=scores,
        external=found,
        trust=calibrated,
        expected_quality=[
            ExpectedQuality(name=name, expected=one.confidence.quality, dice=dice[name], unlike=one.confidence.unlike)
            for name, one in records.items()
            if one.confidence and name in dice and calibrated
        ],
        calibration=found.calibration,
        predicted=PredictedCase.all_of(records),
        provenance={"Model": {"key": found.model, "held-out cases": str(found.internal_cases), "from": found.internal_source}},
    )
