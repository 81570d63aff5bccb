"""The options of commands as keyword arguments of Python functions, with the names that they have on the command line."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypedDict, TypeVar

from nnseg.core.errors import NnsegError
from nnseg.core.names import nearest_name
from nnseg.core.options import Flag, FreezePart, InitMode, Options, RegistrationKind

Function = TypeVar("Function", bound=Callable[..., Any])
Words = str | Sequence[str]
Numbers = str | Sequence[int] | int


class ScanOptions(TypedDict, total=False):
    """Which files are scans and channels."""

    images: str
    channels: Words
    spacing: str | Sequence[float] | None


class DatasetOptions(ScanOptions, total=False):
    """How a dataset is read."""

    labels: str
    layout: str
    auto_labels: bool
    workers: int


class CheckedOptions(DatasetOptions, total=False):
    """How a dataset is read and checked."""

    allow: Words


class CheckOptions(CheckedOptions, total=False):
    """Options of ``nnseg check``; its help says what each does."""

    cluster: str | None


class ValidateOptions(DatasetOptions, total=False):
    """Options of ``nnseg validate`` that other commands have too."""

    folds: Numbers | None
    device: str


class PlanOptions(CheckedOptions, total=False):
    """Options of ``nnseg plan``; its help says what each does."""

    budget: str | None
    folds: Numbers | None
    device: str
    recipe: str | Path
    init: str | Path | None
    steps: int | None
    epochs: int | None
    patience: int | None
    plans: Words
    split: str | Path
    group_by: str | Path | None
    every_case: bool
    memory: str | float | None
    probe: bool
    register: RegistrationKind | None
    seed: int | None


class RunOptions(PlanOptions, total=False):
    """Options of ``nnseg run``; its help says what each does."""

    checkpoint: str
    skip_bad: bool
    freeze: FreezePart | None
    init_mode: InitMode | None
    pseudo_labels: bool
    devices: Words
    cluster: str | None
    deterministic: bool
    tensorboard: bool


class ScanModelOptions(ScanOptions, total=False):
    """Options of ``nnseg explain`` and ``predict`` that other commands have too."""

    folds: Numbers | None
    device: str


class PredictOptions(ScanModelOptions, total=False):
    """Options of ``nnseg predict`` that other commands have too."""

    devices: Words
    cluster: str | None


FLAGS: dict[str, tuple[str, Flag]] = {
    (flag.names[0] if flag.names else one.name).lstrip("-").replace("-", "_"): (one.name, flag)
    for one in fields(Options)
    for flag in (one.metadata["flag"],)
}
"""The field of `Options` and its flag, by the name on the command line."""


def listing(options: type) -> Callable[[Function], Function]:
    """A decorator that shows options in the signature of a function that takes them as ``**options``, with their defaults."""

    def decorate(function: Function) -> Function:
        own = inspect.signature(function)
        kept = [one for one in own.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
        shown = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=FLAGS[name][1].default, annotation=kind.__forward_arg__)
            for name, kind in inspect.get_annotations(options).items()
        ]
        function.__signature__ = own.replace(parameters=[*kept, *shown])  # type: ignore[attr-defined]
        return function

    return decorate


def options_of(given: Mapping[str, Any], known: type) -> Options:
    """The options of a command from keyword arguments: texts as on the command line, or numbers and lists.

    Args:
        given: by names on the command line, with "_" for "-".
        known: the `TypedDict` of those that the function takes.

    Raises:
        NnsegError: a value cannot be understood.
        TypeError: there is no such option.
    """
    names = known.__optional_keys__  # type: ignore[attr-defined]
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name not in names:
            meant = nearest_name(name, names)
            raise TypeError(f'there is no option "{name}"' + (f"; did you mean {meant}?" if meant else ""))
        field, flag = FLAGS[name]
        try:
            values[field] = flag.read(_written(value, flag))
        except NnsegError as error:
            raise type(error)(f"{name}: {error}") from None
    if values.get("init"):
        values["init"] = Path(values["init"])
    return Options(**values)


def _written(value: Any, flag: Flag) -> Any:
    """A value as it is written on the command line."""
    if isinstance(value, list | tuple):
        return ",".join(map(str, value)) or None
    written_as_text = flag.parse and value is not None and not isinstance(flag.default, int)
    return str(value) if written_as_text or isinstance(value, Path) else value
