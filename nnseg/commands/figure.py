"""``nnseg figure``: figures of a run for papers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nnseg.commands.case_pictures import read_examples
from nnseg.core.errors import RunError
from nnseg.storage.overwrite import check_overwrite
from nnseg.storage.run import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure


What = Literal["curves", "scores", "cases", "plan"]

INSTALL = "pip install 'nnseg[figures]'"
FOLDER = "figures"


def write_figures(run: Run, what: What, out: Path | None = None, *, force: bool = False) -> tuple[Path, ...]:
    """Draw a figure of a run; returns its PNG and its PDF file.

    Args:
        run: its folder.
        what: "curves" of training, "scores" and "cases" that were held out, or the "plan"'s network.
        out: folder; by default ``figures`` in the run's.
        force: also overwrite files that nnseg did not make.

    Raises:
        RunError: matplotlib is not installed, the run lacks what is to be drawn, or a file is not of nnseg.
    """
    stem = (out or run.path / FOLDER) / what
    try:
        from nnseg.reporting.paper import write_figure  # noqa: PLC0415 (an extra)
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        raise RunError(f"figures need matplotlib; {INSTALL}") from None
    if not run.exists:
        raise RunError(f"{run.path} is not a run folder; make one with nnseg run")
    for suffix in (".png", ".pdf"):
        check_overwrite(stem.with_name(f"{what}{suffix}"), "picture", force=force)
    return write_figure(_make_figure(run, what), stem)


def _make_figure(run: Run, what: What) -> Callable[[], Figure]:
    from nnseg.reporting.paper import (  # noqa: PLC0415
        cases_figure,
        curves_figure,
        plan_figure,
        scores_figure,
    )

    if what == "plan":
        return partial(plan_figure, [folder.plan for folder in run.plans])
    if what == "curves":
        if not run.histories:
            raise RunError(f"{run.path} has no training to show yet; begin one with nnseg train")
        return partial(curves_figure, run.histories)
    if (scores := run.scores) is None:
        raise RunError(f"{run.path} is not scored yet; continue with nnseg run")
    if what == "scores":
        return partial(scores_figure, scores)
    cases = read_examples(run, scores)
    if not cases:
        raise RunError(f"no case of {run.path} can be shown: their scans, references or predictions are not where they were")
    return partial(cases_figure, cases)
