"""Patients of several cases, noticed from folders, BIDS subjects, or names like patient001_ED and patient001_ES."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from nnseg.core.dataset import Dataset, Finding
from nnseg.storage.datasets.groups import find_subjects
from nnseg.storage.datasets.names import may_be_patient

SEPARATOR = r"[_\-. ]"

VISIT_WORD = (
    "ed|es|systole|diastole|pre|post|preop|postop|before|after|baseline|bl|followup|follow-up|fu|early|late|"
    "left|right|l|r|lt|rt|lh|rh|od|os|rest|stress|insp|exp|inspiration|expiration|prone|supine|"
    "native|arterial|venous|portal|delayed|unenhanced|enhanced|test|retest|"
    "axial|sagittal|coronal|ax|sag|cor|tra|flair|dwi|adc|ct|cta|mr|mri|pet"
)
"""Last words of names that tell the scans of a patient apart: phases of heart, breath and contrast, sides, views, modalities."""

VISIT_NUMBER = (
    "ses|session|sess|visit|v|tp|timepoint|time|t|day|d|week|w|month|m|year|y|fu|followup|scan|exam|study|acq|run|rep|repeat|"
    "frame|phase|echo|series|view|slice|sl|tile|patch|crop|roi|region|block|row|col|x|y|z"
)
"""Words before the number of a visit, session, frame, or of a part of the image."""

DATE = r"(?:19|20)\d\d-?[01]\d-?[0-3]\d"

LAST_WORD = re.compile(rf"(.*?)(?:^|{SEPARATOR})(?:{VISIT_WORD}|(?:{VISIT_NUMBER}){SEPARATOR}?\d+|{DATE})$", re.IGNORECASE)

PATIENT_WORD = re.compile(
    rf"(?:.*{SEPARATOR})?(?:patient|pat|subject|subj|sub|participant|volunteer|donor|mouse|rat){SEPARATOR}?[a-z]{{0,3}}\d+"
    rf"(?={SEPARATOR}|$)",
    re.IGNORECASE,
)
"""The beginning of a name up to the number of a patient."""

SIDE = re.compile(r"(.*\d)(?:L|R)$")
"""A side of the body right behind a number, as in Image_01L of CHASE_DB1."""

NUMBERED = re.compile(r"(.*\d)[_-](\d{1,3})$")
"""A time point as a number behind the patient's, as in BraTS-GLI-00002-001."""

MOST_TIME_POINTS = 20
"""A higher number at the end of a name is none of a time point, unless the one before has four digits (BraTS-GLI-00005-101)."""


STEMS = (r"(.+)[_\-. ].+", r"(.+\d)[A-Za-z]")
"""Names that begin with what may be a patient's, as in 12_a and 12a."""


@dataclass(frozen=True, kw_only=True)
class Patients:
    """The patient of each case, where some have several.

    Args:
        of: the patient of every case, by the case's name; empty if none has several, or if it is doubtful.
        message: what was found, in one line.
    """

    of: Mapping[str, str]
    message: str


def find_patients(dataset: Dataset) -> Patients | None:
    """The patients of a dataset, if some of them have several cases, and there are several; None if nothing shows it.

    In this order: the subjects that the layout tells; subjects of BIDS names; words and numbers in names. Names that only may show
    patients give a message without groups.
    """
    cases = dataset.cases
    if subjects := find_subjects(dataset):
        return Patients(of=subjects, message=_message(subjects, "the subjects of BIDS names"))
    told = [case for case in cases if case.subject]
    texts = {case.name: case.subject or case.name for case in cases}
    found = _group(texts, _patient) or _group(texts, _side(texts.values())) or _group(texts, _numbered(texts.values()))
    if told and not found:
        found = _group(texts, lambda text: text)
    if found:
        why = "the folders of patients" if told else f"names like {_example(found)}"
        return Patients(of=found, message=_message(found, why))
    return _doubt(texts.values())


def patient_findings(dataset: Dataset) -> tuple[Finding, ...]:
    """A note of the patients that `find_patients` finds."""
    patients = find_patients(dataset)
    return (Finding.of("NS-D019" if patients.of else "NS-D020", patients.message),) if patients else ()


def _group(texts: Mapping[str, str], patient: Callable[[str], str]) -> dict[str, str]:
    """The patient of each case, if some have several cases and there are several patients; else {}."""
    groups = {name: patient(text) for name, text in texts.items()}
    return groups if 1 < len(set(groups.values())) < len(groups) else {}


def _patient(text: str) -> str:
    """The name up to a patient's number, or else without words of visits at its end, if a number is left."""
    if (named := PATIENT_WORD.match(text)) and len(named[0]) < len(text):
        return named[0]
    stem = text
    while (last := LAST_WORD.match(stem)) and may_be_patient(last[1]):
        stem = last[1]
    return stem


def _side(texts: Iterable[str]) -> Callable[[str], str]:
    """The name without L or R at its end, where both sides are there."""
    known = set(texts)

    def patient(text: str) -> str:
        match = SIDE.match(text)
        return match[1] if match and {f"{match[1]}L", f"{match[1]}R"} <= known else text

    return patient


def _numbered(texts: Iterable[str]) -> Callable[[str], str]:
    """The name without a time point's number, if all names have one and few are of one patient, as opposed to numbers of cases."""
    matches = [NUMBERED.match(text) for text in texts]
    found = [match for match in matches if match]
    patients, points = {m[1] for m in found}, {int(m[2]) for m in found}
    few = len(found) <= 2 * len(patients) or 2 * len(points) <= len(patients)
    low = max(points, default=0) <= MOST_TIME_POINTS or all(re.search(r"\d{4}$", name) for name in patients)
    if len(found) < len(matches) or not few or not low or not all(map(may_be_patient, patients)):
        return lambda text: text
    return lambda text: NUMBERED.sub(r"\1", text)


def _doubt(texts: Iterable[str]) -> Patients | None:
    """A message about names that begin alike up to a number and a separator or letter, if several groups of them do."""
    known = list(texts)
    for pattern in STEMS:
        stems: dict[str, list[str]] = {}
        for text in known:
            if (parts := re.fullmatch(pattern, text)) and parts[1][-1:].isdigit() and may_be_patient(parts[1]):
                stems.setdefault(parts[1], []).append(text)
        alike = [sorted(names) for names in stems.values() if len(names) > 1]
        if len(alike) > 1:
            first, second = min(alike)[:2]
            message = f"names like {first} and {second} begin alike: if they are scans of one patient, keep them in one fold with"
            return Patients(of={}, message=f'{message} --group-by "{pattern}"')
    return None


def _message(groups: Mapping[str, str], why: str) -> str:
    patients = len(set(groups.values()))
    several = sum(count > 1 for count in Counter(groups.values()).values())
    which = f"{patients} patients" if several == patients else f"{patients} patients, {several} with several cases,"
    return f"cases of one patient stay in one fold: {which} from {why} (--group-by none to divide them)"


def _example(groups: Mapping[str, str]) -> str:
    """The first case of a patient with several whose name says more than the patient."""
    counts = Counter(groups.values())
    return min(name for name, patient in groups.items() if counts[patient] > 1 and name != patient)
