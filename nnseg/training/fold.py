"""``nnseg train``: one fold to its weights, in the time given, resumable after any interruption."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nnseg.core.dataset import Fold
from nnseg.core.errors import ModelError, NewerVersionError, RunError, Stopped
from nnseg.core.options import Options
from nnseg.core.patch_growth import PatchGrowth
from nnseg.core.schedule import Epoch, Schedule
from nnseg.network.bundle import Member, Model, save_model
from nnseg.network.checkpoint import load_tensors, save_tensors
from nnseg.network.device import exact, resolve_device
from nnseg.network.transfer import freeze
from nnseg.storage.case_levels import with_levels
from nnseg.storage.cases import CaseStore, StoredCase
from nnseg.storage.files import write_json
from nnseg.storage.plan_folder import FoldFolder, PlanFolder
from nnseg.system.contention import FittingThreads
from nnseg.system.progress import clock, stage
from nnseg.system.stop import StopRequest
from nnseg.training.context import SINGLE_PROCESS, Ranks, TrainingContext
from nnseg.training.learner import Learner, fresh_network
from nnseg.training.loop import take_steps
from nnseg.training.losses import OwnLoss
from nnseg.training.patches import Patches
from nnseg.training.progress import ProgressSettings, describe_result
from nnseg.training.schedule import (
    TimeLimit,
    has_intact_model,
    has_stalled,
    load_initial_weights,
    make_schedule,
    preprocessed,
    saved_schedule,
    shortened,
    smoothed_dice,
    training_key,
)
from nnseg.training.validation import Validation

log = logging.getLogger(__name__)

FIRST_SAVE = 60.0
"""Seconds after which the first checkpoint is written, if those between checkpoints are more."""


Objective = Callable[[TrainingContext], tuple[nn.Module, OwnLoss]]
"""From plan and fold to a network and its loss."""


@dataclass(frozen=True, kw_only=True)
class TrainingRequest:
    """How to carry out one training.

    Args:
        options: of the command; ``budget`` is the share of this training.
        stop: may request an early end.
        progress: what is kept up to date meanwhile.
        ranks: the processes that share it.
        images: the cases with their images, where those of the plan's folder hold levels (see `nnseg.storage.case_levels`).
        objective: another network and loss than the plan's, for instance to learn from scans without labels.
    """

    options: Options
    stop: StopRequest = field(default_factory=StopRequest)
    progress: ProgressSettings = field(default_factory=ProgressSettings)
    ranks: Ranks = SINGLE_PROCESS
    images: CaseStore | None = None
    objective: Objective | None = None


def train_fold(folder: PlanFolder, number: int, fold: Fold, keys: Mapping[str, str], request: TrainingRequest) -> FoldFolder:
    """Train one fold of one plan from the start or from its last checkpoint, unless it is finished; returns its folder.

    Args:
        folder: of the plan, with its preprocessed cases.
        number: of the fold.
        fold: its cases; those that failed preprocessing are left out.
        keys: of the preprocessed cases, see `case_keys`.
        request: options, and how to stop and report.

    Raises:
        RunError: neither the plan nor the options set the length of the training, or no training case is left.
        Stopped: a signal requested the end; everything is saved.
    """
    start, ranks, options = time.perf_counter(), request.ranks, request.options
    plan, place, device = folder.plan, folder.fold(number), resolve_device(options.device)
    key = training_key(folder, number, fold, keys)
    schedule = ranks.broadcast(saved_schedule(place, key, plan, options) if ranks.rank == 0 else None)
    if schedule and schedule.ended is not None and ranks.broadcast(has_intact_model(place)):
        log.info("%s %s: already trained (%s)", plan.name, place.path.name, schedule.describe())
        return place
    cases, held_out = (_read_cases(folder, names, keys, request.images) for names in (fold.training, fold.held_out))
    if not cases:
        raise RunError(f"{place.path.name} has no training case left; see the failures above")
    with exact(device, wanted=options.deterministic):
        if schedule is None:
            single = ranks.size == 1
            with stage(f"{plan.name} fold {number}: timing steps" if ranks.rank == 0 else ""):
                schedule = make_schedule(plan, number, key, (cases, held_out), options, single=single) if ranks.rank == 0 else None
            schedule = ranks.broadcast(schedule)
            assert schedule is not None
        context = TrainingContext(plan=plan, fold=number, device=device, dtype=getattr(torch, schedule.precision), ranks=ranks)
        patches, validation = Patches(cases, plan, fold=number, device=device, ranks=ranks), Validation(held_out, context)
        _FoldTraining(place, context, schedule, request, began=start).run(patches, validation)
    gc.collect()  # a learner's parts refer to one another: without this their memory is freed too late for the next training
    return place


class _FoldTraining:
    """The training of one fold, and its files: schedule, history, checkpoints and model. Only rank 0 writes."""

    def __init__(
        self,
        place: FoldFolder,
        context: TrainingContext,
        schedule: Schedule,
        request: TrainingRequest,
        *,
        began: float,
    ) -> None:
        self.place, self.context, self.request = place, context, request
        self.name = f"{context.plan.name} fold {context.fold}"
        self.writes = context.ranks.rank == 0
        self.schedule = schedule
        saved = self._last_checkpoint()
        self.learner = self._new_learner(load=saved is None)
        self.learner.earlier_seconds += time.perf_counter() - began
        if saved:
            self.learner.restore(*saved)
            log.info("%s: resuming from step %d", self.name, self.learner.step)
        self._write_schedule(schedule)
        self.epochs = [e for e in place.history() if e.step <= self.learner.step]
        self.best: dict[str, Tensor] = {}
        self.save_at = time.monotonic() + min(FIRST_SAVE, request.options.checkpoint)
        growth = PatchGrowth(context.plan)
        self.time_limit = TimeLimit(schedule.seconds, self.learner, growth, schedule.seconds_per_step) if schedule.seconds else None

    def run(self, patches: Patches, validation: Validation) -> None:
        """Train to the end of the schedule, or until a stop is requested.

        A training that had ended, and whose model file is lost, is trained up to the step where it ended.
        """
        learner, ended = self.learner, self.schedule.ended
        how, budget = f"{self.context.device}, {str(self.context.dtype).removeprefix('torch.')}", self.schedule.seconds
        log.info("%s: training, %s (%s)", self.name, self.schedule.describe(), how)
        with self.request.progress.track(
            self.name, learner, self.epochs, folder=self.place.path, shown=self.writes, budget=budget
        ) as progress:
            for epoch in self._steps(patches, validation) if ended is None or learner.step < ended else ():
                if epoch:
                    self._record(progress.epoch(epoch))
                progress.step()
                if learner.step == ended:
                    break
                if source := self.context.ranks.broadcast(self.request.stop.source):
                    self._stop_early(for_good=source == "file")
                    return
                self._adjust_course(epoch_ended=epoch is not None)
                if time.monotonic() > self.save_at and learner.step < learner.course.steps:
                    self._save_checkpoint()
        self._finish()

    def _steps(self, patches: Patches, validation: Validation) -> Iterator[Epoch | None]:
        """Training steps; on a CPU and in limited time with fewer threads while other programs take cores.

        A training of so many steps keeps its number of threads, since another one changes the last digits of the weights.
        """
        steps = take_steps(self.learner, patches, validation)
        if self.time_limit is None or self.context.device.type != "cpu" or self.context.ranks.size > 1:
            yield from steps
            return
        threads = FittingThreads(torch.get_num_threads(), torch.set_num_threads)
        try:
            yield from threads.timed(steps, counted=lambda epoch: epoch is None)
        finally:
            torch.set_num_threads(threads.most)

    def _record(self, epoch: Epoch) -> None:
        self.epochs.append(epoch)
        if not self.writes:
            return
        self.place.write_history(self.epochs)
        estimates = smoothed_dice(self.epochs)
        if epoch.dice and estimates and estimates[-1] >= max(estimates):
            self.best = {name: tensor.detach().to("cpu", copy=True) for name, tensor in self.learner.weights().items()}

    def _adjust_course(self, *, epoch_ended: bool) -> None:
        """Shorten or lengthen the course to keep to the time limit, or shorten it at a plateau; written before it takes effect."""
        learner, schedule, course = self.learner, self.schedule, self.learner.course
        if learner.step < course.legs[-1].step or learner.step >= course.steps or schedule.ended is not None:
            return  # a resumed training repeats the changes that its schedule holds, and its last step needs none
        plateau = schedule.plateau
        if self.time_limit and self.writes:
            in_time = self.time_limit.course(learner)
            course = in_time if plateau is None or in_time.steps < course.steps else course
        if epoch_ended and schedule.patience and plateau is None:
            counted = [epoch for epoch in self.epochs if epoch.step > schedule.since]
            if has_stalled(counted, schedule.patience):
                course, plateau = shortened(course, learner.step), learner.step
                log.info(
                    "%s: no improvement for %d epochs; the rate reaches zero at step %d",
                    self.name,
                    schedule.patience,
                    course.steps,
                )
        course, plateau = self.context.ranks.broadcast((course, plateau))
        if (course, plateau) != (learner.course, schedule.plateau):
            self._write_schedule(schedule.on_course(course, plateau=plateau))
            learner.course = course

    def _stop_early(self, *, for_good: bool) -> None:
        """Save, and finish for good or raise `Stopped` so that the same command resumes it."""
        step, steps = self.learner.step, self.learner.course.steps
        if for_good:
            log.info("%s: ended at step %d of %d, because the file %s exists", self.name, step, steps, self.request.stop.file)
            self._finish()
            return
        self._save()
        raise Stopped(
            f"{self.name} stopped at step {step} of {steps}; the same command resumes it, and {self.place.model_file} "
            "has its weights so far",
            self.request.stop.code,
        )

    def _finish(self) -> None:
        self.schedule = self.schedule.finished(self.learner.step, self.learner.seconds)
        self._save()
        result = f", {describe_result(self.epochs[-1])} on held-out patches" if self.epochs and self.epochs[-1].dice else ""
        log.info("%s: trained, %d steps in %s%s", self.name, self.learner.step, clock(self.learner.seconds), result)
        self._write_schedule(self.schedule)

    def _save(self) -> None:
        self._save_checkpoint()
        self._write_model(self.learner.weights(), self.place.model_file)

    def _save_checkpoint(self) -> None:
        """Write a checkpoint, keep the previous one, and write the best weights.

        Raises:
            NnsegError: a loss or a weight is not finite; what was saved before stays.
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
            course = self.schedule.model_dump(mode="json")  # from which a lost schedule file is made again
            save_tensors(self.place.checkpoint_file, tensors, {**about, "schedule": self.schedule.key, "course": course})
        self.save_at = time.monotonic() + self.request.options.checkpoint
        if self.time_limit:
            self.time_limit.saving_seconds = time.perf_counter() - start

    def _write_model(self, weights: Mapping[str, Tensor], file: Path) -> None:
        if self.writes:
            member = Member(plan=self.context.plan, fold=self.context.fold, weights=weights)
            save_model(Model(members=(member,)), file)

    def _write_schedule(self, schedule: Schedule) -> None:
        self.schedule = schedule
        if self.writes:
            write_json(self.place.schedule_file, schedule)

    def _new_learner(self, *, load: bool) -> Learner:
        """A learner before the first step; ``load`` its initial weights if no checkpoint replaces them."""
        context, schedule, origin = self.context, self.schedule, self.schedule.origin
        if objective := self.request.objective:
            network, loss = objective(context)
            return Learner(context, schedule.course, network=network, loss=loss, fused_norm=schedule.fused_norm)
        return Learner(
            context,
            schedule.course,
            network=self._initial_network(load=load),
            compiled=schedule.compiled,
            fused_norm=schedule.fused_norm,
            rate=origin.rate if origin else 1.0,
        )

    def _initial_network(self, *, load: bool) -> nn.Module:
        """The network before the first step, its frozen part set; ``load`` its initial weights if no checkpoint replaces them."""
        network, origin = fresh_network(self.context), self.schedule.origin
        if origin and load:
            load_initial_weights(network, self.context.plan, self.context.fold, origin)
        if origin and origin.freeze:
            freeze(network, origin.freeze)
        return network

    def _last_checkpoint(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The last intact checkpoint of the same schedule, if there is one; a damaged one is removed."""
        for file in (self.place.checkpoint_file, self.place.checkpoint_before_file):
            if not file.exists():
                continue
            try:
                tensors, about = load_tensors(file)
            except NewerVersionError:
                raise  # what a later version has trained is neither removed nor trained anew
            except ModelError as error:
                if error.is_fault:
                    raise
                log.warning("%s; training continues from what was saved before", error)
                self.context.ranks.wait()  # the others have read it too
                if self.writes:
                    file.unlink()  # else the next save would keep it as the previous one
                continue
            if about.get("schedule") == self.schedule.key:
                return tensors, about
        return None


def _read_cases(folder: PlanFolder, names: tuple[str, ...], keys: Mapping[str, str], images: CaseStore | None) -> list[StoredCase]:
    store, names = CaseStore.of(folder.cases, folder.plan), tuple(preprocessed(folder, names, keys))
    if images is None:
        return [store.read(name) for name in names]
    if not folder.plan.training.distillation:
        return [images.read(name) for name in names]
    return [with_levels(images.read(name), store.read(name)) for name in names]
