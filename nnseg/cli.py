"""The command line: one plain function a verb. The only place that prints or exits; libraries are loaded inside the verbs."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from nnseg.core.errors import DatasetError, NnsegError, RunError, Stopped

if TYPE_CHECKING:
    from nnseg.core.dataset import Dataset, Finding
    from nnseg.evaluation.evaluate import Scores
    from nnseg.planning.fingerprint import Fingerprint
    from nnseg.storage.runs import RunFolder
    from nnseg.verbs.options import Options

app = typer.Typer(
    name="nnseg",
    help="From a folder of labelled medical scans to a segmentation model one can trust. Start with: nnseg demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

INTERRUPTED = 130
"""Exit code after Ctrl-C, by the shells' convention."""

FAST_STEP = 0.75
"""Distance of tiles that ``predict --fast`` takes."""

DatasetFolder = Annotated[
    Path, typer.Argument(metavar="DATASET", help="Folder of labelled scans; never written to.", show_default=False)
]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the run; made if it is not there.", show_default=False)]
KnownRun = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the run, made by nnseg plan or run.", show_default=False)]
DatasetOrFingerprint = Annotated[
    Path,
    typer.Argument(metavar="DATASET", help="Folder of labelled scans, or the fingerprint.json of one.", show_default=False),
]
Recipe = Annotated[
    str, typer.Option(help="Preset that shapes the plan: auto, nnunet, resenc-m, resenc-l, resenc-xl, or a TOML file.")
]
Kinds = Annotated[str, typer.Option("--plans", help="Which plans to make: auto, all, or some of 2d, 3d, 3d_lowres and 3d_cascade.")]
Memory = Annotated[
    float | None,
    typer.Option(min=0.1, help="GB of memory a training may use. Default: what the device has free.", show_default=False),
]
Probe = Annotated[
    bool, typer.Option(help="Try networks on the device for a few steps before deciding, and foresee what the run will cost.")
]
GroupBy = Annotated[
    str | None,
    typer.Option(
        help="What keeps a patient's cases together: a CSV of case and group, a regular expression, or subject (BIDS).",
        show_default=False,
    ),
]
Budget = Annotated[
    str | None,
    typer.Option(
        help="Wall-clock for all training of the run, shared by folds and plans: 90s, 20m, 1h30m. Default: as the recipe says."
    ),
]
Steps = Annotated[int | None, typer.Option(min=1, help="Length of each training in steps, instead of a time.", show_default=False)]
Epochs = Annotated[int | None, typer.Option(min=1, help="The same in epochs of the plan.", show_default=False)]
Patience = Annotated[
    int | None,
    typer.Option(
        min=1, help="Bring a training to its end, rate annealed, after so many epochs without a better Dice.", show_default=False
    ),
]
Init = Annotated[
    Path | None,
    typer.Option(help="Begin with a trained model (a run or an exported file), labels matched by name.", show_default=False),
]
Freeze = Annotated[
    Literal["encoder"] | None, typer.Option(help="With --init: leave this part of the network as it is.", show_default=False)
]
Deterministic = Annotated[bool, typer.Option("--deterministic", help="Bit for bit repeatable on CUDA too; CPUs always are.")]
TensorBoard = Annotated[
    bool, typer.Option("--tensorboard", help="Also write events for TensorBoard (needs the extra of this name).")
]
Folds = Annotated[str, typer.Option("--folds", "--fold", help='Folds to work on: "all", "0" or "0,2,4".')]
Split = Annotated[
    Literal["auto", "random", "blocks"],
    typer.Option(help="How cases are divided into folds; blocks keep neighbours together (auto: for numbered slices of a stack)."),
]
Device = Annotated[str, typer.Option(help="What computes: auto, cpu, cuda, cuda:1 or mps.")]
Devices = Annotated[
    str | None,
    typer.Option(help="Train folds side by side, one on each: 0,1,2,3 (GPUs by number) or cuda:0,cpu.", show_default=False),
]
Workers = Annotated[int, typer.Option(min=0, help="Processes for reading and preprocessing; 0 for one a core.")]
Seed = Annotated[int | None, typer.Option(help="Seed of every random draw. Default: the recipe's.")]
Checkpoint = Annotated[str, typer.Option(help="Time between checkpoints; a training that is killed loses at most this.")]
ModelPath = Annotated[list[Path], typer.Option("--model", "-m", help="Run folder or exported file; give several for an ensemble.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Also log tracebacks and details.")]


