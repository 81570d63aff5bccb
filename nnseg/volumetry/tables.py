"""Tables of volumes for spreadsheets and statistics, and reading tables of a population and of patients.

No cell that is written begins a formula: names that start with ``=``, ``+``, ``-`` or ``@`` get an apostrophe before them, which
spreadsheets do not show, and which is removed when the table is read.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path

from nnseg.core.dataset import listed
from nnseg.core.population import Person, Population, Sex, make_population
from nnseg.storage.tables import CaseTable, Row, csv_text, read_case_table
from nnseg.volumetry.visits import Visit
from nnseg.volumetry.volumes import ML, CaseVolumes, Patient, Volumetry, length_of

log = logging.getLogger(__name__)

LONG = (
    "case", "label", "ml", "percentile", "n", "among", "unusual", "asymmetry_percent", "expected_dice",
    "low", "high", "dice_low", "dice_high", "age", "sex", "quality", "flags", "failed",
)  # fmt: skip
"""Columns of the table with a line for each case and label; "low" and "high" are the ends of the interval of its volume."""

MORE = ("objects", "head_ml", "corrected_ml")
"""Further columns, where there is something in them: objects that the model tells apart, head size, and volume corrected for it."""

ML_COLUMNS = (ML, "1000_voxels", "1000_pixels")
"""Columns of volumes, as `_column` writes names."""

WOMEN, MEN = ("f", "female", "woman", "w", "weiblich"), ("m", "male", "man", "männlich")
UNKNOWN = ("", "-", "?", "n/a", "na", "nan", "none", "unknown", "o", "other", "x")
OLDEST = 130.0
HEADS = ("icv", "etiv", "tiv")
"""Columns of head sizes: intracranial volume, as FreeSurfer and others call it."""
LARGEST_HEAD = 5000.0
"""Ml, so that FreeSurfer's mm³ are not taken for ml."""


def long_table(volumetry: Volumetry) -> str:
    """CSV with a line for each case and label, and one for each case that failed; the `LONG` columns, "ml" under its own name, and
    those of `MORE` that a case has a value of."""
    rows = [row for case in volumetry.cases for row in _long_rows(case)]
    more = [place for place in range(len(LONG), len(LONG) + len(MORE)) if any(row[place] is not None for row in rows)]
    columns = [volumetry.unit if column == ML else column for column in LONG] + [MORE[place - len(LONG)] for place in more]
    return csv_text(columns, ([*row[: len(LONG)], *(row[place] for place in more)] for row in rows))


def wide_table(volumetry: Volumetry) -> str:
    """CSV with a line for each case that did not fail: case, age, sex, if known head size, and ml of each label. It can serve as a
    population."""
    cases = [case for case in volumetry.cases if not case.failed]
    heads = any(case.patient.head_ml is not None for case in cases) and HEADS[0] not in map(_column, volumetry.names)
    rows = (
        [case.name, case.patient.age, case.patient.sex, *([case.patient.head_ml] if heads else []), *_wide_volumes(case, volumetry)]
        for case in cases
    )
    return csv_text(("case", "age", "sex", *([HEADS[0]] if heads else []), *volumetry.names), rows)


def _wide_volumes(case: CaseVolumes, volumetry: Volumetry) -> list[float]:
    return [case.labels[name].ml for name in volumetry.names]


def changes_table(volumetry: Volumetry) -> str:
    """CSV with a line for each label and pair of visits; "low" and "high" are the ends of the interval of the change in percent."""
    unit = volumetry.unit
    header = (
        "patient", "label", "case_before", "case_after", "date_before", "date_after", f"{unit}_before", f"{unit}_after",
        "change_percent", "low", "high", "percent_per_year",
    )  # fmt: skip
    rows = (
        [
            one.patient, one.label, one.before.case, one.after.case, str(one.before.date), str(one.after.date), one.before.ml,
            one.after.ml, *(_rounded(value, 2) for value in (one.percent, *(one.interval or (None, None)), one.percent_per_year)),
        ]
        for one in volumetry.changes
    )  # fmt: skip
    return csv_text(header, rows)


def lesions_table(volumetry: Volumetry) -> str:
    """CSV with a line for each lesion of each case; x, y and z are the world position of its centre in mm (LPS)."""
    length = length_of(volumetry.unit)
    header = (
        "case", "label", "lesion", volumetry.unit, f"longest_{length}", f"in_slice_{length}", f"perpendicular_{length}",
        f"product_{length}2", "x", "y", "z",
    )  # fmt: skip
    rows = (
        [
            case.name, one.label, one.number, one.ml,
            *(_rounded(value, 3) for value in (one.longest, one.in_slice, one.perpendicular, one.product, *one.centre)),
        ]
        for case in volumetry.cases
        for one in case.lesions
    )  # fmt: skip
    return csv_text(header, rows)


