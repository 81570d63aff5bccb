"""Commands that make a model: run, its steps, and the demonstration."""

from __future__ import annotations

import shlex
import sys
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated

import typer

from nnseg.cli.app import app
from nnseg.cli.json_output import show_json
from nnseg.cli.options import (
    FLAGS,
    READING,
    AsJson,
    DatasetFolder,
    KnownRun,
    Quiet,
    RunPath,
    Verbose,
    check_path,
    reader,
    with_options,
)
from nnseg.cli.output import exit_for_errors, exit_for_failed, loading, log_to_terminal, show
from nnseg.core.errors import coded
from nnseg.core.options import Options
from nnseg.system.progress import columns
from nnseg.system.regular import resolved

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nnseg.core.dataset import Finding
    from nnseg.core.fingerprint import Fingerprint
    from nnseg.pipeline import FinishedRun
    from nnseg.storage.plan_folder import PlanFolder
    from nnseg.storage.run import Folds, Run


PANEL = "Make a model"

# Fields of `Options` that commands have as options.
LENGTH = ("budget", "steps", "epochs", "patience")
MACHINE = ("device", "devices", "cluster", "deterministic")
TRAINING = (
    "folds",
    *LENGTH,
    "more",
    "init",
    "freeze",
    "init_mode",
    "pseudo_labels",
    *MACHINE,
    "tensorboard",
    "checkpoint",
    "skip_bad",
)
NOT_PLANNING = ("more", "freeze", "init_mode", "pseudo_labels", *MACHINE[1:], "tensorboard", "checkpoint", "skip_bad")
ALL = tuple(field.name for field in fields(Options) if field.name != "more")
PLANNING = tuple(name for name in ALL if name not in NOT_PLANNING)


@app.command(rich_help_panel=PANEL)
@with_options(*ALL)
def run(dataset: DatasetFolder, run: RunPath, options: Options, verbose: Verbose = False, quiet: Quiet = False) -> None:
    """Run all steps: check, fingerprint, plan, preprocess, train the folds, predict held-out cases, score, report.

    Repeat the command to continue after an interruption, or after adding cases: only what depends on a change is redone.
    """
    log_to_terminal(verbose, quiet=quiet)
    check_path(dataset, "dataset")
    if resolved(run) != resolved(dataset):  # of which its own check says more
        check_path(run, "new run")
    check_extras(options)
    exit_for_failed(_run(dataset, run, options).problems)


