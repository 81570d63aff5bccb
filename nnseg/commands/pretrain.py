"""``nnseg pretrain``: weights from scans without labels, for ``--init``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from safetensors.torch import save

from nnseg.core.dataset import Case, Finding, Fold, counted
from nnseg.core.errors import DatasetError, RunError
from nnseg.core.frozen import digest
from nnseg.core.options import Options
from nnseg.core.plan import Plan
from nnseg.core.pretrained import Pretrained
from nnseg.network.bundle import load_model_file
from nnseg.planning.measure import failure_of
from nnseg.preprocessing.preprocess import preprocess
from nnseg.storage.cases import CaseStore
from nnseg.storage.datasets.find_scans import find_scans
from nnseg.storage.datasets.read_case import read_case_scan
from nnseg.storage.files import file_hash, write_aside
from nnseg.storage.locks import locked
from nnseg.storage.plan_folder import PlanFolder, read_plan, write_plan
from nnseg.storage.pretrained import DESCRIPTION, write_pretrained
from nnseg.storage.run import Run
from nnseg.storage.temporary import sweep
from nnseg.system.parallel import map_items
from nnseg.system.progress import sizes_of
from nnseg.system.stop import StopRequest
from nnseg.training.fold import TrainingRequest, train_fold
from nnseg.training.pretraining import masked_autoencoding, pretraining_plan, weights_of
from nnseg.training.progress import ProgressSettings

log = logging.getLogger(__name__)

TRAINING, WEIGHTS, STOP = "training", "weights.safetensors", "STOP"
"""Of the folder that is made: the training with its cases and checkpoints, the weights, and the file that ends the training."""


@dataclass(frozen=True, kw_only=True)
class PretrainedWeights:
    """What ``nnseg pretrain`` makes.

    Args:
        description: file to give to ``--init``.
        scans: number that the network learned from.
        steps: of the training.
        loss: mean squared error in the masked blocks at the end, in normalized intensities.
        problems: scans that could not be used.
    """

    description: Path
    scans: int
    steps: int
    loss: float
    problems: tuple[Finding, ...] = ()


def pretrain(scans: Path, out: Path, options: Options, *, plan: Path) -> PretrainedWeights:
    """Train a plan's network to fill in masked blocks of scans, and write its weights with their description. Resumes.

    Args:
        scans: a folder of scans with the plan's channels; label maps in it are not read.
        out: folder for the weights.
        options: length of the training, device and workers.
        plan: a ``plan.toml``, or a run that has one plan.

    Raises:
        PlanError: the plan cannot be read, or is a cascade's.
        DatasetError: no scan can be used.
        Stopped: a signal asked for an end.
    """
    chosen = pretraining_plan(_read(plan))
    found = find_scans(scans, channels=len(chosen.channels), names=chosen.channels)
    with locked(out, busy="{} is in use by another process; wait until it has ended"):
        sweep(out)
        folder = PlanFolder(out / TRAINING)
        if not folder.plan_file.exists() or folder.plan.key() != chosen.key():
            write_plan(folder.plan_file, chosen)
        keys, problems = _preprocess(found.cases, folder, options.workers)
        log.info("%s: learning from %s without labels", chosen.name, counted(len(keys), "scan"))
        with StopRequest(out / STOP) as stop:
            progress = ProgressSettings(tensorboard=options.tensorboard, place="without labels")
            request = TrainingRequest(options=options, stop=stop, progress=progress, objective=masked_autoencoding)
            trained = train_fold(folder, 0, Fold(training=tuple(sorted(keys)), held_out=()), keys, request)
            stop.clear()
        with write_aside(out / WEIGHTS) as aside:
            aside.write_bytes(save(weights_of(load_model_file(trained.model_file).members[0].weights)))
        write_pretrained(out / DESCRIPTION, _describe(chosen, f"{counted(len(keys), 'scan')} of {scans.absolute().name}"))
        last = trained.history()[-1]
    return PretrainedWeights(
        description=out / DESCRIPTION, scans=len(keys), steps=last.step, loss=last.loss, problems=tuple(problems)
    )


def _read(path: Path) -> Plan:
    """The plan of a file, or of a run that has one."""
    if path.is_file():
        return read_plan(path)
    plans = Run(path).plans
    if len(plans) > 1:
        raise RunError(f"{path} has {len(plans)} plans; give the file of one of them: {', '.join(str(p.plan_file) for p in plans)}")
    return plans[0].plan


def _describe(plan: Plan, source: str) -> Pretrained:
    return Pretrained(
        weights=WEIGHTS,
        licence="that of the scans",
        source=f"{source}, by nnseg pretrain",
        network=plan.network,
        channels=plan.channels,
        spacing=plan.preprocessing.spacing,
        orientation=plan.preprocessing.orientation,
        normalization=plan.preprocessing.normalization,
        patch=plan.patch,
    )


@dataclass(frozen=True, kw_only=True)
class _ScanTask:
    """A scan to preprocess as a case without a labelled voxel."""

    case: Case
    plan: Plan
    store: Path
    key: str

    def __call__(self) -> None:
        scan = read_case_scan(self.case, len(self.plan.channels))
        done = preprocess(scan, None, self.plan, name=self.case.name)
        labels = np.zeros(done.image.shape[1:], np.int16)
        CaseStore(self.store).write(replace(done, labels=labels), self.key, dimensions=self.plan.dimensions)


def _preprocess(cases: Sequence[Case], folder: PlanFolder, workers: int) -> tuple[dict[str, str], list[Finding]]:
    """The keys of the preprocessed scans by name, and those that failed; what is there is kept.

    Raises:
        DatasetError: every scan failed, or the disk does not give one, of which nothing is known.
    """
    plan, store = folder.plan, CaseStore.of(folder.cases, folder.plan)
    decisions = plan.key("preprocessing", "channels")
    keys = {case.name: digest([decisions, [file_hash(file) for file in case.images]]) for case in cases}
    tasks = [
        _ScanTask(case=case, plan=plan, store=folder.cases, key=keys[case.name])
        for case in cases
        if not (store.has(case.name, keys[case.name]) and store.is_intact(case.name))
    ]
    sizes = sizes_of({task.case.name: task.case.files for task in tasks})
    weigh = lambda task: sizes[task.case.name]  # noqa: E731
    problems = []
    for outcome in map_items(_ScanTask.__call__, tasks, workers=workers, label=f"preprocessing for {plan.name}", weigh=weigh):
        if outcome.is_fault:
            raise DatasetError(f"scan {outcome.item.case.name}: {outcome.reason}; repeat the command when it can be read")
        if outcome.reason is not None:
            problems.append(failure_of(outcome.item.case, outcome))
            log.error("%s", problems[-1])
            del keys[outcome.item.case.name]
    if not keys:
        raise DatasetError(f"no scan could be used; the first: {problems[0]}")
    return keys, problems
