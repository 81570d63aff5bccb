"""The training loop: one step after another. Who wants to watch, save or stop writes a ``for``."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass

import torch

from nnseg.core.history import Epoch
from nnseg.core.machine import kept_memory
from nnseg.planning.pace import steps_within
from nnseg.training.course import Course, learning_rate
from nnseg.training.learner import Learner
from nnseg.training.patches import Patches
from nnseg.training.prefetch import prefetched
from nnseg.training.setting import Setting
from nnseg.training.validation import Validation

AHEAD = 4
"""Batches drawn ahead of the step while another device computes; a CPU has nothing to gain from it."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """What has just been done.

    Args:
        number: of steps so far.
        epoch: the line of the record, if the step was the last of an epoch.
    """

    number: int
    epoch: Epoch | None = None


def take_steps(learner: Learner, patches: Patches, validation: Validation) -> Iterator[Step]:
    """Train to the end of the learner's course, yielding after each step.

    Between two steps the learner may be saved, given another course, or left: it goes on from where it is.

    Raises:
        NnsegError: the loss of an epoch is no longer finite; names the patches.
    """
    setting = learner.setting
    epoch_steps, ahead = setting.plan.training.epoch_steps, 0 if setting.device.type == "cpu" else AHEAD
    start = time.perf_counter()
    with closing(prefetched(patches, learner.step, ahead=ahead)) as batches, memory_for(setting.device):
        while learner.step < learner.course.steps:
            learner.take_step(next(batches))
            epoch = None
            if learner.step % epoch_steps == 0 or learner.step == learner.course.steps:
                epoch = _epoch(learner, validation, start)
                start = time.perf_counter()
            yield Step(number=learner.step, epoch=epoch)


def steps_fitting(seconds: float, patches: Patches, validation: Validation, setting: Setting) -> tuple[int, float]:
    """How many steps fit into a time, measured on this machine with a learner that is then thrown away.

    Args:
        seconds: for the training, this measurement included.

    Returns:
        The number of steps, at least one, and the seconds measured for one.
    """
    start = time.perf_counter()
    learner = Learner(setting, Course.of(10_000, setting.plan.training))
    times: list[float] = []
    with memory_for(setting.device):
        while len(times) < 2 or (len(times) < 20 and time.perf_counter() - start < 0.04 * seconds):
            began = time.perf_counter()
            float(learner.take_step(patches.batch(len(times))))  # float() waits for the device
            times.append(time.perf_counter() - began)
    began = time.perf_counter()
    validation.estimate(learner.network, learner.weights())
    pause = time.perf_counter() - began
    step_seconds = sorted(times[1:])[(len(times) - 1) // 2]  # the first also warms up
    left, epoch_steps = seconds - (time.perf_counter() - start), setting.plan.training.epoch_steps
    return steps_within(left, step_seconds=step_seconds, pause_seconds=pause, epoch_steps=epoch_steps), step_seconds


def memory_for(device: torch.device) -> AbstractContextManager[None]:
    """The context in which steps are taken fastest, as far as memory goes."""
    return kept_memory() if device.type == "cpu" else nullcontext()


def _epoch(learner: Learner, validation: Validation, start: float) -> Epoch:
    setting, course = learner.setting, learner.course
    loss = learner.mean_loss()
    assert loss is not None
    return Epoch(
        number=math.ceil(learner.step / setting.plan.training.epoch_steps),
        step=learner.step,
        steps=course.steps,
        loss=loss,
        learning_rate=learning_rate(learner.step - 1, course, setting.plan.training),
        dice=setting.ranks.agreed(validation.estimate(learner.network, learner.weights()) if setting.ranks.rank == 0 else {}),
        seconds=time.perf_counter() - start,
        total_seconds=learner.seconds,
    )
