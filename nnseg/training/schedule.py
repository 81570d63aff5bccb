"""The schedule of a training, read or new; its initial weights, and changes so that it ends in time or at a plateau."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path

import torch
from torch import nn

from nnseg.core.dataset import Fold
from nnseg.core.errors import ModelError, NewerVersionError, RunError
from nnseg.core.frozen import digest
from nnseg.core.options import Options
from nnseg.core.patch_growth import PatchGrowth
from nnseg.core.plan import Plan
from nnseg.core.schedule import Course, Epoch, Origin, Schedule
from nnseg.network.bundle import Model, load_model_file
from nnseg.network.device import autocast_dtype, resolve_device
from nnseg.network.load import load_model
from nnseg.network.pretrained import load_pretrained
from nnseg.network.transfer import transfer_weights
from nnseg.storage.cases import CaseStore, StoredCase
from nnseg.storage.files import write_json
from nnseg.storage.plan_folder import FoldFolder, PlanFolder
from nnseg.storage.pretrained import description_file
from nnseg.system.regular import resolved
from nnseg.training.context import TrainingContext
from nnseg.training.learner import Learner
from nnseg.training.patches import Patches
from nnseg.training.timing import compile_pays_off, fused_norm_pays_off, steps_fitting
from nnseg.training.validation import Validation

log = logging.getLogger(__name__)

CLOSING = 0.003
"""Share of a budget for what follows the last step."""

TOLERANCE = 0.01
"""Share of a budget by which a training may be expected to end too early or too late before its course is changed."""

MOST_UPDATES = 100
"""Maximum number of schedule updates per training, evenly over its budget."""

PRIOR = 0.01
"""Share of a budget: for how long the speed measured before the training counts beside what is seen in it."""

SHORTEST_LOOK = 0.05
"""Share of a budget: the least time back over which the speed is estimated."""

SMOOTHING = 0.9
"""Weight of the previous value when the estimate of Dice is smoothed over epochs. Source: nnU-Net's pseudo Dice."""

LOW_RATE = 0.1
"""By which the learning rate is multiplied where the weights to begin with are to change little."""

FEWEST_WHOLE = 16
"""Training cases from which on ``--init-mode auto`` trains at the full rate; with fewer it trains at `LOW_RATE`."""

TAIL = 0.25
"""Share of the steps done so far: over how many the rate falls to zero after a plateau."""


class TimeLimit:
    """Keeps a training within its time by ending its course earlier or later; the learning rate has no jumps, and never rises.

    The speed of the time that is left is estimated from as much time before: at first from all that is known, the speed measured
    before the training included, near the end from the last steps, so that other programs that come and go change little. It is
    counted in steps with the plan's patch, where patches grow.

    Args:
        budget: seconds of wall-clock for the training.
        learner: whose seconds count.
        growth: of its patches, and so of the time of its steps.
        step_seconds: of a step with the plan's patch, measured before; 0 if nothing was.

    Attributes:
        saving_seconds: of the last save, which the end needs too.
    """

    def __init__(self, budget: float, learner: Learner, growth: PatchGrowth, step_seconds: float = 0.0) -> None:
        self._budget, self._growth = budget, growth
        self._counted, self._work = learner.step, 0.0
        known = PRIOR * budget if step_seconds else 0.0
        self._marks = [(learner.seconds - known, -known / step_seconds if known else 0.0), (learner.seconds, 0.0)]
        self.saving_seconds = 0.0

    def course(self, learner: Learner) -> Course:
        """The learner's course, or another one that ends in time."""
        now, budget, course = learner.seconds, self._budget, learner.course
        self._count(learner)
        if now - self._marks[-1][0] < budget / MOST_UPDATES or learner.step >= course.steps:
            return course
        self._marks.append((now, self._work))
        left = budget * (1 - CLOSING) - self.saving_seconds - now
        seconds = self._seconds_per_work(now - max(left, SHORTEST_LOOK * budget))
        step_seconds = seconds * self._growth.mean_cost(course.progress(learner.step))
        late = (course.steps - learner.step) * step_seconds - left
        if abs(late) <= TOLERANCE * budget:
            return course
        return course.ending_at(learner.step + max(1, int(left / step_seconds)), at=learner.step)

    def _count(self, learner: Learner) -> None:
        """Add the cost of the steps done since the last call."""
        steps = range(self._counted, learner.step)
        self._work += sum(self._growth.size(step, learner.course).cost for step in steps)
        self._counted = learner.step

    def _seconds_per_work(self, since: float) -> float:
        """The mean seconds, since a time, of a step with the plan's patch."""
        while len(self._marks) > 2 and self._marks[1][0] <= since:
            self._marks.pop(0)
        (then, first), (now, last) = self._marks[0], self._marks[-1]
        return (now - then) / (last - first)


