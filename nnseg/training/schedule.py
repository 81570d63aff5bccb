"""The schedule of a training: read or fixed anew, initial weights, changes so that it ends in time or at a plateau."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn

from nnseg.core.dataset import Fold
from nnseg.core.errors import ModelError, RunError
from nnseg.core.frozen import digest
from nnseg.core.options import Options
from nnseg.core.plan import Plan
from nnseg.core.schedule import Course, Epoch, Origin, Schedule
from nnseg.network.bundle import load_model_file
from nnseg.network.device import autocast_dtype, resolve_device
from nnseg.network.load import load_model
from nnseg.network.transfer import adapt
from nnseg.storage.cases import CaseStore, StoredCase
from nnseg.storage.plan_folder import FoldFolder, PlanFolder
from nnseg.training.context import TrainingContext
from nnseg.training.learner import Learner
from nnseg.training.patches import Patches
from nnseg.training.timing import compile_pays_off, steps_fitting
from nnseg.training.validation import Validation

CLOSING = 0.003
"""Of a budget, for what follows the last step."""

TOLERANCE = 0.01
"""Of a budget, by which a training may be expected to end too early or too late before its course is changed."""

GLANCES = 100
"""At most so often, evenly over a budget, the clock is looked at."""

WINDOW = 0.15
"""Of a budget, the past that the expectation is made from."""

SETTLED = 3
"""Steps after which the speed is believed; the first ones also warm up."""

SMOOTHING = 0.9
"""Of the estimate of Dice over epochs: what of the last smoothed value stays. Source: nnU-Net's pseudo Dice."""

TAIL = 0.25
"""Of the steps done so far: over how many the rate falls to zero once nothing improves."""


class TimeLimit:
    """Keeps a training to its time by ending its course earlier or later; the rate never jumps.

    Args:
        budget: seconds of wall-clock for the training.
        learner: whose clock counts.
    """

    def __init__(self, budget: float, learner: Learner) -> None:
        self._budget = budget
        self._marks = [(learner.seconds, learner.step)]
        self.closing = 0.0  # seconds of the last save

    def course(self, learner: Learner) -> Course:
        """The learner's course, or the one that ends in time."""
        now, budget, course = learner.seconds, self._budget, learner.course
        if now - self._marks[-1][0] < budget / GLANCES or learner.step >= course.steps:
            return course
        self._marks.append((now, learner.step))
        while len(self._marks) > 2 and self._marks[1][0] < now - WINDOW * budget:
            self._marks.pop(0)
        then, step = self._marks[0]
        if learner.step - step < SETTLED and now < WINDOW * budget:
            return course
        each = (now - then) / (learner.step - step)
        left = budget * (1 - CLOSING) - self.closing - now
        late = (course.steps - learner.step) * each - left
        if abs(late) <= TOLERANCE * budget:
            return course
        return course.ending(learner.step + max(1, int(left / each)), at=learner.step)


def smoothed_dice(epochs: Sequence[Epoch]) -> list[float]:
    """The running estimate of mean Dice after each epoch that has one."""
    values: list[float] = []
    for epoch in epochs:
        if (dice := epoch.mean_dice) is not None:
            values.append(dice if not values else SMOOTHING * values[-1] + (1 - SMOOTHING) * dice)
    return values


def has_stalled(epochs: Sequence[Epoch], patience: int) -> bool:
    """Is the best estimate older than ``patience`` epochs?"""
    values = smoothed_dice(epochs)
    return len(values) > patience and values.index(max(values)) < len(values) - patience


def shortened(course: Course, step: int) -> Course:
    """The course with its rate brought to zero soon, but not later than it would have been."""
    return course.ending(min(course.steps, step + max(1, int(TAIL * step))), at=step)


log = logging.getLogger(__name__)


def training_key(folder: PlanFolder, number: int, fold: Fold, keys: Mapping[str, str]) -> str:
    """A digest of all that the weights of a fold depend on: the plan, and the preprocessed cases it has."""
    training, held_out = ({c: keys[c] for c in preprocessed(folder, names, keys)} for names in (fold.training, fold.held_out))
    return digest([folder.plan.key(), number, training, held_out])


