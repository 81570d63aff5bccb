"""`Fingerprint`: what a planner needs to know of a dataset, measured by reading each case once."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from nnseg.core.dataset import Case, Dataset, Finding
from nnseg.core.errors import DatasetError, NnsegError
from nnseg.core.geometry import Shape, Vector
from nnseg.core.image import LabelMap, Scan
from nnseg.core.labels import Labels
from nnseg.core.parallel import Outcome, each
from nnseg.core.plan import digest
from nnseg.planning.intensity import Foreground, Intensity, draw, pool
from nnseg.preprocessing.crop import nonzero_box
from nnseg.storage.datasets import content_hash, read_case

log = logging.getLogger(__name__)

SAMPLE = 2_000_000
"""Foreground voxels kept per channel for the percentiles, over all cases together: 8 MB, whatever the dataset's size."""


class CaseMeasure(BaseModel):
    """What was measured of one case.

    Args:
        name: the case's name.
        key: content hash of its image and label files.
        shape: voxels of the canonical scan (z, y, x).
        spacing: mm (z, y, x).
        cropped_shape: voxels of the tightest box around all that is not zero.
        voxels: of each label, by name; ignored voxels are not counted.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    key: str
    shape: Shape
    spacing: Vector
    cropped_shape: Shape
    voxels: dict[str, int]

    @property
    def is_2d(self) -> bool:
        """True for a single slice, whatever its orientation."""
        return min(self.shape) == 1


class Fingerprint(BaseModel):
    """A dataset, measured.

    Args:
        dataset: its name.
        layout: how its folder is organised, in words.
        channels: names, in order.
        labels: what label values mean.
        cases: the usable ones, in the dataset's order.
        intensities: of the foreground, one per channel.
        findings: everything wrong with the dataset, each unusable case with its reason.
        unusable: content hash of the files of each case that could not be used ("" if not even readable), by name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    layout: str
    channels: tuple[str, ...]
    labels: Labels
    cases: tuple[CaseMeasure, ...]
    intensities: tuple[Intensity, ...]
    findings: tuple[Finding, ...] = ()
    unusable: dict[str, str] = {}

    @property
    def key(self) -> str:
        """A digest of the usable cases' content and of what channels and labels mean."""
        cases = [[case.name, case.key] for case in self.cases]
        return digest([cases, list(self.channels), self.labels.model_dump(mode="json")])

    @property
    def is_2d(self) -> bool:
        """True if the cases are single slices."""
        return all(case.is_2d for case in self.cases)

    @property
    def spacings(self) -> npt.NDArray[np.float64]:
        """(cases, 3) mm."""
        return np.array([case.spacing for case in self.cases], np.float64)

    @property
    def cropped_shapes(self) -> npt.NDArray[np.float64]:
        """(cases, 3) voxels."""
        return np.array([case.cropped_shape for case in self.cases], np.float64)

    @property
    def relative_size_after_cropping(self) -> float:
        """Median share of a scan's voxels that cropping keeps."""
        return float(np.median([np.prod(c.cropped_shape) / np.prod(c.shape) for c in self.cases]))


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """One case, measured.

    Args:
        case: for the fingerprint.
        foreground: what the dataset's intensities are made from; None without foreground.
        findings: of reading it.
    """

    case: CaseMeasure
    foreground: Foreground | None
    findings: tuple[Finding, ...] = ()


def measure(dataset: Dataset, *, workers: int = 1) -> Fingerprint:
    """The fingerprint of a dataset; the same for any number of workers. Cases that cannot be used become findings.

    Raises:
        DatasetError: no case is usable, none has foreground, or 2D images and volumes are mixed.
    """
    sample = SAMPLE // max(1, len(dataset.cases))
    read = partial(read_and_measure, labels=dataset.labels, channels=len(dataset.channels), sample=sample)
    outcomes = {o.item.name: o for o in each(read, dataset.cases, workers=workers, label="measuring cases")}
    ordered = [outcomes[case.name] for case in dataset.cases]
    measured = [o.result for o in ordered if o.result is not None]
    failed = [o for o in ordered if o.result is None]
    findings = [*dataset.findings, *(_failure(o) for o in failed), *(f for m in measured for f in m.findings)]
    _check_usable(dataset, [m.case for m in measured], findings)
    return Fingerprint(
        dataset=dataset.name,
        layout=dataset.layout,
        channels=dataset.channels,
        labels=dataset.labels,
        cases=tuple(m.case for m in measured),
        intensities=pool([m.foreground for m in measured if m.foreground is not None]),
        findings=(*findings, *_rare_labels(dataset.labels, measured)),
        unusable={o.item.name: _hash_or_nothing(o.item) for o in failed},
    )


