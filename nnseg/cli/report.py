"""Commands about what was made: reports of runs and of predictions, figures, and whether files are as written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from nnseg.cli.app import EVALUATE, app
from nnseg.cli.options import Force, KnownRun, Quiet, check_path, check_suffix, one_of, with_options
from nnseg.cli.output import exit_for_failed, loading, log_to_terminal, show
from nnseg.core.options import HeadMethod, Options

if TYPE_CHECKING:
    from collections.abc import Mapping

MOST_FOREIGN = 20
"""Files that are not of nnseg and are named one by one; the others are counted."""

What = Literal["curves", "scores", "cases", "plan"]


@app.command(rich_help_panel=EVALUATE)
@with_options("workers", "cluster")
def report(
    folder: Annotated[Path, typer.Argument(metavar="RUN|PREDICTIONS", help="Folder of a run, or of predictions.")],
    picture: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Of a run: also write the best, median and worst case side by side to this PNG."),
    ] = None,
    population: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Of predictions: population to compare volumes with: a CSV of case, age, sex and ml of each label, a run, a "
            "model, or a folder with a report. Default: the training set.",
        ),
    ] = None,
    covariates: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Of predictions: a CSV of case, age, sex and icv (ml of the head)."),
    ] = None,
    visits: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Of predictions: a CSV of case, patient and date, to show how volumes change between visits."
        ),
    ] = None,
    head: Annotated[
        str, typer.Option(metavar="LABEL", help="Of predictions: label that is the intracranial volume, where no CSV gives it.")
    ] = "",
    correct_head: Annotated[
        HeadMethod | None,
        typer.Option(
            help="Of predictions: correct volumes for head size before they are compared with the population: ratio of head "
            "sizes, or residual of a regression.",
            **one_of("--correct-head", get_args(HeadMethod)),
        ),
    ] = None,
    smooth: Annotated[
        bool,
        typer.Option("--smooth", help="Of predictions: smooth centiles by age and sex; none beyond the ages seen.", metavar=""),
    ] = False,
    lesions: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LABEL",
            help="Of predictions: measure each object of this label, volume and diameters, and between visits which are new, "
            "vanished, grown or shrunken. May be repeated.",
        ),
    ] = None,
    align: Annotated[
        bool, typer.Option("--align", help="Of predictions: register the scans of visits before lesions are matched.", metavar="")
    ] = False,
    sheets: Annotated[bool, typer.Option(help="Of predictions: also write a printable page for each case.")] = True,
    force: Force = False,
    quiet: Quiet = False,
    *,
    options: Options,
) -> None:
    """Rebuild the report of a run, or report on predictions without references: volumes, warnings, pictures, sheets."""
    log_to_terminal(quiet=quiet)
    check_path(folder, "report")
    if picture:
        check_suffix(picture, "picture")
    from nnseg.storage.run import Run

    run = Run(folder)
    if not run.exists:
        from nnseg.system.cluster import computed_on

        tables, asked = {"covariates": covariates, "visits": visits}, {"lesions": tuple(lesions or ()), "align": align}
        asked |= {"head": head, "correction": correct_head, "smooth": smooth}
        with computed_on(options.cluster):
            _report_predictions(folder, population, tables, asked, sheets=sheets, workers=options.workers, force=force)
        return
    with loading():
        from nnseg.commands.case_pictures import write_picture
        from nnseg.commands.report import report as write_report
        from nnseg.storage.overwrite import check_overwrite

    if picture:
        check_overwrite(picture, "picture", force=force)
    write_report(run)
    show(f"report: {run.report_file}")
    if picture:
        write_picture(run, picture)
        show(f"picture: {picture}")


@app.command(rich_help_panel=EVALUATE)
def verify(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Run folder, model file, or folder of predictions.")],
) -> None:
    """Check that every file of a run, a model or a folder of predictions is as written; changes nothing.

    Lists files that are damaged or missing (exit code 1: repeat the command that made them), edited, or not of nnseg.
    """
    log_to_terminal()
    from collections import Counter

    from nnseg.commands.verify import verify as check

    files = check(path)
    counts = Counter(file.state for file in files)
    foreign = [file for file in files if file.state == "foreign"]
    others = [file for file in files if file.state not in ("intact", "foreign")] + foreign[:MOST_FOREIGN]
    more = [f"foreign  and {len(foreign) - MOST_FOREIGN} more"] if len(foreign) > MOST_FOREIGN else []
    show(
        *(f"{file.state:8} {file.path}" for file in others),
        *more,
        ", ".join(f"{count} {state}" for state, count in sorted(counts.items())),
    )
    if counts["damaged"] or counts["missing"]:
        raise typer.Exit(1)


@app.command(rich_help_panel=EVALUATE)
def figure(
    run: KnownRun,
    what: Annotated[What, typer.Option(help="Figure to draw.", **one_of("--what", get_args(What)))] = "scores",
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder to write to. Default: figures in the run folder.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="With --what cases: every held-out case, worst first.")] = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Draw figures of a run for papers, as PNG (300 dpi) and PDF: training curves, scores, cases, or the network.

    Needs the extra "figures".
    """
    log_to_terminal(quiet=quiet)
    check_path(run, "run")
    with loading():
        from nnseg.commands.figure import write_figures
        from nnseg.storage.run import Run

    for path in write_figures(Run(run), what, out, every=every, force=force):
        show(f"figure: {path}")


