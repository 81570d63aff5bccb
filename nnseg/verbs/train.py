"""``nnseg train``: one fold to its weights, resumable at any moment."""

from __future__ import annotations

import gc
import logging
import math
import time
from collections.abc import Mapping

import torch
from pydantic import BaseModel, ConfigDict

from nnseg.core.dataset import Fold
from nnseg.core.errors import ModelError, RunError
from nnseg.core.history import Epoch
from nnseg.core.parallel import progress
from nnseg.core.plan import Plan, digest
from nnseg.network.bundle import Member, Model, load_model_file, save_model
from nnseg.network.checkpoint import load_tensors, save_tensors
from nnseg.network.device import autocast_dtype, resolve_device
from nnseg.storage.cases import CaseStore, StoredCase
from nnseg.storage.runs import FoldFolder, PlanFolder, read_json, write_json
from nnseg.training.loop import Learner, steps_fitting, train
from nnseg.training.patches import Patches
from nnseg.training.setting import Setting
from nnseg.training.validation import Validation

log = logging.getLogger(__name__)


class Schedule(BaseModel):
    """The work of one training, fixed when it starts.

    Args:
        key: digest of all that the weights depend on.
        steps: of the whole schedule.
        precision: the arithmetic chosen for this device.
        device: what it was fixed on.
        threads: of the processor used by torch; sums may differ in the last bit with another number.
        seconds_per_step: as measured; 0 if the plan gave the steps.
        budget: seconds given, if any.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    steps: int
    precision: str
    device: str
    threads: int
    seconds_per_step: float = 0.0
    budget: float | None = None


def train_fold(
    folder: PlanFolder,
    number: int,
    fold: Fold,
    keys: Mapping[str, str],
    *,
    device: str = "auto",
    seconds: float | None = None,
    checkpoint_seconds: float = 60.0,
) -> FoldFolder:
    """Train one fold of one plan, or finish it, or find it done.

    Args:
        folder: of the plan, with its preprocessed cases.
        number: of the fold.
        fold: its cases; those that failed preprocessing are left out.
        keys: of the preprocessed cases, see `case_keys`.
        device: to train on.
        seconds: budget; needed if the plan does not fix the steps.
        checkpoint_seconds: between two checkpoints; a training that is killed loses at most this, plus one epoch.

    Raises:
        RunError: neither the plan nor a budget says how long to train, or no training case is there.
    """
    plan, place, target = folder.plan(), folder.fold(number), resolve_device(device)
    key = training_key(folder, number, fold, keys)
    schedule = _known_schedule(place, key)
    if schedule and _is_finished(place):
        log.info("%s %s: already trained (%s)", plan.name, place.path.name, _length_of(schedule, seconds))
        return place
    if schedule and seconds not in (None, schedule.budget):
        log.warning("%s %s was begun with another length: %s", plan.name, place.path.name, _length_of(schedule, seconds))
    cases, unheld = (_read_cases(folder, names, keys) for names in (fold.training, fold.held_out))
    if not cases:
        raise RunError(f"{place.path.name} has no training case left; see the failures above")
    if schedule is None:
        schedule = _fix_schedule(plan, number, key, cases, unheld, target, seconds)
        write_json(place.schedule_file, schedule)
    setting = _setting(plan, number, schedule, target)
    patches = Patches(cases, plan, fold=number, device=target)
    _train(place, setting, patches, Validation(unheld, setting), key=key, checkpoint_seconds=checkpoint_seconds)
    gc.collect()  # a learner's parts refer to one another, so that only this frees their memory for what comes next
    return place


def refuse_cascade(plan: Plan) -> None:
    """Nothing, unless the plan is the second stage of a cascade.

    Raises:
        RunError: it is; such a network cannot be trained yet.
    """
    if plan.previous:
        raise RunError(
            f"{plan.name} is shown the answer of {plan.previous}, and such a second stage cannot be trained yet; leave it out, for "
            f"example with --plans 2d,3d,{plan.previous}"
        )


def training_key(folder: PlanFolder, number: int, fold: Fold, keys: Mapping[str, str]) -> str:
    """A digest of all that the weights of a fold depend on: the plan, and the preprocessed cases it has."""
    training, held_out = ({c: keys[c] for c in _preprocessed(folder, names, keys)} for names in (fold.training, fold.held_out))
    return digest([folder.plan().key(), number, training, held_out])


def is_trained(folder: PlanFolder, number: int, fold: Fold, keys: Mapping[str, str]) -> bool:
    """Is the fold's training finished, with the plan and the cases as they are now?"""
    place = folder.fold(number)
    schedule = _read_schedule(place)
    return bool(schedule and place.model_file.exists() and schedule.key == training_key(folder, number, fold, keys))


