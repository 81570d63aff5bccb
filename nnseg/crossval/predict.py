"""Predictions of held-out cases: by each plan, and by all ensembles of plans at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from nnseg.core.dataset import Case, Finding
from nnseg.core.decisions import ObjectRules, Weights, candidate_ensembles, ensemble_name
from nnseg.core.errors import NnsegError
from nnseg.core.frozen import digest
from nnseg.core.geometry import Grid
from nnseg.core.image import Source
from nnseg.crossval.evidence import SAMPLE, CalibratingPredictor
from nnseg.inference.predict import Predictor
from nnseg.inference.prediction import Prediction, PreparedScan
from nnseg.network.bundle import Model, load_model_file
from nnseg.network.device import resolve_device
from nnseg.network.load import merge, with_own_window
from nnseg.serving.messages import Finished, PredictionTask, StageReached
from nnseg.serving.outputs import OutputTarget, write_prediction
from nnseg.serving.pipeline import CasePredictor, PredictionPipeline
from nnseg.serving.pool import FREE_RAM_SHARE
from nnseg.storage.plan_folder import PlanFolder
from nnseg.storage.predictions import FORMAT, PredictionsWriter, ScanRecord
from nnseg.storage.run import STAGES, Folds, Run
from nnseg.system.machine import free_ram_gb
from nnseg.system.progress import sizes_of, stage


def predict_folds(run: Run, folds: Folds, *, device: str = "auto") -> tuple[Finding, ...]:
    """Predict the held-out cases of each fold with every plan and every ensemble of plans; returns the cases that failed.

    Args:
        run: with the trained folds.
        folds: to predict.
        device: to compute on.
    """
    plans = run.final_plans if len(run.final_plans) > 1 else {}
    alone = [folder for folder in run.plans if folder not in plans.values()]
    problems = predict_with_plans(run, folds, alone, device)
    for number, cases in held_out_cases(run, folds) if plans else ():
        models = {name: load_fold(run, folder, number) for name, folder in plans.items()}
        ensembles = [_ensemble(run, number, cases, weights, models) for weights in candidate_weights(run)]
        problems += _failures(predict_with_ensembles(ensembles, merge(list(models.values())), device=device))
    return problems


def predict_with_plans(run: Run, folds: Folds, plans: Sequence[PlanFolder], device: str) -> tuple[Finding, ...]:
    """Predict the held-out cases of each fold with each of the plans by itself; returns the cases that failed."""
    problems = tuple[Finding, ...]()
    for number, cases in held_out_cases(run, folds):
        for folder in plans:
            model = load_fold(run, folder, number)
            job = PredictionJob(cases=cases, out=folder.fold(number).predictions, key=model.key())
            problems += _failures(predict_with_model(job, model, device=device))
    return problems


def candidate_weights(run: Run) -> tuple[Weights, ...]:
    """The weights of all plans and ensembles that are tried, and of the one in an edited ``choice.json``."""
    tried = {ensemble_name(weights): weights for weights in candidate_ensembles(list(run.final_plans))}
    chosen = run.weights
    return tuple((tried | {ensemble_name(chosen): tried.get(ensemble_name(chosen), chosen)}).values())


def held_out_cases(run: Run, folds: Folds) -> Iterator[tuple[int, tuple[Case, ...]]]:
    """The number and the held-out cases of each fold that has any."""
    cases = run.cases
    for number, fold in folds.items():
        if fold.held_out:
            yield number, tuple(cases[name] for name in fold.held_out)


def _failures(records: Mapping[str, ScanRecord]) -> tuple[Finding, ...]:
    return tuple(Finding.read(r.reason, "NS-S001", case=n) for n, r in records.items() if r.status == "failed")


def load_fold(run: Run, folder: PlanFolder, number: int, *, as_trained: bool = False) -> Model:
    """The model of a fold; that of a cascade holds the network of the same fold that provides its input.

    Args:
        as_trained: with the sliding window of its plan, not the one that was chosen on held-out cases.
    """
    model = load_model_file(folder.fold(number).model_file)
    if not as_trained:
        model = replace(model, members=tuple(with_own_window(member, run) for member in model.members))
        if lesions := run.dataset.lesions:  # their probabilities are kept, to measure what a threshold does
            model = replace(model, objects=ObjectRules(rules={}, thresholds=dict.fromkeys(lesions)))
    inputs = run.previous([folder])
    return replace(model, previous=load_model_file(inputs[0].fold(number).model_file).members) if inputs else model


def _ensemble(run: Run, number: int, cases: tuple[Case, ...], weights: Weights, models: Mapping[str, Model]) -> Ensemble:
    keys = {name: models[name].key() for name in weights}
    key = keys[next(iter(weights))] if len(weights) == 1 else digest([ensemble_name(weights), keys])
    out = run.ensemble_folder(weights).fold(number).predictions
    return Ensemble(weights=weights, job=PredictionJob(cases=cases, out=out, key=key))


@dataclass(frozen=True, kw_only=True)
class PredictionJob:
    """Scans to predict into a folder.

    Args:
        cases: with the scans.
        out: folder for the label maps, and for ``predictions.json``, which says how each was made.
        key: digest of the model and options.
        model: its path, for the record; None for a network of the run itself.
    """

    cases: tuple[Case, ...]
    out: Path
    key: str
    model: Path | None = None


def predict_with_model(
    job: PredictionJob, model: Model, *, device: str = "auto", label: str = STAGES["predict"]
) -> dict[str, ScanRecord]:
    """Records, by name, of cases predicted with a model that was not trained on them; ``label`` as in `predict_cases`."""
    target = resolve_device(device)
    predictor = CalibratingPredictor(predictor=Predictor(model, device=target), cases=job.cases)
    return predict_cases(job, predictor, device=target.type, label=label)


def predict_cases(
    job: PredictionJob, predictor: CasePredictor, *, device: str = "cpu", label: str = STAGES["predict"]
) -> dict[str, ScanRecord]:
    """Records, by name, of the cases of a job; those that have a label map of the same scan and model are not predicted again.

    Args:
        job: the cases, and where their label maps go.
        predictor: of the cases.
        device: kind of device that it computes on.
        label: what is done, in words.
    """
    target = OutputTarget(out=job.out, key=digest([FORMAT, job.key]), held_out=True)
    about = {"key": job.key} | ({"paths": [str(job.model.absolute())]} if job.model else {})
    with PredictionsWriter(job.out, model=about, labels=predictor.model.labels) as records:
        tasks = [PredictionTask(case=case, previous=records.cases.get(case.name)) for case in job.cases]
        _run(predictor, target, tasks, lambda event: records.put(event.case, event.record), device, label)
        return {case.name: records.cases[case.name] for case in job.cases}


def _run(
    predictor: CasePredictor,
    target: OutputTarget,
    tasks: Sequence[PredictionTask],
    finish: Callable[[Finished], None],
    device: str,
    label: str = STAGES["predict"],
) -> None:
    """Run the tasks through a pipeline in this process, and ``finish`` each case."""

    def report(event: StageReached | Finished) -> None:
        if isinstance(event, Finished):
            finish(event)
            shown.advance(sizes[event.case])

    sizes = sizes_of({task.case.name: task.case.images for task in tasks})
    pipeline = PredictionPipeline(predictor, target, report, memory_gb=FREE_RAM_SHARE * free_ram_gb(), keep_freed=device == "cpu")
    with stage(label, total=sum(sizes.values()), count=len(tasks)) as shown:
        pipeline.run(tasks)


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """Plans that predict together.

    Args:
        weights: of the plans, by name.
        job: the cases, where their label maps go, and the digest of the networks and weights.
    """

    weights: Mapping[str, float]
    job: PredictionJob


def predict_with_ensembles(ensembles: Sequence[Ensemble], model: Model, *, device: str = "auto") -> dict[str, ScanRecord]:
    """Records of the cases, by name: of the first ensemble, or of one that failed; each network runs once for all ensembles.

    A case of which any ensemble lacks an up-to-date label map is predicted again for all of them.

    Args:
        ensembles: with the same cases.
        model: of the networks of all plans of the ensembles.
    """
    target, cases = resolve_device(device), ensembles[0].job.cases
    weights = [dict(ensemble.weights) for ensemble in ensembles]
    predictor = EnsemblePredictor(predictor=Predictor(model, device=target), cases=cases, ensembles=weights)
    with ExitStack() as stack:
        first, *others = outputs = [_EnsembleOutput.open(ensemble, model, stack) for ensemble in ensembles]

        def finish(event: Finished) -> None:
            first.records.put(event.case, event.record)
            for output, pending in zip(others, predictor.take_pending(event.case), strict=True):
                output.write(event, pending)

        tasks = [PredictionTask(case=case, previous=_known(outputs, case.name)) for case in cases]
        _run(predictor, first.target, tasks, finish, target.type)
        written = (output.records.cases.items() for output in outputs)
        failed = {name: record for records in written for name, record in records if record.status == "failed"}
        return {case.name: failed.get(case.name, first.records.cases[case.name]) for case in cases}


@dataclass(frozen=True, kw_only=True)
class PendingPrediction:
    """A prediction that is not written yet.

    Args:
        source: of the scan.
    """

    prediction: Prediction
    source: Source


COPIES = 3
"""Copies of each label map that are held at most: being filled, waiting to be written, and being written."""


@dataclass(frozen=True, kw_only=True)
class EnsemblePredictor(CalibratingPredictor):
    """Predicts with the first of several ensembles, and keeps the predictions of the others until they are taken.

    Args:
        ensembles: weights of the plans of each.
        pending: predictions of all ensembles but the first, by case.
    """

    ensembles: Sequence[Mapping[str, float]]
    pending: dict[str, Sequence[PendingPrediction | None]] = field(default_factory=dict)

    def infer(
        self, prepared: PreparedScan, *, probabilities: bool = False, uncertainty: bool = False, scratch: Path | None = None
    ) -> Prediction:
        """The first ensemble's prediction, with its confidence."""
        numbered = {str(number): weights for number, weights in enumerate(self.ensembles)}
        predictions = self.predictor.infer_ensembles(prepared, numbered, sample=SAMPLE).values()
        reference, case = self.read_reference(prepared.scan), self.find_case(prepared.scan)
        first, *others = (self.with_calibration(prediction, reference) for prediction in predictions)
        if case:
            self.pending[case.name] = [PendingPrediction(prediction=other, source=prepared.scan.source) for other in others]
        return first

    def take_pending(self, case: str) -> Sequence[PendingPrediction | None]:
        """The other ensembles' predictions of a case, which are dropped here; None for each if the case was not predicted."""
        return self.pending.pop(case, [None] * (len(self.ensembles) - 1))

    def memory_gb(self, grid: Grid, *, probabilities: bool = False, uncertainty: bool = False) -> float:
        """RAM that a scan takes at most."""
        maps = COPIES * (len(self.ensembles) - 1) * (self.model.labels.dtype.itemsize + len(self.model.lesions))
        return self.predictor.memory_gb(grid, uncertainty=True) + maps * math.prod(grid.shape) / 1e9


