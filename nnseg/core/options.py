"""Options of a run: what each is, how it is written on the command line, and its help."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, get_args

from nnseg.core.codes import ALLOWABLE, CODES
from nnseg.core.errors import NnsegError
from nnseg.core.processors import default_workers

Split = Literal["auto", "random", "blocks"]
SPLIT_FILES = (".json", ".csv", ".tsv")
"""Suffixes of files with a division of the cases."""
DeviceKind = Literal["cpu", "cuda", "mps"]
FreezePart = Literal["encoder"]
InitMode = Literal["whole", "low_rate", "frozen", "auto"]
HeadMethod = Literal["ratio", "residual"]
RegistrationKind = Literal["none", "rigid", "affine"]
ExplanationMethod = Literal["smoothgrad", "occlusion"]
Platform = Literal["grand-challenge", "flare", "docker", "apptainer"]
"""What runs a container that ``nnseg package`` makes."""
ExportRuntime = Literal["onnx", "openvino", "torch"]
Runtime = Literal["torch", "onnx", "openvino", "auto"]
OnMissingChannel = Literal["error", "use"]
PreparationStep = Literal["n4", "register", "mask", "normalize"]
"""What can be done to a scan between reading and preprocessing."""
SKIP = ":skip"
"""After the name of a step: a scan with which it cannot be done goes without it."""
DegradationKind = Literal["noise", "bias_field", "motion", "low_resolution", "slice_thickness"]
"""Kinds of degraded scans, by the names that their augmentations have in plans."""


FORMS = ("masks", "aseg", "bids", "rtstruct", "sr", "stl", "ply", "glb")
"""What ``nnseg convert`` writes besides label maps of other suffixes."""

FAST_STEP = 0.75
"""Step between tiles with ``predict --fast``, as a fraction of the patch."""

UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
"""Seconds of the units of time, by their first letter."""

TIME_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(d(?:ays?)?|h(?:(?:ou)?rs?)?|m(?:in(?:ute)?s?)?|s(?:ec(?:ond)?s?)?)\s*", re.IGNORECASE)


def parse_duration(text: str) -> float:
    """Seconds of "90s", "20m", "20 min", "1h30m", "2 hours" or "1d".

    Raises:
        NnsegError: the text is not a time, or has no unit.
    """
    parts = TIME_PART.findall(text)
    if not parts or TIME_PART.sub("", text).strip() or sum(float(n) for n, _ in parts) <= 0:
        bare = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*", text)
        meant = f"write {bare[1]}m for minutes or {bare[1]}s for seconds" if bare else "write it like 90s, 20m or 1h30m"
        raise NnsegError(f'"{text}" {"has no unit of time" if bare else "is not a time"}; {meant}')
    return sum(float(number) * UNITS[unit[0].lower()] for number, unit in parts)


def parse_gigabytes(text: str) -> float:
    """GB of "8", "8GB", "7.5 G" or "500MB".

    Raises:
        NnsegError: the text is not an amount of memory of at least 0.1 GB.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([mgt]?)(?:i?b)?\s*", text, re.IGNORECASE)
    amount = float(match[1]) * {"m": 1e-3, "t": 1e3}.get(match[2].lower(), 1.0) if match else 0.0
    if amount < 0.1:
        raise NnsegError(f'"{text}" is not an amount of memory; write GB, like 8 or 7.5, from 0.1 on')
    return amount


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


CONFIGURATIONS = {"3d_fullres": "3d", "3d_cascade_fullres": "3d_cascade"}
"""Our names of plans for nnU-Net's configurations; the others have the same names."""


def parse_kinds(text: str) -> tuple[str, ...]:
    """Names of plans in "auto", "all", "2d" or "2d,3d,3d_lowres", or nnU-Net's names; the planner checks them."""
    names = (part.strip().lower() for part in text.split(",") if part.strip())
    return tuple(dict.fromkeys(CONFIGURATIONS.get(name, name) for name in names)) or ("auto",)


def parse_split(text: str) -> str:
    """A name of `Split`, or the path of a file with a division.

    Raises:
        NnsegError: the text is neither.
    """
    names = get_args(Split)
    if text not in names and Path(text).suffix.lower() not in SPLIT_FILES:
        raise NnsegError(f'"{text}" is no division; write {", ".join(names)}, or a file ({", ".join(SPLIT_FILES)})')
    return text