@app.command()
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
    _log_to_terminal(verbose)
    from nnseg import pipeline

    options = _options(
        recipe=recipe, plans=plans, budget=budget, steps=steps, epochs=epochs, patience=patience, memory_gb=memory, folds=folds,
        split=split, group_by=group_by, device=device, devices=devices, probe=probe, workers=workers, seed=seed, init=init,
        freeze=freeze, deterministic=deterministic, tensorboard=tensorboard, checkpoint=checkpoint,
    )  # fmt: skip
    result = pipeline.run(dataset, run, options)
    _print_scores(result.scores)
    print(f"\nreport: {result.run.report_file}")
    _exit_for(result.problems)


@app.command()
def check(dataset: DatasetFolder, workers: Workers = 0, verbose: Verbose = False) -> None:
    """Look through a dataset: layout, cases, channels, labels, spacings, and every problem in one pass."""
    _log_to_terminal(verbose)
    from nnseg.planning.measure import measure
    from nnseg.planning.words import describe_cases
    from nnseg.storage.datasets import read_dataset
    from nnseg.verbs.plan import findings_of

    found = read_dataset(dataset)
    print(found.describe())
    fingerprint = measure(found, workers=_workers(workers))
    print(describe_cases(fingerprint))
    findings = findings_of(fingerprint)
    _print_findings(findings)
    if not findings:
        print("no problem found")
    if any(f.level == "error" for f in findings):
        raise typer.Exit(1)


@app.command()
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
    _log_to_terminal(verbose)
    from nnseg.planning.words import describe, describe_preflight
    from nnseg.storage.runs import RunFolder
    from nnseg.verbs.plan import findings_of, foresee
    from nnseg.verbs.plan import plan as make_plan

    options = _options(
        recipe=recipe, plans=plans, budget=budget, steps=steps, epochs=epochs, patience=patience, memory_gb=memory, folds=folds,
        split=split, group_by=group_by, device=device, probe=probe, workers=workers, seed=seed,
    )  # fmt: skip
    place = RunFolder(run)
    with place.locked(dataset):
        found, fingerprint = _read_or_measure(dataset, place, options.workers)
        folders = make_plan(place, found, fingerprint, options)
        for folder in folders:
            print(describe(folder.plan(), fingerprint))
            print(f"\nwritten to {folder.plan_file}; edit it as you like\n")
        print(describe_preflight(foresee(place, fingerprint, options)))
    findings = findings_of(fingerprint)
    _print_findings(findings)
    if any(f.level == "error" for f in findings):
        raise typer.Exit(1)


@app.command()
def preprocess(run: KnownRun, workers: Workers = 0, verbose: Verbose = False) -> None:
    """Apply the plans of a run: every case onto the network's grid. Cases that are done are left alone."""
    _log_to_terminal(verbose)
    from nnseg.storage.runs import RunFolder
    from nnseg.verbs.preprocess import preprocess_run

    place = RunFolder(run)
    problems = preprocess_run(place, workers=_workers(workers))
    print(f"preprocessed cases are in {', '.join(str(folder.cases) for folder in place.plans())}")
    _exit_for(problems)


@app.command()
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
    _log_to_terminal(verbose)
    from nnseg.pipeline import train

    options = _options(
        folds=folds, budget=budget, steps=steps, epochs=epochs, patience=patience, more=more, init=init, freeze=freeze,
        device=device, devices=devices, deterministic=deterministic, tensorboard=tensorboard, checkpoint=checkpoint,
    )  # fmt: skip
    _exit_for(train(run, options))


