"""Trainings side by side: each device takes the next fold when it is free, in a process of its own."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nnseg.commands.report import report_quietly
from nnseg.core.dataset import Fold
from nnseg.core.errors import NnsegError, RunError, Stopped
from nnseg.core.frozen import FrozenModel
from nnseg.core.options import Options, default_workers
from nnseg.storage.run_folder import PlanFolder, RunFolder, read_json, write_json
from nnseg.system.parallel import own_process
from nnseg.system.stop import StopRequest
from nnseg.training.fold import TrainingRequest, train_fold
from nnseg.training.progress import REFRESH, ProgressSettings

log = logging.getLogger(__name__)

GLANCE = 0.2
"""Seconds between two looks at the processes."""


class TrainingJob(FrozenModel):
    """One training.

    Args:
        name: for people.
        run: folder of the run.
        plan: folder of the plan.
        number: of the fold.
        fold: its cases.
        keys: of the preprocessed cases.
        options: with the device.
        parent: the process that wants it done.
    """

    name: str
    run: Path
    plan: Path
    number: int
    fold: Fold
    keys: dict[str, str]
    options: Options
    parent: int


@dataclass(kw_only=True, eq=False)
class _TrainingProcess:
    """A process at its job."""

    job: TrainingJob
    process: subprocess.Popen[str]
    relay: threading.Thread
    said: list[str]


def train_side_by_side(run: RunFolder, jobs: Sequence[TrainingJob], stop: StopRequest) -> None:
    """Train all jobs, as many at a time as there are devices; a job that fails costs no other.

    Args:
        run: whose report is kept up to date.
        jobs: in the order in which they begin; their options name the devices.
        stop: asks all of them to end.

    Raises:
        RunError: some failed; the others are done.
        Stopped: a signal asked for an end; everything is saved.
    """
    waiting, busy, failed = list(jobs), dict[str, _TrainingProcess](), list[str]()
    devices, told, reported = jobs[0].options.devices, False, time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        try:
            while busy or (waiting and not stop.asked):
                for device in [d for d in _named(devices) if d not in busy and waiting and not stop.asked]:
                    busy[device] = _started(waiting.pop(0), device, Path(scratch), beside=len(devices))
                for device in [d for d, worker in busy.items() if worker.process.poll() is not None]:
                    failed += _outcome(busy.pop(device), told=told)
                if stop.asked == "signal" and not told:
                    told = True
                    for worker in busy.values():
                        worker.process.send_signal(signal.SIGTERM)
                if time.monotonic() - reported > REFRESH:
                    report_quietly(run)
                    reported = time.monotonic()
                time.sleep(GLANCE)
        finally:
            for worker in busy.values():
                worker.process.kill()
    if stop.asked == "signal":
        raise Stopped("all trainings stopped, and everything is saved; the same command goes on", stop.code)
    if failed:
        raise RunError("; ".join(failed) + "; all others are done")


def main(asked: str) -> None:
    """Do the job in a file; what goes wrong is the last line on stderr, and the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    job = read_json(Path(asked), TrainingJob)
    with StopRequest(RunFolder(job.run).stop_file, clears=False, parent=job.parent) as stop:
        order = TrainingRequest(options=job.options, stop=stop, watch=ProgressSettings(tensorboard=job.options.tensorboard))
        try:
            train_fold(PlanFolder(job.plan), job.number, job.fold, job.keys, order)
        except Stopped as end:
            log.info("%s", end)
            sys.exit(end.code)
        except NnsegError as error:
            log.error("%s", error)
            sys.exit(2)


def _named(devices: Sequence[str]) -> list[str]:
    """Names for devices, of which the same may be given twice."""
    return [f"{device}#{number}" for number, device in enumerate(devices)]


def _started(job: TrainingJob, name: str, scratch: Path, *, beside: int) -> _TrainingProcess:
    device = name.partition("#")[0]
    job = job.model_copy(update={"options": replace(job.options, device=device, devices=())})
    file = scratch / f"{job.name}.json"
    write_json(file, job)
    threads = {"OMP_NUM_THREADS": str(max(1, default_workers() // beside))}
    process = subprocess.Popen(
        [*own_process("nnseg.commands.train_parallel"), file],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **threads},
        start_new_session=True,  # so that Ctrl-C reaches the first process alone, which tells the others
    )
    said: list[str] = []
    relay = threading.Thread(target=_relay, args=(process, said), daemon=True)
    relay.start()
    return _TrainingProcess(job=job, process=process, relay=relay, said=said)


def _relay(process: subprocess.Popen[str], said: list[str]) -> None:
    assert process.stderr is not None
    with process.stderr:
        for line in process.stderr:
            said[:] = [line.rstrip()]
            log.info("%s", line.rstrip())


def _outcome(worker: _TrainingProcess, *, told: bool) -> list[str]:
    """What went wrong, if anything did; to end when told to is not wrong."""
    worker.relay.join()
    code, name = worker.process.returncode, worker.job.name
    if code == 0 or (told and code == 128 + signal.SIGTERM):
        return []
    if code < 0:
        return [f"the training of {name} was killed ({signal.Signals(-code).name})"]
    return [f"the training of {name} failed: {(worker.said or ['no word'])[-1]}"]


def jobs_of(
    run: RunFolder, folder: PlanFolder, folds: Mapping[int, Fold], keys: Mapping[str, str], options: Options
) -> list[TrainingJob]:
    """A job for each fold of a plan."""
    name = folder.plan().name
    return [
        TrainingJob(
            name=f"{name} fold {number}",
            run=run.path.resolve(),
            plan=folder.path.resolve(),
            number=number,
            fold=fold,
            keys=dict(keys),
            options=options,
            parent=os.getpid(),
        )
        for number, fold in folds.items()
    ]
