"""The typer application to which every command is added."""

from __future__ import annotations

import typer

app = typer.Typer(
    name="nnseg",
    help="From a folder of labelled medical scans to a segmentation model one can trust. Start with: nnseg demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
