"""Folds trained side by side: each device takes the next one when it is free, in a process of its own. No torch is loaded here."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from nnseg.core.dataset import Fold
from nnseg.core.errors import RunError, Stopped
from nnseg.core.frozen import FrozenModel
from nnseg.core.options import Options
from nnseg.core.processors import default_workers
from nnseg.storage.plan_folder import PlanFolder
from nnseg.storage.run import Run
from nnseg.system.process import ChildProcess, launch
from nnseg.system.progress import Stage, is_shown, stage
from nnseg.system.regular import resolved
from nnseg.system.stop import StopRequest

REFRESH_INTERVAL = 60.0
"""Seconds between two updates of the report."""

POLL_INTERVAL = 0.2
"""Seconds between two checks of the processes."""

LOOK_INTERVAL = 5.0
"""Seconds between two looks at the histories of the trainings that run."""


class TrainingJob(FrozenModel):
    """One training.

    Args:
        name: in messages.
        run: folder of the run.
        plan: folder of the plan.
        number: of the fold.
        fold: its cases.
        keys: of the preprocessed cases.
        options: with the device.
        parent: number of the process that starts the training.
    """

    name: str
    run: Path
    plan: Path
    number: int
    fold: Fold
    keys: dict[str, str]
    options: Options
    parent: int


def train_side_by_side(jobs: Sequence[TrainingJob], stop: StopRequest, refresh: Callable[[], None] | None) -> None:
    """Train all jobs, as many at a time as there are devices; a job that fails does not stop the others.

    Args:
        jobs: in the order in which they begin; their options name the devices.
        stop: ends all of them.
        refresh: updates the report; called regularly.

    Raises:
        RunError: some failed; the others are done.
        Stopped: by a signal; everything is saved.
    """
    waiting, running, failed = list(jobs), dict[int, tuple[TrainingJob, ChildProcess]](), list[str]()
    devices, signalled, refreshed = jobs[0].options.devices, False, time.monotonic()
    try:
        with stage("training", total=len(jobs), count=len(jobs)) as shown:
            while running or (waiting and not stop.source):
                for number, device in enumerate(devices):  # the same device may be listed twice
                    if number not in running and waiting and not stop.source:
                        running[number] = waiting[0], _start(waiting.pop(0), device, beside=len(devices))
                failed += _collect(running, signalled=signalled)
                _show(shown, [job for job, _ in running.values()], ended=len(jobs) - len(waiting) - len(running))
                if stop.source == "signal" and not signalled:
                    signalled = True
                    for _, child in running.values():
                        child.process.send_signal(signal.SIGTERM)
                if refresh and time.monotonic() - refreshed > REFRESH_INTERVAL:
                    refresh()
                    refreshed = time.monotonic()
                time.sleep(POLL_INTERVAL)
    finally:
        for _, child in running.values():
            child.kill()
    if stop.source == "signal":
        raise Stopped("all trainings are stopped and saved; the same command continues", stop.code)
    if failed:
        raise RunError("; ".join(failed) + "; all others are done")


def _start(job: TrainingJob, device: str, *, beside: int) -> ChildProcess:
    """A process at a job on one of ``beside`` devices; it saves its state if it loses its parent."""
    threads = max(1, default_workers() // beside)
    child = ChildProcess(launch("nnseg.commands.train_worker", threads=threads, end_signal="SIGTERM"))
    child.send(job.model_copy(update={"options": replace(job.options, device=device, devices=())}))
    return child


def _collect(running: dict[int, tuple[TrainingJob, ChildProcess]], *, signalled: bool) -> list[str]:
    """Remove the trainings that have ended, and return what went wrong with them; stopping upon a signal is not wrong."""
    failed = []
    for number, (job, child) in list(running.items()):
        if (code := child.wait(0)) is not None:
            del running[number]
            if code and not (signalled and code == 128 + signal.SIGTERM):
                failed.append(f"the training of {job.name} {child.explain_end()}")
    return failed


def _show(shown: Stage, running: Sequence[TrainingJob], *, ended: int) -> None:
    """Bring the line up to date: how many trainings have ended, and, when that changes or some seconds have passed, the others."""
    before = shown.finished
    for _ in range(ended - before):
        shown.advance()
    if is_shown() and (not shown.detail or ended > before or time.monotonic() % LOOK_INTERVAL < POLL_INTERVAL):
        shown.detail = ", ".join(map(_with_dice, running))


def _with_dice(job: TrainingJob) -> str:
    """The name of a training, with the mean Dice of its last epoch if there is one."""
    try:
        epochs = PlanFolder(job.plan).fold(job.number).history()
    except (OSError, RunError):  # it is being written
        return job.name
    mean = epochs[-1].mean_dice if epochs else None
    return job.name if mean is None else f"{job.name} Dice {mean:.2f}"


def jobs_of(
    run: Run, folder: PlanFolder, folds: Mapping[int, Fold], keys: Mapping[str, str], options: Options
) -> list[TrainingJob]:
    """A job for each fold of a plan."""
    name = folder.plan.name
    return [
        TrainingJob(
            name=f"{name} fold {number}",
            run=resolved(run.path),
            plan=resolved(folder.path),
            number=number,
            fold=fold,
            keys=dict(keys),
            options=options,
            parent=os.getpid(),
        )
        for number, fold in folds.items()
    ]
