"""`Schedule`: the work of one training, written down before it starts, so that a resumed one does the same."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict

from nnseg.core.dataset import Fold
from nnseg.core.errors import ModelError, RunError
from nnseg.core.plan import digest
from nnseg.network.bundle import load_model_file
from nnseg.storage.cases import CaseStore
from nnseg.storage.runs import FoldFolder, PlanFolder, read_json
from nnseg.training.course import Course
from nnseg.verbs.options import FreezePart

log = logging.getLogger(__name__)


class Origin(BaseModel):
    """The weights that a training begins with, where they are not fresh.

    Args:
        model: file or run folder of a trained model.
        key: digest of the model.
        freeze: part of the network that is left as it is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    key: str
    freeze: FreezePart | None = None


class Schedule(BaseModel):
    """The work of one training, fixed when it starts; only its course may get further legs.

    Args:
        key: digest of all that the weights depend on: plan and cases.
        course: the learning rate's way, and with it the number of steps.
        asked_steps: the number of steps asked for, if they and no time were.
        seconds: wall-clock given, if any.
        patience: epochs without a better estimate after which the rate is brought to zero.
        since: the step from which on estimates count for that: 0, or where a finished training was continued.
        plateau: the step at which it was brought to zero.
        ended: the step that nothing is to follow: the course's last, or an earlier one if the file STOP asked for it.
        spent: seconds that the training had taken by then.
        precision: the arithmetic chosen for this device.
        device: what it was fixed on.
        threads: of the processor used by torch; sums may differ in the last bit with another number.
        seconds_per_step: as measured; 0 if the steps were given.
        compiled: the network is compiled, because that was measured to pay.
        origin: where the first weights are from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[2] = 2
    key: str
    course: Course
    asked_steps: int | None = None
    seconds: float | None = None
    patience: int | None = None
    since: int = 0
    plateau: int | None = None
    ended: int | None = None
    spent: float = 0.0
    precision: str
    device: str
    threads: int
    seconds_per_step: float = 0.0
    compiled: bool = False
    origin: Origin | None = None

    @property
    def steps(self) -> int:
        """Of the whole training, as things stand."""
        return self.course.steps

    def describe(self) -> str:
        """Its length in words."""
        length = f"{self.steps} steps" + ("" if self.seconds is None else f" within {self.seconds:.0f} s")
        return length if self.ended in (None, self.steps) else f"ended at step {self.ended} of {length}"

    def steered(self, course: Course) -> Schedule:
        """The same work on another course."""
        return self.model_copy(update={"course": course})

    def stalled(self, step: int, course: Course) -> Schedule:
        """The work of a training that gets no better, on a course that ends soon."""
        return self.model_copy(update={"course": course, "plateau": step})

    def finished(self, step: int, spent: float) -> Schedule:
        """The work as it was done: nothing is to follow."""
        return self.model_copy(update={"ended": step, "spent": spent})

    def continued(self, seconds: float) -> Schedule:
        """The work of a training that has ended, and is to go on for a time."""
        assert self.ended is not None
        each = self.seconds_per_step or self.spent / max(1, self.ended)
        course = self.course.continued(max(1, int(seconds / max(each, 1e-6))), at=self.ended)
        changes = {"course": course, "seconds": self.spent + seconds, "since": self.ended, "plateau": None, "ended": None}
        return self.model_copy(update=changes)


def training_key(folder: PlanFolder, number: int, fold: Fold, keys: Mapping[str, str]) -> str:
    """A digest of all that the weights of a fold depend on: the plan, and the preprocessed cases it has."""
    training, held_out = ({c: keys[c] for c in preprocessed(folder, names, keys)} for names in (fold.training, fold.held_out))
    return digest([folder.plan().key(), number, training, held_out])


def preprocessed(folder: PlanFolder, names: tuple[str, ...], keys: Mapping[str, str]) -> list[str]:
    """Those of the cases that are preprocessed as the plan is now."""
    store = CaseStore(folder.cases)
    return [name for name in names if name in keys and store.has(name, keys[name])]


def is_trained(folder: PlanFolder, number: int, fold: Fold, keys: Mapping[str, str]) -> bool:
    """Is the fold's training finished, with the plan and the cases as they are now?"""
    place = folder.fold(number)
    schedule = read_schedule(place)
    finished = schedule and schedule.ended is not None and place.model_file.exists()
    return bool(finished and schedule and schedule.key == training_key(folder, number, fold, keys))


def read_schedule(place: FoldFolder) -> Schedule | None:
    """The schedule of a fold; None if it was never begun, or by an earlier version."""
    if not place.schedule_file.exists():
        return None
    try:
        return read_json(place.schedule_file, Schedule)
    except RunError as error:
        log.debug("%s", error)
        return None


def known_schedule(place: FoldFolder, key: str) -> Schedule | None:
    """The schedule on file if it is for the same work. Other work is set aside, not deleted, and taken back if it fits again."""
    schedule = read_schedule(place)
    if schedule and schedule.key == key:
        return schedule
    if place.schedule_file.exists():
        aside = _aside(place, 1 + len(list(place.path.parent.glob(f"replaced_*_{place.path.name}"))))
        place.path.rename(aside.path)
        log.warning("plan or cases of %s have changed; what was trained is kept as %s", place.path.name, aside.path.name)
    for old in sorted(place.path.parent.glob(f"replaced_*_{place.path.name}")):
        schedule = read_schedule(FoldFolder(old))
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