def parse_part(text: str) -> str:
    """A part of a network, of `FreezePart`.

    Raises:
        NnsegError: it is none of these.
    """
    return _one_of(text, get_args(FreezePart), "no part that can be left untrained")


def parse_init_mode(text: str) -> str:
    """What of a network is trained that begins with other weights, of `InitMode`.

    Raises:
        NnsegError: it is none of these.
    """
    return _one_of(text, get_args(InitMode), "no way to train on")


def parse_registration(text: str) -> str:
    """A way to move channels, of `RegistrationKind`.

    Raises:
        NnsegError: it is none of these.
    """
    return _one_of(text, get_args(RegistrationKind), "no way to move channels")


def _one_of(text: str, known: tuple[str, ...], otherwise: str) -> str:
    if text not in known:
        raise NnsegError(f'"{text}" is {otherwise}; write {", ".join(known)}')
    return text


def parse_device(text: str) -> str:
    """A device, or "auto"; whether the machine has it shows later.

    Raises:
        NnsegError: there are no such devices.
    """
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", text):
        raise NnsegError(f'"{text}" is no device; write auto, cpu, cuda, cuda:1 or mps')
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


def parse_thresholds(texts: Collection[str]) -> dict[str, float]:
    """Probabilities by label of texts such as "lesion=0.3"; of "0.3" alone by "".

    Raises:
        NnsegError: one has no number between 0 and 1, or a label has two.
    """
    found: dict[str, float] = {}
    for text in texts:
        name, _, share = text.rpartition("=")
        try:
            value = float(share)
        except ValueError:
            value = math.nan
        if not 0 < value < 1 or ("=" in text and not name.strip()):
            raise NnsegError(
                f'"{text}" is not a threshold; write a probability between 0 and 1, like 0.3, or with a label lesion=0.3'
            )
        if found.setdefault(name.strip(), value) != value:
            raise NnsegError(f"there are two thresholds of {name.strip() or 'all labels'}; write one")
    return found


def parse_steps(given: str | Sequence[str]) -> tuple[str, ...]:
    """Steps of preparation in "n4,mask:skip,normalize", or a list of such names, in this order.

    Raises:
        NnsegError: one is unknown, or there twice.
    """
    steps = tuple(step.strip().lower() for step in (given.split(",") if isinstance(given, str) else given))
    names = [step.removesuffix(SKIP) for step in steps]
    for name in names:
        _one_of(name, get_args(PreparationStep), "no step")
    if len({*names}) < len(names):
        raise NnsegError(f'"{",".join(steps)}" names a step twice; write each once')
    return steps


def parse_codes(text: str) -> tuple[str, ...]:
    """Codes of findings that may be allowed, of "NS-D012,NS-D014" or "D012,D014".

    Raises:
        NnsegError: one is none of these.
    """
    words = (code.strip().upper() for code in text.split(","))
    codes = tuple(code if code.startswith("NS-") else f"NS-{code}" for code in words)
    if wrong := next((code for code in codes if code not in ALLOWABLE), ""):
        why = "is a finding that does not stop a run" if wrong in CODES and CODES[wrong].level != "error" else "cannot be allowed"
        raise NnsegError(f'"{wrong}" {why}; write some of {", ".join(sorted(ALLOWABLE))}')
    return codes


def parse_count(written: str | int) -> int:
    """A whole number.

    Raises:
        NnsegError: the text is none.
    """
    if not re.fullmatch(r"\s*[+-]?\d{1,18}\s*", str(written)):
        raise NnsegError(f'"{written}" is not a whole number; write digits alone, like 100')
    return int(written)


Panel = Literal["Options", "Length of training", "Dataset", "Planning", "Machine"]
"""Groups of options in the help of every command; the first has what is used most."""


