"""Divisions of the cases that the user gives: nnU-Net's splits_final.json, tables, datalists, and entries of the dataset itself."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from nnseg.core.dataset import Case, Fold, counted, listed
from nnseg.core.errors import DatasetError, is_fault
from nnseg.core.limits import check_limit
from nnseg.core.options import SPLIT_FILES
from nnseg.storage.bounded import parse_json, read_text
from nnseg.storage.datasets.parts import PARTS, TEST, TRAINING, VALIDATION
from nnseg.storage.tables import CaseTable, Row, read_case_table, read_rows
from nnseg.system.regular import open_regular

SPLIT_FILE = "splits_final.json"
"""nnU-Net's name of the file with its folds."""

LARGEST_TABLE, LONGEST_HEADER, MOST_TABLES = 1 << 24, 1 << 16, 10
"""Bytes of a table that is read unasked, and of its first line; and number of tables that are."""

YES = ("1", "true", "yes", "x")

NUMBER = re.compile(r"\d{1,9}")
"""Of a fold; Python refuses to read numbers of thousands of digits."""


@dataclass(frozen=True, kw_only=True)
class GivenSplit:
    """A division that the user gave.

    Args:
        folds: () if only test cases are named.
        test: cases that are named as neither trained on nor held out.
        source: where it is from, in words.
    """

    folds: tuple[Fold, ...]
    test: tuple[str, ...]
    source: str

    def describe(self) -> str:
        """The folds and test cases in one line."""
        tests = [f"{counted(len(self.test), 'test case')} set apart"] if self.test else []
        folds = [counted(len(self.folds), "fold")] if self.folds else []
        return f"the division of {self.source} is used: {', '.join([*folds, *tests])}"

    def without(self, names: Collection[str]) -> GivenSplit:
        """The same division without some cases, such as unusable ones."""
        folds, test = (_without(fold, names) for fold in self.folds), tuple(n for n in self.test if n not in names)
        return GivenSplit(folds=tuple(f for f in folds if f.training), test=test, source=self.source)


def _without(fold: Fold, names: Collection[str]) -> Fold:
    training, held_out = (tuple(n for n in part if n not in names) for part in (fold.training, fold.held_out))
    return Fold(training=training, held_out=held_out)


def read_split(path: Path, cases: Iterable[Case], *, unusable: Collection[str] = ()) -> GivenSplit:
    """The division in a file.

    Args:
        path: JSON: nnU-Net's list of {"train": [...], "val": [...]}, one for each fold, or a run's of "training" and "held_out"; or
            a datalist of "training", "validation" and "testing", perhaps with "fold" in the entries of training. Or a table
            (.csv, .tsv) with columns "case" and "fold" (a number, train, validation or test), and perhaps "test".
        cases: of the dataset; a file may name them by the file of their image too.
        unusable: names of further cases that may be listed.

    Raises:
        DatasetError: the file is missing or of another form, names what is no case, or a case is held out twice or in training too.
    """
    names = _Names(path, cases, unusable)
    if path.suffix.lower() != ".json":
        return split_of_parts({names.find(name): part for name, part in _table_parts(path).items()}, source=str(path))
    content = _read(path)
    if isinstance(content, list) and content and all(isinstance(entry, dict) for entry in content):
        check_limit("folds", len(content), path, "has {:,} folds", DatasetError)
        folds = tuple(_read_fold(path, number, entry, names) for number, entry in enumerate(content))
        _check_held_out(path, folds)
        return GivenSplit(folds=folds, test=(), source=str(path))
    if isinstance(content, dict) and any(key in PARTS and isinstance(content[key], list) for key in content):
        return split_of_parts(_datalist_parts(content, names), source=str(path))
    raise _unknown_form(path)


def cases_for_testing(cases: Iterable[Case], split: str = "auto", *, unusable: Collection[str] = ()) -> frozenset[str]:
    """Names of the cases that the file given as ``--split`` sets apart for testing; without a file, that the dataset itself does.

    Raises:
        DatasetError: as `read_split`.
    """
    if Path(split).suffix.lower() in SPLIT_FILES:
        return frozenset(read_split(Path(split), cases, unusable=unusable).test)
    return frozenset(case.name for case in cases if case.split == TEST)


def split_of_cases(cases: Iterable[Case]) -> GivenSplit | None:
    """The division that the dataset itself states for its cases; None if it states none."""
    parts = {case.name: case.split for case in cases}
    return split_of_parts(parts, source="the dataset") if any(parts.values()) else None


def parts_of_table(folder: Path, names: Collection[str]) -> tuple[Path, dict[str, str]] | None:
    """The part of each case by a table in a dataset's folder with a column "split", as TotalSegmentator has it; None without one.

    Some column must name all cases, and the column "split" say a part of each.
    """
    tables = (p for p in sorted(folder.iterdir()) if p.suffix.lower() in (".csv", ".tsv") and _may_tell_parts(p))
    for path in islice(tables, MOST_TABLES):
        try:
            header, *rows = [cells for _, cells in read_rows(path)] or [[]]
        except DatasetError as error:
            if error.is_fault:
                raise
            continue
        columns = [name.casefold() for name in header]
        if "split" not in columns:
            continue
        rows, split = [row for row in rows if len(row) == len(header)], columns.index("split")
        for column in range(len(header)) if len(rows) >= len(names) else ():
            parts = {row[column]: PARTS.get(row[split].casefold()) for row in rows}
            found = {name: part for name in names if (part := parts.get(name)) is not None}
            if len(found) == len(names) and len(set(found.values())) > 1:
                return path, found
    return None


