"""Options of a run: what each is, how it is written on the command line, and its help."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from nnseg.core.codes import ALLOWABLE
from nnseg.core.errors import NnsegError

Split = Literal["auto", "random", "blocks"]
SPLIT_FILES = (".json", ".csv", ".tsv")
"""Suffixes of files with a division of the cases."""
DeviceKind = Literal["cpu", "cuda", "mps"]
FreezePart = Literal["encoder"]


WAITING = {"OMP_WAIT_POLICY": "passive"}
"""Environment of numerical libraries, read when they are loaded: threads that wait for one another leave their core to others.

Beside one other program on two cores a training step takes 1.9 instead of 2.9 times as long as alone (benchmarks/RESULTS.md).
"""


def default_workers() -> int:
    """The number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
    """Names of plans in "auto", "all", "2d" or "2d,3d,3d_lowres"; the planner checks them."""
    return tuple(dict.fromkeys(part.strip().lower() for part in text.split(",") if part.strip())) or ("auto",)


def parse_split(text: str) -> str:
    """A name of `Split`, or the path of a file with a division.

    Raises:
        NnsegError: the text is neither.
    """
    names = get_args(Split)
    if text not in names and Path(text).suffix.lower() not in SPLIT_FILES:
        raise NnsegError(f'"{text}" is no division; write {", ".join(names)}, or a file ({", ".join(SPLIT_FILES)})')
    return text


def parse_devices(text: str) -> tuple[str, ...]:
    """Devices of "0,1" (GPUs by number) or "cuda:0,cpu".

    Raises:
        NnsegError: the text is neither.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"\d+|cpu|mps|cuda(:\d+)?", part) for part in parts):
        raise NnsegError(f'"{text}" does not name devices; write 0,1,2 for GPUs by number, or cuda:0,cpu')
    return tuple(f"cuda:{part}" if part.isdecimal() else part for part in parts)


def parse_spacing(text: str) -> tuple[float, float, float]:
    """Millimetres of "3,0.7,0.7".

    Raises:
        NnsegError: the text is not three lengths.
    """
    try:
        z, y, x = (float(part) for part in text.split(","))
    except ValueError:
        raise NnsegError(f'"{text}" is not a spacing; write three lengths in mm along z, y, x, like 3,0.7,0.7') from None
    if not all(0 < length < float("inf") for length in (z, y, x)):
        raise NnsegError(f'"{text}" is not a spacing; lengths must be above 0 mm')
    return z, y, x


def parse_channels(text: str) -> tuple[str, ...]:
    """The words of "t1n,t2f".

    Raises:
        NnsegError: one is empty, or there twice.
    """
    words = tuple(word.strip() for word in text.split(","))
    if not all(words) or len({word.casefold() for word in words}) < len(words):
        raise NnsegError(f'"{text}" does not name channels; write each once, separated by commas, like t1n,t2f')
    return words


def parse_codes(text: str) -> tuple[str, ...]:
    """Codes of findings that may be allowed, of "NS-D012,NS-D014".

    Raises:
        NnsegError: one is none of these.
    """
    codes = tuple(code.strip().upper() for code in text.split(","))
    if wrong := [code for code in codes if code not in ALLOWABLE]:
        raise NnsegError(f'"{wrong[0]}" cannot be allowed; write some of {", ".join(sorted(ALLOWABLE))}')
    return codes


@dataclass(frozen=True, kw_only=True)
class Flag:
    """The command-line option of a field.

    Args:
        default: as it is written; None for an option that is not given.
        names: of the option; derived from the field's name if empty.
        parse: from what is written to the field's value; None if the two are the same.
        minimum: of a number.
        unset: the field's value if the option is not given.
    """

    default: str | int | None
    help: str
    names: tuple[str, ...] = ()
    parse: Callable[[Any], object] | None = None
    minimum: float | None = None
    unset: object = None

    def read(self, written: Any) -> Any:
        """The field's value for what is written on the command line."""
        if written is None:
            return self.unset
        return self.parse(written) if self.parse else written


