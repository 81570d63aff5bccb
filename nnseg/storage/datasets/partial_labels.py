"""Datasets in which not all labels were annotated in all cases.

They are listed in ``dataset.json``, ``"annotated_labels": {"case_a": ["liver"], "case_b": ["spleen", "kidney"]}``, or in a table
``annotated_labels.csv`` beside it with columns ``case`` and ``labels``, the names separated by semicolons, commas or spaces. A
region's name means all of its labels; cases not listed have all labels annotated.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from nnseg.core.dataset import Case, Finding
from nnseg.core.errors import DatasetError
from nnseg.core.labels import Labels
from nnseg.core.names import COMPARED
from nnseg.storage.datasets.dataset_json import ANNOTATED_KEY, Description
from nnseg.storage.tables import read_case_table

TABLE = f"{ANNOTATED_KEY}.csv"


def mark_annotated(
    cases: Sequence[Case], labels: Labels, *, folder: Path, description: Description | None, unusable: Collection[str] = ()
) -> tuple[tuple[Case, ...], tuple[Finding, ...]]:
    """The cases, each with the labels that were annotated in it, and a note on how many have which.

    Args:
        description: its dataset.json, if it has one.
        unusable: names of further cases, which may be listed too.

    Raises:
        DatasetError: a listed case or label does not exist; the message suggests the nearest name.
    """
    path, given = _read_lists(folder, description)
    names = [case.name for case in cases]
    for name in given:
        if name not in {*names, *unusable}:
            raise DatasetError.at(
                path, f"lists case {name}, which the dataset does not have", _nearest_name(name, names), "correct it"
            )
    parts = _labels_by_name(labels)
    found = {name: _labels(path, name, given[name], parts) for name in names if name in given}
    marked = tuple(replace(case, annotated=_annotated_names(found.get(case.name), labels)) for case in cases)
    return marked, (_note(marked, labels),) if any(case.annotated for case in marked) else ()


def _read_lists(folder: Path, description: Description | None) -> tuple[Path, Mapping[str, tuple[str, ...]]]:
    table = folder / TABLE
    if description is None or description.annotated is None:
        return table, _read_table(table) if table.exists() else {}
    if table.exists():
        found = f'is there, and "{ANNOTATED_KEY}" in {description.path.name} too'
        raise DatasetError.at(table, found, "one of them", "remove the other")
    return description.path, description.annotated


def _read_table(path: Path) -> dict[str, tuple[str, ...]]:
    table = read_case_table(path, last_takes_rest=True)
    if table.columns != ("case", "labels"):
        raise table.wrong(f"has the columns {', '.join(table.header)}", "case and labels are expected")
    return {
        case: tuple(part.strip() for part in re.split("[;,]", row.cells["labels"]) if part.strip())
        for case, row in table.by_case().items()
    }


def _labels_by_name(labels: Labels) -> dict[str, tuple[str, ...]]:
    """Names of the labels of each label or region, by its name; none for the background, which needs no annotation."""
    parts = {region.name: region.values for region in labels.regions}
    parts |= {name: (value,) for name, value in labels.by_name.items()}
    named = dict(zip(labels.values[1:], labels.names[1:], strict=True))
    return {name: tuple(named[v] for v in values if v in named) for name, values in parts.items()}


def _labels(path: Path, case: str, given: Sequence[str], parts: Mapping[str, tuple[str, ...]]) -> set[str]:
    found: set[str] = set()
    for name in (n for text in given for n in _split_names(text, parts)):
        if name not in parts:
            text = f"lists label {name} for case {case}, which the dataset does not have"
            raise DatasetError.at(path, text, _nearest_name(name, list(parts)), "correct it")
        found.update(parts[name])
    if not found:
        raise DatasetError.at(path, f"lists no label for case {case}", "at least one", "add it, or remove the case")
    return found


def _split_names(text: str, parts: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Names separated by spaces, if the whole text is no name and each of its words is one."""
    words = text.split()
    return words if text not in parts and all(word in parts for word in words) else [text]


def _annotated_names(annotated: Collection[str] | None, labels: Labels) -> tuple[str, ...] | None:
    """In the dataset's order; None for all."""
    if annotated is None or len(annotated) == len(labels.names) - 1:
        return None
    return tuple(name for name in labels.names if name in annotated)


def _nearest_name(name: str, known: Sequence[str]) -> str:
    plain = {k[:COMPARED].casefold(): k for k in known}
    return f"a name like {plain[get_close_matches(name[:COMPARED].casefold(), plain, n=1, cutoff=0.0)[0]]}"


def _note(cases: Sequence[Case], labels: Labels) -> Finding:
    count = {name: sum(case.annotated is None or name in case.annotated for case in cases) for name in labels.names[1:]}
    listed = ", ".join(f"{name} in {n}" for name, n in count.items())
    message = f"labels annotated, of {len(cases)} cases: {listed}; elsewhere they count neither in training nor in scores"
    return Finding.of("NS-D030", message)
