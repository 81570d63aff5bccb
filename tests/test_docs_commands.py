"""What the documentation tells to type: options, arguments and Python names exist. Nothing is run; `test_docs_blocks` does that."""

import ast
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from doc_blocks import PAGES, ROOT, SHELL, Block, blocks, commands, name_of, named_commands

import nnseg
from nnseg.cli import app
from nnseg.cli.nnunet_words import translated
from nnseg.cli.options import FLAGS

GROUP: Any = typer.main.get_command(app)
TYPED = [(page, block) for page in PAGES for block in blocks(page) if block.language in SHELL]
PYTHON = [(page, block) for page in PAGES for block in blocks(page) if block.language == "python"]
IN_TEXT = sorted({(page, command) for page in PAGES for command in named_commands(page)})


def named(value: Path | Block | str) -> str:
    return name_of(value) if isinstance(value, Path) else f"line {value.line}" if isinstance(value, Block) else value


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """The command that words begin with, which may be one of a group, and the words behind it."""
    command = GROUP.commands[words[0]]
    inner = getattr(command, "commands", {})
    return (inner[words[1]], words[2:]) if inner and words[1:] else (command, words[1:])


@pytest.mark.parametrize(("page", "block"), TYPED, ids=named)
def test_commands_of_blocks_are_accepted(page: Path, block: Block) -> None:
    for arguments in commands(block.code):
        if arguments[:1] and arguments[0].startswith("-"):
            continue
        command, rest = command_of(translated(arguments))
        try:
            context = command.make_context(command.name, rest)
        except typer.Exit:  # --help
            continue
        for parameter, value in context.params.items():
            if parameter in FLAGS and value is not None and "$" not in str(value):  # a variable of the shell
                FLAGS[parameter].read(value)


@pytest.mark.parametrize(("page", "command"), IN_TEXT, ids=named)
def test_commands_in_sentences_take_these_options_and_arguments(page: Path, command: str) -> None:
    words = shlex.split(command, comments=True)[1:]
    if not words or words[0].startswith("-") or words[0].isupper():  # nnseg COMMAND
        return
    called, rest = command_of(words)
    _, left, _ = called.make_parser(typer.Context(called)).parse_args(rest)  # raises for an option that does not exist
    assert left == []  # no more arguments than the command takes


@pytest.mark.parametrize(("page", "block"), PYTHON, ids=named)
def test_python_blocks_use_public_names(page: Path, block: Block) -> None:
    for node in ast.walk(ast.parse(block.code)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "nnseg":
            assert node.attr in nnseg.__all__
        if isinstance(node, ast.ImportFrom) and node.module == "nnseg":
            assert {name.name for name in node.names} <= set(nnseg.__all__)


def test_blocks_are_read_with_what_comments_say(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- setup\nmkdir data\n-->\n```sh\nnnseg run data run --budget 20m | tee log\n```\n\n<!-- skip: no GPU -->\n"
        "```sh\ntorchrun -m nnseg train run\n```\n<!-- replace: 20m => 30s -->\n1. one\n\n   ```python\n   x = '20m'\n   ```\n"
    )
    setup, first, second, third = blocks(page)
    assert (setup.language, setup.code) == ("setup", "mkdir data\n")
    assert (first.line, list(commands(first.code))) == (4, [["run", "data", "run", "--budget", "20m"]])
    assert (second.skip, list(commands(second.code))) == ("no GPU", [["train", "run"]])
    assert list(commands("A=1 nnseg check d && docker run nnseg run d r")) == [["check", "d"]]
    assert (third.skip, third.code, third.run_as) == ("", "x = '20m'\n", "x = '30s'\n")


@pytest.mark.parametrize("page", ["README.md", "AGENTS.md"])
def test_every_command_is_named(page: str) -> None:
    named = set(re.findall(r"(?:nnseg |`(?!nnseg ))([a-z-]+)\b", (ROOT / page).read_text()))
    assert GROUP.commands.keys() - named == set()