def read_and_measure(case: Case, *, labels: Labels, channels: int, sample: int) -> Measured:
    """A case read from its files and measured.

    Raises:
        ScanError: it cannot be read, or image and label map do not belong together.
    """
    read = read_case(case, channels=channels, labels=labels)
    key = content_hash(_files(case))
    measured = measure_case(read.scan, read.label_map, labels=labels, name=case.name, key=key, sample=sample)
    return replace(measured, findings=read.findings)


def measure_case(scan: Scan, label_map: LabelMap, *, labels: Labels, name: str, key: str = "", sample: int = SAMPLE) -> Measured:
    """A case in memory, measured.

    Args:
        scan: canonical.
        label_map: on the scan's grid, every value declared.
        labels: what its values mean.
        name: of the case; also seeds the draw of foreground voxels.
        key: content hash of its files.
        sample: foreground voxels to draw from each channel.
    """
    indices = labels.encode(label_map.labels)
    counts = np.bincount(indices.ravel() + 1, minlength=len(labels.names) + 1)[1:]
    case = CaseMeasure(
        name=name,
        key=key,
        shape=scan.grid.shape,
        spacing=scan.grid.spacing,
        cropped_shape=nonzero_box(scan.image).shape,
        voxels={label: int(n) for label, n in zip(labels.names, counts, strict=True)},
    )
    return Measured(case=case, foreground=draw(scan.image, indices > 0, sample=sample, seed=name))


def _files(case: Case) -> list[Path]:
    return [*case.images, *([case.labels] if case.labels else [])]


def _hash_or_nothing(case: Case) -> str:
    try:
        return content_hash(_files(case))
    except (NnsegError, OSError):
        return ""


def _failure(outcome: Outcome[Case, Measured]) -> Finding:
    if outcome.details:
        log.error("case %s failed unexpectedly:\n%s", outcome.item.name, outcome.details)
    message = str(outcome.reason).removeprefix(f"case {outcome.item.name}: ")
    return Finding(level="error", message=message, case=outcome.item.name)


def _check_usable(dataset: Dataset, cases: list[CaseMeasure], findings: list[Finding]) -> None:
    if not cases:
        for finding in findings:  # they have no fingerprint to be kept in
            log.error("%s", finding)
        first = f"; the first problem: {findings[0]}" if findings else ""
        raise DatasetError(f"{dataset.folder}: none of {len(dataset.cases)} cases can be used{first}")
    background = dataset.labels.names[0]
    if not any(n for case in cases for label, n in case.voxels.items() if label != background):
        declared = dataset.labels.describe()
        raise DatasetError(f"{dataset.folder}: no foreground voxel in {len(cases)} cases; the declared labels are {declared}")
    flat, solid = [c.name for c in cases if c.is_2d], [c.name for c in cases if not c.is_2d]
    if flat and solid:
        raise DatasetError(
            f"{dataset.folder}: single slices and volumes are mixed; make two datasets of them: "
            f"{len(flat)} in 2D ({_listed(flat)}), {len(solid)} in 3D ({_listed(solid)})"
        )


def _rare_labels(labels: Labels, measured: list[Measured]) -> tuple[Finding, ...]:
    findings = []
    for name, value in zip(labels.names[1:], labels.values[1:], strict=True):
        holders = [m.case.name for m in measured if m.case.voxels[name]]
        if not holders:
            message = f"label {name} ({value}) is declared but occurs in none of {len(measured)} cases, so it cannot be learned"
        elif len(holders) <= 2 < len(measured):
            count = f"{len(holders)} of {len(measured)} cases ({_listed(holders)})"
            message = f"label {name} ({value}) occurs in only {count}, too few to learn"
        else:
            continue
        findings.append(Finding(level="warning", message=message))
    return tuple(findings)


def _listed(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
