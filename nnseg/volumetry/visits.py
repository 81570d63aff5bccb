"""Visits of patients, and how the volumes of their labels change between these."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import date
from itertools import pairwise

from nnseg.core.frozen import FrozenModel
from nnseg.core.validation import NotNegative, Number, Range

FEWEST_DAYS = 30
"""Days between two visits from which on a change is also given for a year."""

DAYS_OF_YEAR = 365.25

LARGEST = 60.0
"""Largest logarithm of a change for which an interval is given."""


class Visit(FrozenModel):
    """The patient and the day of a scan."""

    patient: str
    date: date


class MeasuredVolume(FrozenModel):
    """The volume of a label at a visit.

    Args:
        case: name of the scan.
        date: of the visit.
        ml: its volume, or what stands for ml.
        interval: of the true volume; None if it is not known.
    """

    case: str
    date: date
    ml: NotNegative
    interval: Range | None = None


class VolumeChange(FrozenModel):
    """The change of a label's volume from one visit of a patient to a later one.

    Args:
        patient: whose visits these are.
        label: name of the label or region.
        before, after: what was measured.
        percent: of the volume before; None if that is 0.
        interval: of the true change in percent, which holds for 90 % of pairs of scans; None where one of the volumes has none.
        percent_per_year: None for visits less than `FEWEST_DAYS` apart.
    """

    patient: str
    label: str
    before: MeasuredVolume
    after: MeasuredVolume
    percent: Number | None
    interval: tuple[Number, Number] | None = None
    percent_per_year: Number | None = None

    @property
    def certain(self) -> bool:
        """True if the interval tells whether the label has grown or shrunk."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]


def find_changes(volumes: Mapping[str, Mapping[str, MeasuredVolume]], visits: Mapping[str, Visit]) -> Iterator[VolumeChange]:
    """The changes from each visit of a patient to the next, and from the first to the last, patient by patient.

    Args:
        volumes: of each label, by the case's name.
        visits: by the case's name; other cases are left out.
    """
    of_patient = defaultdict[str, list[str]](list)
    for case in sorted(set(volumes) & set(visits), key=lambda case: (visits[case].date, case)):
        of_patient[visits[case].patient].append(case)
    for patient, cases in sorted(of_patient.items()):
        for before, after in [*pairwise(cases)] + ([(cases[0], cases[-1])] if len(cases) > 2 else []):
            yield from changes_between(patient, volumes[before], volumes[after])


def changes_between(
    patient: str, before: Mapping[str, MeasuredVolume], after: Mapping[str, MeasuredVolume]
) -> Iterator[VolumeChange]:
    """The change of each label that was measured at both of two visits."""
    return (_change(patient, label, before[label], after[label]) for label in before if label in after)


def _change(patient: str, label: str, before: MeasuredVolume, after: MeasuredVolume) -> VolumeChange:
    percent = 100 * (after.ml / before.ml - 1) if before.ml else None
    days = (after.date - before.date).days
    yearly = percent * DAYS_OF_YEAR / days if percent is not None and days >= FEWEST_DAYS else None
    interval = _interval(before, after)
    return VolumeChange(
        patient=patient, label=label, before=before, after=after, percent=percent, interval=interval, percent_per_year=yearly
    )


def _interval(before: MeasuredVolume, after: MeasuredVolume) -> tuple[float, float] | None:
    """The interval of the change in percent, by those of both volumes, whose errors are taken to be independent.

    The half widths of both on a logarithmic scale add up as lengths at right angles do. Errors of one patient mostly go the same
    way, so that the interval holds more often than it says.
    """
    middle, half = [], []
    for one in (before, after):
        if one.interval is None or not one.ml or one.interval[0] <= 0:
            return None
        low, high = (math.log(end) for end in one.interval)
        middle.append((low + high) / 2)
        half.append((high - low) / 2)
    ratio, around = middle[1] - middle[0], math.hypot(*half)
    if ratio + around > LARGEST:
        return None
    return 100 * math.expm1(ratio - around), 100 * math.expm1(ratio + around)
