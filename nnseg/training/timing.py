"""Seconds of a training step: how many steps fit into a time, and whether torch.compile saves time."""

from __future__ import annotations

import logging
import math
import time
from typing import Any

import torch

from nnseg.core.patch_growth import PatchGrowth
from nnseg.core.schedule import Course
from nnseg.network.device import has_triton, time_calls
from nnseg.planning.candidates import steps_within
from nnseg.training.context import TrainingContext
from nnseg.training.learner import Learner
from nnseg.training.loop import memory_for
from nnseg.training.patches import Patches
from nnseg.training.validation import Validation

log = logging.getLogger(__name__)

COMPILE_FROM_SECONDS = 900.0
"""Trainings shorter than this are not compiled: compiling takes one or two minutes."""

FUSED_NORM_FROM_STEPS = 1000
"""Trainings of fewer steps do not try another norm, which takes 20 steps and some seconds of compiling."""

COMPARED, LOSS_TOLERANCE = 3, 0.02
"""Steps whose losses must be equal with another norm, and the relative difference that rounding may make."""

TIMED_STEPS, WARMUP_STEPS = 8, 2
MOST_STEPS = 20
MEASURED_SHARE = 0.04
"""Of the time given, the share after which no further step is measured."""


def time_steps(learner: Learner, patches: Patches, **limits: Any) -> list[float]:
    """Seconds of each of the learner's next steps, patches included.

    Args:
        limits: of `time_calls`.
    """
    return time_calls(lambda: float(learner.take_step(patches.batch(learner.step))), **limits)  # float() waits for the device


def compile_pays_off(context: TrainingContext, patches: Patches, steps: int) -> bool:
    """Decide by timing whether torch.compile saves more time, over so many steps, than compiling takes.

    Measured on CUDA only. On CPUs it does not: 1.10 s a step against 0.93 s, after 50 s of compiling (two cores, bfloat16,
    40 x 56 x 40 voxels); oneDNN's convolutions are most of the time either way.
    """
    if context.device.type != "cuda" or context.plan.training.growing:  # each size of patches would be compiled anew
        return False
    course = Course.of(steps, context.plan.training)
    eager = _median_step(Learner(context, course), patches)
    if eager * steps < COMPILE_FROM_SECONDS:
        return False
    try:
        learner = Learner(context, course, compiled=True)
        [compiling] = time_steps(learner, patches, most=1)
        compiled = _median_step(learner, patches)
    except Exception as error:  # the compiler raises errors of many types; training continues without it
        log.warning("the network cannot be compiled here (%s); it is trained without", str(error).splitlines()[0])
        return False
    gain = (eager - compiled) * steps - compiling
    words = "used" if gain > 0 else "not used"
    log.info("compiled: %.3f s a step instead of %.3f, after %.0f s: %s", compiled, eager, compiling, words)
    return gain > 0


def fused_norm_pays_off(context: TrainingContext, patches: Patches, steps: int) -> bool:
    """Decide by timing whether 3D networks on CUDA train faster channels-last, with the norm of `nnseg.network.triton_norm`.

    PyTorch's own norm copies channels-last volumes to another layout and back. The other is not tried in short trainings, nor where
    the same bits are wanted each time, since the choice changes the last ones. The first losses must be those of PyTorch's norm.
    """
    in_3d, few = context.plan.dimensions == 3, FUSED_NORM_FROM_STEPS
    if not (has_triton(context.device) and in_3d and steps >= few) or torch.are_deterministic_algorithms_enabled():
        return False
    course = Course.of(steps, context.plan.training)
    try:
        seconds, losses = _step_and_losses(Learner(context, course), patches)
        fused_seconds, fused_losses = _step_and_losses(Learner(context, course, fused_norm=True), patches)
    except Exception as error:  # the compiler raises errors of many types; training continues without it
        log.warning("the norm in Triton cannot be used here (%s); PyTorch's is used", (str(error).splitlines() or [""])[0])
        return False
    if not all(math.isclose(a, b, rel_tol=LOSS_TOLERANCE) for a, b in zip(losses, fused_losses, strict=True)):
        log.warning("the norm in Triton gives other losses here (%s, not %s); PyTorch's is used", fused_losses, losses)
        return False
    words = "used" if fused_seconds < seconds else "not used"
    log.info("channels-last, norm in Triton: %.3f s a step instead of %.3f: %s", fused_seconds, seconds, words)
    return fused_seconds < seconds


def _step_and_losses(learner: Learner, patches: Patches) -> tuple[float, list[float]]:
    """Seconds of a step, and the losses of the first ones."""
    return _median_step(learner, patches), learner.losses()[:COMPARED]


def _median_step(learner: Learner, patches: Patches) -> float:
    count = WARMUP_STEPS + TIMED_STEPS
    return sorted(time_steps(learner, patches, least=count, most=count)[WARMUP_STEPS:])[TIMED_STEPS // 2]


def steps_fitting(seconds: float, patches: Patches, validation: Validation, context: TrainingContext) -> tuple[int, float]:
    """The number of steps that fit into a time, measured with a learner that is then thrown away, and the seconds of one.

    Args:
        seconds: for the training, this measurement included.

    Returns:
        The number of steps, at least one, and the median seconds of a step.
    """
    start = time.perf_counter()
    learner = Learner(context, Course.of(10_000, context.plan.training))
    with memory_for(context.device):
        allowed = MEASURED_SHARE * seconds - (time.perf_counter() - start)
        times = time_steps(learner, patches, least=2, most=MOST_STEPS, seconds=allowed)
    [pause] = time_calls(lambda: validation.estimate(learner.network, learner.weights()))
    step_seconds = sorted(times[1:])[(len(times) - 1) // 2]  # without the first, which also warms up
    left, epoch_steps = seconds - (time.perf_counter() - start), context.plan.training.epoch_steps
    mean_seconds = step_seconds * PatchGrowth(context.plan).mean_cost()
    return steps_within(left, step_seconds=mean_seconds, pause_seconds=pause, epoch_steps=epoch_steps), step_seconds
