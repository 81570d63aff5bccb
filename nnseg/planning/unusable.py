"""Cases that cannot be used: whether too many are lost, and why none is left, errors of one kind said once."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from nnseg.core.dataset import Case, Dataset, Finding, counted, listed
from nnseg.core.errors import DatasetError, coded
from nnseg.core.fingerprint import Fingerprint
from nnseg.core.options import Options

NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[-+]?\d+)?")


MOST_LOST = 0.05
"""Share of the cases that may be unusable without `Options.skip_bad`."""


def check_losses(fingerprint: Fingerprint, options: Options, problems: Iterable[Finding] = ()) -> None:
    """Stop if training would go on without many of the cases.

    Images without a label map may be what nobody has annotated yet: they count only where label maps without an image suggest
    that names do not fit.

    Args:
        problems: with cases, besides those of the fingerprint.

    Raises:
        DatasetError: more than `MOST_LOST` of them cannot be used, and that was not allowed.
    """
    lost = fingerprint.lost_cases | {f.case: f.message for f in problems if f.case and f.level == "error"}
    codes = {f.case: f.code for f in fingerprint.findings if f.level == "error"}
    if "NS-D006" not in codes.values():
        lost = {name: reason for name, reason in lost.items() if codes.get(name) != "NS-D005"}
    total = len({case.name for case in fingerprint.cases} | lost.keys())
    if len(lost) > MOST_LOST * total and not options.skip_bad:
        name, reason = next(iter(lost.items()))
        error = DatasetError(
            f"{len(lost)} of {counted(total, 'case')} cannot be used ({listed(lost)}), and {MOST_LOST:.0%} may be left out; "
            f"case {name}: {reason}; correct them (nnseg check lists all), or train without them: --skip-bad"
        )
        error.kind = "NS-D038"
        raise error


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
