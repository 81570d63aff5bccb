"""Predictions of held-out cases, made in this process."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from nnseg.core.dataset import Case
from nnseg.core.errors import NnsegError
from nnseg.core.frozen import digest
from nnseg.core.geometry import Grid
from nnseg.core.image import Source
from nnseg.crossval.evidence import SAMPLE, CalibratingPredictor
from nnseg.inference.predict import Predictor
from nnseg.inference.prediction import Prediction, PreparedScan
from nnseg.network.bundle import Model
from nnseg.network.device import resolve_device
from nnseg.serving.messages import Finished, PredictionTask, StageReached
from nnseg.serving.outputs import OutputTarget, write_prediction
from nnseg.serving.pipeline import CasePredictor, PredictionPipeline
from nnseg.serving.pool import FREE_RAM_SHARE
from nnseg.storage.predictions import FORMAT, PredictionsWriter, ScanRecord
from nnseg.system.machine import free_ram_gb
from nnseg.system.parallel import progress


@dataclass(frozen=True, kw_only=True)
class PredictionJob:
    """Scans to predict into a folder.

    Args:
        cases: the scans.
        out: folder of the label maps; ``predictions.json`` beside them says how each was made.
        key: digest of the model and options.
    """

    cases: tuple[Case, ...]
    out: Path
    key: str


def predict_into(job: PredictionJob, predictor: CasePredictor, *, device: str = "cpu") -> dict[str, ScanRecord]:
    """Write a label map for each case of the job that has none from the same scan and model yet.

    Args:
        job: the cases, and where to.
        predictor: of them.
        device: kind of what it computes on.
    """
    target = OutputTarget(out=job.out, key=digest([FORMAT, job.key]))
    with PredictionsWriter(job.out, model={"key": job.key}, labels=predictor.model.labels) as record:

        def report(event: StageReached | Finished) -> None:
            if isinstance(event, Finished):
                record.put(event.case, event.record)

        tasks = [PredictionTask(case=case, previous=record.cases.get(case.name)) for case in job.cases]
        line = PredictionPipeline(predictor, target, report, memory_gb=FREE_RAM_SHARE * free_ram_gb(), keep_freed=device == "cpu")
        line.run(progress(tasks, total=len(tasks), label="predicting"))
        return {case.name: record.cases[case.name] for case in job.cases}


def predict_alone(job: PredictionJob, model: Model, *, device: str = "auto") -> dict[str, ScanRecord]:
    """What became of held-out cases that one model predicts, by name.

    Args:
        job: the cases, and where to.
        model: that has not seen them.
    """
    target = resolve_device(device)
    return predict_into(job, CalibratingPredictor(predictor=Predictor(model, device=target), cases=job.cases), device=target.type)


WAITING = 3
"""Copies of each label map that are held at most: being filled, waiting to be written, and being written."""


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """Plans that answer together.

    Args:
        plans: weights by name.
        job: the cases, where to, and the digest of the networks and their weights.
    """

    plans: Mapping[str, float]
    job: PredictionJob


def predict_together(parties: Sequence[Ensemble], model: Model, *, device: str = "auto") -> dict[str, ScanRecord]:
    """What became of held-out cases for the first party, by name; for all others it is in the records beside their label maps.

    A case that one of the parties has no label map of, or another one than asked for, is predicted for all of them.

    Args:
        parties: with the same cases.
        model: of the networks of all plans that are named.
    """
    kind, cases = resolve_device(device), parties[0].job.cases
    panel = EnsemblePredictor(
        predictor=Predictor(model, device=kind), cases=cases, ensembles=[dict(party.plans) for party in parties]
    )
    with ExitStack() as stack:
        desks = [_EnsembleOutput.of(party, model, stack) for party in parties]

        def report(event: StageReached | Finished) -> None:
            if isinstance(event, Finished):
                desks[0].record.put(event.case, event.record)
                for desk, rest in zip(desks[1:], panel.rest_of(event.case, len(desks) - 1), strict=True):
                    desk.file(event, rest, model)

        tasks = [PredictionTask(case=case, previous=_known(desks, case.name)) for case in cases]
        line = PredictionPipeline(
            panel, desks[0].target, report, memory_gb=FREE_RAM_SHARE * free_ram_gb(), keep_freed=kind.type == "cpu"
        )
        line.run(progress(tasks, total=len(tasks), label="predicting"))
        return {case.name: desks[0].record.cases[case.name] for case in cases}


@dataclass(frozen=True, kw_only=True)
class PendingPrediction:
    """A prediction that waits to be written.

    Args:
        source: of the scan.
    """

    prediction: Prediction
    source: Source


@dataclass(frozen=True, kw_only=True)
class EnsemblePredictor(CalibratingPredictor):
    """Answers for the first of several ensembles, and keeps what the others say until somebody asks for it.

    Args:
        ensembles: weights of the plans.
        kept: by name of the case.
    """

    ensembles: Sequence[Mapping[str, float]]
    kept: dict[str, list[PendingPrediction]] = field(default_factory=dict)

    def infer(
        self, prepared: PreparedScan, *, probabilities: bool = False, uncertainty: bool = False, scratch: Path | None = None
    ) -> Prediction:
        """The first ensemble's prediction, with its confidence."""
        numbered = {str(number): plans for number, plans in enumerate(self.ensembles)}
        answers = self.predictor.infer_ensembles(prepared, numbered, sample=SAMPLE).values()
        reference, case = self.reference_of(prepared.scan), self.case_of(prepared.scan)
        first, *others = (self.with_calibration(answer, reference) for answer in answers)
        if case:
            self.kept[case.name] = [PendingPrediction(prediction=other, source=prepared.scan.source) for other in others]
        return first

    def rest_of(self, case: str, count: int) -> Sequence[PendingPrediction | None]:
        """What the others said of a case, which is forgotten; so many times nothing if they were not asked."""
        kept: list[PendingPrediction | None] = [*self.kept.pop(case, [])]
        return kept or [None] * count

    def memory_gb(self, grid: Grid, *, probabilities: bool = False, uncertainty: bool = False) -> float:
        """RAM that a scan takes at most."""
        maps = WAITING * (len(self.ensembles) - 1) * self.model.labels.dtype.itemsize
        return self.predictor.memory_gb(grid, uncertainty=True) + maps * math.prod(grid.shape) / 1e9


