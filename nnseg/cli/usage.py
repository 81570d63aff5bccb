"""Command lines that cannot be understood: one line in our own words, with what to type."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

from nnseg.core.errors import NnsegError
from nnseg.core.names import nearest_name

UsageError: type[Exception] = typer.BadParameter.__bases__[0]
"""What the parser raises; a class of click, or of the copy of it in newer versions of typer."""


class Commands(TyperGroup):
    """The commands; a command line that cannot be understood raises NnsegError, whose message says what to type."""

    def make_context(self, *args: Any, **settings: Any) -> Any:
        """The context of a command line."""
        with _explained():
            return super().make_context(*args, **settings)

    def invoke(self, ctx: Any) -> Any:
        """Run the command of a context."""
        with _explained():
            return super().invoke(ctx)


@contextmanager
def _explained() -> Iterator[None]:
    """A context in which errors of the parser become ours."""
    try:
        yield
    except UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            raise
        raise NnsegError(explain(error, sys.argv[1:])) from None


def explain(error: Any, words: Sequence[str]) -> str:
    """What is wrong with a command line, and what to type instead.

    Args:
        error: of the parser.
        words: of the command line.
    """
    kind, typed = type(error).__name__, [word for word in words if not word.startswith("-")]
    if kind == "BadOptionUsage":
        wrong = "takes no value" if "not take" in error.message else "needs a value"
        return f"{error.option_name} {wrong}; nnseg {typed[0] if typed else ''} --help says which"
    command, called = error.ctx.command, _called(error.ctx)
    arguments = [_shown(one) for one in command.params if one.param_type_name == "argument"]
    if kind == "NoSuchOption":
        return _explain_option(error.option_name, called, command, words)
    if kind == "MissingParameter":
        needed = [_shown(one) for one in command.params if one.param_type_name == "option" and one.required]
        return f"{_shown(error.param)} is missing; write {' '.join([called, *arguments, *needed])}"
    if extra := re.search(r"extra arguments?(?:\(s\))? \((.*)\)", error.message):
        return f'"{extra[1]}" is too much for {" ".join([called, *arguments])}; a path with spaces needs quotes'
    if commands := getattr(command, "commands", {}):
        unknown = next(iter(typed[called.count(" ") :]), "")
        return f'{called} has no command "{unknown}"; {_advice(nearest_name(unknown, commands), called)}'
    return f"{error.format_message().rstrip('.')}; {called} --help lists what it takes"


def _called(context: Any) -> str:
    """The command of a context, with those above it, as it is typed."""
    return f"{_called(context.parent)} {context.info_name}" if context.parent else "nnseg"


def _explain_option(name: str, called: str, command: Any, words: Sequence[str]) -> str:
    """What is wrong with an option that a command does not have."""
    whole = [word.partition("=")[0] for word in words]
    letters = (word for word in whole if re.match("-[^-]", word) and name[-1] in word)  # the parser names one of several
    typed = name if name in whole else next(letters, name)
    if any(typed in _options(one) for one in getattr(command, "commands", {}).values()):
        return f"{typed} stands before the command; write it behind: nnseg COMMAND {typed}"
    known = {option.lstrip("-"): option for option in _options(command)}
    bare = typed.lstrip("-")
    begun = [one for one in known if one.startswith(bare) and len(bare) > 1]
    meant = begun[0] if len(begun) == 1 else nearest_name(bare, known)
    return f"{called} has no option {typed}; {_advice(known.get(meant, ''), called)}"


def _advice(meant: str, called: str) -> str:
    return f"did you mean {meant}?" if meant else f"{called} --help lists them"


def _options(command: Any) -> Iterator[str]:
    """The names of a command's options."""
    yield "--help"
    for one in command.params:
        if one.param_type_name == "option":
            yield from (*one.opts, *one.secondary_opts)


def _shown(parameter: Any) -> str:
    """An argument, or an option with what its value is, as the help shows it."""
    value = parameter.metavar or parameter.name.upper()
    return value if parameter.param_type_name == "argument" else f"{parameter.opts[0]} {value}"
