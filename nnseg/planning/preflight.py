"""The cost of a plan on a machine, before it runs: memory, disk and time, computed from a recorded `Probe`.

Sizes follow from shapes on the network's grid; rates come from the probe. Without a probe memory and disk are rough estimates and
times unknown. RAM is counted as in `nnseg.system.machine`.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nnseg.core.dataset import Fold
from nnseg.core.errors import PlanError
from nnseg.core.fingerprint import CaseMeasure, Fingerprint
from nnseg.core.frozen import FrozenModel
from nnseg.core.patch_growth import PatchGrowth
from nnseg.core.plan import Plan
from nnseg.core.probe import CaseCost, Probe, Trial
from nnseg.planning.cost_model import (
    count_held_bytes,
    count_stored_bytes,
    count_tiles,
    estimate_case_cost,
    estimate_pool_seconds,
    estimate_trial,
    shape_on_grid,
)
from nnseg.planning.windows import expected_window
from nnseg.system.machine import GIGABYTE

BASE_GB = 0.44
"""RAM of an idle process with the libraries of training and prediction (measured: 0.436)."""

RUN_GB = 0.045
"""Further RAM of a run's main process: command line, report, remains of reading the dataset (measured)."""

WORKER_GB = 0.16
"""RAM of an idle preprocessing worker: no torch, and libraries shared with the main process."""

CERTAIN_SHARE = 0.7
"""Share of an estimated (not measured) memory that is certainly needed."""


class StageCost(FrozenModel):
    """Time, memory and disk of a part of a run.

    Args:
        seconds: wall-clock time; None if nothing was measured.
        ram_gb: peak RAM.
        device_gb: peak memory of the device; 0 if it has none of its own.
        disk_gb: size of the files written.
    """

    seconds: float | None
    ram_gb: float
    device_gb: float = 0.0
    disk_gb: float = 0.0


class Preflight(FrozenModel):
    """The predicted cost of a plan.

    Args:
        plan: its name.
        measured: True if computed from measurements on this machine, False if estimated.
        folds: number of folds to train.
        cases: number of cases of the dataset.
        workers: preprocessing processes.
        worker_gb: peak RAM of each of them.
        preprocess: of all cases.
        train: of one fold.
        predict: of the median scan, with the networks of all folds.
        predict_largest: of the largest scan, likewise.
        held_out: of all held-out cases, each with the network of its fold.
    """

    plan: str
    measured: bool
    folds: int
    cases: int
    workers: int
    worker_gb: float
    preprocess: StageCost
    train: StageCost
    predict: StageCost
    predict_largest: StageCost
    held_out: StageCost

    @property
    def total(self) -> StageCost:
        """The cost of the whole run."""
        first, fold, last = self.preprocess, self.train, self.held_out
        seconds = None
        if first.seconds is not None and fold.seconds is not None and last.seconds is not None:
            seconds = first.seconds + fold.seconds * self.folds + last.seconds
        return StageCost(
            seconds=seconds,
            ram_gb=max(first.ram_gb, fold.ram_gb, last.ram_gb),
            device_gb=max(fold.device_gb, last.device_gb),
            disk_gb=first.disk_gb + self.folds * fold.disk_gb + last.disk_gb,
        )

    def certain(self, amount_gb: float) -> float:
        """The part of a predicted memory that is certainly needed: all if it was measured."""
        return amount_gb if self.measured else CERTAIN_SHARE * amount_gb


class FreeResources(FrozenModel):
    """Free RAM, memory of the device (0 if it has none of its own, or it is unknown) and disk space."""

    ram_gb: float
    device_gb: float
    disk_gb: float