@app.command(rich_help_panel=PANEL)
@with_options("workers", "cluster", "allow", *READING)
def check(
    dataset: DatasetFolder,
    as_json: AsJson = False,
    *,
    options: Options,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Check a dataset: layout, cases, channels, labels, spacings; list all problems in one pass.

    The exit code is 1 if a case cannot be used, or if something that looks like a scan is not used; 2 if a run would be refused.
    """
    log_to_terminal(verbose, quiet=quiet)
    check_path(dataset, "dataset")
    with loading():
        from nnseg.commands.check import check_dataset
        from nnseg.planning.dataset_summary import WIDTH, is_doubtful, report_dataset, summarize_dataset
        from nnseg.system.cluster import computed_on

    with computed_on(options.cluster):
        found, fingerprint, refused = check_dataset(dataset, options)
    if as_json:
        result = report_dataset(found, fingerprint, refused=str(refused or ""))
        show_json("check", result, result.findings)
    else:
        show(*summarize_dataset(found, fingerprint, width=columns() - 1 if sys.stdout.isatty() else WIDTH))
    if refused:
        show(f"nnseg: {coded(str(refused), refused.kind)}", error=True)
        raise typer.Exit(2)
    if is_doubtful(found, fingerprint):
        raise typer.Exit(1)


@app.command(rich_help_panel=PANEL)
@with_options(*READING)
def correct(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="Folder of labelled scans.")],
    case: Annotated[str, typer.Argument(metavar="CASE", help="Name of a case, as nnseg check lists it.")],
    mask: Annotated[Path, typer.Argument(metavar="MASK", help="The corrected label map, on the grid of the scan.")],
    as_json: AsJson = False,
    *,
    options: Options,
    quiet: Quiet = False,
) -> None:
    """Put a label map that was corrected by hand in the place of a case's; the one before is kept in DATASET/.replaced.

    Repeat nnseg run afterwards: only what depends on the case is done again.
    """
    log_to_terminal(quiet=quiet)
    check_path(dataset, "dataset")
    with loading():
        from nnseg.commands.correct import correct as correct_case
        from nnseg.core.dataset import Reading

    made = correct_case(dataset, case, mask, Reading.of(options))
    if as_json:
        show_json("correct", made, made.findings)
    else:
        show(*made.describe())


@app.command(rich_help_panel=PANEL)
@with_options(*PLANNING)
def plan(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="Folder of labelled scans, or the fingerprint.json of one.")],
    run: RunPath,
    as_json: AsJson = False,
    *,
    options: Options,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Measure the dataset, make the plan and estimate its cost: fingerprint and plan, with the reason for each decision."""
    log_to_terminal(verbose, quiet=quiet)
    if not dataset.is_file():
        check_path(dataset, "dataset")
    if resolved(run) != resolved(dataset):  # of which its own check says more
        check_path(run, "new run")
    with loading():
        from nnseg.commands.plan import check_options, plan_run
        from nnseg.planning.describe import WIDTH, describe, describe_preflight
        from nnseg.storage.run import Run

    check_options(options)
    place = Run(run)
    fingerprint_of_dataset = _reading_or_measuring(dataset, place, options)
    with place.locked(dataset):
        fingerprint = fingerprint_of_dataset()
        planned = plan_run(place, fingerprint, options)
        if as_json:
            show_json("plan", planned, planned.findings)
        else:
            for one in planned.plans:
                width = columns() - 1 if sys.stdout.isatty() else WIDTH
                show(describe(one.plan, fingerprint, width=width), block=True)
                show("", f"written to {one.file}; edit it if you like", "")
            show(describe_preflight(planned.costs), block=True)
    exit_for_errors(planned.findings, shown=as_json)


@app.command(rich_help_panel=PANEL)
@with_options("workers", "cluster")
def preprocess(run: KnownRun, options: Options, verbose: Verbose = False, quiet: Quiet = False) -> None:
    """Preprocess every case as the plans of a run specify, onto the network's grid. Finished cases are skipped."""
    log_to_terminal(verbose, quiet=quiet)
    check_path(run, "run")
    with loading():
        from nnseg.commands.preprocess import preprocess_run
        from nnseg.storage.run import Run
        from nnseg.system.cluster import computed_on

    place = Run(run)
    with computed_on(options.cluster):
        problems = preprocess_run(place, workers=options.workers)
    show(f"preprocessed cases are in {', '.join(str(folder.cases) for folder in place.plans)}")
    exit_for_failed(problems)


@app.command(rich_help_panel=PANEL)
@with_options(*TRAINING)
def train(run: KnownRun, options: Options, verbose: Verbose = False, quiet: Quiet = False) -> None:
    """Train one fold, several or all, of every plan of a run; continue after an interruption. Missing cases are preprocessed.

    Ctrl-C ends training after the current step and saves a checkpoint.
    So does a file RUN/STOP, after which training counts as finished.
    Under torchrun -m nnseg train RUN the processes share every batch.
    """
    log_to_terminal(verbose, quiet=quiet)
    check_path(run, "run")
    check_extras(options)
    with loading():
        from nnseg.commands.train import train

    exit_for_failed(train(run, options, predict=_predict_for_cascades, complete=_predict_pseudo_labels, refresh=_refresh_report))


@app.command(rich_help_panel=PANEL)
@with_options("budget", "steps", "epochs", "more", "device", "workers", "deterministic", "tensorboard", "checkpoint")
def distill(
    run: KnownRun,
    options: Options,
    small: Annotated[
        bool, typer.Option("--small", help="A network with a quarter of the channels, for predictions on CPUs; it trains longer.")
    ] = False,
    plan: Annotated[
        str | None,
        typer.Option("--plan", metavar="NAME", help="The plan whose networks are replaced. Default: the one that predicts."),
    ] = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Train one network that replaces those of all folds: it learns from the label maps and from the folds' probabilities.

    Of each case it gets the probabilities of the network that was not trained on it, so train all folds first.
    The model is RUN/distilled/model.nnseg, with --small RUN/distilled_small/model.nnseg; with several plans in the plan's folder.
    Repeat the command to continue after an interruption.
    """
    log_to_terminal(verbose, quiet=quiet)
    check_path(run, "run")
    check_extras(options)
    with loading():
        from nnseg.commands.distill import distill

    made = distill(run, options, plan=plan, small=small)
    show(f"{made.file}: 1 network, {made.file.stat().st_size / 1e6:.1f} MB")
    show(f"next: nnseg predict SCANS OUT --model {shlex.quote(str(made.file))}")
    exit_for_failed(made.problems)


@app.command(rich_help_panel=PANEL)
@with_options("budget", "steps", "epochs", "more", "device", "workers", "deterministic", "tensorboard", "checkpoint")
def pretrain(
    scans: Annotated[Path, typer.Argument(metavar="SCANS", help="Folder of scans; label maps in it are not read.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the weights; created if missing.")],
    plan: Annotated[
        Path, typer.Option("--plan", metavar="PLAN", help="Whose network learns: a run made by nnseg plan, or a plan.toml.")
    ],
    options: Options,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Train a network on scans without labels, so that it fills in masked blocks: weights to begin with, for --init OUT.

    Plan first: nnseg plan DATASET RUN, then nnseg pretrain SCANS OUT --plan RUN, then nnseg run DATASET RUN2 --init OUT.
    Ctrl-C ends training after the current step and saves a checkpoint. So does a file OUT/STOP, after which it counts as finished.
    Repeat the command to continue after an interruption.
    """
    log_to_terminal(verbose, quiet=quiet)
    check_path(scans, "scans")
    check_extras(options)
    with loading():
        from nnseg.commands.pretrain import pretrain

    made = pretrain(scans, out, options, plan=plan)
    show(f"{made.description}: {made.steps} steps on {made.scans} scans, mean squared error {made.loss:.3g} in masked blocks")
    show(f"next: nnseg run DATASET RUN --init {shlex.quote(str(out))}")
    exit_for_failed(made.problems)


@app.command("learn-curve", rich_help_panel=PANEL)
@with_options("steps", "device", "workers", "deterministic", "tensorboard", "checkpoint")
def learn_curve(
    run: KnownRun,
    further: Annotated[
        list[int] | None,
        typer.Option("--cases", metavar="N", min=1, help="Further cases; repeatable. Default: 50, and as many as there are."),
    ] = None,
    plan: Annotated[
        str | None, typer.Option("--plan", metavar="NAME", help="The plan that is trained. Default: the one that predicts.")
    ] = None,
    as_json: AsJson = False,
    *,
    options: Options,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Estimate what more annotated cases would bring, by trainings on a quarter and on half of the cases.

    Each takes about as long as the training of a fold. The cases that the fold holds out are scored after each.
    Repeat the command to continue after an interruption.
    """
    log_to_terminal(verbose, quiet=quiet)
    check_path(run, "run")
    check_extras(options)
    with loading():
        from nnseg.cli.tables import print_learning_curve
        from nnseg.commands.learn_curve import MeasuredCurve
        from nnseg.commands.learn_curve import learn_curve as measure
        from nnseg.reporting.sections.learning import describe_gains
        from nnseg.storage.run import Run

    found = measure(Run(run), options, plan=plan, further=tuple(further or ()))
    if as_json:
        show_json("learn-curve", MeasuredCurve(learning_curve=found))
    else:
        print_learning_curve(found)
        show(*describe_gains(found))
        show(f"written to {run / 'learning_curve.json'}; nnseg report {shlex.quote(str(run))} shows it")


@app.command(rich_help_panel=PANEL)
@with_options("device")
def demo(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Folder for data and run.")] = Path("nnseg-demo"),
    steps: Annotated[
        int,
        typer.Option(
            metavar="N",
            parser=reader("--steps", FLAGS["steps"].read),
            help="Training steps, so that a slow machine comes to the same model.",
        ),
    ] = 250,
    data_only: Annotated[
        bool, typer.Option("--data-only", help="Only write the phantoms, which --model demo can predict.", metavar="")
    ] = False,
    *,
    options: Options,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Create the embedded dataset of head phantoms and run all steps on it: a scored model in about three minutes."""
    log_to_terminal(verbose, quiet=quiet)
    from nnseg.demo.dataset import write_phantoms

    phantoms = folder / "phantoms"
    if data_only:
        write_phantoms(phantoms)
        quoted = shlex.quote(str(phantoms / "imagesTr"))
        show(f"phantoms: {phantoms}", f"next: nnseg predict {quoted} OUT --model demo")
        return
    with loading():
        from nnseg.network.device import resolve_device

    resolve_device(options.device)  # before anything is written
    dataset = write_phantoms(phantoms)
    result = _run(dataset, folder / "run", replace(options, steps=steps, folds=(0,)))
    show("to train on your own scans: nnseg run YOUR_FOLDER RUN")
    exit_for_failed(result.problems)


def check_extras(options: Options) -> None:
    """Raise NnsegError if an option needs an extra that is not installed."""
    from nnseg.system.extras import check_extra

    if options.tensorboard:
        check_extra("tensorboard", "events for TensorBoard")


def _run(dataset: Path, run: Path, options: Options) -> FinishedRun:
    """The result of a run, whose scores and report path are printed."""
    with loading():
        from nnseg import pipeline
        from nnseg.cli.tables import print_scores

    result = pipeline.run(dataset, run, options, command=shlex.join(["nnseg", *sys.argv[1:]]))
    print_scores(result.scores, averages=False)
    show("", f"report: {result.run.report_file}")
    _show_verdict(result)
    return result


def _show_verdict(result: FinishedRun) -> None:
    """Print whether the model is useful, and the command that comes next."""
    if found := result.verdict:
        named = found.named(shlex.quote(str(result.run.path)))
        show(*wrap(f"verdict: {' '.join(named.sentences)}"), *wrap(f"next: {named.advice}"), f"  {named.command}")


def _predict_for_cascades(run: Run, folds: Folds, plans: Sequence[PlanFolder], device: str) -> tuple[Finding, ...]:
    """Predict the input of cascades; only they load the modules for it."""
    from nnseg.crossval.predict import predict_with_plans

    return predict_with_plans(run, folds, plans, device)


def _predict_pseudo_labels(run: Run, options: Options) -> None:
    """Predict what was not annotated; only a training that begins with a model loads the modules for it."""
    if options.init:
        from nnseg.crossval.pseudo_labels import predict_pseudo_labels

        predict_pseudo_labels(run, options)


def _refresh_report(run: Run) -> None:
    """Write the report of a run that is training; its modules are loaded when the first is due."""
    from nnseg.commands.report import report_quietly

    report_quietly(run)


def _reading_or_measuring(source: Path, run: Run, options: Options) -> Callable[[], Fingerprint]:
    """What gives the fingerprint of a dataset's folder, or from its file, for which no image library is loaded; kept in the run."""
    if source.is_file():
        from nnseg.commands.plan import take_fingerprint

        return partial(take_fingerprint, source, run)
    with loading():
        from nnseg.commands.measure import find_dataset, measure_dataset

    found = find_dataset(run, source, options)
    return partial(measure_dataset, run, source, options.workers, split=options.split, allow=options.allow, found=found)
