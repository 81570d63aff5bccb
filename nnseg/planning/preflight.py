"""What a plan will cost on a machine: memory, disk and time, before a minute of it is spent. Pure arithmetic on a recorded `Probe`.

Sizes follow from shapes on the network's grid; rates, and what no formula knows, are the probe's. Without a probe memory and disk
are rough and times unknown. RAM is counted as `nnseg.system.machine` does.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from nnseg.core.dataset import Fold
from nnseg.core.errors import PlanError
from nnseg.core.fingerprint import CaseMeasure, Fingerprint
from nnseg.core.frozen import FrozenModel
from nnseg.core.plan import Plan
from nnseg.core.probe import CaseCost, Probe, Trial
from nnseg.planning.cost_model import (
    count_held_bytes,
    count_stored_bytes,
    count_tiles,
    estimate_case_cost,
    estimate_trial,
    shape_on_grid,
)
from nnseg.system.machine import GIGABYTE
from nnseg.system.parallel import WORTH_A_POOL

BASE_GB = 0.44
"""RAM of a process with torch and all that training and prediction need, before it does anything (measured: 0.436)."""

RUN_GB = 0.045
"""RAM that a run's process holds beside that: the command line, the report's parts, what reading the dataset left (measured)."""

WORKER_GB = 0.16
"""RAM of a worker that preprocesses, before its first case: no torch, and its libraries are those of the main process."""

WORKERS_START = 2.5
"""Seconds until the workers of a pool have started."""

TRUST = 0.7
"""Share of an estimated memory that is sure to be needed."""


class StageCost(FrozenModel):
    """What a part of a run takes.

    Args:
        seconds: wall-clock; None if nothing was measured.
        ram_gb: the most at once.
        device_gb: memory of the device, the most at once; 0 where it shares the machine's.
        disk_gb: that it leaves on the disk.
    """

    seconds: float | None
    ram_gb: float
    device_gb: float = 0.0
    disk_gb: float = 0.0


class Preflight(FrozenModel):
    """What a plan will cost.

    Args:
        plan: its name.
        measured: on this machine; or else estimated.
        folds: that will be trained.
        cases: of the dataset.
        workers: that preprocess at once.
        worker_gb: RAM of each of them.
        preprocess: of all cases.
        train: of one fold.
        predict: of the median scan, with the networks of all folds.
        predict_largest: of the largest.
        held_out: of predicting what the folds hold out, each with its own network.
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
    def seconds(self) -> float | None:
        """Of the whole run."""
        parts = [self.preprocess.seconds, self.train.seconds, self.held_out.seconds]
        known = [p for p in parts if p is not None]
        return known[0] + known[1] * self.folds + known[2] if len(known) == len(parts) else None

    @property
    def ram_gb(self) -> float:
        """The most that a stage of the run takes."""
        return max(self.preprocess.ram_gb, self.train.ram_gb, self.held_out.ram_gb)

    @property
    def device_gb(self) -> float:
        """The most that a stage of the run takes of the device's memory."""
        return max(self.train.device_gb, self.held_out.device_gb)

    def certain(self, amount_gb: float) -> float:
        """What of a predicted memory is sure to be needed: all if it was measured."""
        return amount_gb if self.measured else TRUST * amount_gb

    @property
    def disk_gb(self) -> float:
        """What the run leaves on the disk."""
        return self.preprocess.disk_gb + self.folds * self.train.disk_gb + self.held_out.disk_gb


class FreeResources(FrozenModel):
    """What is free for a run: RAM, memory of the device (0 if it has none of its own, or nobody knows), and disk."""

    ram_gb: float
    device_gb: float
    disk_gb: float


