"""Predictions of held-out cases, made in this process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nnseg.core.dataset import Case
from nnseg.core.machine import free_ram_gb
from nnseg.core.parallel import progress
from nnseg.core.plan import digest
from nnseg.inference.predict import Predictor
from nnseg.network.bundle import Model
from nnseg.network.device import resolve_device
from nnseg.verbs.line import Answerer, Line
from nnseg.verbs.messages import Finished, Stage, Task
from nnseg.verbs.outputs import Target
from nnseg.verbs.predictions import FORMAT, Record, Written
from nnseg.verbs.supervisor import SHARE_OF_FREE
from nnseg.verbs.witness import Witness


@dataclass(frozen=True, kw_only=True)
class Job:
    """Scans to predict into a folder.

    Args:
        cases: the scans.
        out: folder of the label maps; ``predictions.json`` beside them says how each was made.
        key: digest of the model and options.
    """

    cases: tuple[Case, ...]
    out: Path
    key: str


def predict_into(job: Job, predictor: Answerer, *, device: str = "cpu") -> dict[str, Written]:
    """Write a label map for each case of the job that has none from the same scan and model yet.

    Args:
        job: the cases, and where to.
        predictor: of them.
        device: kind of what it computes on.
    """
    target = Target(out=job.out, key=digest([FORMAT, job.key]))
    with Record(job.out, model={"key": job.key}, labels=predictor.model.labels) as record:

        def report(event: Stage | Finished) -> None:
            if isinstance(event, Finished):
                record.put(event.case, event.written)

        tasks = [Task(case=case, known=record.cases.get(case.name)) for case in job.cases]
        line = Line(predictor, target, report, room_gb=SHARE_OF_FREE * free_ram_gb(), keep=device == "cpu")
        line.run(progress(tasks, total=len(tasks), label="predicting"))
        return {case.name: record.cases[case.name] for case in job.cases}


def predict_alone(job: Job, model: Model, *, device: str = "auto") -> dict[str, Written]:
    """What became of held-out cases that one model predicts, by name.

    Args:
        job: the cases, and where to.
        model: that has not seen them.
    """
    target = resolve_device(device)
    return predict_into(job, Witness(predictor=Predictor(model, device=target), cases=job.cases), device=target.type)
