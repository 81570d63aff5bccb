"""Where networks compute, and in which precision."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

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
    here = _devices()
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
            other devices bfloat16 where a trial, made once per process, finds it faster than float32.
    """
    if precision != "auto":
        return PRECISIONS[precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return _faster_dtype(device.type)


@contextmanager
def exact(device: torch.device, *, wanted: bool) -> Iterator[None]:
    """A context in which CUDA computes bit for bit alike each time, which costs time; the fastest ways are looked for otherwise.

    CPUs always do.
    """
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_device(device)  # else threads would open a context on the first card
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # the only way to ask cuBLAS for it
    torch.use_deterministic_algorithms(wanted)
    torch.backends.cudnn.benchmark = not wanted
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]


def _devices() -> list[str]:
    """Devices of this machine, the one to prefer last."""
    names = ["cpu"]
    if torch.backends.mps.is_available():
        names.append("mps")
    if torch.cuda.is_available():
        names += [f"cuda:{i}" for i in reversed(range(torch.cuda.device_count()))]
    return names


ROUNDS = 3
"""Trials of each type, of which the fastest counts."""


@cache
def _faster_dtype(kind: str) -> torch.dtype:
    device = torch.device(kind)
    # Both in turn, several times: on a busy machine a single trial of each can come out either way, and with it the last digits.
    trials = [(_trial_seconds(device, torch.float32), _trial_seconds(device, torch.bfloat16)) for _ in range(ROUNDS)]
    plain, short = (min(seconds) for seconds in zip(*trials, strict=True))
    log.debug("trial convolution on %s: float32 %.1f ms, bfloat16 %.1f ms", kind, plain * 1e3, short * 1e3)
    return torch.bfloat16 if short < plain else torch.float32


def _trial_seconds(device: torch.device, dtype: torch.dtype, repeats: int = 3) -> float:
    """Seconds of the fastest of some passes through a few convolutions; infinite if the type does not work there."""
    image = torch.linspace(-1, 1, 16 * 32**3, device=device).reshape(1, 16, 32, 32, 32)
    try:
        with torch.random.fork_rng(devices=[]), torch.inference_mode():
            network = nn.Sequential(nn.Conv3d(16, 32, 3, padding=1), nn.LeakyReLU(), nn.Conv3d(32, 32, 3, padding=1)).to(device)
            seconds = [_pass_seconds(network, image, dtype) for _ in range(repeats + 1)]  # the first one warms up
    except RuntimeError:  # torch says so where a type is not implemented
        return float("inf")
    return min(seconds[1:])


def _pass_seconds(network: nn.Module, image: torch.Tensor, dtype: torch.dtype) -> float:
    start = time.perf_counter()
    with torch.autocast(image.device.type, dtype=dtype, enabled=dtype != torch.float32):
        finite = bool(torch.isfinite(network(image)).all())  # reading the answer also waits for the device
    return time.perf_counter() - start if finite else float("inf")
