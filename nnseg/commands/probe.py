"""Measurements of candidate plans on this machine, each in a process of its own, which may die. No torch is loaded here."""

from __future__ import annotations

import logging
import math
import platform
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Literal

from nnseg.core.dataset import Case, Dataset
from nnseg.core.errors import RunError
from nnseg.core.fingerprint import Fingerprint
from nnseg.core.frozen import FrozenModel
from nnseg.core.options import device_kind
from nnseg.core.plan import Plan
from nnseg.core.probe import CaseCost, Probe, Trial, handling_key, trial_key, work_key
from nnseg.core.processors import default_workers
from nnseg.planning.preflight import FreeResources
from nnseg.storage.files import read_json, write_json
from nnseg.storage.run import Run
from nnseg.system.machine import GIGABYTE, free_device_gb, free_disk_gb, free_ram_gb, versions
from nnseg.system.process import ChildProcess, launch
from nnseg.system.progress import stage
from nnseg.system.regular import files_below

log = logging.getLogger(__name__)

TIME_LIMIT = 600.0
"""Seconds after which a process that still measures is killed."""

MAX_CASES = 8
"""Cases of the dataset that are measured with."""


class ProbeRequest(FrozenModel):
    """A measurement that a process is to make.

    Args:
        task: "handle" preprocesses the cases into the store, and predicts them; "train" trains on those in the store.
        plan: the candidate.
        cases: the largest first, then the median one, then others.
        megavoxels: million voxels of each case's scan, by name.
        store: folder of the preprocessed cases.
        device: where the networks compute.
        held_out: number of cases that a fold holds out.
    """

    task: Literal["handle", "train"]
    plan: Plan
    cases: tuple[Case, ...]
    megavoxels: dict[str, float]
    store: Path
    device: str
    held_out: int


class ProbeResult(FrozenModel):
    """The result of a measurement: ``handling`` or ``trial``, or an error.

    Args:
        device: the one used.
        threads: of torch.
        base_gb: RAM of the process before the measurement.
        error: why the candidate cannot be measured.
    """

    device: str = ""
    threads: int = 0
    base_gb: float = 0.0
    handling: CaseCost | None = None
    trial: Trial | None = None
    error: str = ""


def probe(
    run: Run,
    dataset: Dataset,
    fingerprint: Fingerprint,
    candidates: Iterable[Plan],
    *,
    device: str = "auto",
    most: int = 0,
    enough: Callable[[Plan, Trial], bool] | None = None,
) -> Probe:
    """The run's probe, with a trial of each candidate in their order, until ``enough`` returns True for one.

    Trials on file from the same machine and dataset are not measured again, nor is the memory that was free then, so the same
    command gives the same probe. A candidate that cannot be trained has a trial with the reason.

    Args:
        run: keeps the probe; must be locked by the caller.
        dataset: its cases are measured with.
        fingerprint: of the dataset.
        candidates: plans to try; may be generated meanwhile.
        device: where the networks compute.
        most: number of candidates that there may be, to be shown; 0 if it is not known.
        enough: called with each candidate and its trial, whether on file or new.
    """
    known = known_probe(run, fingerprint, device=device) or _new_probe(fingerprint, device)
    kept: list[str] = []
    shutil.rmtree(run.probe_folder, ignore_errors=True)  # of a process that was killed
    try:
        for plan in candidates:
            trial = known.trial(trial_key(plan))
            if trial is None or trial.failed:  # what failed may work now that other programs have ended
                of = f" of at most {most}" if most > 1 else ""
                with stage(f"planning: trying network {len(kept) + 1}{of}"):
                    known, trial = _try(known, _request(plan, dataset, fingerprint, run.probe_folder, device))
                write_json(run.probe_file, known)
            kept.append(trial.key)
            if enough and enough(plan, trial):
                break
    finally:
        shutil.rmtree(run.probe_folder, ignore_errors=True)
    return known.model_copy(update={"trials": tuple(t for t in known.trials if t.key in kept)})


def known_probe(run: Run, fingerprint: Fingerprint, *, device: str = "auto") -> Probe | None:
    """The probe on file for the run, if it was measured on this machine and dataset and has a trial that succeeded."""
    try:
        known = read_json(run.probe_file, Probe)
    except RunError as error:
        log.debug("no probe on file: %s", error)
        return None
    same = (known.machine, known.dataset) == (_machine(device), fingerprint.key)
    return known if same and any(not t.failed for t in known.trials) else None


