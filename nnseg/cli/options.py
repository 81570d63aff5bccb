"""Options and arguments that several commands share."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from nnseg.core.errors import NnsegError
from nnseg.core.options import Options

if TYPE_CHECKING:
    from nnseg.storage.path_kinds import PathKind, Role

Command = Callable[..., None]

DatasetFolder = Annotated[Path, typer.Argument(metavar="DATASET", help="Folder of labelled scans; never written to.")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the run; created if missing.")]
KnownRun = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the run, made by nnseg plan or run.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Also log tracebacks and debug messages.", metavar="")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print results, warnings and errors only.", metavar="")]
Force = Annotated[bool, typer.Option("--force", help="Also overwrite files that nnseg did not make.", metavar="")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON (docs/json.md).", metavar="")]

FLAGS = {field.name: field.metadata["flag"] for field in fields(Options)}
TYPES = get_type_hints(Options)


def check_path(path: Path, role: Role) -> PathKind:
    """What there is at a path; NnsegError if it is no good in its role. The modules for it are loaded by commands, not for help."""
    from nnseg.storage import path_kinds

    return path_kinds.check_path(path, role)


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
            given = {name: FLAGS[name].read(values.pop(name)) for name in names}
            command(**values, options=Options(**given))

        parameters: list[inspect.Parameter] = []
        for own in inspect.signature(command, eval_str=True).parameters.values():
            parameters += map(_parameter, names) if own.name == "options" else [own.replace(kind=inspect.Parameter.KEYWORD_ONLY)]
        parse_and_call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        parse_and_call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return parse_and_call

    return decorate


def _parameter(name: str) -> inspect.Parameter:
    """The parameter from which typer makes the option of a field."""
    flag, written_as = FLAGS[name], TYPES[name]
    if flag.parse:
        written_as = str | None if flag.default is None else type(flag.default)
    panel = {} if flag.panel == "Options" else {"rich_help_panel": flag.panel}
    shown = typer.Option(flag.default, *flag.names, help=flag.help, metavar=flag.unit, **panel)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=shown, annotation=written_as)
