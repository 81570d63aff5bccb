"""``nnseg info``."""

from __future__ import annotations

from nnseg.cli.app import app
from nnseg.cli.json_output import show_json
from nnseg.cli.options import AsJson
from nnseg.cli.output import show


@app.command(rich_help_panel="About nnseg")
def info(as_json: AsJson = False) -> None:
    """Print versions, cores, memory, devices and extras: what to add to a question or a report of a fault."""
    from nnseg.commands.info import information

    found = information()
    if as_json:
        show_json("info", found)
    else:
        show(*found.lines())
