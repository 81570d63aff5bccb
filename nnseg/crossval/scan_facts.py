"""The ranges of a run's scans: their properties depend on no network, so that those of scans that were not held out count too."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import numpy as np

from nnseg.core.errors import DamagedCaseError, suppress_unless_fault
from nnseg.core.fingerprint import CaseMeasure
from nnseg.core.geometry import Grid
from nnseg.core.scan_ranges import ScanFacts, ScanRanges, find_ranges, measure_scan
from nnseg.storage.cases import CaseStore, StoredCase
from nnseg.storage.run import Run
from nnseg.system.progress import progress

MOST_CASES = 200
"""Cases that are measured at most; more would hardly change the ranges."""


def ranges_of_run(run: Run, known: Mapping[str, ScanFacts], patients: Mapping[str, str]) -> ScanRanges | None:
    """The ranges of the scans of all folds; None for too few.

    Args:
        known: properties of held-out cases, by name.
        patients: of cases, by name; one that is not named is the only one of its patient.
    """
    facts = {**known, **measure_stored_cases(run, known)}
    return find_ranges(tuple(facts.values()), run.plans[0].plan.channels, [patients.get(name, name) for name in facts])


def measure_stored_cases(run: Run, known: Collection[str] = ()) -> dict[str, ScanFacts]:
    """The properties, by name, of the cases of all folds whose images are preprocessed; of many cases those of an even choice.

    Args:
        known: names of cases that are not measured again.
    """
    folder, found = run.plans[0], dict[str, ScanFacts]()
    store = CaseStore.of(folder.cases, folder.plan)
    cases = (case for case in run.fingerprint_of_folds.cases if case.name not in known)
    due = [case for case in cases if len(case.typical) == len(folder.plan.channels)]
    chosen = due[:: max(1, math.ceil(len(due) / MOST_CASES))]
    for case in progress(chosen, total=len(chosen), label="measuring training scans"):
        with suppress_unless_fault(DamagedCaseError):  # nothing but this depends on it any more
            found[case.name] = measure_stored_case(store.read(case.name), case)
    return found


def measure_stored_case(stored: StoredCase, case: CaseMeasure) -> ScanFacts:
    """The properties of a scan from its preprocessed image, and what the fingerprint has of it before preprocessing."""
    image = np.asarray(stored.image[: len(case.typical)]).transpose(0, *(1 + axis for axis in stored.placement.back))
    facts = measure_scan(Grid(shape=case.shape, spacing=case.spacing), image, image)
    return facts.model_copy(update={"spreads": tuple(high - low for low, high, _ in case.typical)})