def preprocessed(folder: PlanFolder, names: tuple[str, ...], keys: Mapping[str, str]) -> list[str]:
    """Those of the cases that are preprocessed as the plan is now."""
    store = CaseStore(folder.cases)
    return [name for name in names if name in keys and store.has(name, keys[name])]


def is_trained(folder: PlanFolder, number: int, fold: Fold, keys: Mapping[str, str]) -> bool:
    """Is the fold's training finished, with the plan and the cases as they are now?"""
    place = folder.fold(number)
    schedule = place.schedule()
    finished = schedule and schedule.ended is not None and place.model_file.exists()
    return bool(finished and schedule and schedule.key == training_key(folder, number, fold, keys))


def known_schedule(place: FoldFolder, key: str) -> Schedule | None:
    """The schedule on file if it is for the same work. Other work is set aside, not deleted, and taken back if it fits again."""
    schedule = place.schedule()
    if schedule and schedule.key == key:
        return schedule
    if place.schedule_file.exists():
        aside = _aside(place, 1 + len(list(place.path.parent.glob(f"replaced_*_{place.path.name}"))))
        place.path.rename(aside.path)
        log.warning("plan or cases of %s have changed; what was trained is kept as %s", place.path.name, aside.path.name)
    for old in sorted(place.path.parent.glob(f"replaced_*_{place.path.name}")):
        schedule = FoldFolder(old).schedule()
        if schedule and schedule.key == key and not place.path.exists():
            old.rename(place.path)
            log.info("%s fits again: it is taken back as %s", old.name, place.path.name)
            return schedule
    return None


def is_whole(place: FoldFolder) -> bool:
    """Is the model there, and undamaged? A damaged one is made again from the last checkpoint."""
    if not place.model_file.exists():
        return False
    try:
        load_model_file(place.model_file)
    except ModelError as error:
        log.warning("%s; it is made again", error)
        return False
    return True


def _aside(place: FoldFolder, number: int) -> FoldFolder:
    """Where an out-of-date fold is kept."""
    while (path := place.path.with_name(f"replaced_{number}_{place.path.name}")).exists():
        number += 1
    return FoldFolder(path)


def origin_of(options: Options) -> Origin | None:
    """Where the first weights are to be taken from; None for fresh ones.

    Raises:
        ModelError: there is no such model.
    """
    if options.init is None:
        if options.freeze:
            raise ModelError(f"--freeze {options.freeze} leaves that part as it is, which makes sense with --init MODEL only")
        return None
    return Origin(model=str(options.init.resolve()), key=load_model(options.init).key(), freeze=options.freeze)


def begin(network: nn.Module, plan: Plan, fold: int, origin: Origin) -> None:
    """Give a fresh network the weights of its origin, as far as they fit.

    The member of the same fold is taken where there is one, which has not seen the cases that this fold holds out.

    Raises:
        ModelError: the origin is not what it was when the training was scheduled, or nothing of it fits, or not all that is to be
            frozen.
    """
    model = load_model(origin.model)
    if model.key() != origin.key:
        raise ModelError(
            f"{origin.model} is not the model that this training began with; put it back, or begin in a new run folder"
        )
    reuse = adapt(network, plan, model, fold=fold)
    log.info("%s: %s", origin.model, reuse.describe())
    if origin.freeze and reuse.misfit.startswith(origin.freeze):
        raise ModelError(f"--freeze {origin.freeze} would leave fresh weights as they are: {reuse.misfit}; leave it out")
    same = model.members[0].plan.dataset == plan.dataset
    if same and reuse.fold != fold:
        log.warning("this model has no fold %d: it may have learned from cases that are held out here, and scores flatter it", fold)


def on_file(place: FoldFolder, key: str, plan: Plan, options: Options) -> Schedule | None:
    """The schedule that is on file for the same work; one that has ended goes on if more is asked for."""
    schedule = known_schedule(place, key)
    if schedule is None:
        return None
    if schedule.ended is not None and options.more is not None and is_whole(place):
        return schedule.continued(options.more)
    for ignored in _ignored_options(schedule, plan, options):
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
    setting = TrainingContext(plan=plan, fold=number, device=device, dtype=precision)
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
        compiled=alone and compile_pays_off(setting, patches, steps),
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


def _ignored_options(schedule: Schedule, plan: Plan, options: Options) -> Iterator[str]:
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