def free_resources(run: Run, device: str = "auto") -> FreeResources:
    """Free RAM, memory of the device, and disk space, to which what the run already has there is added."""
    there = sum(path.stat().st_size for path in files_below(run.path)) / GIGABYTE
    return FreeResources(ram_gb=free_ram_gb(), device_gb=free_device_gb(device), disk_gb=free_disk_gb(run.path) + there)


def cases_to_measure(dataset: Dataset, fingerprint: Fingerprint) -> tuple[Case, ...]:
    """The largest case, the median one, and some spread evenly between the smallest and the largest."""
    sizes = {case.name: math.prod(case.shape) for case in fingerprint.cases}
    ordered = sorted((case for case in dataset.cases if case.name in sizes), key=lambda c: (sizes[c.name], c.name))
    last = len(ordered) - 1
    places = [last, last // 2, *(round(i * last / (MAX_CASES - 1)) for i in range(MAX_CASES))]
    return tuple(ordered[i] for i in dict.fromkeys(places))[:MAX_CASES]


def _machine(device: str) -> str:
    kind = device_kind(device) if device == "auto" else device
    return f"{kind}, {default_workers()} cores, {platform.machine()}, torch {versions()['torch']}"


def _new_probe(fingerprint: Fingerprint, device: str) -> Probe:
    """A probe without trials."""
    ram = round(free_ram_gb(), 2)
    return Probe(
        device=device,
        threads=default_workers(),
        device_gb=round(free_device_gb(device), 2) or ram,
        ram_gb=ram,
        machine=_machine(device),
        dataset=fingerprint.key,
    )


def _request(plan: Plan, dataset: Dataset, fingerprint: Fingerprint, folder: Path, device: str) -> ProbeRequest:
    return ProbeRequest(
        task="train",
        plan=plan,
        cases=cases_to_measure(dataset, fingerprint),
        megavoxels={case.name: math.prod(case.shape) / 1e6 for case in fingerprint.cases},
        store=folder / handling_key(plan),
        device=device,
        held_out=math.ceil(len(fingerprint.cases) / 5) if len(fingerprint.cases) > 1 else 0,
    )


def _try(known: Probe, request: ProbeRequest) -> tuple[Probe, Trial]:
    """The probe with one more trial, and that trial; the cases are preprocessed first if they are not yet."""
    plan = request.plan
    features, batch = plan.network.features[0], plan.training.batch_size
    log.info("measuring a network for %s (%d features in its first stage, %d patches a step)", plan.name, features, batch)
    if not request.store.exists():
        request.store.mkdir(parents=True)
        known = _with_handling(known, request)
    handling = known.case_cost_of(plan)
    result = ProbeResult(error=handling.failed) if handling and handling.failed else _measure(request)
    trial = result.trial or Trial(key="", failed=result.error)
    trial = trial.model_copy(update={"key": trial_key(plan), "work": work_key(plan)})
    if result.trial:
        known = known.model_copy(update={"device": result.device, "threads": result.threads, "base_gb": result.base_gb})
    if trial.slowdown > 1:
        log.warning(
            "other programs use this machine: a training step takes %.1f times as long as it would alone; the plan is made as if "
            "it were alone, and the training keeps to its time",
            trial.slowdown,
        )
    others = tuple(t for t in known.trials if t.key != trial.key)
    return known.model_copy(update={"trials": (*others, trial)}), trial


def _with_handling(known: Probe, request: ProbeRequest) -> Probe:
    """The probe with the cost of the request's cases, which are in its store afterwards; a cost on file is kept."""
    result = _measure(request.model_copy(update={"task": "handle"}))
    before = known.case_cost_of(request.plan)
    if before and not before.failed:
        return known
    handling = result.handling or CaseCost(key="", failed=result.error)
    handling = handling.model_copy(update={"key": handling_key(request.plan)})
    return known.model_copy(update={"handling": (*(h for h in known.handling if h.key != handling.key), handling)})


def _measure(request: ProbeRequest) -> ProbeResult:
    """The result of a measurement in a process of its own, or the error that prevented it."""
    lines: list[bytes | None] = []
    with ChildProcess(launch("nnseg.commands.probe_worker"), lines.append, level=logging.DEBUG) as child:
        child.send(request)
        if child.wait(TIME_LIMIT) is None:
            return ProbeResult(error=f"could not be measured within {TIME_LIMIT / 60:.0f} minutes")
        with suppress(ValueError, IndexError):
            return ProbeResult.model_validate_json(lines[-2:][0] or b"")
        return ProbeResult(error=f"its process {child.explain_end()}")
