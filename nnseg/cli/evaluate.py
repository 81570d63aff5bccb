"""Commands that evaluate: scores, comparisons, reports and figures."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer

from nnseg.cli.app import EVALUATE, app
from nnseg.cli.json_output import show_json
from nnseg.cli.options import (
    READING,
    AsJson,
    DatasetFolder,
    Force,
    KnownRun,
    Quiet,
    Verbose,
    check_path,
    check_suffix,
    find_model,
    named_errors,
    one_of,
    reader,
    with_options,
)
from nnseg.cli.output import exit_for_failed, loading, log_to_terminal, show
from nnseg.core.cutoffs import parse_question, parse_share
from nnseg.core.options import Options

if TYPE_CHECKING:
    from nnseg.commands.evaluate import Evaluation
    from nnseg.core.audit import Audit
    from nnseg.storage.run import Run

References = Annotated[
    Path | None,
    typer.Argument(
        metavar="REFERENCES", help="Folder of reference label maps. Without them PREDICTIONS is a run, whose scores are shown."
    ),
]
Legend = Annotated[
    Path | None,
    typer.Option(
        "--labels",
        "--run",
        metavar="PATH",
        help="Run folder or dataset.json with label names, regions and ignore value. Default: what predictions.json or"
        " dataset.json in the folders say, and all values found.",
    ),
]
Tolerances = Annotated[
    str,
    typer.Option(
        "--tolerances",
        metavar="MM",
        help='Tolerances of NSD in mm: 1,2 ...; "none" measures no distances, which is faster. Of files in um they are in um,'
        " of files without a voxel size in voxels.",
    ),
]
Groups = Annotated[
    str | None,
    typer.Option(
        metavar="HOW",
        help='Also show scores by group (site, scanner, sex, age): a CSV with a column "case", a folder with a DICOM series'
        ' for each case, or "dicom" for the scans of the run.',
    ),
]
Form = Literal["nnseg", "nnunet"]


@app.command(rich_help_panel=EVALUATE)
@with_options("workers", "cluster")
def evaluate(
    predictions: Annotated[Path, typer.Argument(metavar="PREDICTIONS", help="Folder of predicted label maps.")],
    references: References = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write all scores to this file: JSON, or a table if it is a .csv.")
    ] = None,
    form: Annotated[
        Form,
        typer.Option(
            "--format", help="Format of that JSON: nnunet for nnU-Net's summary.json.", **one_of("--format", get_args(Form))
        ),
    ] = "nnseg",
    legend: Legend = None,
    tolerances: Tolerances = "1,2",
    instances: Annotated[
        str | None,
        typer.Option(metavar="LABELS", help="Labels whose components are counted one by one, such as lesions: tumour,metastasis."),
    ] = None,
    groups: Groups = None,
    as_json: AsJson = False,
    force: Force = False,
    *,
    options: Options,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Score label maps against references, paired by name: overlap, distances, volumes, lesions, in three averages.

    Dice, IoU, HD95, HD, ASSD, NSD and volume errors of each case and label, with 95 % intervals of their means; F1, sensitivity,
    false positives and panoptic quality of labels whose components are counted one by one.
    """
    log_to_terminal(verbose, quiet=quiet)
    check_path(predictions, "scores" if references is None else "predictions")
    with loading():
        from nnseg.commands.evaluate import EvaluateOptions, evaluate_paths, parse_tolerances
        from nnseg.core.names import split_names
        from nnseg.system.cluster import computed_on

    chosen = EvaluateOptions(
        out=out, form=form, legend=legend, tolerances=parse_tolerances(tolerances), instances=split_names(instances),
        groups=groups or "", workers=options.workers, force=force,
    )  # fmt: skip
    with computed_on(options.cluster):
        evaluated = evaluate_paths(predictions, references, chosen)
    if as_json:
        show_json("evaluate", evaluated, evaluated.findings)
    else:
        _show_evaluation(evaluated)
    exit_for_failed(evaluated.findings, code=1 if evaluated.scores.cases else 2)


def _show_evaluation(evaluated: Evaluation) -> None:
    """Print scores, overall and by group, and the names of the files with them."""
    from nnseg.cli.tables import print_groups, print_scores
    from nnseg.evaluation.compare import common_metrics

    scores = evaluated.scores
    print_scores(scores, cases=True)
    if evaluated.groups:
        print_groups(evaluated.groups, common_metrics({"": scores}), scores.length_unit)
    if evaluated.files:
        show(*(f"written to {file}" for file in evaluated.files))


