"""`run`: all steps of ``nnseg run``."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from nnseg import pipeline
from nnseg.core.keywords import RunOptions, listing, options_of
from nnseg.storage.path_kinds import check_path, with_found_init
from nnseg.system.extras import check_extra


@listing(RunOptions)
def run(dataset: str | Path, run: str | Path, **options: Unpack[RunOptions]) -> pipeline.FinishedRun:
    """A run with all its steps, as ``nnseg run``: plan, train the folds, predict held-out cases, score, report. Resumes.

    Args:
        dataset: folder of labelled scans; never written to.
        run: folder, created if missing.
        options: as of the command.

    Raises:
        NnsegError: something only the user can correct; whatever was finished stays.

    Example:
        >>> done = nnseg.run("images_and_labels", "run", budget="20m")
        >>> done.scores.averages, done.verdict
    """
    chosen = with_found_init(options_of(options, RunOptions))
    check_path(Path(dataset), "dataset")
    check_path(Path(run), "new run")
    if chosen.tensorboard:
        check_extra("tensorboard", "events for TensorBoard")
    return pipeline.run(Path(dataset), Path(run), chosen)