@app.command()
def predict(
    scans: Annotated[
        Path, typer.Argument(metavar="SCANS", help="One scan, or a folder of files or DICOM series.", show_default=False)
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the label maps.", show_default=False)],
    model: ModelPath,
    folds: Folds = "all",
    step: Annotated[
        float | None, typer.Option(min=0.05, max=1.0, help="Distance of tiles as a share of the patch. Default: the plan's, 0.5.")
    ] = None,
    mirror: Annotated[
        bool, typer.Option(help="Average the answers to mirrored copies: 2 to 8 times the time, often better.")
    ] = True,
    fast: Annotated[
        bool,
        typer.Option(
            "--fast", help=f"The same as --no-mirror --step {FAST_STEP}: on Hippocampus 5 times as fast, for 0.004 of Dice."
        ),
    ] = False,
    classic: Annotated[bool, typer.Option("--classic", help="Average exactly as nnU-Net does, in float32: slower.")] = False,
    postprocessing: Annotated[
        bool, typer.Option(help="Mend label maps (stray components, holes) as the model's held-out cases asked for.")
    ] = True,
    memory: Annotated[
        float | None,
        typer.Option(min=0.1, help="GB of RAM to use at most. Default: 80 % of what is free.", show_default=False),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="Of the label maps: nii.gz, nrrd, mha, png, dcm (DICOM-SEG) ... Default: the scan's.",
            show_default=False,
        ),
    ] = None,
    spacing: Annotated[
        str | None,
        typer.Option(help="Millimetres along the stored axes, z,y,x, for scans whose files say none.", show_default=False),
    ] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also write them, float16, as CASE.npz on the scan's canonical grid.")
    ] = False,
    uncertainty: Annotated[
        bool, typer.Option("--uncertainty", help="Also write a map of it, and how sure the label map is into predictions.json.")
    ] = False,
    device: Device = "auto",
    devices: Annotated[
        str | None,
        typer.Option(help="Share the scans among several: 0,1,2,3 (GPUs by number) or cuda:0,cpu.", show_default=False),
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Predict label maps for scans, each on its scan's own grid. A bad scan costs no other; done ones are not done again.

    OUT/predictions.json says what became of each. Exit code 0 if all are done, 1 if some failed, 2 if none could be predicted.
    """
    _log_to_terminal(verbose)
    from nnseg.core.dataset import Finding
    from nnseg.verbs.messages import Order
    from nnseg.verbs.options import parse_devices, parse_folds, parse_spacing
    from nnseg.verbs.supervisor import Workers

    order = Order(
        models=tuple(model), out=out, folds=parse_folds(folds), device=device, step=step or (FAST_STEP if fast else None),
        mirror=mirror and not fast, classic=classic, postprocessing=postprocessing, suffix=_suffix(form), verbose=verbose,
        probabilities=probabilities, uncertainty=uncertainty, spacing=parse_spacing(spacing),
    )  # fmt: skip
    with Workers(order, devices=parse_devices(devices) if devices else (), memory_gb=memory) as workers:
        from nnseg.verbs.predict import predict_scans  # while the models are loaded

        predicted = predict_scans(scans, workers)
    print(f"{predicted.describe()} into {out}")
    _exit_for(
        (Finding(level="error", case=name, message=reason) for name, reason in predicted.failed.items()),
        code=1 if len(predicted.failed) < len(predicted.written) else 2,
    )


@app.command()
def evaluate(
    predictions: Annotated[Path, typer.Argument(metavar="PREDICTIONS", help="Folder of predicted label maps.", show_default=False)],
    references: Annotated[Path, typer.Argument(metavar="REFERENCES", help="Folder of reference label maps.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="Also write all scores to this JSON file.")] = None,
    run: Annotated[
        Path | None,
        typer.Option(help="Run whose label names, regions and ignore value apply. Default: read off the references."),
    ] = None,
    workers: Workers = 0,
    verbose: Verbose = False,
) -> None:
    """Score label maps against references: Dice and IoU for each case and label, and three declared averages."""
    _log_to_terminal(verbose)
    from nnseg.core.dataset import Finding
    from nnseg.evaluation.evaluate import evaluate_folders
    from nnseg.storage.runs import RunFolder, write_json

    labels = RunFolder(run).plans()[0].plan().labels if run else None
    scores = evaluate_folders(predictions, references, labels, workers=_workers(workers))
    _print_scores(scores, cases=True)
    if out:
        write_json(out, scores)
        print(f"\nwritten to {out}")
    _exit_for(Finding(level="error", case=f.name, message=f.reason) for f in scores.failed)


@app.command()
def export(
    run: KnownRun,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="To write, by habit ending in .nnseg.", show_default=False)],
    folds: Folds = "all",
) -> None:
    """Write a run's model as one self-contained file of tensors and text, which predict takes too."""
    _log_to_terminal(False)
    from nnseg.storage.runs import RunFolder
    from nnseg.verbs.model import export as write_model
    from nnseg.verbs.options import parse_folds

    model = write_model(RunFolder(run), file, folds=parse_folds(folds))
    print(f"{file}: {len(model.members)} member{'s' if len(model.members) > 1 else ''}, {file.stat().st_size / 1e6:.1f} MB")


@app.command("import")
def import_(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="NNUNET_FOLDER",
            help="TRAINER__PLANS__CONFIGURATION for one model, or a dataset's folder for an ensemble of all in it.",
            show_default=False,
        ),
    ],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="To write, by habit ending in .nnseg.", show_default=False)],
    folds: Folds = "all",
    configurations: Annotated[
        str | None,
        typer.Option("--plans", help="Of a dataset's folder, nnU-Net's names: 2d,3d_fullres. Default: all.", show_default=False),
    ] = None,
) -> None:
    """Make a model of nnU-Net v2's one of nnseg's: no code in it is run, and what does not fit is refused by its name.

    The first stage of a cascade is found beside the second. Postprocessing is taken along for a single configuration.
    """
    _log_to_terminal(False)
    from nnseg.interop.nnunet_model import read_nnunet_model
    from nnseg.network.bundle import save_model
    from nnseg.verbs.options import parse_folds

    chosen = [name.strip() for name in configurations.split(",")] if configurations else []
    model = read_nnunet_model(folder, folds=parse_folds(folds), configurations=chosen)
    save_model(model, file)
    print(f"{file}: {len(model.members)} member{'s' if len(model.members) > 1 else ''}, {file.stat().st_size / 1e6:.1f} MB")
    print(f"next: nnseg predict SCANS OUT --model {file}")


