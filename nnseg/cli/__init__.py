"""The command line: one function per command. The only place that prints or exits; libraries are imported inside the commands."""

from __future__ import annotations

import sys

from nnseg.cli import train, predict, evaluate  # isort: skip  # in the order of their help
from nnseg.cli.app import app
from nnseg.core.errors import NnsegError, Stopped

__all__ = ["app", "evaluate", "main", "predict", "train"]

INTERRUPTED = 130
"""Exit code after Ctrl-C, by the shells' convention."""


def main() -> None:
    """Run the command line; errors that the user can correct become one line on stderr and exit code 2."""
    try:
        app()
    except Stopped as end:
        print(f"nnseg: {end}", file=sys.stderr)
        sys.exit(end.code)
    except NnsegError as error:
        print(f"nnseg: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:  # with a name: a file or folder that cannot be read or written
        if not error.filename:
            raise
        print(f"nnseg: {error.filename}: {error.strerror}; check the path and its permissions", file=sys.stderr)
        sys.exit(2)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            print(
                "nnseg: interrupted; the same command continues from what is done (training: from the last checkpoint)",
                file=sys.stderr,
            )
        raise