def _report_predictions(
    folder: Path,
    population: Path | None,
    tables: Mapping[str, Path | None],
    asked: Mapping[str, Any],
    *,
    sheets: bool,
    workers: int,
    force: bool,
) -> None:
    from nnseg.core.dataset import Finding, counted
    from nnseg.storage.overwrite import check_overwrite, is_made

    with loading():
        from nnseg.storage.predictions import read_record
        from nnseg.volumetry.population import read_population
        from nnseg.volumetry.predicted import MeasureOptions
        from nnseg.volumetry.report import CHANGES, LESION_CHANGES, LESIONS, report_predictions
        from nnseg.volumetry.volumes import VOLUMES

    own = is_made(folder / VOLUMES, "volumes")  # then the others are too
    for name in (VOLUMES, "volumes.csv", "volumes_wide.csv", CHANGES, LESIONS, LESION_CHANGES, "report.html"):
        check_overwrite(folder / name, "volumes", force=force or own)
    others = read_population(population, read_record(folder)[1]) if population else None
    measures = MeasureOptions(**asked)
    volumetry = report_predictions(folder, population=others, asked=measures, sheets=sheets, workers=workers, **tables)
    failed, flagged = sum(bool(case.failed) for case in volumetry.cases), sum(bool(case.flags) for case in volumetry.cases)
    show(f"{counted(len(volumetry.cases) - failed, 'scan')} measured, {flagged} flagged, {failed} failed")
    if volumetry.expected and volumetry.expected.interval:
        low, high = volumetry.expected.interval
        show(f"mean expected Dice {volumetry.expected.expected:.3f}, 90 % from {low:.3f} to {high:.3f}")
    show(f"report: {folder / 'report.html'}")
    if volumetry.visits:
        changes = volumetry.changes
        certain, unknown = sum(change.certain for change in changes), "of unknown uncertainty (see predict --uncertainty)"
        beyond = f"{certain} beyond the uncertainty of volumes" if any(change.interval for change in changes) else unknown
        show(f"changes: {folder / CHANGES}, {len(changes)} between visits, {beyond}")
    if volumetry.lesions:
        count = sum(len(case.lesions) for case in volumetry.cases)
        show(f"lesions: {folder / LESIONS}, {counted(count, 'object')} of {', '.join(volumetry.lesions)}")
    show(f"volumes: {folder / 'volumes.csv'}", *([f"sheets: {folder / 'sheets'}"] if sheets else []))
    known = {name for name, record in read_record(folder)[0].cases.items() if record.status == "failed"}  # when it was predicted
    unread = (case for case in volumetry.cases if case.failed and case.name not in known)
    exit_for_failed(Finding.read(case.failed, "NS-E001", case=case.name) for case in unread)
