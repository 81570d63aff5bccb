"""A table of scans to predict, in the place of a folder: their names and the paths of their files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from nnseg.core.dataset import Case, counted
from nnseg.core.errors import DatasetError
from nnseg.core.limits import check_limit
from nnseg.storage.remote import path_of
from nnseg.storage.tables import read_case_table
from nnseg.system.extras import check_extra
from nnseg.system.regular import open_regular

PARQUET = ".parquet"

TABLES = (".csv", ".tsv", PARQUET)
"""Suffixes of tables."""


def read_scan_table(path: Path, *, channels: int) -> tuple[Case, ...]:
    """The cases of a table with a column "case" and one for each channel, or one for a file with all channels.

    Args:
        path: CSV, or Parquet for very many; relative paths begin at its folder, and an empty cell is a channel that a scan lacks.
            Paths may be addresses, see `nnseg.storage.remote`.
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
    images = tuple(path_of(cell, path.parent) for cell in cells if cell)
    if not images:
        raise DatasetError.at(path, f"has no file for the case {name}", "the path of one", "add it, or remove the row")
    return Case(name=name, images=images, missing=missing)


def _rows_of_text(path: Path) -> Iterator[tuple[str, Mapping[str, str]]]:
    table = read_case_table(path, compared=str.strip)
    for name, row in table.by_case().items():
        yield name, {column: row.cells[column] for column in table.columns}


def _rows_of_parquet(path: Path) -> Iterator[tuple[str, Mapping[str, str]]]:
    check_extra("cluster", "tables in Parquet")
    from pyarrow import ArrowException, compute, parquet  # noqa: PLC0415 (optional)

    advice = "divide the table"
    try:
        with open_regular(path) as file:
            schema = parquet.read_schema(file)
            if other := [field for field in schema if str(field.type).startswith(("list", "struct", "map"))]:
                raise DatasetError.at(path, f"has the column {other[0].name} of {other[0].type}", "texts", "write texts")
            texts = [field.name for field in schema if "string" in str(field.type)]
            found = parquet.ParquetFile(file, read_dictionary=texts)  # a text that is repeated takes memory once
            about = found.metadata
            check_limit("text_entries", about.num_rows * about.num_columns, path, "has {:,} cells", DatasetError, advice)
            size = sum(about.row_group(number).total_byte_size for number in range(about.num_row_groups))
            check_limit("run_bytes", size, path, "unpacks to {:,} bytes", DatasetError, advice)
            table = found.read()
        parts = [chunk for name in texts for chunk in table[name].chunks]
        lengths = (compute.sum(compute.binary_length(part.dictionary).take(part.indices)).as_py() or 0 for part in parts)
        check_limit("run_bytes", sum(lengths), path, "has texts of {:,} bytes", DatasetError, advice)
        columns = table.to_pydict()
    except (ArrowException, OSError, ValueError, OverflowError) as error:
        raise DatasetError.at(path, f"cannot be read ({error})", "a table in Parquet", "check the file") from error
    if "case" not in columns:
        raise DatasetError.at(path, f"has the columns {', '.join(columns)}", 'one called "case"', "rename it")
    if len(set(columns["case"])) < len(columns["case"]):
        raise DatasetError.at(path, "has a case twice", "a row for each", "keep one of them")
    for cells in zip(*columns.values(), strict=True):
        row = {column: str(cell or "") for column, cell in zip(columns, cells, strict=True)}
        yield row["case"], row