def option(default: str | int | None, help: str, *names: str, **further: Any) -> Any:
    """A field of `Options`, with its `Flag` in the metadata and its default derived from the one on the command line."""
    flag = Flag(default=default, help=help, names=names, **further)
    return field(default=flag.read(default), metadata={"flag": flag})


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a run that are not part of a plan; those of the commands are generated from these fields. Times are in seconds.

    Raises:
        NnsegError: more than one of ``budget``, ``steps``, ``epochs`` and ``more`` is given.
    """

    recipe: str = option("auto", "Preset that shapes the plan: auto, nnunet, resenc-m, resenc-l, resenc-xl, or a TOML file.")
    kinds: tuple[str, ...] = option(
        "auto", "Which plans to make: auto, all, or some of 2d, 3d, 3d_lowres and 3d_cascade.", "--plans", parse=parse_kinds
    )
    budget: float | None = option(
        None,
        "Wall-clock time for all training of the run, shared by folds and plans: 90s, 20m, 1h30m. Default: from the recipe.",
        parse=parse_duration,
    )
    steps: int | None = option(None, "Length of each training in steps, instead of a time.", minimum=1)
    epochs: int | None = option(None, "Length of each training in epochs of the plan.", minimum=1)
    patience: int | None = option(
        None, "End a training, with its learning rate annealed, after this many epochs without a better Dice.", minimum=1
    )
    more: float | None = option(None, "Continue the training of finished folds, each for this time: 30m.", parse=parse_duration)
    memory_gb: float | None = option(
        None, "GB of memory that a training may use. Default: the free memory of the device.", "--memory", minimum=0.1
    )
    folds: tuple[int, ...] | None = option(
        "all", 'Folds to work on: "all", "0" or "0,2,4".', "--folds", "--fold", parse=parse_folds
    )
    split: str = option(
        "auto",
        "How cases are divided into folds: random, blocks (of neighbours), or a file: nnU-Net's splits_final.json, a CSV of case "
        "and fold. Auto: as the dataset states; blocks for numbered slices of a stack; else random.",
        parse=parse_split,
    )
    group_by: str | None = option(
        None,
        "Groups to keep in one fold: a CSV of case and group, a regular expression, subject (BIDS), or none. Default: patients, "
        "where names or folders show them.",
    )
    images: str = option(
        "",
        'Which files are images: a folder below the data, or a pattern of paths in quotes, like "*/imaging.nii.gz"; or several, '
        "separated by commas. Default: by their names.",
    )
    labels: str = option(
        "", 'Which files are label maps: a folder, or a pattern like "**/*_seg*"; or several. Default: by their names.'
    )
    channels: tuple[str, ...] = option(
        None,
        "Channels to use, in this order, by the words in names of files: t1n,t2f. Default: all.",
        parse=parse_channels,
        unset=(),
    )
    spacing: tuple[float, float, float] | None = option(
        None, "Spacing in mm along the stored axes, z,y,x, for scans whose files have none.", parse=parse_spacing
    )
    auto_labels: bool = option(False, "Add label values that dataset.json does not declare, as label VALUE.", "--auto-labels")
    allow: tuple[str, ...] = option(
        None, "Findings that do not stop a run, by the codes that check prints: NS-D014.", parse=parse_codes, unset=()
    )
    layout: str = option("", "Layout of the dataset: listed (in dataset.json), bids or names. Default: the first that fits.")
    device: str = option("auto", "Device to compute on: auto, cpu, cuda, cuda:1 or mps.")
    devices: tuple[str, ...] = option(
        None, "Devices to share folds or scans among: 0,1,2,3 (GPUs by number) or cuda:0,cpu.", parse=parse_devices, unset=()
    )
    probe: bool = option(
        True, "Measure candidate networks on the device for a few steps before deciding, and estimate the cost of the run."
    )
    workers: int = option(
        0, "Processes for reading and preprocessing; 0 for one per core.", parse=lambda n: n or default_workers(), minimum=0
    )
    skip_bad: bool = option(
        False, "Train without the cases that cannot be used, however many. Default: stop if they are more than 5 %.", "--skip-bad"
    )
    seed: int | None = option(None, "Random seed. Default: from the recipe.")
    init: Path | None = option(
        None,
        "Begin with a trained model (a run or an exported file): new plans take its network, patch, grid and normalization; labels "
        "and channels are matched by name.",
    )
    freeze: FreezePart | None = option(None, "With --init: do not train this part of the network.")
    deterministic: bool = option(False, "Bitwise reproducible results on CUDA too; on CPUs they always are.", "--deterministic")
    tensorboard: bool = option(False, "Also write events for TensorBoard (needs the extra of this name).", "--tensorboard")
    checkpoint: float = option(
        "10m", "Time between checkpoints: the most that is lost when a training is killed.", parse=parse_duration
    )

    def __post_init__(self) -> None:
        lengths = [name for name in ("budget", "steps", "epochs", "more") if getattr(self, name) is not None]
        if len(lengths) > 1:
            raise NnsegError(f"--{lengths[0]} and --{lengths[1]} both set the length of training; give one of them")


def select_folds(folds: tuple[int, ...] | None, count: int) -> tuple[int, ...]:
    """The numbers of the folds to work on.

    Args:
        folds: as requested; None for all.
        count: number of folds of the run.

    Raises:
        NnsegError: a fold does not exist.
    """
    if folds is None:
        return tuple(range(count))
    missing = [f for f in folds if f >= count]
    if missing:
        raise NnsegError(f"there is no fold {missing[0]}: this run has folds 0 to {count - 1}")
    return folds


def device_kind(device: str) -> DeviceKind:
    """The kind of a device; for "auto" CUDA if nvidia-smi is installed. Does not load torch."""
    if device == "auto":
        return "cuda" if shutil.which("nvidia-smi") else "cpu"
    if device.startswith("cuda"):
        return "cuda"
    return "mps" if device == "mps" else "cpu"
