"""Are changes between two scans of a patient right, and do their intervals hold? From the scores of a run's held-out cases.

    python benchmarks/visits.py RUN [--before ED] [--after ES]

Cases are called PATIENT_BEFORE and PATIENT_AFTER, as those of ACDC. For each label: the mean error of the change in percent of the
volume before (of the left ventricle's cavity the ejection fraction, with its sign turned) and its 95 % limits of agreement, over
patients; the share of true changes within their 90 % intervals, and the median width of these. The intervals of the volumes are the
5th to 95th percentile of true over predicted volumes of the other patients (the least and the greatest for fewer than 19).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import numpy as np

from nnseg.core.scores import LabelScore
from nnseg.storage.run import Run
from nnseg.volumetry.visits import MeasuredVolume, Visit, VolumeChange, find_changes

DAYS = date(2024, 1, 1), date(2024, 1, 2)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--before", default="ED")
    parser.add_argument("--after", default="ES")
    options = parser.parse_args()
    scores = Run(options.run).require_scores()
    of_case = {case.name: case.labels for case in scores.cases}
    ends = (options.before, options.after)
    patients = sorted({name.rsplit("_", 1)[0] for name in of_case})
    patients = [patient for patient in patients if all(f"{patient}_{end}" in of_case for end in ends)]
    print(f"{len(patients)} patients, {' to '.join(ends)}")
    print(f"{'label':16}{'true change':>12}{'mean error':>12}{'95 % limits':>20}{'covered':>10}{'median width':>14}")
    for label in scores.labels:
        pairs = {patient: [of_case[f"{patient}_{end}"][label] for end in ends] for patient in patients}
        pairs = {p: pair for p, pair in pairs.items() if all(one.volume_ml and one.reference_ml for one in pair)}
        changes = [_change(patient, pairs) for patient in pairs]
        truth = np.array([100 * (after.reference_ml / before.reference_ml - 1) for before, after in pairs.values()])
        found = np.array([change.percent for change in changes], float)
        intervals = np.array([change.interval for change in changes])
        error, spread = (found - truth).mean(), 1.96 * (found - truth).std(ddof=1)
        covered = np.mean((intervals[:, 0] <= truth) & (truth <= intervals[:, 1]))
        limits = f"{error - spread:+.1f} to {error + spread:+.1f}"
        width = np.median(intervals[:, 1] - intervals[:, 0])
        print(f"{label:16}{truth.mean():+12.1f}{error:+12.2f}{limits:>20}{covered:10.2f}{width:14.1f}")


def _change(patient: str, pairs: dict[str, Sequence[LabelScore]]) -> VolumeChange:
    others = [one.reference_ml / one.volume_ml for p, pair in pairs.items() if p != patient for one in pair]
    low, high = (min(others), max(others)) if len(others) < 19 else np.quantile(others, [0.05, 0.95])
    measured = {
        f"{day}": MeasuredVolume(case=f"{day}", date=day, ml=one.volume_ml, interval=(one.volume_ml * low, one.volume_ml * high))
        for day, one in zip(DAYS, pairs[patient], strict=True)
    }
    visits = {case: Visit(patient=patient, date=one.date) for case, one in measured.items()}
    (change,) = find_changes({case: {"": one} for case, one in measured.items()}, visits)
    return change


if __name__ == "__main__":
    main()
