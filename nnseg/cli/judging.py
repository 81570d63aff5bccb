"""Verbs that judge: scores, comparisons, reports and figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nnseg.cli.app import app
from nnseg.cli.options import KnownRun, Verbose, Workers, workers_of
from nnseg.cli.terminal import exit_for, log_to_terminal, print_scores

PANEL = "Judge"


@app.command(rich_help_panel=PANEL)
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
    log_to_terminal(verbose)
    from nnseg.core.dataset import Finding
    from nnseg.evaluation.evaluate import evaluate_folders
    from nnseg.storage.runs import RunFolder, write_json

    labels = RunFolder(run).plans()[0].plan().labels if run else None
    scores = evaluate_folders(predictions, references, labels, workers=workers_of(workers))
    print_scores(scores, cases=True)
    if out:
        write_json(out, scores)
        print(f"\nwritten to {out}")
    exit_for(Finding(level="error", case=f.name, message=f.reason) for f in scores.failed)


@app.command(rich_help_panel=PANEL)
def report(
    run: KnownRun,
    picture: Annotated[Path | None, typer.Option(help="Also write best, median and worst case side by side to this PNG.")] = None,
) -> None:
    """Build the report of a run again."""
    log_to_terminal(False)
    from nnseg.storage.runs import RunFolder
    from nnseg.verbs.report import report as write_report
    from nnseg.verbs.report import write_picture

    write_report(RunFolder(run))
    print(f"report: {RunFolder(run).report_file}")
    if picture:
        write_picture(RunFolder(run), picture)
        print(f"picture: {picture}")
