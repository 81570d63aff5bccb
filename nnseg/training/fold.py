"""``nnseg train``: one fold to its weights, in the time given, resumable at any moment."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nnseg.core.dataset import Fold
from nnseg.core.errors import ModelError, RunError, Stopped
from nnseg.core.options import Options
from nnseg.core.schedule import Epoch, Schedule
from nnseg.network.bundle import Member, Model, save_model
from nnseg.network.checkpoint import load_tensors, save_tensors
from nnseg.network.device import exact, resolve_device
from nnseg.network.transfer import freeze
from nnseg.storage.cases import CaseStore, StoredCase
from nnseg.storage.files import write_json
from nnseg.storage.plan_folder import FoldFolder, PlanFolder
from nnseg.system.stop import StopRequest
from nnseg.training.context import ALONE, Ranks, TrainingContext
from nnseg.training.learner import Learner, fresh_network
from nnseg.training.loop import take_steps
from nnseg.training.patches import Patches
from nnseg.training.progress import ProgressSettings
from nnseg.training.schedule import (
    TimeLimit,
    begin,
    fixed,
    has_stalled,
    is_whole,
    on_file,
    preprocessed,
    shortened,
    smoothed_dice,
    training_key,
)
from nnseg.training.validation import Validation

log = logging.getLogger(__name__)

FIRST_SAVE = 60.0
"""Seconds after which the first checkpoint is made, should those between checkpoints be more."""


@dataclass(frozen=True, kw_only=True)
class TrainingRequest:
    """What one training is asked for besides its plan.

    Args:
        options: of the command; ``budget`` is the share of this training.
        stop: asks it to end.
        watch: shows how it goes.
        ranks: the processes that share it.
    """

    options: Options
    stop: StopRequest = field(default_factory=StopRequest)
    watch: ProgressSettings = field(default_factory=ProgressSettings)
    ranks: Ranks = ALONE


def train_fold(folder: PlanFolder, number: int, fold: Fold, keys: Mapping[str, str], order: TrainingRequest) -> FoldFolder:
    """Train one fold of one plan, or finish it, or find it done.

    Args:
        folder: of the plan, with its preprocessed cases.
        number: of the fold.
        fold: its cases; those that failed preprocessing are left out.
        keys: of the preprocessed cases, see `case_keys`.
        order: what is asked for.

    Raises:
        RunError: neither the plan nor the options say how long to train, or no training case is there.
        Stopped: a signal asked for an end; everything is saved.
    """
    start, ranks, options = time.perf_counter(), order.ranks, order.options
    plan, place, target = folder.plan, folder.fold(number), resolve_device(options.device)
    key = training_key(folder, number, fold, keys)
    schedule = ranks.agreed(on_file(place, key, plan, options) if ranks.rank == 0 else None)
    if schedule and schedule.ended is not None and ranks.agreed(is_whole(place)):
        log.info("%s %s: already trained (%s)", plan.name, place.path.name, schedule.describe())
        return place
    cases, held_out = (_read_cases(folder, names, keys) for names in (fold.training, fold.held_out))
    if not cases:
        raise RunError(f"{place.path.name} has no training case left; see the failures above")
    with exact(target, wanted=options.deterministic):
        if schedule is None:
            known = (cases, held_out)
            schedule = fixed(plan, number, key, known, options, alone=ranks.size == 1) if ranks.rank == 0 else None
            schedule = ranks.agreed(schedule)
            assert schedule is not None
        dtype = getattr(torch, schedule.precision)
        setting = TrainingContext(plan=plan, fold=number, device=target, dtype=dtype, ranks=ranks)
        patches, validation = Patches(cases, plan, fold=number, device=target, ranks=ranks), Validation(held_out, setting)
        _FoldTraining(place, setting, schedule, order, began=start).go(patches, validation)
    gc.collect()  # a learner's parts refer to one another, so that only this frees their memory for what comes next
    return place


class _FoldTraining:
    """One training on its way: the learner, and what is on file of it."""

    def __init__(
        self, place: FoldFolder, setting: TrainingContext, schedule: Schedule, order: TrainingRequest, *, began: float
    ) -> None:
        self.place, self.setting, self.order = place, setting, order
        self.name = f"{setting.plan.name} fold {setting.fold}"
        self.writes = setting.ranks.rank == 0
        self.schedule = schedule
        saved = self._last_checkpoint()
        self.learner = Learner(setting, schedule.course, network=self._first_network(saved is None), compiled=schedule.compiled)
        self.learner.spent += time.perf_counter() - began
        if saved:
            self.learner.restore(*saved)
            log.info("%s: going on from step %d", self.name, self.learner.step)
        self._note(schedule)
        self.epochs = [e for e in place.history() if e.step <= self.learner.step]
        self.best: dict[str, Tensor] = {}
        self.save_at = time.monotonic() + min(FIRST_SAVE, order.options.checkpoint)
        self.keeper = TimeLimit(schedule.seconds, self.learner) if schedule.seconds else None

    def go(self, patches: Patches, validation: Validation) -> None:
        """Train to the end, or until asked to stop; one that has ended, and whose model is lost, just to where it ended."""
        learner, order, ended = self.learner, self.order, self.schedule.ended
        log.info("%s: %s in %s on %s", self.name, self.schedule.describe(), self.setting.dtype, self.setting.device)
        with order.watch.on(self.name, learner, self.epochs, folder=self.place.path, shown=self.writes) as watched:
            for step in take_steps(learner, patches, validation) if ended is None or learner.step < ended else ():
                if step.epoch:
                    self._record(watched.epoch(step.epoch))
                watched.step()
                if learner.step == ended:
                    break
                if asked := self.setting.ranks.agreed(order.stop.source):
                    self._leave(for_good=asked == "file")
                    return
                self._steer(epoch_ended=step.epoch is not None)
                if time.monotonic() > self.save_at and learner.step < learner.course.steps:
                    self._save()
        self._finish()

    def _record(self, epoch: Epoch) -> None:
        self.epochs.append(epoch)
        if not self.writes:
            return
        self.place.write_history(self.epochs)
        estimates = smoothed_dice(self.epochs)
        if epoch.dice and estimates and estimates[-1] >= max(estimates):
            self.best = {name: tensor.detach().to("cpu", copy=True) for name, tensor in self.learner.weights().items()}

    def _steer(self, *, epoch_ended: bool) -> None:
        """Give the learner another course if its time or its progress asks for one; it is written down before it is taken."""
        learner, schedule = self.learner, self.schedule
        known = learner.step < learner.course.legs[-1].step or schedule.ended is not None
        if known or learner.step >= learner.course.steps:
            return  # what comes next is on file already, or nothing does
        course, plateau = learner.course, schedule.plateau
        if self.keeper and self.writes:
            kept = self.keeper.course(learner)
            course = kept if plateau is None or kept.steps < course.steps else course
        if epoch_ended and schedule.patience and plateau is None:
            counted = [epoch for epoch in self.epochs if epoch.step > schedule.since]
            if has_stalled(counted, schedule.patience):
                course, plateau = shortened(course, learner.step), learner.step
                log.info(
                    "%s: no better for %d epochs; the rate goes to zero by step %d", self.name, schedule.patience, course.steps
                )
        course, plateau = self.setting.ranks.agreed((course, plateau))
        if course != learner.course or plateau != schedule.plateau:
            self._note(schedule.steered(course) if plateau is None else schedule.stalled(plateau, course))
            learner.course = course

    def _leave(self, *, for_good: bool) -> None:
        """End before the course does: for good, or to go on another time."""
        step, steps = self.learner.step, self.learner.course.steps
        if for_good:
            log.info("%s: ended at step %d of %d, because there is a file %s", self.name, step, steps, self.order.stop.file)
            self._finish()
            return
        self._save()
        self._write_model(self.learner.weights(), self.place.model_file)
        raise Stopped(
            f"{self.name} stopped at step {step} of {steps}; the same command goes on from there, and {self.place.model_file} "
            "predicts as well as it can by now",
            self.order.stop.code,
        )

    def _finish(self) -> None:
        self._save()
        self._write_model(self.learner.weights(), self.place.model_file)
        log.info("%s: trained, %d steps in %.0f s: %s", self.name, self.learner.step, self.learner.seconds, self.place.model_file)
        self._note(self.schedule.finished(self.learner.step, self.learner.seconds))

    def _save(self) -> None:
        """Write a checkpoint, keep the one before, and write the best weights.

        Raises:
            NnsegError: nothing worth keeping is left, since a loss or a weight is not finite; what was saved before stays.
        """
        start = time.perf_counter()
        self.learner.check()
        if self.writes:
            if self.best:
                self._write_model(self.best, self.place.best_file)
                self.best = {}
            if self.place.checkpoint_file.exists():
                self.place.checkpoint_file.replace(self.place.checkpoint_before_file)
            tensors, about = self.learner.snapshot()
            save_tensors(self.place.checkpoint_file, tensors, {**about, "schedule": self.schedule.key})
        self.save_at = time.monotonic() + self.order.options.checkpoint
        if self.keeper:
            self.keeper.closing = time.perf_counter() - start

    def _write_model(self, weights: Mapping[str, Tensor], file: Path) -> None:
        if self.writes:
            member = Member(plan=self.setting.plan, fold=self.setting.fold, weights=weights)
            save_model(Model(members=(member,)), file)

    def _note(self, schedule: Schedule) -> None:
        """Write down what the work now is."""
        self.schedule = schedule
        if self.writes:
            write_json(self.place.schedule_file, schedule)

    def _first_network(self, fresh: bool) -> nn.Module:
        """The network to begin with: with the weights of its origin, unless it gets those of a checkpoint anyway."""
        network, origin = fresh_network(self.setting), self.schedule.origin
        if origin and fresh:
            begin(network, self.setting.plan, self.setting.fold, origin)
        if origin and origin.freeze:
            freeze(network, origin.freeze)
        return network

    def _last_checkpoint(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The last checkpoint of the same work that is whole, if there is one; a damaged one is removed."""
        for file in (self.place.checkpoint_file, self.place.checkpoint_before_file):
            if not file.exists():
                continue
            try:
                tensors, about = load_tensors(file)
            except ModelError as error:
                log.warning("%s; training goes on from what was saved before", error)
                self.setting.ranks.wait()  # the others have seen it too
                if self.writes:
                    file.unlink()  # else the next save would keep it as the one before
                continue
            if about.get("schedule") == self.schedule.key:
                return tensors, about
        return None


def _read_cases(folder: PlanFolder, names: tuple[str, ...], keys: Mapping[str, str]) -> list[StoredCase]:
    store = CaseStore(folder.cases)
    return [store.read(name) for name in preprocessed(folder, names, keys)]