def lesion_changes_table(volumetry: Volumetry) -> str:
    """CSV with a line for what became of each lesion since the visit before; of several, numbers are separated by spaces."""
    unit, length = volumetry.unit, length_of(volumetry.unit)
    header = (
        "patient", "label", "change", "case_before", "case_after", "date_before", "date_after", "lesions_before", "lesions_after",
        f"{unit}_before", f"{unit}_after", "change_percent", f"in_slice_{length}_before", f"in_slice_{length}_after",
    )  # fmt: skip
    return csv_text(header, (row for case in volumetry.cases for row in _lesion_rows(case, volumetry.visits)))


def _lesion_rows(case: CaseVolumes, visits: Mapping[str, Visit]) -> Iterator[list[str | float | None]]:
    found = case.lesion_changes
    for one in found.changes if found else ():
        assert found is not None
        before, after = visits[found.since], visits[case.name]
        numbers = (" ".join(str(lesion.number) for lesion in lesions) for lesions in (one.before, one.after))
        lengths = (_rounded(length, 3) for length in one.in_slice)
        visits_of = (found.since, case.name, str(before.date), str(after.date))
        yield [after.patient, one.label, one.kind, *visits_of, *numbers, *one.ml, _rounded(one.percent, 2), *lengths]


def read_people(path: Path, labels: Sequence[str]) -> Population:
    """The population in a table, with each person's volumes.

    Args:
        path: CSV with the columns ``case``, if known ``age`` (years), ``sex`` (F or M) and ``icv`` (ml of the head; or ``etiv``,
            ``tiv``), and one for each label, in ml ("Liver", "liver ml" or "Liver (ml)"); or with ``case``, ``label`` and ``ml``, a
            line for each.
        labels: names to read; the table may have more, and lack some.

    Raises:
        DatasetError: the table cannot be read; names the line and the column.
    """
    table = read_case_table(path, compared=_column)
    volumes = next((column for column in table.columns if column in ML_COLUMNS), "")
    by_case = _long_people(table, labels, volumes) if volumes and "label" in table.columns else _wide_people(table, labels)
    if missing := [name for name in labels if not any(name in person.volumes for person in by_case.values())]:
        log.warning("%s has no volumes of %s; these labels are not compared", path, ", ".join(missing))
    return make_population(list(by_case.values()), f"{len(by_case)} people in {path.name}", apart=True)


def read_patients(path: Path, names: Collection[str]) -> dict[str, Patient]:
    """Age, sex and head size by case.

    Args:
        path: CSV with the columns ``case``, and of ``age``, ``sex`` and ``icv`` (ml) at least one.
        names: of the scans. The table may list others only if it has all scans; else a name is probably misspelt.

    Raises:
        DatasetError: the table cannot be read; names the line and the column.
    """
    table = read_case_table(path, compared=_column)
    if not {"age", "sex", *HEADS} & set(table.columns):
        raise table.wrong(f"has the columns {', '.join(table.columns)}", "age or sex, or both, are expected")
    found = {}
    for case, row in _rows_of(table, names).items():
        age, sex = _age_and_sex(table, row)
        found[case] = Patient(age=age, sex=sex, head_ml=_head(table, row))
    return found


def read_visits(path: Path, names: Collection[str]) -> dict[str, Visit]:
    """Patient and date by case.

    Args:
        path: CSV with the columns ``case``, ``patient`` and ``date`` (2024-03-31).
        names: of the scans, as for `read_patients`.

    Raises:
        DatasetError: the table cannot be read; names the line and the column.
    """
    table = read_case_table(path, compared=_column)
    if missing := [column for column in ("patient", "date") if column not in table.columns]:
        raise table.wrong(f"has the columns {', '.join(table.columns)}", f"{' and '.join(missing)} are expected too")
    return {case: _visit(table, row) for case, row in _rows_of(table, names).items()}


def _visit(table: CaseTable, row: Row) -> Visit:
    if not row.cells["patient"]:
        raise table.wrong("the cell is empty", "write what tells patients apart", row, "patient")
    try:
        return Visit(patient=row.cells["patient"], date=date.fromisoformat(row.cells["date"]))
    except ValueError:
        raise table.wrong(f'"{row.cells["date"]}" is no date', "write one like 2024-03-31", row, "date") from None


