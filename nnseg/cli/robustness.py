"""Commands that predict held-out cases from changed scans: stress, channels."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, get_args

import typer

from nnseg.cli.app import EVALUATE, app
from nnseg.cli.json_output import show_json
from nnseg.cli.options import (
    AsJson,
    KnownRun,
    Quiet,
    Verbose,
    check_path,
    named_errors,
    parse_choice,
    whole_number,
    with_options,
)
from nnseg.cli.output import exit_for_failed, loading, log_to_terminal, show
from nnseg.core.names import split_names
from nnseg.core.options import DegradationKind, Options

KINDS: tuple[DegradationKind, ...] = get_args(DegradationKind)

Cases = Annotated[
    int, typer.Option(metavar="N", parser=whole_number("--cases", 1), help="Held-out cases to predict, spread over all of them.")
]


@app.command(rich_help_panel=EVALUATE)
@with_options("device")
def stress(
    run: KnownRun,
    kinds: Annotated[
        str | None, typer.Option(metavar="NAMES", help=f"Degradations, separated by commas. Default: {','.join(KINDS)}.")
    ] = None,
    cases: Cases = 20,
    as_json: AsJson = False,
    *,
    options: Options,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Measure the Dice of held-out cases under noise, bias fields, motion, low resolution and thick slices, in three strengths.

    Each case is predicted by the networks that were not trained on it. RUN/robustness.json has all numbers, and the report a table.
    """
    log_to_terminal(verbose, quiet=quiet)
    with named_errors("--kinds"):
        names = {parse_choice(name, KINDS) for name in split_names(kinds)}
    chosen = [kind for kind in KINDS if kind in names]
    _measure("stress", run, kinds=chosen, cases=cases, device=options.device, as_json=as_json)


@app.command(rich_help_panel=EVALUATE)
@with_options("device")
def channels(
    run: KnownRun,
    cases: Cases = 20,
    as_json: AsJson = False,
    *,
    options: Options,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Measure what each channel contributes: the Dice of held-out cases without it, with a paired test.

    Each case is predicted by the networks that were not trained on it. RUN/channels.json has all numbers, and the report a table.
    """
    log_to_terminal(verbose, quiet=quiet)
    _measure("channels", run, cases=cases, device=options.device, as_json=as_json)


def _measure(command: str, run: Path, *, kinds: Sequence[DegradationKind] = (), cases: int, device: str, as_json: bool) -> None:
    """Measure what stress or channels measures, print the table, and which file holds it."""
    check_path(run, "run")
    with loading():
        from nnseg.cli.tables import print_robustness
        from nnseg.commands.stress import StressedRun, leave_out_channels
        from nnseg.commands.stress import stress as stress_run
        from nnseg.reporting.sections.robustness import describe_robustness
        from nnseg.storage.run import Run

    if command == "stress":
        found = stress_run(Run(run), kinds=kinds, cases=cases, device=device)
    else:
        found = leave_out_channels(Run(run), cases=cases, device=device)
    if as_json:
        show_json(command, StressedRun(robustness=found), found.findings)
    else:
        print_robustness(found)
        file = run / ("robustness.json" if command == "stress" else "channels.json")
        show(describe_robustness(found), f"written to {file}; nnseg report {shlex.quote(str(run))} shows it")
    exit_for_failed(found.findings)
