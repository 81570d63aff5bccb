"""The one form of what commands print with ``--json``, described in docs/json.md."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from nnseg.cli.output import show
from nnseg.core.errors import NnsegError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from nnseg.core.dataset import Finding

FORMAT = 1
"""Raised when a key changes its meaning or goes; new keys may come at any time."""


def show_json(command: str, result: BaseModel | None, findings: Iterable[Finding] = (), error: Finding | None = None) -> None:
    """Print the result of a command, what was found on the way, and the error that ended it, if one did."""
    from nnseg import __version__

    whole = {
        "format": FORMAT,
        "nnseg": __version__,
        "command": command,
        "error": None if error is None else error.explain(),
        "findings": [finding.explain() for finding in findings],
        "result": result and result.model_dump(mode="json"),
    }
    show(json.dumps(whole, indent=1), block=True)


def wants_json() -> bool:
    """True if the command line asks for JSON."""
    return "--json" in sys.argv[1:]


def show_error(error: NnsegError) -> None:
    """Print an error that ended the command, and what had been found before."""
    from nnseg.core.dataset import findings_of

    own, *others = findings_of(error)
    show_json(next((word for word in sys.argv[1:] if not word.startswith("-")), ""), None, others, own)
