"""Arguments and options that several verbs share, and how they are read."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from nnseg.core.errors import NnsegError

if TYPE_CHECKING:
    from nnseg.core.geometry import Vector
    from nnseg.core.options import Options


DatasetFolder = Annotated[
    Path, typer.Argument(metavar="DATASET", help="Folder of labelled scans; never written to.", show_default=False)
]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the run; made if it is not there.", show_default=False)]
KnownRun = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the run, made by nnseg plan or run.", show_default=False)]
DatasetOrFingerprint = Annotated[
    Path,
    typer.Argument(metavar="DATASET", help="Folder of labelled scans, or the fingerprint.json of one.", show_default=False),
]
Recipe = Annotated[
    str, typer.Option(help="Preset that shapes the plan: auto, nnunet, resenc-m, resenc-l, resenc-xl, or a TOML file.")
]
Kinds = Annotated[str, typer.Option("--plans", help="Which plans to make: auto, all, or some of 2d, 3d, 3d_lowres and 3d_cascade.")]
Memory = Annotated[
    float | None,
    typer.Option(min=0.1, help="GB of memory a training may use. Default: what the device has free.", show_default=False),
]
Probe = Annotated[
    bool, typer.Option(help="Try networks on the device for a few steps before deciding, and foresee what the run will cost.")
]
GroupBy = Annotated[
    str | None,
    typer.Option(
        help="What keeps a patient's cases together: a CSV of case and group, a regular expression, or subject (BIDS).",
        show_default=False,
    ),
]
Budget = Annotated[
    str | None,
    typer.Option(
        help="Wall-clock for all training of the run, shared by folds and plans: 90s, 20m, 1h30m. Default: as the recipe says."
    ),
]
Steps = Annotated[int | None, typer.Option(min=1, help="Length of each training in steps, instead of a time.", show_default=False)]
Epochs = Annotated[int | None, typer.Option(min=1, help="The same in epochs of the plan.", show_default=False)]
Patience = Annotated[
    int | None,
    typer.Option(
        min=1, help="Bring a training to its end, rate annealed, after so many epochs without a better Dice.", show_default=False
    ),
]
Init = Annotated[
    Path | None,
    typer.Option(help="Begin with a trained model (a run or an exported file), labels matched by name.", show_default=False),
]
Freeze = Annotated[
    Literal["encoder"] | None, typer.Option(help="With --init: leave this part of the network as it is.", show_default=False)
]
Deterministic = Annotated[bool, typer.Option("--deterministic", help="Bit for bit repeatable on CUDA too; CPUs always are.")]
TensorBoard = Annotated[
    bool, typer.Option("--tensorboard", help="Also write events for TensorBoard (needs the extra of this name).")
]
Folds = Annotated[str, typer.Option("--folds", "--fold", help='Folds to work on: "all", "0" or "0,2,4".')]
Split = Annotated[
    Literal["auto", "random", "blocks"],
    typer.Option(help="How cases are divided into folds; blocks keep neighbours together (auto: for numbered slices of a stack)."),
]
Device = Annotated[str, typer.Option(help="What computes: auto, cpu, cuda, cuda:1 or mps.")]
Devices = Annotated[
    str | None,
    typer.Option(help="Train folds side by side, one on each: 0,1,2,3 (GPUs by number) or cuda:0,cpu.", show_default=False),
]
Workers = Annotated[int, typer.Option(min=0, help="Processes for reading and preprocessing; 0 for one a core.")]
Seed = Annotated[int | None, typer.Option(help="Seed of every random draw. Default: the recipe's.")]
Checkpoint = Annotated[str, typer.Option(help="Time between checkpoints; a training that is killed loses at most this.")]
ModelPath = Annotated[list[Path], typer.Option("--model", "-m", help="Run folder or exported file; give several for an ensemble.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Also log tracebacks and details.")]


def options_of(
    *,
    plans: str = "auto",
    budget: str | None = None,
    more: str | None = None,
    folds: str = "all",
    devices: str | None = None,
    workers: int = 0,
    checkpoint: str = "10m",
    **others: Any,
) -> Options:
    """Options as people write them, read."""
    from nnseg.core.options import Options

    return Options(
        kinds=parse_kinds(plans),
        budget=None if budget is None else parse_duration(budget),
        more=None if more is None else parse_duration(more),
        folds=parse_folds(folds),
        devices=() if devices is None else parse_devices(devices),
        workers=workers_of(workers),
        checkpoint=parse_duration(checkpoint),
        **others,
    )


def command_line() -> str:
    """The command as it was given, for those who want to give it again."""
    return shlex.join(["nnseg", *sys.argv[1:]])


def workers_of(workers: int) -> int:
    """How many processes to start; 0 stands for one a core."""
    from nnseg.core.options import default_workers

    return workers or default_workers()


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
