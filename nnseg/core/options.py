"""Options that verbs share, and how people write them."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nnseg.core.errors import NnsegError

Split = Literal["auto", "random", "blocks"]
DeviceKind = Literal["cpu", "cuda", "mps"]
FreezePart = Literal["encoder"]


def default_workers() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a run is to be made.

    Args:
        recipe: name or file.
        kinds: which plans to make: their names, or "auto", or "all".
        budget: seconds of training in all, shared by folds and plans; None to follow the recipe.
        steps, epochs: length of each training instead of a time.
        patience: epochs without a better estimate of Dice after which a training is brought to its end.
        more: seconds by which each finished training is continued.
        init: a trained model to begin with: a run folder or an exported file.
        freeze: "encoder" to learn only the rest.
        memory_gb: that a training may use; None for what the device has free.
        probe: try candidates on the device before deciding.
        folds: which folds to train; None for all.
        split: how cases are divided into folds.
        group_by: what keeps cases together, as `read_groups` takes it; None for the subjects of BIDS names, if there are any.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        devices: that train side by side, a fold each; empty for one after the other on ``device``.
        workers: processes for reading and preprocessing.
        seed: of every random draw; None to keep the recipe's.
        deterministic: compute bit for bit alike on CUDA too, at some cost.
        tensorboard: also write events for TensorBoard.
        checkpoint: seconds between two checkpoints of a training.
    """

    recipe: str = "auto"
    kinds: tuple[str, ...] = ("auto",)
    budget: float | None = None
    steps: int | None = None
    epochs: int | None = None
    patience: int | None = None
    more: float | None = None
    init: Path | None = None
    freeze: FreezePart | None = None
    memory_gb: float | None = None
    probe: bool = True
    folds: tuple[int, ...] | None = None
    split: Split = "auto"
    group_by: str | None = None
    device: str = "auto"
    devices: tuple[str, ...] = ()
    workers: int = default_workers()
    seed: int | None = None
    deterministic: bool = False
    tensorboard: bool = False
    checkpoint: float = 600.0

    def __post_init__(self) -> None:
        lengths = [name for name in ("budget", "steps", "epochs", "more") if getattr(self, name) is not None]
        if len(lengths) > 1:
            raise NnsegError(f"--{lengths[0]} and --{lengths[1]} both say how long to train; give one of them")


def chosen_folds(folds: tuple[int, ...] | None, count: int) -> tuple[int, ...]:
    """The folds to work on.

    Raises:
        NnsegError: a fold that does not exist.
    """
    if folds is None:
        return tuple(range(count))
    missing = [f for f in folds if f >= count]
    if missing:
        raise NnsegError(f"there is no fold {missing[0]}: this run has folds 0 to {count - 1}")
    return folds


def device_kind(device: str) -> DeviceKind:
    """What kind of device "auto" will find, without loading torch."""
    if device == "auto":
        return "cuda" if shutil.which("nvidia-smi") else "cpu"
    if device.startswith("cuda"):
        return "cuda"
    return "mps" if device == "mps" else "cpu"
