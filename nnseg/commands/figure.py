"""``nnseg figure``: pictures of a run for papers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nnseg.commands.case_pictures import read_examples
from nnseg.core.errors import RunError
from nnseg.core.schedule import Epoch
from nnseg.storage.run import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure


What = Literal["curves", "scores", "cases", "plan"]

INSTALL = "pip install 'nnseg[figures]'"
FOLDER = "figures"


def write_figures(run: Run, what: What, out: Path | None = None) -> tuple[Path, ...]:
    """The files of a figure, as PNG and as PDF.

    Args:
        run: its folder.
        what: "curves" of training, "scores" and "cases" that were held out, or the "plan"'s network.
        out: folder; by default ``figures`` in the run's.

    Raises:
        RunError: matplotlib is not installed, or the run has not come so far.
    """
    try:
        from nnseg.reporting.paper import write_figure  # noqa: PLC0415 (an extra)
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        raise RunError(f"figures need matplotlib; {INSTALL}") from None
    if not run.exists:
        raise RunError(f"{run.path} is not a run folder; make one with nnseg run")
    return write_figure(_built(run, what), (out or run.path / FOLDER) / what)


def _built(run: Run, what: What) -> Callable[[], Figure]:
    from nnseg.reporting.paper import (  # noqa: PLC0415
        cases_figure,
        curves_figure,
        plan_figure,
        scores_figure,
    )

    if what == "plan":
        return partial(plan_figure, [folder.plan for folder in run.plans])
    if what == "curves":
        return partial(curves_figure, _histories(run))
    if (scores := run.scores) is None:
        raise RunError(f"{run.path} is not scored yet; go on with nnseg run")
    if what == "scores":
        return partial(scores_figure, scores)
    shown = read_examples(run, scores)
    if not shown:
        raise RunError(f"no case of {run.path} can be shown: their scans, references or predictions are not where they were")
    return partial(cases_figure, shown)


def _histories(run: Run) -> dict[str, tuple[Epoch, ...]]:
    found = run.histories
    if not found:
        raise RunError(f"{run.path} has no training to show yet; begin one with nnseg train")
    return found
