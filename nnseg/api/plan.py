"""`plan`: what ``nnseg plan`` writes and estimates."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from nnseg.commands.measure import find_dataset, measure_dataset
from nnseg.commands.plan import PlannedRun, check_options, plan_run, take_fingerprint
from nnseg.core.keywords import PlanOptions, listing, options_of
from nnseg.storage.path_kinds import check_path, with_found_init
from nnseg.storage.run import Run


@listing(PlanOptions)
def plan(dataset: str | Path, run: str | Path, **options: Unpack[PlanOptions]) -> PlannedRun:
    """The plans that ``nnseg plan`` writes into a run folder, with the reason for each decision, and their cost.

    Args:
        dataset: folder of labelled scans, or the fingerprint.json of one.
        run: folder, created if missing.
        options: as of the command.

    Raises:
        DatasetError: the folder holds no dataset that can be used, or a finding stops a run.
        PlanError: the plans do not fit this machine, or an edited plan would be lost.

    Example:
        >>> planned = nnseg.plan("images_and_labels", "run", budget="2h")
        >>> planned.plans[0].plan.patch
    """
    chosen, source, place = with_found_init(options_of(options, PlanOptions)), Path(dataset), Run(Path(run))
    if not source.is_file():
        check_path(source, "dataset")
    check_path(place.path, "new run")
    check_options(chosen)
    found = None if source.is_file() else find_dataset(place, source, chosen)
    with place.locked(source):
        if found is None:
            return plan_run(place, take_fingerprint(source, place), chosen)
        fingerprint = measure_dataset(place, source, chosen.workers, split=chosen.split, allow=chosen.allow, found=found)
        return plan_run(place, fingerprint, chosen)