@app.command()
def report(
    run: KnownRun,
    picture: Annotated[Path | None, typer.Option(help="Also write best, median and worst case side by side to this PNG.")] = None,
) -> None:
    """Build the report of a run again."""
    _log_to_terminal(False)
    from nnseg.storage.runs import RunFolder
    from nnseg.verbs.report import report as write_report
    from nnseg.verbs.report import write_picture

    write_report(RunFolder(run))
    print(f"report: {RunFolder(run).report_file}")
    if picture:
        write_picture(RunFolder(run), picture)
        print(f"picture: {picture}")


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where to put data and run.")] = Path("nnseg-demo"),
    budget: Annotated[str, typer.Option(help="Time for training.")] = "100s",
    device: Device = "auto",
    verbose: Verbose = False,
) -> None:
    """Make the embedded data set of head phantoms and run everything on it: a scored model in under four minutes."""
    _log_to_terminal(verbose)
    from nnseg import pipeline
    from nnseg.phantom import write_phantoms

    dataset = write_phantoms(folder / "phantoms")
    result = pipeline.run(dataset, folder / "run", _options(budget=budget, folds="0", device=device))
    _print_scores(result.scores)
    print(f"\nreport: {result.run.report_file}")
    print(
        f"next, the same for your scans: nnseg run YOUR_FOLDER RUN; or predict: nnseg predict SCANS OUT --model {result.run.path}"
    )
    _exit_for(result.problems)


