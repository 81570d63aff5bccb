"""``nnseg report``: a run folder as one page to look at."""

from __future__ import annotations

import logging
from functools import cache

from nnseg.reporting.html import write_report
from nnseg.storage.runs import RunFolder
from nnseg.verbs.pictures import examples, write_picture
from nnseg.verbs.story import story_of

__all__ = ["examples", "report", "report_quietly", "write_picture"]

log = logging.getLogger(__name__)


def report(run: RunFolder, *, live: bool = False, device: str = "auto") -> None:
    """Write ``report.html`` from what the run has so far.

    Args:
        run: its folder; trainings may be under way in it.
        live: a training runs: the page says so and looks for news by itself, and pictures of cases, which take long, are left out.
        device: to find the uncertainty of the cases that are shown.

    Raises:
        RunError: the folder holds no run.
    """
    write_report(run.report_file, story_of(run, live=live, device=device))


def report_quietly(run: RunFolder) -> None:
    """Write the page of a run that is training. What goes wrong is warned of once and costs the training nothing."""
    try:
        report(run, live=True)
    except Exception as error:  # whatever it is, training is worth more
        _warn(f"the report of {run.path} cannot be kept up to date: {error}")


@cache
def _warn(message: str) -> None:
    """Once in each process."""
    log.warning("%s", message)
