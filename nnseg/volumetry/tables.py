"""Volumes as tables: written for spreadsheets and statistics, and read where people bring those of others to compare with.

In what is written no cell begins a formula: names that start with ``=``, ``+``, ``-`` or ``@`` get an apostrophe before them, which
spreadsheets do not show, and which is taken away again when the table is read.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnseg.core.dataset import listed
from nnseg.core.errors import DatasetError
from nnseg.core.population import Person, Population, Sex, population_of
from nnseg.storage.tables import csv_text, read_rows
from nnseg.volumetry.volumes import CaseVolumes, Patient, Volumetry

log = logging.getLogger(__name__)

LONG = (
    "case", "label", "ml", "percentile", "n", "among", "unusual", "asymmetry_percent", "expected_dice",
    "age", "sex", "quality", "flags", "failed",
)  # fmt: skip
"""Columns of the table with a line for each case and label."""

WOMEN, MEN = ("f", "female", "woman", "w", "weiblich"), ("m", "male", "man", "männlich")
UNKNOWN = ("", "-", "?", "n/a", "na", "nan", "none", "unknown", "o", "other", "x")
OLDEST = 130.0


def long_table(volumetry: Volumetry) -> str:
    """CSV with a line for each case and label, and one for each case that failed; the `LONG` columns."""
    return csv_text(LONG, (row for case in volumetry.cases for row in _long_rows(case)))


def wide_table(volumetry: Volumetry) -> str:
    """CSV with a line for each case that did not fail: case, age, sex, and ml of each label. It can serve as a population."""
    rows = (
        [case.name, case.patient.age, case.patient.sex, *(case.labels[name].ml for name in volumetry.names)]
        for case in volumetry.cases
        if not case.failed
    )
    return csv_text(("case", "age", "sex", *volumetry.names), rows)


def read_people(path: Path, labels: Sequence[str]) -> Population:
    """The population of a table, each of its people apart.

    Args:
        path: CSV with the columns ``case``, if known ``age`` (years) and ``sex`` (F or M), and one for each label, in ml ("Liver",
            "liver ml" or "Liver (ml)"); or with ``case``, ``label`` and ``ml``, a line for each.
        labels: names that are wanted; the table may have more, and lack some.

    Raises:
        DatasetError: the table cannot be read; names the line and the column.
    """
    table = _Table.read(path)
    by_case = _long_people(table, labels) if {"label", "ml"} <= set(table.header) else _wide_people(table, labels)
    if missing := [name for name in labels if not any(name in person.volumes for person in by_case.values())]:
        log.warning("%s has no volumes of %s; nothing is compared there", path, ", ".join(missing))
    return population_of(list(by_case.values()), f"{len(by_case)} people in {path.name}", apart=True)


def read_patients(path: Path, names: Collection[str]) -> dict[str, Patient]:
    """Age and sex by case.

    Args:
        path: CSV with the columns ``case`` and ``age``, ``sex`` or both.
        names: of the scans. The table may list others, if all scans are in it; else one of the two is misspelt.

    Raises:
        DatasetError: the table cannot be read; names the line and the column.
    """
    table = _Table.read(path)
    if not {"age", "sex"} & set(table.header):
        raise table.wrong(table.first, None, f"has the columns {', '.join(table.header)}", "age or sex, or both, are expected")
    found = {cells.case: Patient(age=cells.age(), sex=cells.sex()) for cells in table.once_each()}
    without = sorted(set(names) - set(found))
    for cells in table.rows:
        if cells.case not in names and without:
            raise table.wrong(cells.line, "case", f'there is no scan "{cells.case}"', f"{listed(without)} is not in the table")
    if without:
        log.warning("%s does not list %s", path, listed(without))
    return {name: patient for name, patient in found.items() if name in names}


@dataclass(frozen=True, kw_only=True)
class _Cells:
    """A line of a table."""

    table: _Table
    line: int
    cells: list[str]

    @property
    def case(self) -> str:
        return self.text("case")

    def text(self, column: str) -> str:
        """What stands in a column; nothing if the line is too short, or there is no such column."""
        place = self.table.header.index(column) if column in self.table.header else len(self.cells)
        return self.cells[place] if place < len(self.cells) else ""

    def number(self, column: str, most: float = math.inf) -> float | None:
        """A number from 0 on, with a decimal point or comma; None if the cell is empty, or says that it is not known."""
        text = self.text(column)
        if text.casefold() in UNKNOWN:
            return None
        try:
            value = float(text.replace(",", "."))
        except ValueError:
            raise self.table.wrong(self.line, column, f'"{text}" is no number', "write one like 12.5, or leave it empty") from None
        if not math.isfinite(value) or not 0 <= value <= most:
            limits = f"between 0 and {most:g}" if most < math.inf else "0 or more"
            raise self.table.wrong(self.line, column, f"{text} cannot be", f"a number {limits} is expected")
        return value

    def age(self) -> float | None:
        return self.number("age", OLDEST)

    def sex(self) -> Sex | None:
        text = self.text("sex").casefold()
        if text not in (*WOMEN, *MEN, *UNKNOWN):
            raise self.table.wrong(self.line, "sex", f'"{self.text("sex")}" is not known', "write F or M, or leave it empty")
        return "F" if text in WOMEN else "M" if text in MEN else None


@dataclass(frozen=True, kw_only=True)
class _Table:
    """A table with a header.

    Args:
        first: number of the header's line.
        header: column names, lower case, "(ml)" taken away.
    """

    path: Path
    first: int
    header: list[str]
    lines: list[tuple[int, list[str]]]

    @classmethod
    def read(cls, path: Path) -> _Table:
        if path.is_dir():
            raise DatasetError(f"{path} is a folder; give a CSV file")
        lines = [(line, cells) for line, cells in read_rows(path) if any(cells)]
        if not lines:
            raise DatasetError(f"{path} is empty; a header and a line for each case are expected")
        (first, header), *rest = lines
        table = cls(path=path, first=first, header=[_column(cell) for cell in header], lines=rest)
        if "case" not in table.header:
            raise table.wrong(first, None, f"has the columns {', '.join(header)}", 'one called "case" is expected')
        doubled = next((name for name in table.header if name and table.header.count(name) > 1), None)
        if doubled:
            raise table.wrong(first, doubled, "there are two columns of this name", "keep one")
        return table

    @property
    def rows(self) -> Iterator[_Cells]:
        for line, cells in self.lines:
            row = _Cells(table=self, line=line, cells=cells)
            if len(cells) > len(self.header) and any(cells[len(self.header) :]):
                advice = "a decimal comma in a table parted by commas? Save it with semicolons, or with decimal points"
                raise self.wrong(line, None, f"has {len(cells)} cells below {len(self.header)} columns", advice)
            if not row.case:
                raise self.wrong(line, "case", "is empty", "name the case, or remove the line")
            yield row

    def once_each(self) -> Iterator[_Cells]:
        """The lines, of which no two may be about one case."""
        seen: dict[str, int] = {}
        for row in self.rows:
            if row.case in seen:
                raise self.wrong(row.line, "case", f"{row.case} is in line {seen[row.case]} already", "keep one of them")
            seen[row.case] = row.line
            yield row

    def wrong(self, line: int, column: str | None, found: str, advice: str) -> DatasetError:
        place = f', column "{column}"' if column else ""
        return DatasetError(f"{self.path}, line {line}{place}: {found}; {advice}")


def _wide_people(table: _Table, labels: Sequence[str]) -> dict[str, Person]:
    columns = {name: _column(name) for name in labels if _column(name) in table.header}
    if not columns:
        expected = f"a column for each label is expected: {', '.join(labels[:8])}"
        raise table.wrong(table.first, None, f"has the columns {', '.join(table.header)}", expected)
    return {
        row.case: Person(
            volumes={name: ml for name, column in columns.items() if (ml := row.number(column)) is not None},
            age=row.age(),
            sex=row.sex(),
        )
        for row in table.once_each()
    }


def _long_people(table: _Table, labels: Sequence[str]) -> dict[str, Person]:
    by_column = {_column(name): name for name in labels}
    people: dict[str, Person] = {}
    for row in table.rows:
        name, ml = by_column.get(_column(row.text("label"))), row.number("ml")
        before = people.get(row.case, Person(volumes={}, age=row.age(), sex=row.sex()))
        if name is None or ml is None:
            continue
        if name in before.volumes:
            raise table.wrong(row.line, "label", f"{name} of {row.case} is listed before", "keep one line for each case and label")
        people[row.case] = before.model_copy(update={"volumes": before.volumes | {name: ml}})
    if not people:
        expected = f"names like {', '.join(labels[:8])} are expected"
        raise table.wrong(table.first, "label", "none of the model's labels is listed", expected)
    return people


def _column(name: str) -> str:
    """A column's name as it is compared: "Left Hippocampus (ml)" and "left_hippocampus_ml" are "left_hippocampus"."""
    words = re.sub(r"[\s_-]+", "_", name.strip().casefold())
    return re.sub(r"(?<=.)_?[(\[]ml[)\]]$|(?<=.)_ml$", "", words)


def _long_rows(case: CaseVolumes) -> Iterator[list[str | float | None]]:
    about = [case.patient.age, case.patient.sex, _rounded(case.quality, 4), "; ".join(case.flags)]
    if case.failed:
        yield [case.name, *[None] * 8, *about, case.failed]
    for name, volume in case.labels.items():
        at = volume.percentile
        stands = [round(at.percent, 1), f"{at.n:g}", at.among, at.unusual] if at else [None] * 4
        sides, expected = _rounded(volume.asymmetry, 2), _rounded(volume.expected_dice, 4)
        yield [case.name, name, volume.ml, *stands, sides, expected, *about, None]


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