def smoothed_dice(epochs: Sequence[Epoch]) -> list[float]:
    """The smoothed mean Dice after each epoch that has one."""
    values: list[float] = []
    for epoch in epochs:
        if (dice := epoch.mean_dice) is not None:
            values.append(dice if not values else SMOOTHING * values[-1] + (1 - SMOOTHING) * dice)
    return values


def has_stalled(epochs: Sequence[Epoch], patience: int) -> bool:
    """True if the best smoothed Dice is more than ``patience`` epochs old."""
    values = smoothed_dice(epochs)
    return len(values) > patience and values.index(max(values)) < len(values) - patience


def shortened(course: Course, step: int) -> Course:
    """The course with its rate brought to zero soon after a step, but not later than before."""
    return course.ending_at(min(course.steps, step + max(1, int(TAIL * step))), at=step)


def training_key(folder: PlanFolder, number: int, fold: Fold, keys: Mapping[str, str]) -> str:
    """A digest of all that the weights of a fold depend on: the plan, and the fold's preprocessed cases."""
    training, held_out = ({c: keys[c] for c in preprocessed(folder, names, keys)} for names in (fold.training, fold.held_out))
    return digest([folder.plan.key(), number, training, held_out])


def preprocessed(folder: PlanFolder, names: tuple[str, ...], keys: Mapping[str, str]) -> list[str]:
    """Those of the cases that are preprocessed as the plan is now."""
    store = CaseStore(folder.cases)
    return [name for name in names if name in keys and store.has(name, keys[name])]


def is_trained(folder: PlanFolder, number: int, fold: Fold, keys: Mapping[str, str]) -> bool:
    """True if the fold's training is finished, with the plan and the cases as they are now."""
    place = folder.fold(number)
    schedule = place.schedule()
    finished = schedule and schedule.ended is not None and place.model_file.exists()
    return bool(finished and schedule and schedule.key == training_key(folder, number, fold, keys))


def has_intact_model(place: FoldFolder) -> bool:
    """True if the model file is there and undamaged; else it is written again from the last checkpoint."""
    if not place.model_file.exists():
        return False
    try:
        load_model_file(place.model_file)
    except NewerVersionError:
        raise
    except ModelError as error:
        log.warning("%s; it is written again from the last checkpoint", error)
        return False
    return True


def saved_schedule(place: FoldFolder, key: str, plan: Plan, options: Options) -> Schedule | None:
    """The schedule on file for the same plan and cases, if any; that of a finished training is continued with ``--more``.

    Args:
        key: of plan and cases, see `training_key`.
    """
    schedule = _schedule_with_key(place, key)
    if schedule is None:
        return None
    if schedule.ended is not None and options.more is not None and has_intact_model(place):
        return schedule.continued(options.more)
    for ignored in _ignored_options(schedule, plan, options):
        log.warning("%s %s has started already: %s", plan.name, place.path.name, ignored)
    return schedule


def _schedule_with_key(place: FoldFolder, key: str) -> Schedule | None:
    """The schedule with a key; a fold folder with another key is renamed, and one renamed before is restored if its key fits."""
    schedule = place.schedule()
    if schedule and schedule.key == key:
        if not place.schedule_file.exists():
            write_json(place.schedule_file, schedule)
            log.info("%s is made again from the last checkpoint", place.schedule_file)
        return schedule
    replaced = f"replaced_{{}}_{place.path.name}"
    others = sorted(place.path.parent.glob(replaced.format("*")))
    if place.schedule_file.exists():
        numbers = (number for number in count(1 + len(others)) if not place.path.with_name(replaced.format(number)).exists())
        aside = place.path.rename(place.path.with_name(replaced.format(next(numbers))))
        log.warning("the plan or the cases of %s have changed; the old training is kept as %s", place.path.name, aside.name)
    for other in others:
        schedule = FoldFolder(other).schedule()
        if schedule and schedule.key == key and not place.path.exists():
            other.rename(place.path)
            log.info("%s belongs to the present plan and cases: it is renamed to %s", other.name, place.path.name)
            return schedule
    return None


