"""Commands that use a model: predict, rank, convert, explain; and prepare, which makes its scans."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

import typer

from nnseg.cli.app import USE, app
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
    named_errors,
    one_of,
    parse_step,
    reader,
    steps_of,
    whole_number,
    with_options,
)
from nnseg.cli.output import exit_for_failed, loading, log_to_terminal, show
from nnseg.core.errors import NnsegError
from nnseg.core.names import split_names
from nnseg.core.options import (
    FAST_STEP,
    FORMS,
    MACHINE,
    ExplanationMethod,
    OnMissingChannel,
    Options,
    Runtime,
    parse_thresholds,
)

WAY = "Way of prediction"
"""Group of options in the help of ``nnseg predict``."""


@app.command(rich_help_panel=USE)
@with_options("device", "folds", "images", "channels", "spacing", "devices", "cluster")
def predict(
    scans: Scans,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the label maps.")],
    model: Models,
    options: Options,
    fast: Fast = False,
    form: Annotated[
        str | None,
        typer.Option("--format", metavar="NAME", help="Of label maps: nii.gz, nrrd, mha, png, dcm ... Default: the scan's."),
    ] = None,
    uncertainty: Annotated[
        bool,
        typer.Option("--uncertainty", help="Also write uncertainty maps, and the certainty as JSON.", metavar=""),
    ] = False,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also write them, as CASE.npz (float16).", metavar="")
    ] = False,
    step: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            parser=reader("--step", parse_step),
            help="Step between tiles, as a share of the patch. Default: as scored.",
            rich_help_panel=WAY,
        ),
    ] = None,
    mirror: Annotated[
        bool | None,
        typer.Option(
            help="Average mirrored copies: slower, often better. Default: as scored.",
            metavar="",
            rich_help_panel=WAY,
        ),
    ] = None,
    classic: Annotated[
        bool,
        typer.Option("--classic", help="Average exactly as nnU-Net does, in float32: slower.", metavar="", rich_help_panel=WAY),
    ] = False,
    dropout: Annotated[
        int,
        typer.Option(
            metavar="N",
            parser=whole_number("--dropout", 0),
            help="Average N draws of dropout. Default: 0.",
            show_default=False,
            rich_help_panel=WAY,
        ),
    ] = 0,
    postprocessing: Annotated[
        bool,
        typer.Option(help="Postprocess as chosen on held-out cases.", metavar="", show_default=False, rich_help_panel=WAY),
    ] = True,
    on_missing_channel: Annotated[
        OnMissingChannel,
        typer.Option(
            help="A scan that lacks a channel: error, or use the others. Default: error.",
            show_default=False,
            **one_of("--on-missing-channel", get_args(OnMissingChannel)) | {"metavar": "WHAT"},
        ),
    ] = "error",
    threshold: Annotated[
        list[str] | None,
        typer.Option(
            metavar="P",
            help="From probability P on, or LABEL=P; repeatable.",
            rich_help_panel=WAY,
        ),
    ] = None,
    runtime: Annotated[
        Runtime,
        typer.Option(
            help="On CPUs: torch, onnx, openvino or auto.",
            rich_help_panel=MACHINE,
            show_default=False,
            **one_of("--runtime", get_args(Runtime)) | {"metavar": "NAME"},
        ),
    ] = "torch",
    memory: Memory = None,
    prepare: Prepare = None,
    save_steps: Annotated[
        bool,
        typer.Option("--save-steps", help="Also write the channels after each of these.", metavar="", rich_help_panel="Dataset"),
    ] = False,
    as_json: AsJson = False,
    force: Force = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Predict label maps for scans, each on its scan's own grid. A failed scan does not stop the others; finished ones are skipped.

    OUT/predictions.json records the result of each scan. Exit code: 0 if all are done, 1 if some failed, 2 if none succeeded.
    """
    log_to_terminal(verbose, quiet=quiet)
    models = tuple(map(find_model, model))
    check_path(scans, "scans")
    check_path(out, "output folder")
    with named_errors("--threshold"):
        thresholds = parse_thresholds(threshold or ())
    with loading():
        from nnseg.core.dataset import Reading, describe_unused
        from nnseg.serving.messages import PredictionOrder, suffix_named
        from nnseg.serving.pool import WorkerPool
        from nnseg.system.cluster import connected

    order = PredictionOrder(
        models=models, out=out, folds=options.folds, device=options.device, step=step or (FAST_STEP if fast else None),
        mirror=False if fast else mirror, classic=classic, dropout=dropout, postprocessing=postprocessing, runtime=runtime,
        thresholds=thresholds, suffix=suffix_named(form), probabilities=probabilities, uncertainty=uncertainty,
        spacing=options.spacing, verbose=verbose, on_missing_channel=on_missing_channel, prepare=steps_of(prepare),
        save_steps=save_steps,
    )  # fmt: skip
    with (
        connected(options.cluster) as cluster,
        WorkerPool(order, devices=options.devices, memory_gb=memory, cluster=cluster) as workers,
    ):
        with loading():
            from nnseg.serving.folder import predict_scans  # while the models are loaded

        predicted = predict_scans(scans, workers, Reading.of(options), force=force)
    if as_json:
        show_json("predict", predicted, predicted.findings)
    else:
        show(*predicted.inferred, *describe_unused(predicted.unused), f"{predicted.describe()} into {out}")
    exit_for_failed(predicted.findings, code=1 if len(predicted.findings) < len(predicted.scans) else 2)
    if any(one.suspect for one in predicted.unused):
        raise typer.Exit(1)


