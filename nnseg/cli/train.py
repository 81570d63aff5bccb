"""Verbs that make a model: run and its parts, and the demonstration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nnseg.cli.app import app
from nnseg.cli.options import (
    Budget,
    Checkpoint,
    DatasetFolder,
    DatasetOrFingerprint,
    Deterministic,
    Device,
    Devices,
    Epochs,
    Folds,
    Freeze,
    GroupBy,
    Init,
    Kinds,
    KnownRun,
    Memory,
    Patience,
    Probe,
    Recipe,
    RunPath,
    Seed,
    Split,
    Steps,
    TensorBoard,
    Verbose,
    Workers,
    command_line,
    options_of,
    workers_of,
)
from nnseg.cli.output import exit_for, log_to_terminal, print_findings, print_scores
from nnseg.core.errors import DatasetError, RunError

if TYPE_CHECKING:
    from nnseg.core.dataset import Dataset
    from nnseg.core.fingerprint import Fingerprint
    from nnseg.storage.run import Run


PANEL = "Make a model"


@app.command(rich_help_panel=PANEL)
def run(
    dataset: DatasetFolder,
    run: RunPath,
    recipe: Recipe = "auto",
    plans: Kinds = "auto",
    budget: Budget = None,
    steps: Steps = None,
    epochs: Epochs = None,
    patience: Patience = None,
    memory: Memory = None,
    folds: Folds = "all",
    split: Split = "auto",
    group_by: GroupBy = None,
    device: Device = "auto",
    devices: Devices = None,
    probe: Probe = True,
    workers: Workers = 0,
    seed: Seed = None,
    init: Init = None,
    freeze: Freeze = None,
    deterministic: Deterministic = False,
    tensorboard: TensorBoard = False,
    checkpoint: Checkpoint = "10m",
    verbose: Verbose = False,
) -> None:
    """Do everything: check, fingerprint, plan, preprocess, train the folds, predict what they held out, score, report.

    Give the same command again to go on after an interruption, or after adding cases: only what depends on a change is redone.
    """
    log_to_terminal(verbose)
    from nnseg import pipeline

    options = options_of(
        recipe=recipe, plans=plans, budget=budget, steps=steps, epochs=epochs, patience=patience, memory_gb=memory, folds=folds,
        split=split, group_by=group_by, device=device, devices=devices, probe=probe, workers=workers, seed=seed, init=init,
        freeze=freeze, deterministic=deterministic, tensorboard=tensorboard, checkpoint=checkpoint,
    )  # fmt: skip
    result = pipeline.run(dataset, run, options, command=command_line())
    print_scores(result.scores)
    print(f"\nreport: {result.run.report_file}")
    exit_for(result.problems)


@app.command(rich_help_panel=PANEL)
def check(dataset: DatasetFolder, workers: Workers = 0, verbose: Verbose = False) -> None:
    """Look through a dataset: layout, cases, channels, labels, spacings, and every problem in one pass."""
    log_to_terminal(verbose)
    from nnseg.commands.plan import findings_of
    from nnseg.planning.describe import describe_cases
    from nnseg.planning.measure import measure
    from nnseg.storage.datasets.read import read_dataset

    found = read_dataset(dataset)
    print(found.describe())
    fingerprint = measure(found, workers=workers_of(workers))
    print(describe_cases(fingerprint))
    findings = findings_of(fingerprint)
    print_findings(findings)
    if not findings:
        print("no problem found")
    if any(f.level == "error" for f in findings):
        raise typer.Exit(1)


@app.command(rich_help_panel=PANEL)
def plan(
    dataset: DatasetOrFingerprint,
    run: RunPath,
    recipe: Recipe = "auto",
    plans: Kinds = "auto",
    budget: Budget = None,
    steps: Steps = None,
    epochs: Epochs = None,
    patience: Patience = None,
    memory: Memory = None,
    folds: Folds = "all",
    split: Split = "auto",
    group_by: GroupBy = None,
    device: Device = "auto",
    probe: Probe = True,
    workers: Workers = 0,
    seed: Seed = None,
    verbose: Verbose = False,
) -> None:
    """Measure the dataset, decide, and foresee the cost: fingerprint and plan, with the reason for each decision."""
    log_to_terminal(verbose)
    from nnseg.commands.plan import estimate_cost, findings_of
    from nnseg.commands.plan import plan as make_plan
    from nnseg.planning.describe import describe, describe_preflight
    from nnseg.storage.run import Run

    options = options_of(
        recipe=recipe, plans=plans, budget=budget, steps=steps, epochs=epochs, patience=patience, memory_gb=memory, folds=folds,
        split=split, group_by=group_by, device=device, probe=probe, workers=workers, seed=seed,
    )  # fmt: skip
    place = Run(run)
    with place.locked(dataset):
        found, fingerprint = _read_or_measure(dataset, place, options.workers)
        folders = make_plan(place, found, fingerprint, options)
        for folder in folders:
            print(describe(folder.plan, fingerprint))
            print(f"\nwritten to {folder.plan_file}; edit it as you like\n")
        print(describe_preflight(estimate_cost(place, fingerprint, options)))
    findings = findings_of(fingerprint)
    print_findings(findings)
    if any(f.level == "error" for f in findings):
        raise typer.Exit(1)


@app.command(rich_help_panel=PANEL)
def preprocess(run: KnownRun, workers: Workers = 0, verbose: Verbose = False) -> None:
    """Apply the plans of a run: every case onto the network's grid. Cases that are done are left alone."""
    log_to_terminal(verbose)
    from nnseg.commands.preprocess import preprocess_run
    from nnseg.storage.run import Run

    place = Run(run)
    problems = preprocess_run(place, workers=workers_of(workers))
    print(f"preprocessed cases are in {', '.join(str(folder.cases) for folder in place.plans)}")
    exit_for(problems)


