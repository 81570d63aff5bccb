"""The command line: one function per command. The only place that prints or exits; libraries are imported inside the commands."""

from __future__ import annotations

import signal
import sys

from nnseg.cli import train, predict, export, models, serve, submit, evaluate, report, robustness, info  # isort: skip  # in the order of their help
from nnseg.cli.app import app
from nnseg.cli.json_output import show_error, wants_json
from nnseg.cli.nnunet_words import translated
from nnseg.cli.options import check_empty
from nnseg.cli.output import counted_warnings, show
from nnseg.cli.output_streams import surviving_output
from nnseg.core.errors import NnsegError, Stopped, coded
from nnseg.core.limits import VARIABLE, wrong_entries
from nnseg.system.stop import interrupting_signals

__all__ = ["app", "evaluate", "export", "info", "main", "models", "predict", "report", "robustness", "serve", "submit", "train"]

INTERRUPTED = 130
"""Exit code after Ctrl-C, by the shells' convention."""


def main() -> None:
    """Run the command line; errors that the user can correct become one line on stderr and exit code 2."""
    with surviving_output(), interrupting_signals() as received:
        try:
            _run_command()
        except (KeyboardInterrupt, SystemExit) as end:
            if isinstance(end, SystemExit) and end.code != INTERRUPTED:
                raise
            number = received[0] if received else signal.SIGINT
            show(
                f"nnseg: interrupted by {number.name}; the same command continues from what is done "
                "(training: from the last checkpoint)",
                error=True,
            )
            sys.exit(128 + number)


def _run_command() -> None:
    if wrong := wrong_entries():
        show(f"nnseg: {VARIABLE} has {wrong}; expected NAME=NUMBER with names of docs/limits.md; correct it", error=True)
        sys.exit(2)
    try:
        check_empty(sys.argv[1:])
        sys.argv[1:] = translated(sys.argv[1:])
        with counted_warnings():
            app()
    except Stopped as end:
        show(f"nnseg: {end}", error=True)
        sys.exit(end.code)
    except NnsegError as error:
        if wants_json():
            show_error(error)
        show(f"nnseg: {coded(str(error), error.kind)}", error=True)
        sys.exit(2)
    except UnicodeEncodeError as error:  # of a path, where the system's encoding is not UTF-8
        if error.encoding != sys.getfilesystemencoding():
            raise
        found = f'"{error.object}" cannot be a path here, where names of files are {error.encoding}'
        show(f"nnseg: {found}; set PYTHONUTF8=1, or a locale with UTF-8, such as LC_ALL=C.UTF-8", error=True)
        sys.exit(2)
    except OSError as error:  # with a name: a file or folder that cannot be read or written
        if not error.filename:
            raise
        show(f"nnseg: {error.filename}: {error.strerror}; check the path and its permissions", error=True)
        sys.exit(2)