def make_schedule(
    plan: Plan, number: int, key: str, cases: tuple[list[StoredCase], list[StoredCase]], options: Options, *, single: bool
) -> Schedule:
    """The schedule of a training that starts, its steps timed where a budget sets its length.

    Args:
        plan: of the training.
        number: of the fold.
        key: of plan and cases, see `training_key`.
        cases: for training, and held out.
        options: of the command.
        single: no other process shares the training.

    Raises:
        RunError: neither the plan nor the options set the length of the training.
        ModelError: the options name a model for the initial weights that does not exist.
    """
    training, device = plan.training, resolve_device(options.device)
    given, seconds = _length(plan, options)
    origin, precision = _find_origin(plan, options, cases=len(cases[0])), autocast_dtype(device, training.precision)
    context = TrainingContext(plan=plan, fold=number, device=device, dtype=precision)
    patches = Patches(cases[0], plan, fold=number, device=device)
    steps, step_seconds = given, 0.0
    if steps is None:
        assert seconds is not None
        steps, step_seconds = steps_fitting(seconds, patches, Validation(cases[1], context), context)
        log.info("%s fold %d: %d steps of %.3f s fit into %.0f s", plan.name, number, steps, step_seconds, seconds)
    fused_norm = single and fused_norm_pays_off(context, patches, steps)
    return Schedule(
        key=key,
        course=Course.of(steps, training),
        asked_steps=given if seconds is None else None,
        seconds=seconds,
        patience=training.patience if options.patience is None else options.patience,
        precision=str(precision).removeprefix("torch."),
        device=str(device),
        threads=torch.get_num_threads(),
        seconds_per_step=round(step_seconds, 5),
        compiled=single and not fused_norm and compile_pays_off(context, patches, steps),
        fused_norm=fused_norm,
        origin=origin,
    )


def _find_origin(plan: Plan, options: Options, *, cases: int) -> Origin | None:
    """The model whose weights the training starts with, and what it trains on so many cases; None for random weights."""
    if options.init is None:
        if options.freeze:
            raise ModelError(f"--freeze {options.freeze} needs --init MODEL; random weights cannot usefully be frozen")
        if options.init_mode:
            raise ModelError(f"--init-mode {options.init_mode} needs --init MODEL; there are no weights that could stay")
        return None
    mode, freeze = options.init_mode or "whole", options.freeze
    if mode == "auto":
        mode = "whole" if cases >= FEWEST_WHOLE else "low_rate"
        log.info("--init-mode auto: %s, for %d training cases", mode, cases)
    freeze = "encoder" if mode == "frozen" else freeze
    return Origin(
        model=str(resolved(options.init)),
        key=_initial_model(options.init, plan).key(),
        freeze=freeze,
        rate=LOW_RATE if mode == "low_rate" else 1.0,
    )


def _initial_model(path: Path, plan: Plan) -> Model:
    """A trained model, or weights from elsewhere as a model for the plan's dataset."""
    description = description_file(path)
    return load_pretrained(description, plan) if description else load_model(path)


def load_initial_weights(network: nn.Module, plan: Plan, fold: int, origin: Origin) -> None:
    """Copy the weights of a trained model into a network, as far as they fit.

    The member of the same fold is used where there is one, since it was not trained on the cases that this fold holds out.

    Raises:
        ModelError: the model has changed since the schedule was made, or nothing of it fits, or not all of the part to be frozen.
    """
    model = _initial_model(Path(origin.model), plan)
    if model.key() != origin.key:
        raise ModelError(f"{origin.model} has changed since this training started; restore it, or start in a new run folder")
    transfer = transfer_weights(network, plan, model, fold=fold)
    log.info("%s: %s", origin.model, transfer.describe())
    if origin.freeze and transfer.new_from.startswith(origin.freeze):
        raise ModelError(f"--freeze {origin.freeze} would freeze random weights: {transfer.misfit}; omit it")
    if origin.freeze and transfer.channels_without_effect:
        names = ", ".join(transfer.channels_without_effect)
        raise ModelError(f"--freeze {origin.freeze} would leave {names} without effect: the model lacks it; omit it")
    if transfer.fold != fold and model.members[0].plan.dataset == plan.dataset:
        log.warning("this model has no fold %d: it may have been trained on cases held out here, and scores may be too high", fold)


def _length(plan: Plan, options: Options) -> tuple[int | None, float | None]:
    """The steps of a training, if they are known before it starts, and its seconds of wall-clock, if it has a time limit."""
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
    """Options that differ from those the training started with, each with what to do about it."""
    advice = "remove the folder of this fold to start again"
    lengths = {"budget": options.budget, "steps": options.steps, "epochs": options.epochs}
    steps, seconds = _length(plan, options) if any(lengths.values()) else (schedule.asked_steps, schedule.seconds)
    if (None if seconds else steps, seconds) != (schedule.asked_steps, schedule.seconds):
        more = "use --more 30m to train it further" if schedule.ended is not None else "it keeps its length"
        yield f"the given length is ignored; {more}, or {advice}"
    if options.patience not in (None, schedule.patience):
        yield f"the given --patience is ignored; {advice}"
    origin = schedule.origin
    if options.init and (origin is None or origin.model != str(resolved(options.init))):
        yield f"the given --init is ignored; {advice}"
    if schedule.threads != torch.get_num_threads() and schedule.ended is None and schedule.device == "cpu":
        yield f"it used {schedule.threads} threads, this process {torch.get_num_threads()}: weights may differ in their last digits"
