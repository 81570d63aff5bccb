"""Options that verbs share, and how people write them."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nnseg.core.errors import NnsegError
from nnseg.core.geometry import Vector
from nnseg.core.parallel import default_workers

Split = Literal["auto", "random", "blocks"]
DeviceKind = Literal["cpu", "cuda", "mps"]
FreezePart = Literal["encoder"]


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


def parse_duration(text: str) -> float:
    """Seconds of "90s", "20m", "1h30m" or "2h"; a bare number counts minutes.

    Raises:
        NnsegError: the text is not a time.
    """
    if re.fullmatch(r"\d+(\.\d+)?", text):
        text += "m"
    parts = re.findall(r"(\d+(?:\.\d+)?)([hms])", text)
    if not parts or "".join(n + u for n, u in parts) != text or sum(float(n) for n, _ in parts) <= 0:
        raise NnsegError(f'"{text}" is not a time; write it like 90s, 20m or 1h30m')
    return sum(float(number) * {"h": 3600, "m": 60, "s": 1}[unit] for number, unit in parts)


def parse_folds(text: str) -> tuple[int, ...] | None:
    """Fold numbers of "0" or "0,2,4"; None for "all".

    Raises:
        NnsegError: the text is neither.
    """
    if text.strip().lower() == "all":
        return None
    if not re.fullmatch(r"\d+(,\d+)*", text.replace(" ", "")):
        raise NnsegError(f'"{text}" does not name folds; write "all", "0" or "0,2,4"')
    return tuple(sorted({int(n) for n in text.split(",")}))


def parse_kinds(text: str) -> tuple[str, ...]:
    """Names of plans of "auto", "all", "2d" or "2d,3d,3d_lowres"; the planner knows which there are."""
    return tuple(dict.fromkeys(part.strip().lower() for part in text.split(",") if part.strip())) or ("auto",)


def parse_devices(text: str) -> tuple[str, ...]:
    """Devices of "0,1" (GPUs by number) or "cuda:0,cpu".

    Raises:
        NnsegError: the text is neither.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"\d+|cpu|mps|cuda(:\d+)?", part) for part in parts):
        raise NnsegError(f'"{text}" does not name devices; write 0,1,2 for GPUs by number, or cuda:0,cpu')
    return tuple(f"cuda:{part}" if part.isdecimal() else part for part in parts)


def parse_spacing(text: str | None) -> Vector | None:
    """Millimetres of "3,0.7,0.7"; None for nothing.

    Raises:
        NnsegError: the text is not three lengths.
    """
    if text is None:
        return None
    try:
        z, y, x = (float(part) for part in text.split(","))
    except ValueError:
        raise NnsegError(f'"{text}" is not a spacing; write three lengths in mm along z, y, x, like 3,0.7,0.7') from None
    if not all(0 < length < float("inf") for length in (z, y, x)):
        raise NnsegError(f'"{text}" is not a spacing; lengths must be above 0 mm')
    return z, y, x


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