def preflight(
    plan: Plan,
    fingerprint: Fingerprint,
    probe: Probe | None,
    *,
    folds: Sequence[Fold],
    workers: int = 1,
    device: str = "cpu",
) -> Preflight:
    """What a plan will cost.

    Args:
        plan: as it stands.
        fingerprint: of the dataset.
        probe: of this machine, if there is one; it need not know the plan.
        folds: that will be trained.
        workers: processes that preprocess.
        device: what will train: "cpu", "cuda" or "mps".
    """
    trial, handling = (probe.of(plan), probe.handling_of(plan)) if probe else (None, None)
    measured = bool(trial and handling and not trial.failed and not handling.failed)
    if trial is None or trial.failed:
        trial = estimate_trial(plan, base_gb=BASE_GB, on_device=device != "cpu")
    if handling is None or handling.failed:
        handling = estimate_case_cost(plan, fingerprint)
    costs = _PlanCosts(
        plan=plan, cases=fingerprint.cases, trial=trial, handling=handling, base_gb=(probe and probe.base_gb) or BASE_GB
    )
    ordered = sorted(fingerprint.cases, key=lambda c: math.prod(c.shape))
    return Preflight(
        plan=plan.name,
        measured=measured,
        folds=len(folds),
        cases=len(ordered),
        workers=workers,
        worker_gb=WORKER_GB + handling.memory_gb,
        preprocess=costs.preprocess(workers),
        train=costs.train(folds),
        predict=costs.predict([ordered[len(ordered) // 2]], members=len(folds)),
        predict_largest=costs.predict(ordered[-1:], members=len(folds)),
        held_out=costs.in_a_run(costs.predict([c for c in ordered if any(c.name in f.held_out for f in folds)], members=1)),
    )


def add_first_stages(found: Sequence[Preflight], plans: Sequence[Plan]) -> tuple[Preflight, ...]:
    """The same costs, with those of a cascade's predictions as they are: what it is shown is predicted first.

    Args:
        found: one for each plan of a run.
        plans: in the same order.
    """
    of = {preflight.plan: preflight for preflight in found}
    pairs = [(preflight, of.get(plan.previous or "")) for preflight, plan in zip(found, plans, strict=True)]
    return tuple(cascade if before is None else _after(cascade, before) for cascade, before in pairs)


def _after(cascade: Preflight, before: Preflight) -> Preflight:
    parts = ("predict", "predict_largest", "held_out")
    return cascade.model_copy(update={part: _one_by_one(getattr(before, part), getattr(cascade, part)) for part in parts})


def _one_by_one(first: StageCost, then: StageCost) -> StageCost:
    """Both, of which only the second leaves anything on the disk."""
    seconds = None if first.seconds is None or then.seconds is None else first.seconds + then.seconds
    larger = {part: max(getattr(first, part), getattr(then, part)) for part in ("ram_gb", "device_gb")}
    return then.model_copy(update={"seconds": seconds, **larger})


def check_fits(preflights: Sequence[Preflight], room: FreeResources) -> None:
    """Nothing, if the plans' runs fit into what is free.

    Raises:
        PlanError: naming what is needed, what is there, and what would fit.
    """
    for found in preflights:
        _check_device(found, room.device_gb)
        _check_ram(found, room.ram_gb)
    needed = sum(found.disk_gb for found in preflights)
    if needed > room.disk_gb:
        raise PlanError(
            f"the run needs {_gb(needed)} of disk and {_gb(room.disk_gb)} are free; put the run folder on another disk, "
            "make room, or train fewer --folds"
        )


def _check_device(found: Preflight, there: float) -> None:
    if there and found.certain(found.device_gb) > there:
        raise PlanError(
            f"the {found.plan} plan needs {_gb(found.device_gb)} of the device's memory and {_gb(there)} are free; end what else "
            f"runs there, or plan with --memory {0.9 * there:.1f}, a smaller recipe or --device cpu"
        )


def _check_ram(found: Preflight, there: float) -> None:
    begin = f"the {found.plan} plan needs"
    if found.certain(found.train.ram_gb) > there:
        raise PlanError(
            f"{begin} {_gb(found.train.ram_gb)} of RAM to train and {_gb(there)} are free; end other programs, or plan with "
            f"--memory {0.9 * there:.1f} or a smaller recipe"
        )
    if found.certain(found.preprocess.ram_gb) > there:
        fitting = int((there - BASE_GB - RUN_GB) / found.worker_gb)
        advice = f"use --workers {max(1, fitting)}" if found.workers > 1 else "leave out the largest scans"
        raise PlanError(f"{begin} {_gb(found.preprocess.ram_gb)} of RAM to preprocess and {_gb(there)} are free; {advice}")
    if found.certain(found.held_out.ram_gb) > there:
        raise PlanError(
            f"{begin} {_gb(found.held_out.ram_gb)} of RAM to predict its largest scan and {_gb(there)} are free; "
            "cut that scan to what matters, or leave it out"
        )


@dataclass(frozen=True, kw_only=True)
class _PlanCosts:
    """What the parts of a plan's run cost, from what was measured of it."""

    plan: Plan
    cases: tuple[CaseMeasure, ...]
    trial: Trial
    handling: CaseCost
    base_gb: float

    def preprocess(self, workers: int) -> StageCost:
        """Of all cases."""
        seconds = [self.handling.seconds * _megavoxels(case) for case in self.cases]
        alone = count_before_pool(seconds, workers)
        base = self.base_gb + RUN_GB
        needed = [base + self.handling.memory_gb * self._share(case) for case in self.cases[:alone]]
        if alone < len(self.cases):
            at_once = heapq.nlargest(workers, (self._share(case) for case in self.cases[alone:]))
            needed.append(base + sum(WORKER_GB + self.handling.memory_gb * share for share in at_once))
        return StageCost(
            seconds=estimate_pool_seconds(seconds, workers) + self.handling.start_seconds if self.handling.seconds else None,
            ram_gb=max(needed),
            disk_gb=sum(count_stored_bytes(case, self.plan) for case in self.cases) * self.handling.packed / GIGABYTE,
        )

    def train(self, folds: Sequence[Fold]) -> StageCost:
        """Of one fold, the one with most cases."""
        training, trial = self.plan.training, self.trial
        seconds = training.seconds
        if training.steps is not None and seconds is None:
            epochs = math.ceil(training.steps / training.epoch_steps)
            known = trial.step_seconds > 0
            seconds = training.steps * trial.step_seconds + epochs * trial.pause_seconds if known else None
        names = max(({*f.training, *f.held_out} for f in folds), key=len, default=set[str]())
        held = sum(count_held_bytes(case, self.plan) for case in self.cases if case.name in names)
        return StageCost(
            seconds=seconds,
            ram_gb=RUN_GB + trial.memory_gb + held / GIGABYTE,
            device_gb=trial.device_gb,
            disk_gb=2 * (trial.checkpoint_bytes + trial.model_bytes) / GIGABYTE,  # the one before, and the best, are kept too
        )

    def predict(self, cases: Sequence[CaseMeasure], *, members: int) -> StageCost:
        """Of the given scans one after the other, in a process that has predicted none yet; memory of the one that needs most."""
        trial, handling = self.trial, self.handling
        seconds = sum(
            handling.predict_seconds * _megavoxels(c) + members * count_tiles(c, self.plan) * trial.tile_seconds for c in cases
        )
        seconds += handling.predict_start_seconds
        on_device = trial.device_gb > 0
        own = max((handling.predict_gb * self._share(c) + self._answers_gb(c, members) for c in cases), default=0.0)
        networks = trial.tile_gb + (members - 1) * trial.model_bytes / GIGABYTE
        return StageCost(
            seconds=seconds if trial.tile_seconds and handling.predict_seconds else None,
            ram_gb=self.base_gb + own + (0.0 if on_device else networks),
            device_gb=networks + max((self._window_gb(c) for c in cases), default=0.0) if on_device else 0.0,
            disk_gb=sum(handling.label_bytes * _megavoxels(c) for c in cases) / GIGABYTE,
        )

    @staticmethod
    def in_a_run(cost: StageCost) -> StageCost:
        """What a process of its own costs, when a run's process does it."""
        return cost.model_copy(update={"ram_gb": cost.ram_gb + RUN_GB})

    def _share(self, case: CaseMeasure) -> float:
        """The case's voxels as a share of the largest scan's, on which memory was measured."""
        return _megavoxels(case) / self._most

    @cached_property
    def _most(self) -> float:
        return max(map(_megavoxels, self.cases))

    def _answers_gb(self, case: CaseMeasure, members: int) -> float:
        """What several members' answers, and their mean, take beyond the one that was measured."""
        answer = 4 * len(self.plan.labels.heads) * math.prod(shape_on_grid(case, self.plan)) / GIGABYTE
        return 2 * answer if members > 1 else 0.0

    def _window_gb(self, case: CaseMeasure) -> float:
        """The arrays of a sliding window, which lie on the device: image, logits, weights, and what softmax needs; float32."""
        channels, heads = self.plan.stored, len(self.plan.labels.heads)
        return 4 * (2 * channels + 2 * heads + 3) * math.prod(shape_on_grid(case, self.plan)) / GIGABYTE


def count_before_pool(seconds: Sequence[float], workers: int) -> int:
    """How many items `each` does in its own process before it calls a pool; all of them if it never does."""
    spent = 0.0
    for done, each in enumerate(seconds):
        if workers > 1 and done and spent / done * (len(seconds) - done) > WORTH_A_POOL:
            return done
        spent += each
    return len(seconds)


def estimate_pool_seconds(seconds: Sequence[float], workers: int) -> float:
    """Wall-clock of `each` for items that take so long: some alone, the others each to the worker that is free first."""
    alone = count_before_pool(seconds, workers)
    spent = sum(seconds[:alone])
    if alone == len(seconds):
        return spent
    busy = [spent + WORKERS_START] * workers
    for each in seconds[alone:]:
        heapq.heapreplace(busy, busy[0] + each)
    return max(busy)


def _megavoxels(case: CaseMeasure) -> float:
    return math.prod(case.shape) / 1e6


def _gb(amount: float) -> str:
    return f"{amount:.3g} GB"
