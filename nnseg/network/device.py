"""The device networks compute on, its precision, and the time that work takes there."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec

import torch
from torch import nn

from nnseg.core.errors import RunError

log = logging.getLogger(__name__)

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_device(text: str) -> torch.device:
    """The device called "auto" (the fastest there is), "cpu", "cuda", "cuda:1" or "mps".

    Raises:
        RunError: this machine has no such device; the message names those it has.
    """
    here = device_names()
    if text == "auto":
        return torch.device(here[-1].partition(":")[0])
    if text in here or text in {name.partition(":")[0] for name in here}:
        return torch.device(text)
    raise RunError(f'there is no device "{text}" on this machine; choose auto or one of: {", ".join(here)}')


def autocast_dtype(device: torch.device, precision: str) -> torch.dtype:
    """The type to compute convolutions in, for `torch.autocast`; float32 means that autocast is to be switched off.

    Args:
        device: as `resolve_device` gave it.
        precision: the plan's ``training.precision``. "auto" is bfloat16 on a GPU that has it and float16 on one that has not; on
            other devices bfloat16 where it is faster than float32, which is timed once per process.
    """
    if precision != "auto":
        return PRECISIONS[precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return _faster_dtype(device.type)


@contextmanager
def exact(device: torch.device, *, wanted: bool) -> Iterator[None]:
    """A context in which CUDA gives the same bits each time, which costs time, or else in which it picks the fastest algorithms.

    CPUs always give the same bits.
    """
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_device(device)  # else threads would open a context on the first card
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS has no other setting for it
    torch.use_deterministic_algorithms(wanted)
    torch.backends.cudnn.benchmark = not wanted
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]


def has_triton(device: torch.device) -> bool:
    """True if kernels in Triton can be compiled for a device; the package comes with torch's builds for CUDA."""
    return device.type == "cuda" and find_spec("triton") is not None


def device_names() -> list[str]:
    """Names of this machine's devices, the preferred one last."""
    names = ["cpu"]
    if torch.backends.mps.is_available():
        names.append("mps")
    if torch.cuda.is_available():
        names += [f"cuda:{i}" for i in reversed(range(torch.cuda.device_count()))]
    return names


def time_calls(
    work: Callable[[], object], *, least: int = 1, most: int = 1, seconds: float = math.inf, longest: float = math.inf
) -> list[float]:
    """Seconds of each of some calls, one after the other; the first one also warms up.

    Args:
        work: what to time; must wait for the device.
        least, most: how many calls.
        seconds: no further call is made once they took so long together; `least` are made in any case.
        longest: a first call longer than this is the only one.
    """
    taken: list[float] = []
    while len(taken) < least or (len(taken) < most and sum(taken) < seconds):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
        if taken[0] > longest:
            break
    return taken


ROUNDS = 3
"""Trials of each type, of which the fastest counts."""


@cache
def _faster_dtype(kind: str) -> torch.dtype:
    device = torch.device(kind)
    # Both in turn, several times: on a busy machine one trial of each is not reliable, and the choice changes the last digits.
    trials = [(_trial_seconds(device, torch.float32), _trial_seconds(device, torch.bfloat16)) for _ in range(ROUNDS)]
    plain, short = (min(seconds) for seconds in zip(*trials, strict=True))
    log.debug("trial convolution on %s: float32 %.1f ms, bfloat16 %.1f ms", kind, plain * 1e3, short * 1e3)
    return torch.bfloat16 if short < plain else torch.float32


def _trial_seconds(device: torch.device, dtype: torch.dtype, repeats: int = 3) -> float:
    """Seconds of the fastest finite one of some passes through a few convolutions; infinite if the device lacks the type."""
    image = torch.linspace(-1, 1, 16 * 32**3, device=device).reshape(1, 16, 32, 32, 32)
    finite: list[bool] = []

    def compute() -> None:
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            finite.append(bool(torch.isfinite(network(image)).all()))  # reading the result also waits for the device

    try:
        with torch.random.fork_rng(devices=[]), torch.inference_mode():
            network = nn.Sequential(nn.Conv3d(16, 32, 3, padding=1), nn.LeakyReLU(), nn.Conv3d(32, 32, 3, padding=1)).to(device)
            seconds = time_calls(compute, least=repeats + 1, most=repeats + 1)
    except RuntimeError:  # where a type is not implemented
        return math.inf
    return min((s for s, known in zip(seconds[1:], finite[1:], strict=True) if known), default=math.inf)
