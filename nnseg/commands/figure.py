"""``nnseg figure``: figures of a run for papers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nnseg.commands.case_pictures import read_all_examples, read_examples
from nnseg.core.errors import RunError
from nnseg.storage.overwrite import check_overwrite
from nnseg.storage.run import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure


What = Literal["curves", "scores", "cases", "plan"]

INSTALL = "pip install 'nnseg[figures]'"
FOLDER = "figures"


def write_figures(run: Run, what: What, out: Path | None = None, *, every: bool = False, force: bool = False) -> tuple[Path, ...]:
    """Draw a figure of a run; returns its PNG and its PDF file.

    Args:
        run: its folder.
        what: "curves" of training, "scores" and "cases" that were held out, or the "plan"'s network.
        out: folder; by default ``figures`` in the run's.
        every: of "cases", draw each one into a folder of its own instead of the best, the median and the worst.
        force: also overwrite files that nnseg did not make.

    Raises:
        RunError: ``every`` is wanted of another figure than "cases", matplotlib is not installed, the run lacks what is to be
            drawn, or a file is not of nnseg.
    """
    stem = (out or run.path / FOLDER) / what
    if every and what != "cases":
        raise RunError("--all draws every held-out case: use it with --what cases")
    try:
        from nnseg.reporting.paper import write_figure  # noqa: PLC0415 (an extra)
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        raise RunError(f"figures need matplotlib; {INSTALL}") from None
    if not run.exists:
        raise RunError(f"{run.path} is not a run folder; make one with nnseg run")
    if every:
        return _write_every_case(run, stem, force=force)
    for suffix in (".png", ".pdf"):
        check_overwrite(stem.with_name(f"{what}{suffix}"), "picture", force=force)
    return write_figure(_make_figure(run, what), stem)


def _write_every_case(run: Run, folder: Path, *, force: bool) -> tuple[Path, ...]:
    """A PNG and a PDF of each held-out case in a folder; names begin with the rank of the case, from the worst on."""
    from nnseg.reporting.paper import cases_figure, write_figure  # noqa: PLC0415 (an extra)

    if (scores := run.scores) is None:
        raise RunError(f"{run.path} is not scored yet; continue with nnseg run")
    written: list[Path] = []
    for rank, case in enumerate(read_all_examples(run, scores), 1):
        stem = folder / f"{rank:0{len(str(len(scores.cases)))}d}_{case.name.replace('/', '_')}"
        for suffix in (".png", ".pdf"):
            check_overwrite(stem.with_name(f"{stem.name}{suffix}"), "picture", force=force)
        written += write_figure(partial(cases_figure, [case]), stem)
    if not written:
        raise RunError(f"no case of {run.path} can be shown: their scans, references or predictions are not where they were")
    return tuple(written)


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