@dataclass(frozen=True, kw_only=True)
class _EnsembleOutput:
    """Where the predictions of an ensemble go.

    Args:
        target: folder of the label maps.
        records: of that folder.
        model: of the networks.
    """

    target: OutputTarget
    records: PredictionsWriter
    model: Model

    @classmethod
    def open(cls, ensemble: Ensemble, model: Model, stack: ExitStack) -> _EnsembleOutput:
        out, key = ensemble.job.out, ensemble.job.key
        records = stack.enter_context(PredictionsWriter(out, model={"key": key}, labels=model.labels))
        return cls(target=OutputTarget(out=out, key=digest([FORMAT, key]), held_out=True), records=records, model=model)

    def write(self, event: Finished, pending: PendingPrediction | None) -> None:
        """Write a prediction and record it; of a case that failed, record that; nothing if the case was not predicted again."""
        if event.record.status == "failed":
            self.records.put(event.case, event.record, quiet=True)
        elif pending:
            self.records.put(event.case, self._written(event, pending), quiet=True)

    def _written(self, event: Finished, pending: PendingPrediction) -> ScanRecord:
        prediction, key = pending.prediction, digest([event.record.input, self.target.key])
        seconds = event.record.seconds | {stage: round(spent, 4) for stage, spent in prediction.seconds.items()}
        record = event.record.model_copy(update={"key": key, "seconds": seconds, "confidence": prediction.confidence})
        try:
            (file, hash_of_it), *more = write_prediction(prediction, event.case, pending.source, self.target, self.model).items()
        except NnsegError as error:
            return record.model_copy(update={"status": "failed", "reason": error.coded, "file": "", "hash": "", "more": {}})
        return record.model_copy(update={"file": file, "hash": hash_of_it, "more": dict(more)})


def _known(outputs: Sequence[_EnsembleOutput], case: str) -> ScanRecord | None:
    """The first ensemble's record of a case, if every ensemble has a complete label map of the same scan; else None."""
    first = outputs[0].records.cases.get(case)
    for output in outputs:
        record = output.records.cases.get(case)
        if not first or not record or (record.status, record.input) != ("done", first.input):
            return None
        if record.key != digest([record.input, output.target.key]) or not record.is_whole(output.target.out):
            return None
    return first
