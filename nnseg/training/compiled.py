"""Is a compiled network worth its compiling? Tried before a training, kept only if it pays, and never in the way."""

from __future__ import annotations

import logging
import time

from nnseg.training.course import Course
from nnseg.training.learner import Learner
from nnseg.training.patches import Patches
from nnseg.training.setting import Setting

log = logging.getLogger(__name__)

WORTH_A_TRIAL = 900.0
"""Seconds of training below which nothing is tried: compiling takes one or two minutes."""

TIMED, WARM = 8, 2
"""Steps that are timed, and steps before that."""


def pays(setting: Setting, patches: Patches, steps: int) -> bool:
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
