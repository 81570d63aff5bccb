"""What the benchmarks of training share: a learner to time, a clock, and a type's name."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from nnseg.core.plan import Plan
from nnseg.core.schedule import Course
from nnseg.network.device import autocast_dtype
from nnseg.training.context import TrainingContext
from nnseg.training.learner import Learner


def make_learner(plan: Plan, device: torch.device, precision: str = "auto") -> Learner:
    """A learner at the beginning of a long training."""
    context = TrainingContext(plan=plan, fold=0, device=device, dtype=autocast_dtype(device, precision))
    return Learner(context, Course.of(10_000, plan.training))


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Wall-clock of some work, on the device too."""
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def name_of(dtype: torch.dtype) -> str:
    """A type's name without its module: "bfloat16"."""
    return str(dtype).removeprefix("torch.")