@dataclass(frozen=True, kw_only=True)
class _EnsembleOutput:
    """Where a party's predictions go.

    Args:
        record: of its folder.
    """

    target: OutputTarget
    record: PredictionsWriter

    @classmethod
    def of(cls, party: Ensemble, model: Model, stack: ExitStack) -> _EnsembleOutput:
        record = stack.enter_context(PredictionsWriter(party.job.out, model={"key": party.job.key}, labels=model.labels))
        return cls(target=OutputTarget(out=party.job.out, key=digest([FORMAT, party.job.key])), record=record)

    def file(self, event: Finished, rest: PendingPrediction | None, model: Model) -> None:
        """Write a prediction and put it on record; of a case that has failed, that alone."""
        if event.record.status == "failed":
            self.record.put(event.case, event.record, quiet=True)
        elif rest:
            self.record.put(event.case, self._written(event, rest, model), quiet=True)

    def _written(self, event: Finished, rest: PendingPrediction, model: Model) -> ScanRecord:
        said, key = rest.prediction, digest([event.record.input, self.target.key])
        seconds = event.record.seconds | {stage: round(spent, 4) for stage, spent in said.seconds.items()}
        known = event.record.model_copy(update={"key": key, "seconds": seconds, "confidence": said.confidence})
        try:
            ((file, of_it),) = write_prediction(said, event.case, rest.source, self.target, model.labels).items()
        except NnsegError as error:
            return known.model_copy(update={"status": "failed", "reason": str(error), "file": "", "hash": ""})
        return known.model_copy(update={"file": file, "hash": of_it})


def _known(desks: Sequence[_EnsembleOutput], case: str) -> ScanRecord | None:
    """What the first record says of a case, if all of them say the same of the same scan, and have what they say."""
    first = desks[0].record.cases.get(case)
    for desk in desks:
        found = desk.record.cases.get(case)
        if not first or not found or (found.status, found.input) != ("done", first.input):
            return None
        if found.key != digest([found.input, desk.target.key]) or not found.is_whole(desk.target.out):
            return None
    return first