@app.command("prepare", rich_help_panel=USE)
@with_options("images", "channels", "spacing", "workers")
def prepare_scans(
    scans: Scans,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the prepared scans.")],
    names: Annotated[
        str,
        typer.Option(
            "--steps",
            metavar="NAMES",
            help="In this order, some of n4 (bias field), register (channels onto the first one), mask (brain, by a threshold) and"
            " normalize. With mask:skip a scan with which the step cannot be done goes without it.",
        ),
    ],
    save_steps: Annotated[bool, typer.Option("--save-steps", help="Also write the channels after each step.", metavar="")] = False,
    as_json: AsJson = False,
    force: Force = False,
    *,
    options: Options,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Write scans after steps like N4 and a brain mask, as NIfTI under their own names, to train on them: docs/how-to/preparing.md.

    OUT/prepared.json records what each step did. Exit code: 0 if all are done, 1 if some failed, 2 if none is done.
    """
    log_to_terminal(verbose, quiet=quiet)
    chosen = steps_of(names, "--steps")
    check_path(scans, "scans")
    check_path(out, "output folder")
    with loading():
        from nnseg.commands.prepare import prepare
        from nnseg.core.dataset import Reading, describe_unused

    made = prepare(scans, out, chosen, Reading.of(options), save_steps=save_steps, workers=options.workers, force=force)
    if as_json:
        show_json("prepare", made, made.findings)
    else:
        show(*made.inferred, *describe_unused(made.unused), made.describe())
    exit_for_failed(made.findings, code=1 if made.scans else 2)


@app.command(rich_help_panel=USE)
def rank(
    predictions: Annotated[Path, typer.Argument(metavar="OUT", help="Folder that nnseg predict --uncertainty wrote.")],
    count: Annotated[int, typer.Option("--count", "-n", metavar="N", min=1, help="Number of scans.")] = 10,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """List the predicted scans to annotate next: those that are likely wrong, and differ from one another."""
    log_to_terminal(quiet=quiet)
    check_path(predictions, "predictions")
    with loading():
        from nnseg.cli.tables import print_ranking
        from nnseg.commands.rank import rank as rank_scans

    found = rank_scans(predictions, count=count)
    if as_json:
        show_json("rank", found)
    else:
        print_ranking(found)


@app.command(rich_help_panel=USE)
@with_options("workers")
def convert(
    predictions: Annotated[Path, typer.Argument(metavar="OUT", help="Folder that nnseg predict wrote.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder for the files; a new one, or of an earlier conversion.")],
    to: Annotated[
        str,
        typer.Option(metavar="NAMES", help=f"Formats, separated by commas: {', '.join(FORMS)}, or a suffix like mgz or nii.gz."),
    ],
    labels: Annotated[str | None, typer.Option(metavar="NAMES", help="Labels or regions to keep. Default: all.")] = None,
    as_json: AsJson = False,
    force: Force = False,
    *,
    options: Options,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Convert predictions for other programs, without predicting again: docs/how-to/converting.md says what each format is.

    Exit code: 0 if all cases are converted, 1 if some failed, 2 if none is.
    """
    log_to_terminal(verbose, quiet=quiet)
    check_path(predictions, "predictions")
    check_path(folder, "output folder")
    with loading():
        from nnseg.commands.convert import convert as convert_folder

    made = convert_folder(predictions, folder, split_names(to), labels=split_names(labels), workers=options.workers, force=force)
    if as_json:
        show_json("convert", made, made.findings)
    else:
        show(made.describe())
    exit_for_failed(made.findings, code=1 if made.converted else 2)


@app.command(rich_help_panel=USE)
@with_options("device", "folds", "images", "channels", "spacing")
def explain(
    model: Annotated[Path, typer.Argument(metavar="RUN|MODEL", help="Run folder, exported file, or name (nnseg models list).")],
    scans: Annotated[
        Path | None,
        typer.Argument(metavar="SCANS", help="A scan or a folder of scans. Default: held-out cases of the run."),
    ] = None,
    out: Annotated[
        Path | None, typer.Argument(metavar="OUT", help="Folder for the maps of SCANS. Those of a run are in RUN/explanations.")
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Label or region to explain; repeatable. Default: all, if they are not more than 4."),
    ] = None,
    method: Annotated[
        ExplanationMethod,
        typer.Option(
            help='smoothgrad: the mean gradient under noise, which needs the extra "explain". occlusion: slower, in boxes.',
            **one_of("--method", get_args(ExplanationMethod)),
        ),
    ] = "smoothgrad",
    cases: Annotated[
        int,
        typer.Option(
            metavar="N", parser=whole_number("--cases", 1), help="Of a run: held-out cases, from the best to the worst by Dice."
        ),
    ] = 3,
    copies: Annotated[
        int,
        typer.Option(metavar="N", parser=whole_number("--copies", 2), help="Noisy copies for smoothgrad; more mean less noise."),
    ] = 16,
    seed: Annotated[int, typer.Option(metavar="N", parser=whole_number("--seed", 0), help="Of noise and random weights.")] = 0,
    as_json: AsJson = False,
    force: Force = False,
    *,
    options: Options,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Explain predictions: maps of the voxels that a label rests on, each checked against random weights and another label.

    A map that hardly differs from that of a network with random weights, or from that of another label, is withheld.
    Exit code: 0 if all maps are written, 1 if some are withheld or scans failed, 2 if no map is written.
    """
    log_to_terminal(verbose, quiet=quiet)
    if scans:
        model = find_model(model)
    else:
        check_path(model, "run")
    if scans and out:
        check_path(scans, "scans")
        check_path(out, "output folder")
    elif scans:
        raise NnsegError("there is no folder for the maps; write nnseg explain MODEL SCANS OUT")
    with loading():
        from nnseg.commands.explain import ExplainOptions, explain_run, explain_scans

    settings = ExplainOptions(labels=tuple(label or ()), method=method, copies=copies, seed=seed, options=options, force=force)
    found = explain_scans(model, scans, out, settings) if scans and out else explain_run(model, settings, cases=cases)
    if as_json:
        show_json("explain", found, found.findings)
    else:
        show(*(one.describe() for one in found.explanations))
        show(f"{found.written} of {len(found.explanations)} maps written into {found.folder}")
        if not scans and found.written:
            show(f"next: nnseg report {model}")
    exit_for_failed(found.findings, code=1 if found.written else 2)
