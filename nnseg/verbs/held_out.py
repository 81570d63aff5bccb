"""Predictions of held-out cases, made in this process."""

from __future__ import annotations

from collections.abc import Mapping
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
from nnseg.verbs.model import merge
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
    with Record(job.out, model={"key": job.key}) as record:

        def report(event: Stage | Finished) -> None:
            if isinstance(event, Finished):
                record.put(event.case, event.written)

        tasks = [Task(case=case, known=record.cases.get(case.name)) for case in job.cases]
        line = Line(predictor, target, report, room_gb=SHARE_OF_FREE * free_ram_gb(), keep=device == "cpu")
        line.run(progress(tasks, total=len(tasks), label="predicting"))
        return {case.name: record.cases[case.name] for case in job.cases}


def predict_held_out(jobs: Mapping[str, Job], models: Mapping[str, Model], *, device: str = "auto") -> dict[str, Written]:
    """Predict held-out cases with each plan's model, and with all of them together.

    Args:
        jobs: one a plan, by name, and, where several plans answer together, one called "ensemble".
        models: the plans' models by the same names.

    Returns:
        What became of the cases of the last job: the ensemble's, or the only plan's.
    """
    target = resolve_device(device)
    shown = {member.plan.previous for model in models.values() for member in model.members}
    together = [model for name, model in models.items() if name not in shown]
    written: dict[str, Written] = {}
    for name, job in jobs.items():
        model = merge(together) if name == "ensemble" else models[name]
        written = predict_into(job, Witness(predictor=Predictor(model, device=target), cases=job.cases), device=target.type)
    return written