@app.command(rich_help_panel=EVALUATE)
def compare(
    models: Annotated[
        list[Path],
        typer.Argument(
            metavar="A B ...",
            help="Run folders (or of one of their plans), files of scores, or nnU-Net's summary.json; each against the first.",
        ),
    ],
    metric: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Metric to compare; repeatable. Default: dice, iou, hd95 and nsd, if all have them."),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the comparison to this JSON file.")] = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Compare models on the same cases: differences with 95 % intervals, paired tests, and the smallest detectable difference."""
    log_to_terminal(quiet=quiet)
    with loading():
        from nnseg.cli.tables import print_comparisons
        from nnseg.commands.compare import compare_models
    from nnseg.storage.files import write_json
    from nnseg.storage.overwrite import check_overwrite

    for model in models:
        check_path(model, "scores")
    if out:
        check_suffix(out, "comparison")
        check_overwrite(out, "comparison", force=force)
    found = compare_models(models, metric)
    print_comparisons(found)
    if out:
        write_json(out, found)
        show(f"written to {out}")


@app.command(rich_help_panel=EVALUATE)
@with_options("workers")
def audit(
    run: KnownRun,
    groups: Groups = None,
    as_json: AsJson = False,
    *,
    options: Options,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Look for shortcuts and for scans that are in the dataset twice: under two names, mirrored, cropped or resampled.

    Tests whether site, scanner, intensities, border, marks in corners, voxel size and the like explain the Dice of held-out cases
    or go with the volume of a label, with a chance of 1 % of any false alarm. The exit code is 1 if something should be looked at.
    """
    log_to_terminal(verbose, quiet=quiet)
    check_path(run, "run")
    with loading():
        from nnseg.commands.audit import AuditedRun
        from nnseg.commands.audit import audit as audit_run
        from nnseg.storage.run import Run

    found = audit_run(Run(run), groups=groups or "", workers=options.workers)
    if as_json:
        show_json("audit", AuditedRun(audit=found), found.findings)
    else:
        _show_audit(found, Run(run))
    if found.findings:
        raise typer.Exit(1)


def _show_audit(found: Audit, run: Run) -> None:
    """Print the strongest associations, what should be looked at, and the command that keeps same scans in one fold."""
    from nnseg.cli.tables import print_associations
    from nnseg.core.dataset import counted

    tested = len(found.associations)
    show(f"{counted(found.cases, 'scan')} read, {found.scored} with scores; {counted(tested, 'association')} tested")
    print_associations(found.associations)
    for finding in found.findings:
        show(f"{finding.level}: {finding}")
    if not found.findings:
        show("no shortcut was found, and no scan is there twice")
    if found.groups:
        again = f"nnseg run {shlex.quote(str(run.dataset.folder))} NEW_RUN --group-by {shlex.quote(str(run.audit_groups_file))}"
        show("to keep same scans in one fold:", f"  {again}")
    show(f"written to {run.path / 'audit.json'}; nnseg report {shlex.quote(str(run.path))} shows it")


@app.command(rich_help_panel=EVALUATE)
def cutoffs(
    run: KnownRun,
    label: Annotated[str, typer.Option("--label", metavar="NAME", help="Label or region that the question is about.")],
    question: Annotated[
        str, typer.Option(metavar="present|below:ML", help="Whether the label is there, or its volume is below so many ml.")
    ] = "present",
    sensitivity: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            parser=reader("--sensitivity", parse_share),
            help="Choose the most specific cut-off that is so sensitive, like 0.95. Default: the largest sum of sensitivity and"
            " specificity.",
        ),
    ] = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Choose the predicted volume from which a yes/no question about a scan is answered with yes, on the held-out cases of a run.

    RUN/cutoffs.json has the cut-off, ROC curve with its area, sensitivity, specificity and net benefit; the report shows them, and
    predictions of RUN, and of models exported from it, have the answers.
    """
    log_to_terminal(verbose, quiet=quiet)
    check_path(run, "run")
    with loading():
        from nnseg.commands.cutoffs import ChosenCutOff, find_cutoff
        from nnseg.evaluation.cutoffs import describe_cutoff
        from nnseg.storage.run import Run

    with named_errors("--question"):
        asked = parse_question(question, label)
    found = find_cutoff(Run(run), asked, least_sensitivity=sensitivity)
    if as_json:
        show_json("cutoffs", ChosenCutOff(cutoff=found), ())
    else:
        show(describe_cutoff(found), f"written to {run / 'cutoffs.json'}; nnseg report {shlex.quote(str(run))} shows it")


@app.command(rich_help_panel=EVALUATE)
@with_options("device", "folds", "workers", *READING)
def validate(
    dataset: DatasetFolder,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for label maps, scores and page.")],
    model: Annotated[
        Path, typer.Option("--model", "-m", metavar="MODEL", help="Run folder, exported file, or name (nnseg models list).")
    ],
    as_json: AsJson = False,
    force: Force = False,
    *,
    options: Options,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Validate a model on another labelled dataset: scores beside those of its own held-out cases, and how sure it rightly is.

    Predicts and scores every case. The difference of each metric has a 95 % interval; OUT/validation.html also tells whether
    expected Dice, intervals and probabilities hold there. The exit code is 1 if cases failed, or were among the training data.
    """
    log_to_terminal(verbose, quiet=quiet)
    check_path(dataset, "dataset")
    path = find_model(model)
    check_path(out, "output folder")
    with loading():
        from nnseg.commands.validate import validate as validate_model

    found = validate_model(dataset, out, path, options, force=force)
    if as_json:
        show_json("validate", found, found.findings)
    else:
        from nnseg.cli.tables import print_differences
        from nnseg.reporting.sections.external import describe_drop

        print_differences(found.validation.differences, found.scores.length_unit)
        show(describe_drop(found.validation))
        show("", *(f"written to {file}" for file in found.files))
    exit_for_failed(found.findings)
