"""Tables that people make in spreadsheets."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from nnseg.core.errors import DatasetError

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What text begins with that a spreadsheet would compute. Source: OWASP, "CSV Injection"."""


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
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def _meant(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(FORMULA) else cell


def read_rows(path: Path) -> list[tuple[int, list[str]]]:
    """Line number and stripped cells of each line; the delimiter is the likeliest of those that spreadsheets write.

    An apostrophe that `csv_text` put before a cell is taken away again.

    Raises:
        DatasetError: there is no such file, or it is no table.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        reader = csv.reader(lines, delimiter=max("\t,;", key=lines[0].count) if lines else ",", strict=True)
        return [(reader.line_num, [_meant(cell.strip()) for cell in row]) for row in reader]
    except FileNotFoundError:
        raise DatasetError(f"{path}: there is no such table; give its path anew") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} is no readable table ({error}); save it as CSV in UTF-8") from None
