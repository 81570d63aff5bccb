"""The work of a training, found on file or fixed anew, from what the plan says and what is asked for."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import torch

from nnseg.core.errors import RunError
from nnseg.core.plan import Plan
from nnseg.network.device import autocast_dtype, resolve_device
from nnseg.storage.cases import StoredCase
from nnseg.storage.runs import FoldFolder
from nnseg.training.compiled import pays
from nnseg.training.course import Course
from nnseg.training.loop import steps_fitting
from nnseg.training.patches import Patches
from nnseg.training.setting import Setting
from nnseg.training.validation import Validation
from nnseg.verbs.options import Options
from nnseg.verbs.schedule import Schedule, is_whole, known_schedule
from nnseg.verbs.start import origin_of

log = logging.getLogger(__name__)


def on_file(place: FoldFolder, key: str, plan: Plan, options: Options) -> Schedule | None:
    """The schedule that is on file for the same work; one that has ended goes on if more is asked for."""
    schedule = known_schedule(place, key)
    if schedule is None:
        return None
    if schedule.ended is not None and options.more is not None and is_whole(place):
        return schedule.continued(options.more)
    for ignored in _unheard(schedule, plan, options):
        log.warning("%s %s was begun before: %s", plan.name, place.path.name, ignored)
    return schedule


def fixed(
    plan: Plan, number: int, key: str, cases: tuple[list[StoredCase], list[StoredCase]], options: Options, *, alone: bool
) -> Schedule:
    """The work of a training that begins.

    Args:
        plan: of the training.
        number: of the fold.
        key: of plan and cases, see `training_key`.
        cases: to train on, and held out.
        options: as asked for.
        alone: no other process shares the training.
    """
    training, device = plan.training, resolve_device(options.device)
    asked, seconds = _length(plan, options)
    origin, precision = origin_of(options), autocast_dtype(device, training.precision)
    setting = Setting(plan=plan, fold=number, device=device, dtype=precision)
    patches = Patches(cases[0], plan, fold=number, device=device)
    steps, each = asked, 0.0
    if steps is None:
        assert seconds is not None
        steps, each = steps_fitting(seconds, patches, Validation(cases[1], setting), setting)
        log.info("%s fold %d: %d steps of %.3f s fit into %.0f s", plan.name, number, steps, each, seconds)
    return Schedule(
        key=key,
        course=Course.of(steps, training),
        asked_steps=asked if seconds is None else None,
        seconds=seconds,
        patience=training.patience if options.patience is None else options.patience,
        precision=str(precision).removeprefix("torch."),
        device=str(device),
        threads=torch.get_num_threads(),
        seconds_per_step=round(each, 5),
        compiled=alone and pays(setting, patches, steps),
        origin=origin,
    )


def _length(plan: Plan, options: Options) -> tuple[int | None, float | None]:
    """The steps of a training, as far as they are known before it starts, and its wall-clock, if it has one."""
    training = plan.training
    if options.epochs is not None:
        return options.epochs * training.epoch_steps, None
    if options.steps is not None:
        return options.steps, None
    if options.budget not in (None, training.seconds):
        return None, options.budget
    if training.steps is None and training.seconds is None:
        raise RunError("the plan leaves the length of training to a budget: give --budget 20m, or set training.steps in plan.toml")
    return training.steps, training.seconds


def _unheard(schedule: Schedule, plan: Plan, options: Options) -> Iterator[str]:
    """What is asked for now and was not when the training began, with what to do about it."""
    anew = "remove the folder of this fold to begin anew"
    lengths = {"budget": options.budget, "steps": options.steps, "epochs": options.epochs}
    steps, seconds = _length(plan, options) if any(lengths.values()) else (schedule.asked_steps, schedule.seconds)
    if (None if seconds else steps, seconds) != (schedule.asked_steps, schedule.seconds):
        more = "use --more 30m to train it further" if schedule.ended is not None else "it keeps the length it has"
        yield f"another length is asked for now; {more}, or {anew}"
    if options.patience not in (None, schedule.patience):
        yield f"another --patience is asked for now; {anew}"
    origin = schedule.origin
    if options.init and (origin is None or origin.model != str(options.init.resolve())):
        yield f"--init was not asked for then, or another; {anew}"
    if schedule.threads != torch.get_num_threads() and schedule.ended is None and schedule.device == "cpu":
        yield f"with {schedule.threads} threads, now {torch.get_num_threads()}: weights may differ in their last digits"