def _rows_of(table: CaseTable, names: Collection[str]) -> dict[str, Row]:
    """The rows of scans, by case.

    Raises:
        DatasetError: the table lists others, and not all scans.
    """
    found = table.by_case()
    without = sorted(set(names) - set(found))
    for row in table.rows:
        if row.case not in names and without:
            raise table.wrong(f'there is no scan "{row.case}"', f"the table has no line for {listed(without)}", row, "case")
    if without:
        log.warning("%s does not list %s", table.path, listed(without))
    return {case: row for case, row in found.items() if case in names}


def _number(table: CaseTable, row: Row, column: str, most: float = math.inf) -> float | None:
    """A number from 0 to ``most``, with a decimal point or comma; None if the cell is empty or one of `UNKNOWN`."""
    text = row.cells.get(column, "")
    if text.casefold() in UNKNOWN:
        return None
    try:
        value = float(text.replace(",", "."))
    except ValueError:
        raise table.wrong(f'"{text}" is no number', "write one like 12.5, or leave it empty", row, column) from None
    if not math.isfinite(value) or not 0 <= value <= most:
        limits = f"between 0 and {most:g}" if most < math.inf else "0 or more"
        raise table.wrong(f"{text} cannot be", f"a number {limits} is expected", row, column)
    return value


def _age_and_sex(table: CaseTable, row: Row) -> tuple[float | None, Sex | None]:
    sex = row.cells.get("sex", "")
    if sex.casefold() not in (*WOMEN, *MEN, *UNKNOWN):
        raise table.wrong(f'"{sex}" is not known', "write F or M, or leave it empty", row, "sex")
    return _number(table, row, "age", OLDEST), "F" if sex.casefold() in WOMEN else "M" if sex.casefold() in MEN else None


def _head(table: CaseTable, row: Row) -> float | None:
    """Head size in ml; one of 0 is none."""
    return next((ml for column in HEADS if (ml := _number(table, row, column, LARGEST_HEAD))), None)


def _wide_people(table: CaseTable, labels: Sequence[str]) -> dict[str, Person]:
    columns = {name: _column(name) for name in labels if _column(name) in table.columns}
    if not columns:
        expected = f"a column for each label is expected: {', '.join(labels[:8])}"
        raise table.wrong(f"has the columns {', '.join(table.columns)}", expected)
    people = {}
    for case, row in table.by_case().items():
        volumes = {name: ml for name, column in columns.items() if (ml := _number(table, row, column)) is not None}
        age, sex = _age_and_sex(table, row)
        people[case] = Person(volumes=volumes, age=age, sex=sex, head_ml=_head(table, row))
    return people


def _long_people(table: CaseTable, labels: Sequence[str], volumes: str) -> dict[str, Person]:
    by_column = {_column(name): name for name in labels}
    people: dict[str, Person] = {}
    for row in table.rows:
        name, ml = by_column.get(_column(row.cells["label"])), _number(table, row, volumes)
        age, sex = _age_and_sex(table, row)
        before = people.get(row.case, Person(volumes={}, age=age, sex=sex, head_ml=_head(table, row)))
        if name is None or ml is None:
            continue
        if name in before.volumes:
            raise table.wrong(f"{name} of {row.case} is listed before", "keep one line for each case and label", row, "label")
        people[row.case] = before.model_copy(update={"volumes": before.volumes | {name: ml}})
    if not people:
        raise table.wrong(
            "none of the model's labels is listed", f"names like {', '.join(labels[:8])} are expected", column="label"
        )
    return people


def _column(name: str) -> str:
    """A column's name as it is compared: "Left Hippocampus (ml)" and "left_hippocampus_ml" are "left_hippocampus"."""
    words = re.sub(r"[\s_-]+", "_", name.strip().casefold())
    return re.sub(r"(?<=.)_?[(\[]ml[)\]]$|(?<=.)_ml$", "", words)


def _long_rows(case: CaseVolumes) -> Iterator[list[str | float | None]]:
    about = [case.patient.age, case.patient.sex, _rounded(case.quality, 4), "; ".join(case.flags)]
    if case.failed:
        yield [case.name, *[None] * 12, *about, case.failed, None, case.patient.head_ml, None]
    for name, volume in case.labels.items():
        at = volume.percentile
        stands = [round(at.percent, 1), f"{at.n:g}", at.among, at.unusual] if at else [None] * 4
        heads = case.patient.head_ml, _rounded(volume.corrected, 6)
        sides, expected = _rounded(volume.asymmetry, 2), _rounded(volume.expected_dice, 4)
        ends = [*(volume.interval or (None, None)), *(_rounded(end, 4) for end in volume.dice_interval or (None, None))]
        yield [case.name, name, volume.ml, *stands, sides, expected, *ends, *about, None, volume.objects, *heads]


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
