"""Commands that take a model to a challenge: submit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nnseg.cli.app import app
from nnseg.cli.json_output import show_json
from nnseg.cli.options import AsJson, Fast, Force, Memory, Models, Quiet, Scans, Verbose, check_path, find_model, with_options
from nnseg.cli.output import exit_for_errors, loading, log_to_terminal, show
from nnseg.core.options import FAST_STEP, Options

PANEL = "Take part in challenges"


@app.command(rich_help_panel=PANEL)
@with_options("device", "folds", "images", "channels", "spacing", "devices")
def submit(
    scans: Scans,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for predictions, files and archive.")],
    model: Models,
    challenge: Annotated[
        str,
        typer.Option(
            metavar="NAME|FILE",
            help="Rules: acdc, brats, brats-2021, decathlon, drive, flare-cpu, flare-gpu, grand-challenge, isbi-em, kits,"
            " or a TOML file.",
        ),
    ],
    options: Options,
    fast: Fast = False,
    memory: Memory = None,
    as_json: AsJson = False,
    force: Force = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Predict scans, write them in the form that a challenge asks for, check all of its rules, and pack the archive.

    No archive is written if a rule is broken. Exit code: 0 if it is written, 1 if not.
    """
    log_to_terminal(verbose, quiet=quiet)
    models = tuple(map(find_model, model))
    check_path(scans, "scans")
    check_path(out, "output folder")
    with loading():
        from nnseg.core.dataset import Reading, describe_unused
        from nnseg.interop.challenges.rules import load_challenge
        from nnseg.serving.messages import PredictionOrder
        from nnseg.serving.pool import WorkerPool

    rules = load_challenge(challenge)
    with loading():
        from nnseg.commands.submit import submission_order
        from nnseg.commands.submit import submit as write_submission

    order = PredictionOrder(
        models=models, out=out, folds=options.folds, device=options.device, step=FAST_STEP if fast else None,
        mirror=False if fast else None, spacing=options.spacing, verbose=verbose,
    )  # fmt: skip
    with WorkerPool(submission_order(order, out, rules), devices=options.devices, memory_gb=memory) as workers:
        made = write_submission(scans, workers, rules, Reading.of(options), force=force)
    if as_json:
        show_json("submit", made, made.findings)
    else:
        show(*describe_unused(made.unused), *made.describe())
    exit_for_errors(made.findings, shown=as_json)