@dataclass(frozen=True, kw_only=True)
class Flag:
    """The command-line option of a field.

    Args:
        default: as it is written; None for an option that is not given; True for what ``--no-NAME`` switches off.
        names: of the option; derived from the field's name if empty.
        unit: of its value, or what the value is, shown in the help; "" for switches.
        panel: group in the help.
        parse: from what is written to the field's value; None if the two are the same.
        minimum: of a number.
        unset: the field's value if the option is not given.
    """

    default: str | int | None
    help: str
    names: tuple[str, ...] = ()
    unit: str = ""
    panel: Panel = "Options"
    parse: Callable[[Any], object] | None = None
    minimum: float | None = None
    unset: object = None

    def read(self, written: Any) -> Any:
        """The field's value for what is written on the command line.

        Raises:
            NnsegError: a number is below the minimum, or the text is none of what may be written.
        """
        if written is None:
            return self.unset
        value: Any = self.parse(written) if self.parse else written
        if self.minimum is not None and value < self.minimum:
            raise NnsegError(f"{written} is too small; write {self.minimum:g} or more")
        return value


def option(default: str | int | None, help: str, *names: str, **further: Any) -> Any:
    """A field of `Options`, with its `Flag` in the metadata and its default derived from the one on the command line."""
    flag = Flag(default=default, help=help, names=names, **further)
    return field(default=flag.read(default), metadata={"flag": flag})


