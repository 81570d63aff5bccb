"""`measure`: from a dataset to its fingerprint, reading each case once."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from nnseg.core.dataset import Case, Dataset, Finding, listed
from nnseg.core.errors import DatasetError, NnsegError
from nnseg.core.fingerprint import CaseMeasure, Fingerprint
from nnseg.core.geometry import Shape
from nnseg.core.image import Integers, LabelMap, Scan, nonzero_box
from nnseg.core.labels import Labels
from nnseg.planning.intensity import ForegroundSample, draw, pool
from nnseg.storage.datasets.read import content_hash, read_case
from nnseg.system.parallel import Outcome, map_items

log = logging.getLogger(__name__)

SAMPLE = 2_000_000
"""Foreground voxels kept per channel for the percentiles, over all cases together: 8 MB, whatever the dataset's size."""

DIAGONAL = np.ones((3, 3, 3), bool)
"""Voxels that touch by a corner are connected: a thin oblique vessel is one structure."""

FINE = 1 << 22
"""Voxels of a label's box above which its pieces are told apart on blocks of 2 (4, ...) voxels a side, which is quick and exact
to a block at either end."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MeasuredCase:
    """One case, measured.

    Args:
        case: for the fingerprint.
        foreground: what the dataset's intensities are made from; None without foreground.
        findings: of reading it.
    """

    case: CaseMeasure
    foreground: ForegroundSample | None
    findings: tuple[Finding, ...] = ()


def measure(dataset: Dataset, *, workers: int = 1) -> Fingerprint:
    """The fingerprint of a dataset; the same for any number of workers. Cases that cannot be used become findings.

    Raises:
        DatasetError: no case is usable, none has foreground, or 2D images and volumes are mixed.
    """
    sample = SAMPLE // max(1, len(dataset.cases))
    read = partial(read_and_measure, labels=dataset.labels, channels=len(dataset.channels), sample=sample)
    outcomes = {o.item.name: o for o in map_items(read, dataset.cases, workers=workers, label="measuring cases")}
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


def read_and_measure(case: Case, *, labels: Labels, channels: int, sample: int) -> MeasuredCase:
    """A case read from its files and measured.

    Raises:
        ScanError: it cannot be read, or image and label map do not belong together.
    """
    key = content_hash(case.files)  # first: should the files change meanwhile, then the key is the old one, and it is noticed
    read = read_case(case, channels=channels, labels=labels)
    measured = measure_case(read.scan, read.label_map, labels=labels, name=case.name, key=key, sample=sample)
    return replace(measured, case=measured.case.model_copy(update={"annotated": case.annotated}), findings=read.findings)


def measure_case(
    scan: Scan, label_map: LabelMap, *, labels: Labels, name: str, key: str = "", sample: int = SAMPLE
) -> MeasuredCase:
    """A case in memory, measured.

    Args:
        scan: canonical.
        label_map: on the scan's grid, every value declared.
        labels: what its values mean.
        name: of the case; also shifts the draw of foreground voxels.
        key: content hash of its files.
        sample: foreground voxels to draw from each channel.
    """
    indices, counts = _encode(label_map.labels, labels)
    case = CaseMeasure(
        name=name,
        key=key,
        shape=scan.grid.shape,
        spacing=scan.grid.spacing,
        cropped_shape=nonzero_box(scan.image).shape,
        voxels=dict(zip(labels.names, counts.tolist(), strict=True)),
        structures=_structures(indices, labels),
    )
    return MeasuredCase(case=case, foreground=draw(scan.image, indices > 0, sample=sample, seed=name))


def _encode(labels_ZYX: Integers, labels: Labels) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int64]]:
    """Label indices, -1 where ignored, and the voxels of each label; plane by plane, since numpy goes through 64-bit copies."""
    indices, counts = np.empty(labels_ZYX.shape, np.int16), np.zeros(len(labels.names) + 1, np.int64)
    for stored, plane in zip(labels_ZYX, indices, strict=True):
        plane[:] = labels.encode(stored)
        counts += np.bincount(plane.ravel() + 1, minlength=len(counts))
    return indices, counts[1:]


def _structures(indices_ZYX: npt.NDArray[np.int16], labels: Labels) -> dict[str, Shape]:
    """Of each label that occurs but the background, by name: the shape of the box around its largest connected piece."""
    boxes = ndimage.find_objects(indices_ZYX, max_label=len(labels.names) - 1)
    found = [(i, box) for i, box in enumerate(boxes, 1) if box is not None]
    return {labels.names[i]: _largest_piece(indices_ZYX[box] == i) for i, box in found}


def _largest_piece(mask_ZYX: npt.NDArray[np.bool_]) -> Shape:
    coarse, step = mask_ZYX, 1
    while coarse.size > FINE:
        coarse, step = _halved(coarse), 2 * step
    pieces, count = ndimage.label(coarse, DIAGONAL)
    largest = np.bincount(pieces[coarse]).argmax() if count > 1 else 1
    box = ndimage.find_objects(pieces == largest, max_label=1)[0]
    z, y, x = (min(step * (side.stop - side.start), n) for side, n in zip(box, mask_ZYX.shape, strict=True))
    return z, y, x


def _halved(mask_ZYX: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Half the voxels along each axis; each is true if any of those it stands for is, so that nothing comes apart."""
    for axis in range(3):
        even, odd = (np.swapaxes(mask_ZYX, 0, axis)[start::2] for start in (0, 1))
        joined = even.copy()
        joined[: len(odd)] |= odd
        mask_ZYX = np.swapaxes(joined, 0, axis)
    return mask_ZYX


def _hash_or_nothing(case: Case) -> str:
    try:
        return content_hash(case.files)
    except (NnsegError, OSError):
        return ""


def _failure(outcome: Outcome[Case, MeasuredCase]) -> Finding:
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
            f"{len(flat)} in 2D ({listed(flat)}), {len(solid)} in 3D ({listed(solid)})"
        )


def _rare_labels(labels: Labels, measured: list[MeasuredCase]) -> tuple[Finding, ...]:
    findings = []
    for name, value in zip(labels.names[1:], labels.values[1:], strict=True):
        holders = [m.case.name for m in measured if m.case.voxels[name]]
        if not holders:
            message = f"label {name} ({value}) is declared but occurs in none of {len(measured)} cases, so it cannot be learned"
        elif len(holders) <= 2 < len(measured):
            count = f"{len(holders)} of {len(measured)} cases ({listed(holders)})"
            message = f"label {name} ({value}) occurs in only {count}, too few to learn"
        else:
            continue
        findings.append(Finding(level="warning", message=message))
    return tuple(findings)
