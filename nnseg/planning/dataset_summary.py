"""A dataset as it was read: one screen for people, and all of it for programs."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field

from nnseg.core.dataset import Case, Dataset, Finding, Unused, by_severity, counted, describe_unused, list_some
from nnseg.core.errors import coded
from nnseg.core.fingerprint import CaseMeasure, Fingerprint
from nnseg.core.frozen import FrozenModel
from nnseg.core.geometry import Shape, Vector
from nnseg.core.label_files import label_paths
from nnseg.core.labels import Labels
from nnseg.planning.describe import case_entries
from nnseg.planning.unusable import by_kind

LINES, WIDTH = 24, 118
"""Of a summary; on a narrower terminal it is as wide as that, with more lines."""

LAYOUT, INFERRED, CASES, LABELS, CHANNELS = (2, 2), (4, 2), (3, 1), (4, 1), (3, 1)
FINDINGS, UNUSED = (9, 3), (3, 1)
"""The most lines of each part of a summary, and of each entry in it; what is longer is cut."""


def summarize_dataset(dataset: Dataset, fingerprint: Fingerprint, *, width: int = WIDTH) -> tuple[str, ...]:
    """At most `LINES` lines: layout, what was inferred, cases, labels, channels, problems by kind, what is not used by reason.

    Args:
        dataset: as it was found.
        fingerprint: as it was measured.
        width: of lines; if it is less than `WIDTH`, there may be more of them.
    """
    entries = case_entries(fingerprint)
    subjects = {case.subject for case in dataset.cases if case.subject}
    patients = f" of {counted(len(subjects), 'patient')}" if subjects else ""
    given = dataset.reading.spacing
    stated = given and any(case.spacing != given for case in fingerprint.cases)
    more = {"cases": patients, "voxel": " as the files state; --spacing is for files that state none" if stated else ""}
    counts = [(name, text + more.get(name, "")) for name, text in entries]
    labels, channels = ([entry for entry in counts if entry[0] == kind] for kind in ("label", "channel"))
    width = min(width, WIDTH)
    part, more_lines = partial(_part, width=width), math.ceil(LINES * (WIDTH / width - 1))
    lines = part([("", dataset.describe())], *LAYOUT)
    lines += part([("inferred", line) for line in dataset.inferred], *INFERRED)
    lines += part([entry for entry in counts if entry not in (*labels, *channels)], *CASES)
    lines += [*part(labels, *LABELS), *part(channels, *CHANNELS)]
    last = part([("", line) for line in describe_unused(dataset.unused)], *UNUSED)
    problems = describe_findings(fingerprint.findings, dataset) or [("", "no problem found")]
    most, of_each = FINDINGS
    return (*lines, *part(problems, min(most, LINES + more_lines - len(lines) - len(last)), of_each), *last)


def _part(entries: Sequence[tuple[str, str]], most: int, of_each: int, *, width: int = WIDTH) -> list[str]:
    """Entries of a name and a text as lines, at most so many; the last one says how many entries are left out.

    Narrow lines may be more, as many as hold the same text.
    """
    most, of_each = (math.ceil(number * WIDTH / width) for number in (most, of_each))
    how: dict[str, Any] = {"subsequent_indent": " " * 10, "break_long_words": width == WIDTH, "break_on_hyphens": width == WIDTH}
    lines: list[str] = []
    for done, (name, text) in enumerate(entries):
        start = f"{name:10}" if name else ""
        wrapped = textwrap.wrap(text, width, initial_indent=start, **how)
        if len(wrapped) > of_each:
            wrapped = [*wrapped[: of_each - 1], wrapped[of_each - 1][: width - 4] + " ..."]
        if len(lines) + len(wrapped) > most - (done < len(entries) - 1):
            return [*lines, f"{name:10}... and {len(entries) - done} more, see --json"]
        lines += wrapped
    return lines


def describe_findings(findings: Collection[Finding], dataset: Dataset) -> list[tuple[str, str]]:
    """Findings of one kind together, errors first: level and text, "12 cases: label map is empty: a, b, c and 9 more"."""
    known = {case.name: case for case in dataset.cases}
    return [
        (alike[0].level, _describe_alike(alike))
        for alike in by_kind(by_severity(findings), known, dataset.labels.names[1:]).values()
    ]


def _describe_alike(alike: Sequence[Finding]) -> str:
    names = {finding.case for finding in alike if finding.case}
    if len(names) > 1:
        message = alike[0].message.removeprefix(f"{Path(alike[0].file).name}: ")
        return coded(f"{len(names)} cases: {message}: {list_some(sorted(names))}", alike[0].code)
    return f"{alike[0]}" + (f"; {len(alike) - 1} more of this kind, see --json" if len(alike) > 1 else "")


def is_doubtful(dataset: Dataset, fingerprint: Fingerprint) -> bool:
    """True if a case cannot be used, or something that looks like a scan is not."""
    return any(f.level == "error" for f in fingerprint.findings) or any(one.suspect for one in dataset.unused)


class CheckedCase(FrozenModel):
    """A case of a dataset that was checked.

    Args:
        name: unique in the dataset.
        images, labels: files of the scan and of the label map.
        subject: the patient, "" if that is not known.
        split: the part that the dataset itself puts it in, "" if it does not.
        annotated: names of the labels that were annotated; None for all.
        usable: False if a finding rejects it.
        shape: voxels (z, y, x); None, as all below, if it is not usable.
        spacing: mm (z, y, x).
        voxels: by label.
    """

    name: str
    images: tuple[str, ...]
    labels: tuple[str, ...]
    subject: str
    split: str
    annotated: tuple[str, ...] | None
    usable: bool
    shape: Shape | None = None
    spacing: Vector | None = None
    voxels: dict[str, int] | None = None


class CheckedDataset(FrozenModel):
    """What ``nnseg check`` finds.

    Args:
        dataset: its name.
        folder: where it is.
        layout: in words.
        inferred: what was concluded from names and contents, in one line each.
        channels: names.
        labels: names, values, ignore value and regions.
        instances: names of labels whose connected components are objects.
        cases: sorted by name.
        unused: what lies in the folder and is not used.
        doubtful: a case cannot be used, something that looks like a scan is not, or a run would be refused.
        refused: why a run would be refused; "" if it would not.
        findings: all problems, errors first.
    """

    dataset: str
    folder: str
    layout: str
    inferred: tuple[str, ...]
    channels: tuple[str, ...]
    labels: Labels
    instances: tuple[str, ...]
    cases: tuple[CheckedCase, ...]
    unused: tuple[Unused, ...]
    doubtful: bool
    refused: str = ""
    findings: tuple[Finding, ...] = Field(default=(), exclude=True)


def report_dataset(dataset: Dataset, fingerprint: Fingerprint, *, refused: str = "") -> CheckedDataset:
    """All of a dataset.

    Args:
        dataset: as it was found.
        fingerprint: as it was measured.
        refused: why a run would be refused.
    """
    measured = {case.name: case for case in fingerprint.cases}
    return CheckedDataset(
        dataset=dataset.name,
        folder=str(dataset.folder),
        layout=dataset.layout,
        inferred=dataset.inferred,
        channels=dataset.channels,
        labels=dataset.labels,
        instances=dataset.instances,
        cases=tuple(_report_case(case, measured.get(case.name)) for case in dataset.cases),
        unused=dataset.unused,
        doubtful=bool(refused) or is_doubtful(dataset, fingerprint),
        refused=refused,
        findings=by_severity(fingerprint.findings),
    )


def _report_case(case: Case, measured: CaseMeasure | None) -> CheckedCase:
    found = CheckedCase(
        name=case.name,
        images=tuple(str(path) for path in case.images),
        labels=tuple(str(path) for path in label_paths(case.labels)),
        subject=case.subject,
        split=case.split,
        annotated=case.annotated,
        usable=measured is not None,
    )
    if measured is None:
        return found
    return found.model_copy(update={"shape": measured.shape, "spacing": measured.spacing, "voxels": measured.voxels})