LENGTH: Final[Panel] = "Length of training"
DATASET: Final[Panel] = "Dataset"
PLANNING: Final[Panel] = "Planning"
MACHINE: Final[Panel] = "Machine"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a run that are not part of a plan; those of the commands are generated from these fields. Times are in seconds.

    Raises:
        NnsegError: more than one of ``budget``, ``steps``, ``epochs`` and ``more`` is given.
    """

    budget: float | None = option(
        None,
        "Time for all training of the run, shared by folds and plans: 90s, 20m, 1h30m. Default: the recipe's steps.",
        unit="TIME",
        parse=parse_duration,
    )
    folds: tuple[int, ...] | None = option("all", "Folds: all, 0 or 0,2,4.", "--folds", "--fold", unit="FOLDS", parse=parse_folds)
    device: str = option("auto", "Device to compute on: auto, cpu, cuda, cuda:1, mps.", unit="DEVICE", parse=parse_device)
    recipe: str = option("auto", "Preset of the plan: auto, nnunet, resenc-m, resenc-l, resenc-xl, or a TOML file.", unit="NAME")
    init: Path | None = option(
        None,
        "Begin with a trained model (run, file or name): its network, patch and grid; labels and channels are matched by name. Or "
        "with weights from elsewhere: a TOML file that describes them.",
        unit="MODEL",
    )
    steps: int | None = option(None, "Steps of each training.", "--steps", unit="N", panel=LENGTH, parse=parse_count, minimum=1)
    epochs: int | None = option(None, "Epochs of each training.", "--epochs", unit="N", panel=LENGTH, parse=parse_count, minimum=1)
    patience: int | None = option(
        None,
        "End a training after so many epochs without a better Dice.",
        "--patience",
        unit="N",
        panel=LENGTH,
        parse=parse_count,
        minimum=1,
    )
    more: float | None = option(
        None, "Train each finished fold for this time more: 30m.", unit="TIME", panel=LENGTH, parse=parse_duration
    )
    checkpoint: float = option(
        "10m",
        "Time between checkpoints: the most that is lost by a kill. Default: 10m.",
        unit="TIME",
        panel=LENGTH,
        parse=parse_duration,
    )
    images: str = option(
        "",
        'Which files are images: folders below the data, or patterns in quotes, "*/imaging.nii.gz". Default: by names.',
        unit="WHICH",
        panel=DATASET,
    )
    labels: str = option("", 'Which files are label maps, likewise: "**/*_seg*".', unit="WHICH", panel=DATASET)
    channels: tuple[str, ...] = option(
        None,
        "Channels to use, in order, by words in file names: t1n,t2f. Default: all.",
        unit="WORDS",
        panel=DATASET,
        parse=parse_channels,
        unset=(),
    )
    spacing: tuple[float, float, float] | None = option(
        None, "Spacing z,y,x in mm of scans whose files have none.", unit="MM", panel=DATASET, parse=parse_spacing
    )
    layout: str = option("", "Layout: listed (dataset.json), bids or names. Default: what fits.", unit="NAME", panel=DATASET)
    auto_labels: bool = option(False, "Add label values that dataset.json does not declare.", "--auto-labels", panel=DATASET)
    allow: tuple[str, ...] = option(
        None, "Findings that do not stop a run, by code: NS-D014.", unit="CODES", panel=DATASET, parse=parse_codes, unset=()
    )
    skip_bad: bool = option(
        False, "Train without the cases that cannot be used, also if they are over 5 %.", "--skip-bad", panel=DATASET
    )
    kinds: tuple[str, ...] = option(
        "auto",
        "Plans to make: auto, all, or some of 2d, 3d, 3d_lowres, 3d_cascade.",
        "--plans",
        unit="NAMES",
        panel=PLANNING,
        parse=parse_kinds,
    )
    split: str = option(
        "auto",
        "Division into folds: random, blocks (of neighbours), or a file: splits_final.json, a CSV of case and fold. Auto: as "
        "the dataset states.",
        unit="HOW",
        panel=PLANNING,
        parse=parse_split,
    )
    group_by: str | None = option(
        None,
        "Groups to keep in one fold: a CSV of case and group, a regular expression, subject (BIDS) or none. Default: patients.",
        unit="HOW",
        panel=PLANNING,
    )
    every_case: bool | None = option(
        None,
        "Add a fold that trains on every case and holds none out, for a final submission. Scores come from the others.",
        "--every-case",
        panel=PLANNING,
    )
    memory_gb: float | None = option(
        None,
        "GB of memory for a training. Default: what is free on the device.",
        "--memory",
        unit="GB",
        panel=PLANNING,
        parse=parse_gigabytes,
    )
    probe: bool = option(True, "Plan without trying networks on the device.", panel=PLANNING)
    register: RegistrationKind | None = option(
        None,
        "Move the channels of each volume onto the first one, here and in predictions: rigid or affine. Default: as they lie.",
        unit="KIND",
        panel=PLANNING,
        parse=parse_registration,
    )
    seed: int | None = option(None, "Random seed. Default: the recipe's.", unit="N", panel=PLANNING, parse=parse_count)
    freeze: FreezePart | None = option(
        None, "With --init: a part that is not trained: encoder.", unit="PART", panel=PLANNING, parse=parse_part
    )
    init_mode: InitMode | None = option(
        None,
        "With --init: train the whole network, at a low_rate, all but its frozen encoder, or auto: by the number of cases. "
        "Default: whole.",
        "--init-mode",
        unit="MODE",
        panel=PLANNING,
        parse=parse_init_mode,
    )
    pseudo_labels: bool = option(
        True, "With --init: train without labels that the model predicts where they were not annotated.", panel=PLANNING
    )
    devices: tuple[str, ...] = option(
        None,
        "Devices to share folds or scans among: 0,1 (GPUs) or cuda:0,cpu.",
        unit="DEVICES",
        panel=MACHINE,
        parse=parse_devices,
        unset=(),
    )
    cluster: str | None = option(None, "Ray cluster: HOST:PORT, auto, or local.", unit="ADDRESS", panel=MACHINE)
    workers: int = option(
        0,
        "Processes for reading and preprocessing; 0: one per core.",
        "--workers",
        unit="N",
        panel=MACHINE,
        parse=lambda n: parse_count(n) or default_workers(),
        minimum=0,
    )
    deterministic: bool = option(False, "The same bits each time on CUDA too.", "--deterministic", panel=MACHINE)
    tensorboard: bool = option(False, "Also write events for TensorBoard (an extra).", "--tensorboard", panel=MACHINE)

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
        there = f"folds 0 to {count - 1}" if count > 1 else "fold 0 alone"
        raise NnsegError(f"there is no fold {missing[0]}: this run has {there}; write some of these, or all")
    return folds


def device_kind(device: str) -> DeviceKind:
    """The kind of a device; for "auto" CUDA if nvidia-smi is installed. Does not load torch."""
    if device == "auto":
        return "cuda" if shutil.which("nvidia-smi") else "cpu"
    if device.startswith("cuda"):
        return "cuda"
    return "mps" if device == "mps" else "cpu"
