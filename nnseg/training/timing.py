"""Seconds a step: how many steps fit into a time, and whether torch.compile saves time."""

from __future__ import annotations

import logging
import time

from nnseg.core.schedule import Course
from nnseg.planning.candidates import steps_within
from nnseg.training.context import TrainingContext
from nnseg.training.learner import Learner
from nnseg.training.loop import memory_for
from nnseg.training.patches import Patches
from nnseg.training.validation import Validation

log = logging.getLogger(__name__)

WORTH_A_TRIAL = 900.0
"""Seconds of training below which nothing is tried: compiling takes one or two minutes."""

TIMED, WARM = 8, 2
"""Steps that are timed, and steps before that."""


def compile_pays_off(setting: TrainingContext, patches: Patches, steps: int) -> bool:
    """Does a compiled network save more than its compiling takes, over so many steps?

    Tried on CUDA only. On CPUs it was measured not to: 1.10 s a step against 0.93 s, after 50 s of compiling (two cores, bfloat16,
    40 x 56 x 40 voxels); oneDNN's convolutions are most of the time either way.
    """
    if setting.device.type != "cuda":
        return False
    eager = _seconds_of_step(Learner(setting, Course.of(steps, setting.plan.training)), patches)
    if eager * steps < WORTH_A_TRIAL:
        return False
    try:
        learner = Learner(setting, Course.of(steps, setting.plan.training), compiled=True)
        start = time.perf_counter()
        float(learner.take_step(patches.batch(0)))
        compiling = time.perf_counter() - start
        each = _seconds_of_step(learner, patches)
    except Exception as error:  # whatever a compiler may say, training goes on without it
        log.warning("the network cannot be compiled here (%s); it is trained as it is", str(error).splitlines()[0])
        return False
    gain = (eager - each) * steps - compiling
    words = "kept" if gain > 0 else "not worth it"
    log.info("compiled: %.3f s a step instead of %.3f, after %.0f s: %s", each, eager, compiling, words)
    return gain > 0


def _seconds_of_step(learner: Learner, patches: Patches) -> float:
    seconds = []
    for number in range(WARM + TIMED):
        start = time.perf_counter()
        float(learner.take_step(patches.batch(number)))  # float() waits for the device
        seconds.append(time.perf_counter() - start)
    return sorted(seconds[WARM:])[TIMED // 2]


def steps_fitting(seconds: float, patches: Patches, validation: Validation, setting: TrainingContext) -> tuple[int, float]:
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
