"""``nnseg correct``: a label map that was corrected by hand takes the place of the one in the dataset."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count as numbers
from pathlib import Path

import numpy as np
from pydantic import Field

from nnseg.core.dataset import Case, Finding, Reading, counted, list_some
from nnseg.core.errors import DatasetError, ScanError, suppress_unless_fault
from nnseg.core.frozen import FrozenModel
from nnseg.core.image import LabelMap, Scan
from nnseg.core.label_files import LabelFiles, LabelSource
from nnseg.core.labels import Labels
from nnseg.core.names import nearest_name
from nnseg.evaluation.metrics import count, dice
from nnseg.storage.datasets.layouts import find_layout
from nnseg.storage.datasets.read_case import LabelledScan, check_values, place_labels, read_case_scan
from nnseg.storage.files import file_hash, write_aside
from nnseg.storage.images.label_codings import count_values
from nnseg.storage.images.read import has_segments, read_label_map, read_marks, stored_grid
from nnseg.storage.images.write import write_label_map
from nnseg.storage.locks import locked

FOLDER = ".replaced"
"""Hidden, so that it is no part of the dataset: the label maps that were replaced, and the record of it."""

RECORD = "corrections.jsonl"


class Correction(FrozenModel):
    """A label map that replaced another one: a line of ``corrections.jsonl``.

    Args:
        case: its name.
        file: of the dataset, which has the new label map.
        kept: copy of the file before.
        made: time in UTC.
        before, after: SHA-256 of the file.
        changed: number of voxels with another value; None if the label map before could not be read.
        dice: of the label map before, against the new one, by label; None where neither has it.
        findings: what is to be known of the new one.
    """

    case: str
    file: Path
    kept: Path
    made: str
    before: str
    after: str
    changed: int | None
    dice: Mapping[str, float | None]
    findings: tuple[Finding, ...] = Field(default=(), exclude=True)

    def describe(self) -> Iterator[str]:
        """What was done, in lines."""
        yield from map(str, self.findings)
        what = "replaced" if self.changed is None else f"{counted(self.changed, 'voxel')} changed"
        yield f"{self.file}: {what}; the file before is {self.kept}"
        if known := [f"{name} {value:.3f}" for name, value in self.dice.items() if value is not None]:
            yield f"Dice of the label map before: {', '.join(known)}"


def correct(folder: Path, name: str, mask: Path, reading: Reading) -> Correction:
    """Put a label map in the place of a case's, which is kept in ``.replaced`` of the dataset with a record of the correction.

    The new file is complete before the old one is replaced; a command that is killed leaves one or the other.

    Args:
        folder: of the dataset; of its layout is used what says where the label map lies.
        name: of the case, as ``nnseg check`` lists it.
        mask: the corrected label map, on the grid of the scan or of the label map before; segments have the names of the labels.

    Raises:
        DatasetError: there is no such case, or its label map is not one file of values.
        ScanError: the mask cannot be read, does not lie on the scan, or has values that are no labels of the dataset.
        RunError: the dataset cannot be written to, or another process corrects it.
    """
    folder = folder.absolute()
    found = find_layout(folder, reading)
    case = _find_case(folder, {case.name: case for case in found.cases}, name)
    file = case.labels
    if not isinstance(file, Path):
        kind = "no label map" if file is None else "a label map of several files, of objects or of colours"
        raise DatasetError.at(folder, f"{name} has {kind}", "one file of label values", "replace the files yourself")
    corrected = replace(case, labels=_source_of(mask, found.declared))
    scan = read_case_scan(corrected, None)
    read, before = _read(corrected, scan), None
    with suppress_unless_fault(ScanError):  # a damaged one is replaced too
        before = _read(replace(case, labels=file), scan).label_map
    after = read.label_map
    known = found.declared or _labels_of(after, *([before] if before else []))
    findings = (*check_values(corrected, count_values(after.labels), known), *read.findings)
    if stored_grid(scan) != scan.grid:
        raise ScanError.at(case.images[0], "is stored on a sheared grid", "right angles", "replace the file yourself")
    with locked(folder / FOLDER, busy="another nnseg corrects the dataset of {}; wait for it"):
        kept = next(path for path in _places(folder / FOLDER, file) if not path.exists())
        with write_aside(kept) as aside:
            shutil.copyfile(file, aside)
        write_label_map(after, file, like=scan.source, labels=found.declared)
        made = Correction(
            case=name,
            file=file,
            kept=kept,
            made=datetime.now(UTC).isoformat(timespec="seconds"),
            before=file_hash(kept),
            after=file_hash(file),
            changed=int(np.count_nonzero(before.labels != after.labels)) if before else None,
            dice={name: dice(each) for name, each in count(before.labels, after.labels, known).items()} if before else {},
            findings=findings,
        )
        record = folder / FOLDER / RECORD
        earlier = record.read_text(encoding="utf-8") if record.exists() else ""
        with write_aside(record) as aside:
            aside.write_text(f"{earlier}{made.model_dump_json()}\n", encoding="utf-8")
    return made


def _find_case(folder: Path, cases: Mapping[str, Case], name: str) -> Case:
    if name in cases:
        return cases[name]
    meant = nearest_name(name, cases)
    advice = f"did you mean {meant}?" if meant else f"it has {list_some(list(cases), 5)}"
    raise DatasetError.at(folder, f'has no case "{name}"', "the name of one", advice)


def _source_of(mask: Path, labels: Labels | None) -> LabelSource:
    """How a mask is read: by the names of its segments, if it has some, since programs that draw choose their values."""
    if labels is None or not mask.exists() or not has_segments(mask) or read_marks(mask)[0].coding != "segments":
        return mask
    values = {name: value for name, value in labels.by_name.items() if value != labels.values[0]}
    return LabelFiles(paths=(mask,), coding="segments", values=values)


def _read(case: Case, scan: Scan) -> LabelledScan:
    assert case.labels is not None
    return place_labels(case, scan, read_label_map(case.labels, like=scan.source, sheared=True))


def _labels_of(*maps: LabelMap) -> Labels:
    """Labels with the values of label maps, for a dataset that declares none."""
    values = sorted({0, *(value for one in maps for value in count_values(one.labels))})
    return Labels(names=tuple(map(str, values)), values=tuple(values))


def _places(folder: Path, file: Path) -> Iterator[Path]:
    stem, dot, suffix = file.name.partition(".")
    return (folder / f"{stem}_{number}{dot}{suffix}" for number in numbers(1))
