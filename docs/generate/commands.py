"""The commands of the command line with their arguments and options, as the parser knows them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import typer

from generate.docstrings import in_table, plain
from nnseg.cli import app

GROUP: Any = typer.main.get_command(app)
CONTEXT = typer.Context(GROUP)


def commands() -> str:
    """Markdown of all commands, in the order of ``nnseg --help``."""
    found = list(_commands())
    order = list(dict.fromkeys(panel for panel, _, _ in found))
    panels = groupby(sorted(found, key=lambda one: order.index(one[0])), key=lambda one: one[0])
    return "\n\n".join(f"## {panel}\n\n" + "\n\n".join(_command(name, one) for _, name, one in those) for panel, those in panels)


def helps() -> Iterator[tuple[str, str]]:
    """Name and help of each command."""
    return ((name, " ".join(plain(one.help).split())) for _, name, one in _commands())


def _commands() -> Iterator[tuple[str, str, Any]]:
    """Panel, name and command of each command, also of those in a group."""
    for name, command in GROUP.commands.items():
        inner = {f"{name} {word}": one for word, one in getattr(command, "commands", {}).items()} or {name: command}
        yield from ((command.rich_help_panel, whole, one) for whole, one in inner.items())


def _command(name: str, command: Any) -> str:
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option" and not one.hidden]
    usage = " ".join(["nnseg", name, *(_usage(one) for one in arguments), "[OPTIONS]"])
    parts = [f"### nnseg {name}", plain(command.help), f"```text\n{usage}\n```"]
    if arguments:
        rows = [f"| `{in_table(one.metavar or one.name.upper())}` | {in_table(plain(one.help or ''))} |" for one in arguments]
        parts.append("\n".join(["| argument | meaning |", "|---|---|", *rows]))
    if options:
        options.sort(key=_panel(options))
        rows = [f"| {_names(one)} | {in_table(plain(one.help or ''))}{_default(one)} |" for one in options]
        parts.append("\n".join(["| option | meaning |", "|---|---|", *rows]))
    return "\n\n".join(parts)


def _usage(argument: Any) -> str:
    shown = argument.metavar or argument.name.upper()
    return shown if argument.required or shown.startswith("[") else f"[{shown}]"


def _panel(options: list[Any]) -> Any:
    """The order of an option's group among all."""
    order = list(dict.fromkeys(one.rich_help_panel for one in options))
    return lambda option: order.index(option.rich_help_panel)


def _names(option: Any) -> str:
    kind = "" if option.is_flag else in_table(option.metavar or option.display_type(CONTEXT).strip("<>"))
    return ", ".join(f"`{name} {kind}`" if kind else f"`{name}`" for name in (*option.opts, *option.secondary_opts))


def _default(option: Any) -> str:
    """The default, where the help does not name it."""
    if option.is_flag:
        named = f"`{(option.opts if option.default else option.secondary_opts)[0]}`" if option.secondary_opts else ""
    else:
        named = "" if option.default in (None, "", ()) else str(option.default)
    return f" Default: {named}." if named and "Default:" not in (option.help or "") else ""
