"""Why no case of a dataset can be used: the errors of its cases, said once where they are of one kind."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from nnseg.core.dataset import Case, Dataset, Finding, counted, listed
from nnseg.core.errors import DatasetError, coded

NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[-+]?\d+)?")


def explain_unusable(dataset: Dataset, findings: Collection[Finding]) -> tuple[DatasetError, tuple[str, ...]]:
    """The error of a dataset without a usable case, which names the first problem; and a line for each kind of problem."""
    errors = [finding for finding in findings if finding.level == "error"]
    kinds = list(by_kind(errors, {case.name: case for case in dataset.cases}).values())
    count = counted(len({case.name for case in dataset.cases} | {error.case for error in errors if error.case}), "case")
    which = "" if len(errors) == 1 else "the same in all; the first: " if len(kinds) == 1 else "the first problem: "
    first = f"; {which}{errors[0]}" if errors else ""
    lines = () if len(kinds) == 1 else tuple(_describe(of_kind) for of_kind in kinds)
    error = DatasetError(f"{dataset.folder}: none of {count} can be used{first}")
    error.kind, error.findings = (errors[0].code or "NS-D002") if len(kinds) == 1 else "NS-D002", tuple(findings)
    return error, lines


def by_kind(errors: Iterable[Finding], cases: Mapping[str, Case], labels: Collection[str] = ()) -> dict[str, list[Finding]]:
    """Errors with those of one kind together: messages that differ only in numbers and in names of cases and files.

    Args:
        labels: names that may differ too in messages about no single case.
    """
    kinds: dict[str, list[Finding]] = {}
    for error in errors:
        kinds.setdefault(_kind(error, cases.get(error.case), () if error.case else labels), []).append(error)
    return kinds


def _kind(error: Finding, case: Case | None, labels: Collection[str] = ()) -> str:
    """The message without what belongs to the single case, or label."""
    files = [*(case.files if case else ()), *([Path(error.file)] if error.file else [])]
    names = {name for file in files for name in (str(file), file.name)} | ({error.case} if error.case else set()) | set(labels)
    message = error.message
    for name in sorted(names, key=len, reverse=True):
        message = re.sub(rf"(?<![^\W_]){re.escape(name)}(?![^\W_])", "*", message)
    return coded(NUMBER.sub("#", message), error.code)


def _describe(errors: list[Finding]) -> str:
    """The first of some errors of one kind, and the cases that the others are of."""
    others = [error.case for error in errors[1:]]
    return f"{errors[0]}" + (f"; the same in {listed(others)}" if others else "")
