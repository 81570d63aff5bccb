"""Options and arguments that several commands share."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from nnseg.core.options import Options

Command = Callable[..., None]

DatasetFolder = Annotated[Path, typer.Argument(metavar="DATASET", help="Folder of labelled scans; never written to.")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the run; created if missing.")]
KnownRun = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the run, made by nnseg plan or run.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Also log tracebacks and debug messages.")]
Force = Annotated[bool, typer.Option("--force", help="Also overwrite files that nnseg did not make.")]

FLAGS = {field.name: field.metadata["flag"] for field in fields(Options)}
TYPES = get_type_hints(Options)


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
    shown = typer.Option(flag.default, *flag.names, help=flag.help, min=flag.minimum)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=shown, annotation=written_as)