def main() -> None:
    """Run the command line; what the user can mend becomes one line and exit code 2."""
    try:
        app()
    except Stopped as end:
        print(f"nnseg: {end}", file=sys.stderr)
        sys.exit(end.code)
    except NnsegError as error:
        print(f"nnseg: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:  # a file or folder that may not be read or written; others have no name
        if not error.filename:
            raise
        print(f"nnseg: {error.filename}: {error.strerror}; check the path and its permissions", file=sys.stderr)
        sys.exit(2)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            print("nnseg: stopped; the same command goes on from what is done (training: the last checkpoint)", file=sys.stderr)
        raise


def _read_or_measure(source: Path, run: RunFolder, workers: int) -> tuple[Dataset | None, Fingerprint]:
    """The dataset of a folder, with its fingerprint; from a fingerprint's file, that alone, and no reader of images is loaded."""
    if source.is_file():
        from nnseg.planning.fingerprint import Fingerprint
        from nnseg.storage.runs import read_json, write_json

        try:
            fingerprint = read_json(source, Fingerprint)
        except RunError as error:
            raise DatasetError(f"{source} is neither a folder nor the fingerprint.json of this version of nnseg") from error
        if run.dataset_file.exists():
            raise DatasetError(
                f"{run.path} was made from a dataset; give its folder, or another run folder for a plan from {source}"
            )
        write_json(run.fingerprint_file, fingerprint)
        return None, fingerprint
    from nnseg.storage.datasets import read_dataset
    from nnseg.verbs.survey import survey

    dataset = read_dataset(source, workers=workers)
    return dataset, survey(dataset, run, workers)


def _options(
    *,
    plans: str = "auto",
    budget: str | None = None,
    more: str | None = None,
    folds: str = "all",
    devices: str | None = None,
    workers: int = 0,
    checkpoint: str = "10m",
    **others: Any,
) -> Options:
    """Options as people write them, read."""
    from nnseg.verbs.options import Options, parse_devices, parse_duration, parse_folds, parse_kinds

    return Options(
        kinds=parse_kinds(plans),
        budget=None if budget is None else parse_duration(budget),
        more=None if more is None else parse_duration(more),
        folds=parse_folds(folds),
        devices=() if devices is None else parse_devices(devices),
        workers=_workers(workers),
        checkpoint=parse_duration(checkpoint),
        **others,
    )


def _workers(workers: int) -> int:
    from nnseg.core.parallel import default_workers

    return workers or default_workers()


class _BesideBars(logging.Handler):
    """Log lines on stderr that do not tear a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        from tqdm import tqdm

        tqdm.write(self.format(record), file=sys.stderr)


def _log_to_terminal(verbose: bool) -> None:
    handler: logging.Handler = _BesideBars() if sys.stderr.isatty() else logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("nnseg")
    logger.handlers = [handler]
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    logger.propagate = False


def _print_findings(findings: Iterable[Finding]) -> None:
    for finding in findings:
        print(f"{finding.level:8}{finding}")


def _print_scores(scores: Scores | None, *, cases: bool = False) -> None:
    if scores is None:
        print("no case was held out, so there is nothing to score")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("", *(f"{name} {metric}" for name in (*scores.labels, "mean") for metric in ("Dice", "IoU")), box=None)
    for case in scores.cases if cases else ():
        values = [v for s in case.labels.values() for v in (s.dice, s.iou)]
        table.add_row(case.name, *map(_number, (*values, case.mean_dice, case.mean_iou)))
    for name in ("per_mask", "per_image", "pooled"):
        average = getattr(scores.averages, name)
        values = [v for label in scores.labels for v in (average.dice.labels[label], average.iou.labels[label])]
        table.add_row(name, *map(_number, (*values, average.dice.mean, average.iou.mean)))
    print(f"scores of {len(scores.cases)} cases")
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _suffix(form: str | None) -> str:
    """The suffix that a format's name stands for: "nrrd" and ".nrrd" are the same."""
    return "" if form is None else f".{form.lower().lstrip('.')}"


def _exit_for(problems: Iterable[Finding], *, code: int = 1) -> None:
    """Name what failed and end with the exit code, or go on if nothing did."""
    failed = list(problems)
    if failed:
        print(f"\n{len(failed)} failed, all others are done:", file=sys.stderr)
        for problem in failed:
            print(f"  {problem}", file=sys.stderr)
        raise typer.Exit(code)


if __name__ == "__main__":
    main()