def _train(
    place: FoldFolder, setting: Setting, patches: Patches, validation: Validation, *, key: str, checkpoint_seconds: float
) -> None:
    learner, name = Learner(setting), f"{setting.plan.name} fold {setting.fold}"
    _resume(learner, place, key)
    epochs = [e for e in place.history() if e.step <= learner.step]
    epoch_steps = setting.plan.training.epoch_steps
    log.info("%s: %d steps in %s on %s", name, setting.steps, setting.dtype, setting.device)
    saved = -math.inf  # the first epoch is saved at once
    left = -(-(setting.steps - learner.step) // epoch_steps)
    running = train(learner, patches, validation, setting)
    for epoch in progress(running, total=left, label=f"training {name}", unit="epoch", lines=False):
        epochs.append(epoch)
        log.info("%s", _in_words(name, epoch))
        place.write_history(epochs)
        if time.monotonic() - saved > checkpoint_seconds and learner.step < setting.steps:
            _save(learner, place, key)
            saved = time.monotonic()
    _save(learner, place, key)
    member = Member(plan=setting.plan, fold=setting.fold, weights=learner.weights())
    save_model(Model(members=(member,)), place.model_file)


def _save(learner: Learner, place: FoldFolder, key: str) -> None:
    tensors, about = learner.snapshot()
    save_tensors(place.checkpoint_file, tensors, {**about, "schedule": key})


def _resume(learner: Learner, place: FoldFolder, key: str) -> None:
    """Restore the last checkpoint if there is one of the same work."""
    if not place.checkpoint_file.exists():
        return
    try:
        tensors, about = load_tensors(place.checkpoint_file)
    except ModelError as error:
        log.warning("%s; training starts over", error)
        return
    if about.get("schedule") == key:
        learner.restore(tensors, about)
        log.info("%s: going on from step %d", place.path.name, learner.step)


def _fix_schedule(
    plan: Plan,
    number: int,
    key: str,
    cases: list[StoredCase],
    held_out: list[StoredCase],
    device: torch.device,
    seconds: float | None,
) -> Schedule:
    fixed = Schedule(
        key=key,
        steps=plan.training.steps or 1,
        precision=str(autocast_dtype(device, plan.training.precision)).removeprefix("torch."),
        device=str(device),
        threads=torch.get_num_threads(),
        budget=seconds,
    )
    if seconds is None:
        if plan.training.steps is None:
            raise RunError(
                "the plan leaves the length of training to a budget: give --budget 20m, or set training.steps in plan.toml"
            )
        return fixed
    setting = _setting(plan, number, fixed.model_copy(update={"steps": 10_000}), device)
    patches = Patches(cases, plan, fold=number, device=device)
    steps, each = steps_fitting(seconds, patches, Validation(held_out, setting), setting)
    log.info("%s fold %d: %d steps of %.3f s fit into %.0f s", plan.name, number, steps, each, seconds)
    return fixed.model_copy(update={"steps": steps, "seconds_per_step": round(each, 5)})


def _setting(plan: Plan, number: int, schedule: Schedule, device: torch.device) -> Setting:
    return Setting(plan=plan, fold=number, steps=schedule.steps, device=device, dtype=getattr(torch, schedule.precision))


def _known_schedule(place: FoldFolder, key: str) -> Schedule | None:
    """The schedule on file if it is for the same work. Other work is set aside, not deleted, and taken back if it fits again."""
    schedule = _read_schedule(place)
    if schedule and schedule.key == key:
        return schedule
    if schedule:
        aside = _replaced(place, 1 + len(list(place.path.parent.glob(f"replaced_*_{place.path.name}"))))
        place.path.rename(aside.path)
        log.warning("plan or cases of %s have changed; what was trained is kept as %s", place.path.name, aside.path.name)
    for old in sorted(place.path.parent.glob(f"replaced_*_{place.path.name}")):
        schedule = _read_schedule(FoldFolder(old))
        if schedule and schedule.key == key and not place.path.exists():
            old.rename(place.path)
            log.info("%s fits again: it is taken back as %s", old.name, place.path.name)
            return schedule
    return None


def _read_schedule(place: FoldFolder) -> Schedule | None:
    return read_json(place.schedule_file, Schedule) if place.schedule_file.exists() else None


def _replaced(place: FoldFolder, number: int) -> FoldFolder:
    """Where an out-of-date fold is kept."""
    while (path := place.path.with_name(f"replaced_{number}_{place.path.name}")).exists():
        number += 1
    return FoldFolder(path)


def _is_finished(place: FoldFolder) -> bool:
    """Is the model there, and whole? A damaged one is made again from the last checkpoint."""
    if not place.model_file.exists():
        return False
    try:
        load_model_file(place.model_file)
    except ModelError as error:
        log.warning("%s; it is made again", error)
        return False
    return True


def _length_of(schedule: Schedule, seconds: float | None) -> str:
    given = "" if schedule.budget is None else f" within {schedule.budget:.0f} s"
    if seconds in (None, schedule.budget):
        return f"{schedule.steps} steps{given}"
    return f"{schedule.steps} steps{given}; now {seconds:.0f} s are asked for: remove the folder of this fold to train it anew"


def _preprocessed(folder: PlanFolder, names: tuple[str, ...], keys: Mapping[str, str]) -> list[str]:
    store = CaseStore(folder.cases)
    return [name for name in names if name in keys and store.has(name, keys[name])]


def _read_cases(folder: PlanFolder, names: tuple[str, ...], keys: Mapping[str, str]) -> list[StoredCase]:
    store = CaseStore(folder.cases)
    return [store.read(name) for name in _preprocessed(folder, names, keys)]


def _in_words(name: str, epoch: Epoch) -> str:
    dice = ", ".join(f"{label} {value:.3f}" for label, value in epoch.dice.items() if value is not None)
    left = (epoch.steps - epoch.step) * epoch.total_seconds / epoch.step
    progress = f"step {epoch.step}/{epoch.steps}, {left:.0f} s left"
    return f"{name}: {progress}, loss {epoch.loss:.4f}, Dice on held-out patches {dice or 'none'}"