def preflight(
    plan: Plan, fingerprint: Fingerprint, probe: Probe | None, *, folds: Sequence[Fold], workers: int = 1, device: str = "cpu"
) -> Preflight:
    """The predicted cost of a plan.

    Args:
        plan: final.
        fingerprint: of the dataset.
        probe: measurements on this machine; None, or a probe without this plan, gives estimates.
        folds: to be trained.
        workers: preprocessing processes.
        device: of the training: "cpu", "cuda" or "mps".
    """
    trial, case_cost = (probe.trial_of(plan), probe.case_cost_of(plan)) if probe else (None, None)
    measured = bool(trial and case_cost and not trial.failed and not case_cost.failed)
    if trial is None or trial.failed:
        trial = estimate_trial(plan, base_gb=BASE_GB, on_device=device != "cpu")
    if case_cost is None or case_cost.failed:
        case_cost = estimate_case_cost(plan, fingerprint)
    ordered = sorted(fingerprint.cases, key=lambda c: math.prod(c.shape))
    held = [case for case in ordered if any(case.name in fold.held_out for fold in folds)]
    plan = expected_window(plan, ordered, [case.name for case in held], len(folds) * _steps(plan, trial))
    base_gb = (probe and probe.base_gb) or BASE_GB
    costs = _Costs(
        plan=plan, cases=fingerprint.cases, largest=_megavoxels(ordered[-1]), trial=trial, case_cost=case_cost, base_gb=base_gb
    )
    held_out = costs.predict(held, members=1)
    return Preflight(
        plan=plan.name,
        measured=measured,
        folds=len(folds),
        cases=len(ordered),
        workers=workers,
        worker_gb=WORKER_GB + case_cost.memory_gb,
        preprocess=costs.preprocess(workers),
        train=costs.train(folds),
        predict=costs.predict([ordered[len(ordered) // 2]], members=len(folds)),
        predict_largest=costs.predict(ordered[-1:], members=len(folds)),
        held_out=held_out.model_copy(update={"ram_gb": held_out.ram_gb + RUN_GB}),  # in the run's own process
    )


def add_first_stages(found: Sequence[Preflight], plans: Sequence[Plan]) -> tuple[Preflight, ...]:
    """The costs of plans, with that of predicting the first stage added to the predictions of a cascade.

    Args:
        found: the cost of each plan of a run.
        plans: in the same order.
    """
    by_name = {preflight.plan: preflight for preflight in found}
    pairs = [(preflight, by_name.get(plan.previous or "")) for preflight, plan in zip(found, plans, strict=True)]
    return tuple(second if first is None else _add_first_stage(first, second) for second, first in pairs)


def _add_first_stage(first: Preflight, second: Preflight) -> Preflight:
    """The second with its predictions after those of the first, which leave nothing on the disk."""
    changes = {}
    for name in ("predict", "predict_largest", "held_out"):
        before, after = getattr(first, name), getattr(second, name)
        seconds = None if before.seconds is None or after.seconds is None else before.seconds + after.seconds
        peaks = {part: max(getattr(before, part), getattr(after, part)) for part in ("ram_gb", "device_gb")}
        changes[name] = after.model_copy(update={"seconds": seconds, **peaks})
    return second.model_copy(update=changes)


def check_fits(preflights: Sequence[Preflight], free: FreeResources) -> None:
    """Check that the runs of some plans fit into the free memory and disk space.

    Raises:
        PlanError: with what is needed, what is free, and what would fit.
    """
    for found in preflights:
        for needed, there, what, advice in _needs(found, free):
            if found.certain(needed) > there:
                raise PlanError(f"the {found.plan} plan needs {_gb(needed)} {what} and {_gb(there)} are free; {advice}")
    disk_gb = sum(found.total.disk_gb for found in preflights)
    if disk_gb > free.disk_gb:
        raise PlanError(
            f"the run needs {_gb(disk_gb)} of disk and {_gb(free.disk_gb)} are free; put the run folder on another disk, "
            "make room, or train fewer --folds"
        )


def _needs(found: Preflight, free: FreeResources) -> Iterator[tuple[float, float, str, str]]:
    """The memory in GB that each part of a run needs, that is free, what it is for, and what to do if it is not enough."""
    if free.device_gb:
        advice = f"stop other programs there, or plan with --memory {0.9 * free.device_gb:.1f}, a smaller recipe or --device cpu"
        yield found.total.device_gb, free.device_gb, "of the device's memory", advice
    advice = f"stop other programs, or plan with --memory {0.9 * free.ram_gb:.1f} or a smaller recipe"
    yield found.train.ram_gb, free.ram_gb, "of RAM to train", advice
    fitting = int((free.ram_gb - BASE_GB - RUN_GB) / found.worker_gb)
    advice = f"use --workers {max(1, fitting)}" if found.workers > 1 else "leave out the largest scans"
    yield found.preprocess.ram_gb, free.ram_gb, "of RAM to preprocess", advice
    advice = "crop that scan, or leave it out"
    yield found.held_out.ram_gb, free.ram_gb, "of RAM to predict its largest scan", advice


@dataclass(frozen=True, kw_only=True)
class _Costs:
    """Costs of the parts of a plan's run.

    Args:
        plan: whose run it is.
        cases: of the dataset.
        largest: million voxels of the largest scan, on which memory was measured.
        trial: of training.
        case_cost: of preprocessing and prediction.
        base_gb: RAM of an idle process.
    """

    plan: Plan
    cases: tuple[CaseMeasure, ...]
    largest: float
    trial: Trial
    case_cost: CaseCost
    base_gb: float

    def preprocess(self, workers: int) -> StageCost:
        """The cost of preprocessing all cases."""
        seconds = [self.case_cost.seconds * _megavoxels(case) for case in self.cases]
        at_once = heapq.nlargest(max(1, workers), map(self._share, self.cases))
        workers_gb = sum(WORKER_GB + self.case_cost.memory_gb * share for share in at_once)
        return StageCost(
            seconds=estimate_pool_seconds(seconds, workers) + self.case_cost.start_seconds if self.case_cost.seconds else None,
            ram_gb=self.base_gb + RUN_GB + workers_gb,
            disk_gb=sum(count_stored_bytes(case, self.plan) for case in self.cases) * self.case_cost.packed / GIGABYTE,
        )

    def train(self, folds: Sequence[Fold]) -> StageCost:
        """The cost of training the fold with most cases."""
        training, trial = self.plan.training, self.trial
        seconds = training.seconds
        if training.steps is not None and seconds is None:
            epochs = math.ceil(training.steps / training.epoch_steps)
            known = trial.step_seconds > 0
            step_seconds = trial.step_seconds * PatchGrowth(self.plan).mean_cost()
            busy = trial.slowdown * (training.steps * step_seconds + epochs * trial.pause_seconds)
            seconds = busy if known else None
        names = max(({*f.training, *f.held_out} for f in folds), key=len, default=set[str]())
        held = sum(count_held_bytes(case, self.plan) for case in self.cases if case.name in names)
        return StageCost(
            seconds=seconds,
            ram_gb=RUN_GB + trial.memory_gb + held / GIGABYTE,
            device_gb=trial.device_gb,
            disk_gb=2 * (trial.checkpoint_bytes + trial.model_bytes) / GIGABYTE,  # the last two checkpoints, last and best model
        )

    def predict(self, cases: Sequence[CaseMeasure], *, members: int) -> StageCost:
        """The cost of predicting scans one after the other in a new process.

        Args:
            cases: whose scans are predicted; memory is that of the scan that needs most.
            members: number of networks.
        """
        trial, case_cost = self.trial, self.case_cost
        tiles = [members * count_tiles(case, self.plan) for case in cases]
        seconds = sum(
            case_cost.predict_seconds * _megavoxels(c) + n * trial.slowdown * trial.tile_seconds
            for c, n in zip(cases, tiles, strict=True)
        )
        seconds += case_cost.predict_start_seconds
        on_device = trial.device_gb > 0
        own = max((case_cost.predict_gb * self._share(c) + self._ensemble_gb(c, members) for c in cases), default=0.0)
        networks = trial.tile_gb + (members - 1) * trial.model_bytes / GIGABYTE
        return StageCost(
            seconds=seconds if trial.tile_seconds and case_cost.predict_seconds else None,
            ram_gb=self.base_gb + own + (0.0 if on_device else networks),
            device_gb=networks + max((self._window_gb(c) for c in cases), default=0.0) if on_device else 0.0,
            disk_gb=sum(case_cost.label_bytes * _megavoxels(c) for c in cases) / GIGABYTE,
        )

    def _share(self, case: CaseMeasure) -> float:
        """The case's voxels as a share of the largest scan's."""
        return _megavoxels(case) / self.largest

    def _ensemble_gb(self, case: CaseMeasure, members: int) -> float:
        """Additional memory of an ensemble: the probabilities of one more network, and their mean."""
        probabilities = 4 * len(self.plan.labels.heads) * math.prod(shape_on_grid(case, self.plan)) / GIGABYTE
        return 2 * probabilities if members > 1 else 0.0

    def _window_gb(self, case: CaseMeasure) -> float:
        """Float32 arrays of a sliding window on the device: image, logits, weights, and the temporary arrays of softmax."""
        channels, heads = self.plan.stored_channels, len(self.plan.labels.heads)
        return 4 * (2 * channels + 2 * heads + 3) * math.prod(shape_on_grid(case, self.plan)) / GIGABYTE


def _steps(plan: Plan, trial: Trial) -> int:
    """Training steps of a fold, as far as they are known."""
    training = plan.training
    if training.steps is None and training.seconds and trial.step_seconds:
        return round(training.seconds / trial.step_seconds)
    return training.steps or 0


def _megavoxels(case: CaseMeasure) -> float:
    return math.prod(case.shape) / 1e6


def _gb(amount: float) -> str:
    return f"{amount:.3g} GB"
