"""The typer application to which every command is added."""

from __future__ import annotations

from typing import Annotated

import typer

from nnseg.cli.usage import Commands

app = typer.Typer(
    name="nnseg",
    cls=Commands,
    help="From a folder of labelled medical scans to a segmentation model one can trust. Start with: nnseg demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

EVALUATE, USE = "Evaluate", "Use a model"
"""Groups of commands in the help, of which several modules have some."""


def _print_version(wanted: bool) -> None:
    if wanted:
        from nnseg import __version__
        from nnseg.cli.output import show

        show(f"nnseg {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, metavar="", help="Print the version, and exit.")
    ] = False,
) -> None:
    """From a folder of labelled medical scans to a segmentation model one can trust. Start with: nnseg demo"""