def _may_tell_parts(path: Path) -> bool:
    """True for a table that is read unasked: not a large one, and one of whose first line has the word."""
    try:
        with open_regular(path) as file:
            return path.stat().st_size <= LARGEST_TABLE and b"split" in file.readline(LONGEST_HEADER).lower()
    except OSError as error:
        if is_fault(error):
            raise DatasetError.at(path, f"cannot be read ({error.strerror})", "a table", "check the file") from error
        return False


def split_of_parts(parts: Mapping[str, str], *, source: str) -> GivenSplit:
    """The folds from the part of each case: each "fold N", and "validation", is held out in one fold, which trains on all others.

    Raises:
        DatasetError: nothing is left to train on.
    """
    used = sorted(name for name, part in parts.items() if part != TEST)
    held_out = sorted({part for part in parts.values() if part not in (TRAINING, TEST)}, key=_order)
    check_limit("folds", len(held_out), source, "has {:,} folds", DatasetError)
    folds = tuple(
        Fold(training=tuple(n for n in used if parts[n] != part), held_out=tuple(n for n in used if parts[n] == part))
        for part in held_out
    )
    if not used or not all(fold.training for fold in folds):
        found = f"puts all cases into {held_out[0] if held_out else 'the test set'}"
        advice = "name more folds or training cases, or write --split random"
        raise DatasetError.at(source, found, "cases to train on", advice)
    return GivenSplit(folds=folds, test=tuple(sorted(name for name, part in parts.items() if part == TEST)), source=source)


def _order(part: str) -> tuple[int, str]:
    number = part.removeprefix("fold ")
    return (int(number), "") if NUMBER.fullmatch(number) else (1 << 62, part)


class _Names:
    """Finds the case that an entry of a file means: by its name, or by the file of its image."""

    def __init__(self, path: Path, cases: Iterable[Case], unusable: Collection[str]) -> None:
        self._path, self._cases = path, tuple(cases)
        self._known = {name: name for name in unusable} | {case.name: case.name for case in self._cases}
        self._files = {image.name: case.name for case in self._cases for image in case.images}

    def find(self, entry: Any) -> str:
        """The name of the case.

        Raises:
            DatasetError: there is none.
        """
        text = entry.get("image") if isinstance(entry, dict) else entry
        text = text[0] if isinstance(text, list) and text else text
        name = str(text).replace("\\", "/").rsplit("/", 1)[-1]
        found = self._known.get(str(text)) or self._files.get(name) or self._known.get(name) or self._known.get(name.split(".")[0])
        if found is None:
            example = f"names like {min(self._known)}" if self._known else "names of cases"
            raise DatasetError.at(self._path, f'names "{text}", which is no case of the dataset', example, "correct or remove it")
        return found


def _read(path: Path) -> Any:
    try:
        return parse_json(read_text(path))
    except FileNotFoundError:
        raise DatasetError(f"{path}: there is no such file; give its path anew") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError.at(path, f"is no readable JSON ({error})", "a division of the cases", "correct it") from error


def _unknown_form(path: Path) -> DatasetError:
    expected = 'a list of {"train": [...], "val": [...]}, one for each fold'
    return DatasetError.at(path, "has another form", expected, "see nnU-Net's splits_final.json, or write a table of case and fold")


def _read_fold(path: Path, number: int, entry: Mapping[str, Any], names: _Names) -> Fold:
    """A fold from its two lists."""
    lists = {PARTS[key]: value for key, value in entry.items() if key in PARTS and isinstance(value, list)}
    if TRAINING not in lists or VALIDATION not in lists:
        raise _unknown_form(path)
    training, held_out = (tuple(sorted(map(names.find, lists[part]))) for part in (TRAINING, VALIDATION))
    if both := set(training) & set(held_out):
        raise DatasetError.at(path, f"fold {number} trains on {listed(both)} and holds it out", "one of the two", "correct it")
    if not training:
        raise DatasetError.at(path, f"fold {number} has no case to train on", "some", "correct it")
    return Fold(training=training, held_out=held_out)


def _check_held_out(path: Path, folds: Iterable[Fold]) -> None:
    seen: set[str] = set()
    for number, fold in enumerate(folds):
        if again := seen & set(fold.held_out):
            raise DatasetError.at(path, f"fold {number} holds out {listed(again)} again", "each case held out once", "correct it")
        seen |= set(fold.held_out)


def _datalist_parts(content: Mapping[str, Any], names: _Names) -> dict[str, str]:
    """The part of each case of a datalist: its section, and in training its "fold".

    Source: MONAI 1.5, `monai.apps.auto3dseg.utils` and `monai.data.load_decathlon_datalist`.
    """
    parts: dict[str, str] = {}
    for key, part in PARTS.items():
        for entry in content.get(key) or ():
            fold = entry.get("fold") if isinstance(entry, dict) and part == TRAINING else None
            parts[names.find(entry)] = part if fold is None else f"fold {fold}"
    return parts


def _table_parts(path: Path) -> dict[str, str]:
    """The part of each case of a table."""
    table = read_case_table(path, headless=("case", "fold"), lenient=True)
    column = next((name for name in ("fold", "split") if name in table.columns), "")
    if not column:
        raise table.wrong(f"has the columns {', '.join(table.header)}", 'one called "fold" is expected')
    return {name: _cell_part(table, row, column) for name, row in table.by_case().items()}


def _cell_part(table: CaseTable, row: Row, column: str) -> str:
    if row.cells.get("test", "").casefold() in YES:
        return TEST
    cell = row.cells[column].casefold()
    if cell in PARTS:
        return PARTS[cell]
    number = cell.removeprefix("fold").strip(" _")
    if not NUMBER.fullmatch(number):
        found = f'holds "{row.cells[column]}"' if cell else "is empty"
        raise table.wrong(found, "write the number of a fold, train, validation or test", row, column)
    return f"fold {int(number)}"
