"""``nnseg predict``: label maps for scans, each on its scan's own grid; and for the held-out cases of a run."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from nnseg.core.dataset import Case
from nnseg.core.errors import RunError
from nnseg.core.image import LabelMap, Scan
from nnseg.core.parallel import each
from nnseg.core.plan import digest
from nnseg.inference.ensemble import average
from nnseg.inference.predict import Predictor
from nnseg.network.bundle import Model
from nnseg.network.device import resolve_device
from nnseg.storage.datasets import content_hash, find_scans
from nnseg.storage.images import FORMATS, label_suffix, read_scan, suffix_of, write_label_map
from nnseg.storage.runs import read_json, write_json

log = logging.getLogger(__name__)


RECORD = "predictions.json"
"""Beside the label maps: what became of each scan."""


class Written(BaseModel):
    """What became of one scan.

    Args:
        status: "done" or "failed".
        reason: why it failed.
        file: name of the label map.
        hash: of its bytes.
        key: digest of the scan, the model and the options it was made from.
        seconds: it took.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    status: Literal["done", "failed"]
    reason: str = ""
    file: str = ""
    hash: str = ""
    key: str = ""
    seconds: float = 0.0


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


def predict_scans(
    scans: Path, out: Path, model: Model, *, device: str = "auto", step: float | None = None, mirror: bool = True
) -> dict[str, Written]:
    """Predict a file or folder of scans; each succeeds or fails alone, and what is done already stays.

    Raises:
        RunError: ``out`` lies where the scans are.
    """
    cases = find_scans(scans, channels=len(model.channels))
    if out.resolve() == scans.resolve() or scans.resolve() in out.resolve().parents:
        raise RunError(f"{out} is where the scans are; choose another folder for the label maps")
    if out.is_file() or (not out.exists() and suffix_of(out) in FORMATS):
        raise RunError(f"{out} must be a folder, not a file; label maps get their scans' names")
    if not (out / RECORD).exists() and out.is_dir() and any(suffix_of(path) in FORMATS for path in out.iterdir()):
        raise RunError(f"{out} holds images that nnseg did not make; choose another folder for the label maps")
    predictor = Predictor(model, device=resolve_device(device), step=step, mirror=mirror)
    job = Job(cases=cases, out=out, key=digest([model.key(), step, mirror]))
    return predict_into(job, lambda scan: predictor(scan).label_map)


def predict_into(job: Job, predict: Callable[[Scan], LabelMap]) -> dict[str, Written]:
    """Write a label map for each case of the job that has none from the same scan and model yet."""
    record_file = job.out / RECORD
    record = read_json(record_file, dict[str, Written]) if record_file.exists() else {}

    def one(case: Case) -> Written:
        start, key = time.perf_counter(), digest([content_hash(case.images), job.key])
        if _is_done(record.get(case.name), key, job.out):
            return record[case.name]
        scan = read_scan(case.images)
        path = job.out / (case.name + label_suffix(scan.source))
        write_label_map(predict(scan), path, like=scan.source)
        return Written(status="done", file=path.name, hash=_hash(path), key=key, seconds=round(time.perf_counter() - start, 3))

    if not record_file.exists():
        write_json(record_file, record)  # first, so that the folder is known to be ours whatever happens
    for outcome in each(one, job.cases, label="predicting"):
        result = outcome.result or Written(status="failed", reason=outcome.reason or "")
        if result.status == "failed":
            log.error("case %s: %s", outcome.item.name, result.reason)
            log.debug("%s", outcome.details)
            _remove(job.out, record.get(outcome.item.name))
        if record.get(outcome.item.name) != result:
            record[outcome.item.name] = result
            write_json(record_file, record)
    return {case.name: record[case.name] for case in job.cases}


def predict_held_out(jobs: Mapping[str, Job], models: Mapping[str, Model], *, device: str = "auto") -> dict[str, Written]:
    """Predict held-out cases with each plan's model, and with all of them together.

    Args:
        jobs: one a plan, by name, and, where several plans answer together, one called "ensemble".
        models: the plans' models by the same names.

    Returns:
        What became of the cases of the last job: the ensemble's, or the only plan's.
    """
    target = resolve_device(device)
    predictors = {name: Predictor(model, device=target) for name, model in models.items()}
    shown = {member.plan.previous for model in models.values() for member in model.members}
    together = [predictor for name, predictor in predictors.items() if name not in shown]
    written: dict[str, Written] = {}
    for name, job in jobs.items():
        members = together if name == "ensemble" else [predictors[name]]
        written = predict_into(job, lambda scan, members=members: _together(members, scan))  # type: ignore[misc]
    return written


def _together(predictors: Sequence[Predictor], scan: Scan) -> LabelMap:
    if len(predictors) == 1:
        return predictors[0](scan).label_map
    probabilities = average(p(scan).probabilities for p in predictors)
    return LabelMap(labels=predictors[0].model.labels.decide(np.asarray(probabilities)), grid=scan.grid)


def _remove(out: Path, old: Written | None) -> None:
    """Remove the label map of a scan that can no longer be predicted: it would be taken for an answer."""
    if old and old.file:
        (out / old.file).unlink(missing_ok=True)


def _is_done(known: Written | None, key: str, out: Path) -> bool:
    if known is None or known.status != "done" or known.key != key:
        return False
    path = out / known.file
    return path.exists() and _hash(path) == known.hash


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
