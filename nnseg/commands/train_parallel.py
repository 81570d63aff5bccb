"""Folds trained side by side: each device takes the next one when it is free, in a process of its own. No torch is loaded here.

The devices are those of this machine, or of all machines of a cluster; there a training whose machine is lost goes on elsewhere.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from nnseg.core.dataset import Fold
from nnseg.core.errors import RunError, Stopped
from nnseg.core.frozen import FrozenModel
from nnseg.core.options import Options
from nnseg.core.processors import default_workers
from nnseg.storage.plan_folder import PlanFolder
from nnseg.storage.run import Run
from nnseg.system.cluster import LOST, Cluster
from nnseg.system.process import ChildProcess, launch
from nnseg.system.progress import Stage, is_shown, stage
from nnseg.system.regular import resolved
from nnseg.system.stop import StopRequest

log = logging.getLogger(__name__)

REFRESH_INTERVAL = 60.0
"""Seconds between two updates of the report."""

POLL_INTERVAL = 0.2
"""Seconds between two checks of the processes."""

LOOK_INTERVAL = 5.0
"""Seconds between two looks at the histories of the trainings that run."""


MOST_LOSSES = 10
"""Machines lost under a training without a new checkpoint in between; one may be lost twice before the cluster knows of it."""


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
        parent: number of the process that starts the training; None on a cluster, where it is another machine's.
    """

    name: str
    run: Path
    plan: Path
    number: int
    fold: Fold
    keys: dict[str, str]
    options: Options
    parent: int | None


def on_cluster(options: Options, cluster: Cluster | None) -> Options:
    """The options, with the devices of a cluster if there is one.

    Raises:
        RunError: they name devices of this machine, too.
    """
    if cluster is None:
        return options
    if options.devices:
        raise RunError("--devices names devices of this machine, --cluster takes those of all machines; give one of them")
    return replace(options, devices=(options.device,) * cluster.share(gpus=options.device != "cpu").count)


def train_side_by_side(
    jobs: Sequence[TrainingJob], stop: StopRequest, refresh: Callable[[], None] | None, cluster: Cluster | None = None
) -> None:
    """Train all jobs, as many at a time as there are devices; a job that fails does not stop the others.

    Args:
        jobs: in the order in which they begin; their options name the devices.
        stop: ends all of them.
        refresh: updates the report; called regularly.
        cluster: on whose machines they are trained, see `on_cluster`.

    Raises:
        RunError: some failed; the others are done.
        Stopped: by a signal; everything is saved.
    """
    waiting, running, failed = list(jobs), dict[int, tuple[TrainingJob, ChildProcess]](), list[str]()
    devices, signalled, refreshed, lost = jobs[0].options.devices, False, time.monotonic(), Counter[tuple[str, int]]()
    start = _starter(jobs[0].options, cluster)
    try:
        with stage("training", total=len(jobs), count=len(jobs)) as shown:
            while running or (waiting and not stop.source):
                for number, device in enumerate(devices):  # the same device may be listed twice
                    if number not in running and waiting and not stop.source:
                        running[number] = waiting[0], _start(waiting.pop(0), device, start)
                failed += _collect(running, waiting, lost, signalled=signalled)
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


def _starter(options: Options, cluster: Cluster | None) -> Callable[[], subprocess.Popen[bytes]]:
    """What starts a process that trains, here or on a cluster; it saves its state if it loses its parent."""
    module = "nnseg.commands.train_worker"
    if cluster:
        return partial(cluster.launch, module, cluster.share(gpus=options.device != "cpu"), end_signal="SIGTERM")
    return partial(launch, module, threads=max(1, default_workers() // len(options.devices)), end_signal="SIGTERM")


def _start(job: TrainingJob, device: str, start: Callable[[], subprocess.Popen[bytes]]) -> ChildProcess:
    """A process at a job on one of the devices."""
    child = ChildProcess(start())
    child.send(job.model_copy(update={"options": replace(job.options, device=device, devices=())}))
    return child


def _collect(
    running: dict[int, tuple[TrainingJob, ChildProcess]],
    waiting: list[TrainingJob],
    lost: Counter[tuple[str, int]],
    *,
    signalled: bool,
) -> list[str]:
    """Remove the trainings that have ended, and return what went wrong with them; stopping upon a signal is not wrong.

    Those that were lost with their machine wait again, unless they are given up.
    """
    failed = []
    for number, (job, child) in list(running.items()):
        if (code := child.wait(0)) is None:
            continue
        del running[number]
        if code and not (signalled and code == 128 + signal.SIGTERM):
            reason = f"the training of {job.name} {child.explain_end()}"
            if code == LOST and not _is_given_up(job, lost):
                log.warning("%s; it goes on elsewhere from its last checkpoint", reason)
                waiting.insert(0, job)
            else:
                failed.append(reason)
        child.kill()  # on a cluster also the process that held its place
    return failed


def _is_given_up(job: TrainingJob, lost: Counter[tuple[str, int]]) -> bool:
    """Whether a training was now lost too often without a new checkpoint in between.

    Args:
        lost: how often, by its name and the time of its checkpoint.
    """
    file = PlanFolder(job.plan).fold(job.number).checkpoint_file
    saved = job.name, file.stat().st_mtime_ns if file.exists() else 0
    lost[saved] += 1
    return lost[saved] >= MOST_LOSSES


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
            parent=None if options.cluster else os.getpid(),
        )
        for number, fold in folds.items()
    ]
