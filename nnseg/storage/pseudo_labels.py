"""``RUN/pseudo_labels``: a model's label maps of cases in which not all of its labels were annotated, with a record of each.

They are read in training only: references, and so scores, stay as they were annotated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nnseg.core.errors import RunError, suppress_unless_fault
from nnseg.core.fingerprint import CaseMeasure
from nnseg.storage.files import read_json
from nnseg.storage.predictions import RECORD, Predictions


@dataclass(frozen=True, kw_only=True)
class PseudoLabels:
    """What training takes from a model's prediction of a case.

    Args:
        names: of labels that were not annotated in the case.
        file: the predicted label map, with the dataset's values.
        hash: of its bytes.
    """

    names: tuple[str, ...]
    file: Path
    hash: str


def missing_labels(annotated: Collection[str] | None, names: Iterable[str]) -> tuple[str, ...]:
    """Those of some labels that were not annotated in a case.

    Args:
        annotated: names of the labels that were; None for all.
        names: of the labels.
    """
    return () if annotated is None else tuple(name for name in names if name not in annotated)


def read_pseudo_labels(folder: Path, cases: Iterable[CaseMeasure]) -> dict[str, PseudoLabels]:
    """The pseudo-labels of those cases that have any, by the case's name.

    Args:
        folder: of the predicted label maps; it need not exist.
        cases: with what was annotated in each.
    """
    with suppress_unless_fault(RunError):
        record = read_json(folder / RECORD, Predictions)
        predicted = record.labels.names[1:] if record.labels else ()
        names = {case.name: missing_labels(case.annotated, predicted) for case in cases}
        done = {name: of_case for name, of_case in record.cases.items() if of_case.status == "done" and names.get(name)}
        return {n: PseudoLabels(names=names[n], file=folder / r.file, hash=r.hash) for n, r in done.items()}
    return {}


def count_pseudo_labels(of_cases: Mapping[str, PseudoLabels]) -> dict[str, int]:
    """The number of cases with pseudo-labels of each label."""
    return dict(Counter(name for found in of_cases.values() for name in found.names))
