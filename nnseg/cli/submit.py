"""Commands that take a model to a challenge: submit, package, profile."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from nnseg.cli.app import app
from nnseg.cli.json_output import show_json
from nnseg.cli.options import (
    AsJson,
    Fast,
    Force,
    Memory,
    Models,
    Prepare,
    Quiet,
    Scans,
    Verbose,
    check_path,
    find_model,
    one_of,
    steps_of,
    with_options,
)
from nnseg.cli.output import exit_for_errors, loading, log_to_terminal, show
from nnseg.core.names import split_names
from nnseg.core.options import FAST_STEP, Options, Platform

if TYPE_CHECKING:
    from nnseg.serving.messages import PredictionOrder

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
    prepare: Prepare = None,
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
        from nnseg.serving.pool import WorkerPool

    rules = load_challenge(challenge)
    with loading():
        from nnseg.commands.submit import submission_order
        from nnseg.commands.submit import submit as write_submission

    order = _order(models, out, options, fast=fast, verbose=verbose).model_copy(update={"prepare": steps_of(prepare)})
    with WorkerPool(submission_order(order, out, rules), devices=options.devices, memory_gb=memory) as workers:
        made = write_submission(scans, workers, rules, Reading.of(options), force=force)
    if as_json:
        show_json("submit", made, made.findings)
    else:
        show(*describe_unused(made.unused), *made.describe())
    exit_for_errors(made.findings, shown=as_json)


@app.command(rich_help_panel=PANEL)
@with_options("folds")
def package(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write: all that the image is built from.")],
    model: Annotated[
        Path, typer.Option("--model", "-m", metavar="MODEL", help="Run folder or exported file; it is copied into the folder.")
    ],
    platform: Annotated[Platform, typer.Option("--for", help="What runs it.", **one_of("--for", get_args(Platform)))],
    options: Options,
    inputs: Annotated[
        str,
        typer.Option(
            metavar="SLUGS",
            help="On grand-challenge.org: sockets of the channels, in their order. Default: those with the channels' names.",
        ),
    ] = "",
    output: Annotated[
        str, typer.Option(metavar="PATH", help="On grand-challenge.org: socket of the label map, like images/lesions.")
    ] = "",
    prepare: Prepare = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Write a folder from which a container is built: recipe, entry point, pinned packages, nnseg, model and README.

    The container needs no network, no root, and no other writable place than /tmp and the outputs.
    """
    log_to_terminal(quiet=quiet)
    path = find_model(model)
    with loading():
        from nnseg.commands.package import write_container

    write_container(
        path,
        platform,
        folder,
        folds=options.folds,
        inputs=split_names(inputs),
        output=output,
        prepare=steps_of(prepare),
        force=force,
    )
    show(f"container for {platform}: {folder}", f"next: see {folder / 'README.md'}")


@app.command(rich_help_panel=PANEL)
@with_options("device", "folds", "images", "channels", "spacing")
def profile(
    scans: Scans,
    model: Models,
    options: Options,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for profile.json and its figure.")] = Path("profile"),
    challenge: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="Compare with the limits of a challenge, like flare-gpu.")
    ] = None,
    fast: Fast = False,
    as_json: AsJson = False,
    force: Force = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Measure time and memory of predictions as FLARE does: each scan by a new process, memory each 0.1 seconds.

    Label maps are not kept. Exit code: 0, or 1 if a scan failed or a limit of the challenge is exceeded.
    """
    log_to_terminal(verbose, quiet=quiet)
    models = tuple(map(find_model, model))
    check_path(scans, "scans")
    with loading():
        from nnseg.commands.profile import profile as measure
        from nnseg.core.dataset import Reading
        from nnseg.interop.challenges.rules import load_challenge

    limits = load_challenge(challenge).limits if challenge else None
    order = _order(models, out, options, fast=fast, verbose=verbose)
    made = measure(scans, out, order, Reading.of(options), limits=limits, force=force)
    if as_json:
        show_json("profile", made, made.findings)
    else:
        show(*made.describe(), f"profile: {out}")
    exit_for_errors(made.findings, shown=as_json)


def _order(models: tuple[Path, ...], out: Path, options: Options, *, fast: bool, verbose: bool) -> PredictionOrder:
    """The order of predictions without a choice of files, which a challenge or a measurement makes."""
    from nnseg.serving.messages import PredictionOrder

    return PredictionOrder(
        models=models, out=out, folds=options.folds, device=options.device, step=FAST_STEP if fast else None,
        mirror=False if fast else None, spacing=options.spacing, verbose=verbose,
    )  # fmt: skip