@app.command(rich_help_panel=PANEL)
def train(
    run: KnownRun,
    folds: Folds = "all",
    budget: Budget = None,
    steps: Steps = None,
    epochs: Epochs = None,
    patience: Patience = None,
    more: Annotated[
        str | None, typer.Option(help="Train folds that are finished for so much longer, each: 30m.", show_default=False)
    ] = None,
    init: Init = None,
    freeze: Freeze = None,
    device: Device = "auto",
    devices: Devices = None,
    deterministic: Deterministic = False,
    tensorboard: TensorBoard = False,
    checkpoint: Checkpoint = "10m",
    verbose: Verbose = False,
) -> None:
    """Train one fold, several or all, of every plan of a run; goes on where it was interrupted. Preprocesses what is missing.

    Ctrl-C ends it after the step it is at, with everything saved.
    So does a file RUN/STOP, after which the training counts as finished.
    Under torchrun -m nnseg train RUN the processes share every batch.
    """
    log_to_terminal(verbose)
    from nnseg.pipeline import train

    options = options_of(
        folds=folds, budget=budget, steps=steps, epochs=epochs, patience=patience, more=more, init=init, freeze=freeze,
        device=device, devices=devices, deterministic=deterministic, tensorboard=tensorboard, checkpoint=checkpoint,
    )  # fmt: skip
    exit_for(train(run, options))


@app.command(rich_help_panel=PANEL)
def demo(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where to put data and run.")] = Path("nnseg-demo"),
    budget: Annotated[str, typer.Option(help="Time for training.")] = "100s",
    device: Device = "auto",
    verbose: Verbose = False,
) -> None:
    """Make the embedded data set of head phantoms and run everything on it: a scored model in under four minutes."""
    log_to_terminal(verbose)
    from nnseg import pipeline
    from nnseg.demo.dataset import write_phantoms

    dataset = write_phantoms(folder / "phantoms")
    result = pipeline.run(dataset, folder / "run", options_of(budget=budget, folds="0", device=device), command=command_line())
    print_scores(result.scores)
    print(f"\nreport: {result.run.report_file}")
    print(
        f"next, the same for your scans: nnseg run YOUR_FOLDER RUN; or predict: nnseg predict SCANS OUT --model {result.run.path}"
    )
    exit_for(result.problems)


def _read_or_measure(source: Path, run: Run, workers: int) -> tuple[Dataset | None, Fingerprint]:
    """The dataset of a folder, with its fingerprint; from a fingerprint's file, that alone, and no reader of images is loaded."""
    if source.is_file():
        from nnseg.core.fingerprint import Fingerprint
        from nnseg.storage.files import read_json

        try:
            fingerprint = read_json(source, Fingerprint)
        except RunError as error:
            raise DatasetError(f"{source} is neither a folder nor the fingerprint.json of this version of nnseg") from error
        if Run.dataset.path(run).exists():
            raise DatasetError(
                f"{run.path} was made from a dataset; give its folder, or another run folder for a plan from {source}"
            )
        run.fingerprint = fingerprint
        return None, fingerprint
    from nnseg.commands.plan import known_or_measured_fingerprint
    from nnseg.storage.datasets.read import read_dataset

    dataset = read_dataset(source, workers=workers)
    return dataset, known_or_measured_fingerprint(dataset, run, workers)
