"""CSV tables, written so that a spreadsheet computes nothing, and read as spreadsheets write them."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nnseg.core.dataset import list_some
from nnseg.core.errors import DatasetError
from nnseg.core.limits import check_limit
from nnseg.core.names import printable
from nnseg.storage.bounded import read_text

FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]")
"""The beginning of text that a spreadsheet would compute, after spaces too. Source: OWASP, "CSV Injection"."""


def csv_text(header: Sequence[str], rows: Iterable[Sequence[str | float | None]]) -> str:
    """A table as text: numbers as they are, None as an empty cell, and an apostrophe before text that would be a formula."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([_cell(name) for name in header])
    writer.writerows([_cell(value) for value in row] for row in rows)
    return file.getvalue()


def _cell(value: str | float | None) -> str | float:
    if value is None:
        return ""
    text = printable(value) if isinstance(value, str) else ""  # a carriage return would begin a line
    return f"'{text}" if FORMULA.match(text) else text or value


def _unescaped(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell, 1) else cell


def read_rows(path: Path) -> list[tuple[int, list[str]]]:
    """Line number and stripped cells of each line; the delimiter is the likeliest of those that spreadsheets write.

    An apostrophe that `csv_text` put before a cell is taken away again.

    Raises:
        DatasetError: there is no such file, or it is no table.
    """
    if path.is_dir():
        raise DatasetError(f"{path} is a folder; give a CSV file")
    try:
        lines = read_text(path).splitlines()
        reader = csv.reader(lines, delimiter=max("\t,;", key=lines[0].count) if lines else ",", strict=True)
        return [(reader.line_num, [_unescaped(cell.strip()) for cell in row]) for row in reader]
    except FileNotFoundError:
        raise DatasetError(f"{path}: there is no such table; give its path anew") from None
    except OSError as error:
        raise DatasetError.at(path, f"cannot be read ({error.strerror})", "a table", "check the file") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} is no readable table ({error}); save it as CSV in UTF-8") from None


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of a table about cases.

    Args:
        line: its number in the file, from 1.
        cells: by column, stripped; empty where the line is too short.
        count: number of cells in the line.
    """

    line: int
    case: str
    cells: Mapping[str, str]
    count: int


@dataclass(frozen=True, kw_only=True)
class CaseTable:
    """A table with a column "case".

    Args:
        header: names of the columns as written.
        columns: names of the columns as they are compared.
        rows: all lines below the header but blank ones.
    """

    path: Path
    line: int
    header: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    def by_case(self) -> dict[str, Row]:
        """The rows by case.

        Raises:
            DatasetError: two rows are about one case.
        """
        found: dict[str, Row] = {}
        for row in self.rows:
            if row.case in found:
                raise self.wrong(f"{row.case} is in line {found[row.case].line} already", "keep one of them", row, "case")
            found[row.case] = row
        return found

    def wrong(self, found: str, advice: str, row: Row | None = None, column: str = "") -> DatasetError:
        """The error that names the file, the line (by default the header's), the column, what is wrong and what to do."""
        place = f', column "{column}"' if column else ""
        return DatasetError(f"{self.path}, line {row.line if row else self.line}{place}: {found}; {advice}")


def read_case_table(
    path: Path,
    *,
    compared: Callable[[str], str] = str.casefold,
    headless: Sequence[str] = (),
    last_takes_rest: bool = False,
    lenient: bool = False,
) -> CaseTable:
    """A table with a line for each case.

    Args:
        path: CSV with commas, semicolons or tabs.
        compared: normalizes names of columns before they are compared.
        headless: the columns of a table that has just as many and no header; () if a header is needed.
        last_takes_rest: cells beyond the last column belong to it, separated by semicolons; otherwise they are an error.
        lenient: of columns with one name the first is read, and cells beyond the last column are ignored.

    Raises:
        DatasetError: there is no such file, or it is no table; no column is called "case", or two columns have one name; a line has
            no case, or more cells than there are columns.
    """
    lines = [(line, cells) for line, cells in read_rows(path) if any(cells)]
    if not lines and not headless:
        raise DatasetError(f"{path} is empty; a header and a line for each case are expected")
    first, header = lines[0] if lines else (1, list(headless))
    columns = [compared(name) for name in header]
    if "case" in columns:
        lines = lines[1:]
    elif headless and all(len(cells) == len(headless) for _, cells in lines):
        header = columns = list(headless)
    table = CaseTable(path=path, line=first, header=tuple(header), columns=tuple(columns), rows=())
    if "case" not in columns:
        otherwise = f", or {len(headless)} columns without a header" if headless else ""
        raise table.wrong(f"has the columns {list_some(header, 20)}", f'one called "case" is expected{otherwise}')
    check_limit("text_entries", len(lines) * len(columns), path, "has {:,} cells, with those of short lines", DatasetError)
    doubled = [name for name, count in Counter(columns).items() if name and count > 1]
    if doubled and not lenient:
        raise table.wrong("there are two columns of this name", "keep one", column=doubled[0])
    if last_takes_rest:
        lines = [(line, _joined(cells, len(columns))) for line, cells in lines]
    return replace(table, rows=tuple(_row(table, line, cells[: len(columns)] if lenient else cells) for line, cells in lines))


def _joined(cells: list[str], count: int) -> list[str]:
    return cells if len(cells) <= count else [*cells[: count - 1], ";".join(cells[count - 1 :])]


def _row(table: CaseTable, line: int, cells: Sequence[str]) -> Row:
    count = len(table.columns)
    named = dict(reversed([*zip(table.columns, [*cells, *[""] * count], strict=False)]))
    row = Row(line=line, case=named["case"], cells=named, count=len(cells))
    if any(cells[count:]):
        advice = "a decimal comma in a table separated by commas? Save it with semicolons, or with decimal points"
        raise table.wrong(f"has {len(cells)} cells below {count} columns", advice, row)
    if not row.case:
        raise table.wrong("is empty", "name the case, or remove the line", row, "case")
    return row
