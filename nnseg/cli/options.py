"""Options and arguments that several commands share."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from nnseg.core.errors import NnsegError
from nnseg.core.names import nearest_name
from nnseg.core.options import FAST_STEP, MACHINE, Flag, Options, parse_count, parse_gigabytes, parse_steps

if TYPE_CHECKING:
    from nnseg.storage.path_kinds import PathKind, Role

Command = Callable[..., None]

DatasetFolder = Annotated[Path, typer.Argument(metavar="DATASET", help="Folder of labelled scans; never written to.")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the run; created if missing.")]
KnownRun = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the run, made by nnseg plan or run.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Also log tracebacks and debug messages.", metavar="")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print results, warnings and errors only.", metavar="")]
Force = Annotated[bool, typer.Option("--force", help="Also overwrite files that nnseg did not make.", metavar="")]
Scans = Annotated[Path, typer.Argument(metavar="SCANS", help="A scan, a folder of files or DICOM, or a CSV table.")]
Models = Annotated[
    list[Path],
    typer.Option(
        "--model", "-m", metavar="MODEL", help="Run folder, exported file, or name (nnseg models list); several are averaged."
    ),
]
Fast = Annotated[
    bool,
    typer.Option(
        "--fast", help=f"As --no-mirror --step {FAST_STEP}: on Hippocampus 5 times as fast, Dice 0.004 lower.", metavar=""
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON (docs/json.md).", metavar="")]

READING = ("images", "labels", "channels", "spacing", "layout", "auto_labels")
"""Options that say how a dataset is read."""

SMALLEST_STEP = 0.05

FLAGS = {field.name: field.metadata["flag"] for field in fields(Options)}
TYPES = get_type_hints(Options)


def check_path(path: Path, role: Role) -> PathKind:
    """What there is at a path; NnsegError if it is no good in its role. The modules for it are loaded by commands, not for help."""
    from nnseg.storage import path_kinds

    return path_kinds.check_path(path, role)


def find_model(given: Path) -> Path:
    """The path of a model, given by its path or its name on this machine; NnsegError if there is none."""
    from nnseg.storage import path_kinds

    return path_kinds.find_model(given)


def check_empty(words: Sequence[str]) -> None:
    """Raise NnsegError for an empty word of a command line: as a path it would mean the current folder."""
    for before, word in pairwise(("", *words)):
        if not word and before != "--tolerances":
            of = f" of {before}" if before.startswith("-") else ""
            raise NnsegError(f"an argument{of} is empty, perhaps a variable of the shell that is not set; the current folder is .")


def check_suffix(file: Path, kind: str) -> None:
    """Raise RunError for a file to be written whose suffix is that of another format."""
    from nnseg.storage import path_kinds

    path_kinds.check_suffix(file, kind)


def with_options(*names: str) -> Callable[[Command], Command]:
    """A decorator that puts command-line options in the place of a command's parameter ``options``, an `Options`.

    Args:
        names: fields of `Options`, in the order of the help.
    """

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def parse_and_call(**values: Any) -> None:
            given = {name: _read(name, values.pop(name)) for name in names}
            command(**values, options=_with_found_init(Options(**given)))

        parameters: list[inspect.Parameter] = []
        for own in inspect.signature(command, eval_str=True).parameters.values():
            parameters += map(_parameter, names) if own.name == "options" else [own.replace(kind=inspect.Parameter.KEYWORD_ONLY)]
        parse_and_call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        parse_and_call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return parse_and_call

    return decorate


def _with_found_init(options: Options) -> Options:
    if options.init is None:
        return options
    from nnseg.storage import path_kinds

    return path_kinds.with_found_init(options)


def _read(name: str, written: Any) -> Any:
    """The field's value for what is written on the command line; the message of an error begins with the option."""
    flag = FLAGS[name]
    with named_errors(flag.names[0] if flag.names else f"--{name}"):
        return not written if flag.default is True else flag.read(written)


def _switch_off(name: str) -> str:
    """The option that switches a field off that is on without it."""
    return f"--no-{name.replace('_', '-')}"


@contextmanager
def named_errors(option: str) -> Iterator[None]:
    """A context in which messages of errors get the name of an option in front."""
    try:
        yield
    except NnsegError as error:
        raise type(error)(f"{option}: {error}") from None


def reader(option: str, read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """What typer is to read an option's value with, so that errors are ours and begin with the option."""
    return named_errors(option)(read)


def parse_step(text: str) -> float:
    """The step between tiles as a fraction of the patch.

    Raises:
        NnsegError: it is no number, too small, or above 1.
    """
    with suppress(ValueError):
        if SMALLEST_STEP <= (step := float(text)) <= 1:
            return step
    raise NnsegError(f'"{text}" is not a fraction of the patch; write a number from {SMALLEST_STEP:g} to 1, like 0.5')


def whole_number(option: str, least: int) -> Callable[[Any], int]:
    """What typer is to read an option's whole number with, of which ``least`` is the smallest."""
    return reader(option, Flag(default=None, help="", parse=parse_count, minimum=least).read)


def parse_choice(text: str, known: Sequence[str]) -> str:
    """One of some names.

    Raises:
        NnsegError: the text is none of them.
    """
    if text not in known:
        meant = nearest_name(text, known)
        advice = f"did you mean {meant}?" if meant else f"write {' or '.join(known)}"
        raise NnsegError(f'"{text}" is none of {", ".join(known)}; {advice}')
    return text


def one_of(option: str, names: Sequence[str]) -> dict[str, Any]:
    """Settings of an option whose value is one of some names."""
    return {"metavar": "|".join(names), "parser": reader(option, functools.partial(parse_choice, known=names))}


def _parameter(name: str) -> inspect.Parameter:
    """The parameter from which typer makes the option of a field."""
    flag, written_as = FLAGS[name], TYPES[name]
    if flag.parse:
        written_as = str | None if flag.default is None else str
    panel = {} if flag.panel == "Options" else {"rich_help_panel": flag.panel}
    named = "Default:" not in flag.help
    names, default = (flag.names, flag.default) if flag.default is not True else ((_switch_off(name),), False)
    shown = typer.Option(default, *names, help=flag.help, metavar=flag.unit, show_default=named, **panel)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=shown, annotation=written_as)


Memory = Annotated[
    float | None,
    typer.Option(
        metavar="GB",
        parser=reader("--memory", parse_gigabytes),
        help="GB of RAM at most. Default: 80 % of the free RAM.",
        rich_help_panel=MACHINE,
    ),
]
"""Of commands that predict in worker processes."""

Prepare = Annotated[
    str | None,
    typer.Option(
        "--prepare",
        metavar="STEPS",
        help="Steps before: n4,register,mask,normalize.",
        rich_help_panel="Dataset",
    ),
]
"""Of commands that predict; `steps_of` reads it."""


def steps_of(written: str | None, option: str = "--prepare") -> tuple[str, ...]:
    """Names of steps of preparation; NnsegError, which begins with the option, for others."""
    with named_errors(option):
        return parse_steps(written or ())
