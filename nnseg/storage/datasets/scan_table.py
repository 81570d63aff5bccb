"""A table of scans to predict, in the place of a folder: their names and the paths of their files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from nnseg.core.dataset import Case, counted
from nnseg.core.errors import DatasetError
from nnseg.storage.tables import read_case_table
from nnseg.system.extras import check_extra

PARQUET = ".parquet"

TABLES = (".csv", ".tsv", PARQUET)
"""Suffixes of tables."""


def read_scan_table(path: Path, *, channels: int) -> tuple[Case, ...]:
    """The cases of a table with a column "case" and one for each channel, or one for a file with all channels.

    Args:
        path: CSV, or Parquet for very many; relative paths begin at its folder, and an empty cell is a channel that a scan lacks.
        channels: number that the model needs.

    Raises:
        DatasetError: it cannot be read, a case is in it twice, has no file, or its columns are neither one nor as many as channels.
    """
    named = dict(_rows_of_parquet(path) if path.suffix.lower() == PARQUET else _rows_of_text(path))
    columns = [column for column in next(iter(named.values()), {}) if column != "case"]
    if len(columns) not in (1, channels):
        found = f'has {counted(len(columns), "column")} besides "case" ({", ".join(columns)})'
        raise DatasetError.at(path, found, f"one of paths, or one for each of {counted(channels, 'channel')}", "correct the table")
    return tuple(_case(path, name, [row[column] for column in columns]) for name, row in named.items())


def _case(path: Path, name: str, cells: list[str]) -> Case:
    missing = tuple(number for number, cell in enumerate(cells) if not cell) if len(cells) > 1 else ()
    images = tuple(path.parent / cell for cell in cells if cell)
    if not images:
        raise DatasetError.at(path, f"has no file for the case {name}", "the path of one", "add it, or remove the row")
    return Case(name=name, images=images, missing=missing)


def _rows_of_text(path: Path) -> Iterator[tuple[str, Mapping[str, str]]]:
    table = read_case_table(path, compared=str.strip)
    for name, row in table.by_case().items():
        yield name, {column: row.cells[column] for column in table.columns}


def _rows_of_parquet(path: Path) -> Iterator[tuple[str, Mapping[str, str]]]:
    check_extra("cluster", "tables in Parquet")
    from pyarrow import ArrowException, parquet  # noqa: PLC0415 (optional)

    try:
        columns = parquet.read_table(path).to_pydict()
    except (ArrowException, OSError) as error:
        raise DatasetError.at(path, f"cannot be read ({error})", "a table in Parquet", "check the file") from error
    if "case" not in columns:
        raise DatasetError.at(path, f"has the columns {', '.join(columns)}", 'one called "case"', "rename it")
    if len(set(columns["case"])) < len(columns["case"]):
        raise DatasetError.at(path, "has a case twice", "a row for each", "keep one of them")
    for cells in zip(*columns.values(), strict=True):
        row = {column: str(cell or "") for column, cell in zip(columns, cells, strict=True)}
        yield row["case"], row
