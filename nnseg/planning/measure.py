"""`measure`: the fingerprint of a dataset, from one pass over its cases."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from nnseg.core.codes import ALLOWABLE
from nnseg.core.dataset import Case, Dataset, Finding, counted, listed
from nnseg.core.errors import DatasetError, NnsegError
from nnseg.core.fingerprint import CaseMeasure, Fingerprint
from nnseg.core.geometry import TOUCHING, Shape
from nnseg.core.image import Integers, LabelMap, Scan, nonzero_box
from nnseg.core.labels import Labels
from nnseg.planning.duplicates import find_duplicates, voxel_digest
from nnseg.planning.intensity import ForegroundSample, pool_intensities, sample_foreground
from nnseg.planning.unlike_cases import find_unlike_cases, typical_values
from nnseg.planning.unusable import explain_unusable
from nnseg.preprocessing.channel_shift import find_shifts
from nnseg.storage.datasets.content import case_key
from nnseg.storage.datasets.patients import patient_findings
from nnseg.storage.datasets.read_case import read_case
from nnseg.storage.datasets.splits import cases_for_testing
from nnseg.storage.images.raw import smallest_integer_type
from nnseg.system.parallel import Outcome, map_items

log = logging.getLogger(__name__)

SAMPLE_SIZE = 2_000_000
"""Foreground voxels kept per channel for the percentiles, over all cases together: 8 MB for any dataset."""

FEW_CASES = 5
"""Fewer make fewer folds than usual."""

MOST_VOXELS = 1 << 22
"""Voxels of a label's box above which its components are found on blocks of 2 (4, ...) voxels a side, for speed; their size is then
exact to a block at either end."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MeasuredCase:
    """What a case adds to the fingerprint.

    Args:
        case: its shape, spacing, voxels and structures.
        foreground: for the dataset's intensities; None without foreground.
        findings: problems found while reading it.
    """

    case: CaseMeasure
    foreground: ForegroundSample | None
    findings: tuple[Finding, ...] = ()


def measure(dataset: Dataset, *, workers: int = 0, test: Collection[str] | None = None) -> Fingerprint:
    """The fingerprint of a dataset; the same for any number of workers. Cases that cannot be used become findings.

    Args:
        test: names of the cases that no plan depends on; None for those that the dataset itself sets apart for testing.

    Raises:
        DatasetError: no case is usable, none has foreground, or 2D images and volumes are mixed.
    """
    return refuse(measure_all(dataset, workers=workers, test=test), ALLOWABLE, dataset.folder)


def measure_all(dataset: Dataset, *, workers: int = 0, test: Collection[str] | None = None) -> Fingerprint:
    """As `measure`, also if findings would stop a run.

    Raises:
        DatasetError: no case is usable.
    """
    sample = sample_size(len(dataset.cases))
    read = partial(read_and_measure, labels=dataset.labels, channels=len(dataset.channels), sample=sample)
    return make_fingerprint(dataset, map_items(read, dataset.cases, workers=workers, label="measuring cases"), test=test)


def refuse(fingerprint: Fingerprint, allow: Collection[str], place: Path) -> Fingerprint:
    """The fingerprint, with findings that would stop a run as warnings where they are allowed.

    Args:
        allow: codes of those that do not stop it.
        place: of the dataset, that messages name.

    Raises:
        DatasetError: one is not allowed; the message has the first.
    """
    findings = tuple(f.model_copy(update={"level": "warning"}) if f.code in allow else f for f in fingerprint.findings)
    if stopping := [f for f in findings if f.severity == "run refused"]:
        first, more = stopping[0], f" and {counted(len(stopping) - 1, 'further problem')}" if len(stopping) > 1 else ""
        way_on = f"; --allow {first.code} goes on all the same" if first.code in ALLOWABLE else ""
        error = DatasetError(f"{place}: {first.model_copy(update={'code': ''})}{more}{way_on}")
        error.kind, error.findings = first.code, findings
        raise error
    return fingerprint.model_copy(update={"findings": findings}) if findings != fingerprint.findings else fingerprint


def sample_size(cases: int) -> int:
    """Foreground voxels to draw from each channel of a case."""
    return SAMPLE_SIZE // max(1, cases)


def make_fingerprint(
    dataset: Dataset, outcomes: Iterable[Outcome[Case, MeasuredCase]], *, test: Collection[str] | None = None
) -> Fingerprint:
    """The fingerprint of a dataset whose cases were measured, in any order.

    Args:
        test: see `measure`.

    Raises:
        DatasetError: no case is usable.
    """
    by_name = {outcome.item.name: outcome for outcome in outcomes}
    ordered = [by_name[case.name] for case in dataset.cases]
    test = cases_for_testing(dataset.cases) if test is None else test
    measured = [_marked(o.result, is_test=o.item.name in test) for o in ordered if o.result is not None]
    failed = [o for o in ordered if o.result is None]
    findings = [*dataset.findings, *(failure_of(o.item, o) for o in failed), *(f for m in measured for f in m.findings)]
    cases = [m.case for m in measured]
    if not cases:
        error, lines = explain_unusable(dataset, findings)
        for line in lines:  # there will be no fingerprint to keep them in
            log.error("%s", line)
        raise error
    findings += [*_find_unfit(dataset.labels, cases), *patient_findings(dataset), *find_duplicates(cases)]
    findings += [*_find_rare_labels(dataset.labels, cases), *find_unlike_cases(dataset.channels, cases)]
    return Fingerprint(
        dataset=dataset.name,
        layout=dataset.layout,
        channels=dataset.channels,
        labels=dataset.labels,
        cases=tuple(cases),
        intensities=pool_intensities(_planned_for(measured)),
        findings=tuple(findings),
        unusable={o.item.name: _hash_files(o.item) for o in failed},
        objects=dataset.numbered,
    )


def _marked(measured: MeasuredCase, *, is_test: bool) -> MeasuredCase:
    return replace(measured, case=measured.case.model_copy(update={"is_test": True})) if is_test else measured


def _planned_for(measured: Iterable[MeasuredCase]) -> list[ForegroundSample]:
    """The foreground of all cases but those for testing; of these too, if no other has any."""
    found = [(m.case.is_test, m.foreground) for m in measured if m.foreground is not None]
    return [one for is_test, one in found if not is_test] or [one for _, one in found]


def read_and_measure(case: Case, *, labels: Labels, channels: int, sample: int) -> MeasuredCase:
    """The measures of a case that is read from its files.

    Raises:
        ScanError: it cannot be read, or image and label map do not match.
    """
    key = case_key(case)  # first, so that a change of the files while they are read is noticed later
    read = read_case(case, channels=channels, labels=labels)
    measured = measure_case(read.scan, read.label_map, labels=labels, name=case.name, key=key, sample=sample)
    findings = (*read.findings, *find_channels_apart(read.scan, case.name))
    return replace(measured, case=measured.case.model_copy(update={"annotated": case.annotated}), findings=findings)


def find_channels_apart(scan: Scan, name: str) -> tuple[Finding, ...]:
    """A finding for each channel of a volume that fits the first one notably better some mm away.

    Args:
        name: of the case.
    """
    if len(scan.image) < 2 or scan.source.is_2d:
        return ()
    findings = []
    for one in find_shifts(scan.image, scan.grid.spacing):
        found = (
            f"channel {one.channel + 1} fits channel 1 better {one.distance:.0f} mm away (mutual information {one.gain:.0%} higher)"
        )
        advice = "look at both in a viewer; --register rigid moves them"
        findings.append(Finding.of("NS-S039", f"{found}; expected channels that lie on one another; {advice}", case=name))
    return tuple(findings)


def measure_case(
    scan: Scan, label_map: LabelMap, *, labels: Labels, name: str, key: str = "", sample: int = SAMPLE_SIZE
) -> MeasuredCase:
    """The measures of a case in memory.

    Args:
        scan: in canonical orientation.
        label_map: on the scan's grid; every value is declared.
        labels: names of the values.
        name: of the case; also the seed of the sample of foreground voxels.
        key: content hash of its files.
        sample: foreground voxels to draw from each channel.
    """
    indices, counts = _encode(label_map.labels, labels)
    case = CaseMeasure(
        name=name,
        key=key,
        shape=scan.grid.shape,
        spacing=scan.grid.spacing,
        length_unit=scan.source.length_unit,
        cropped_shape=nonzero_box(scan.image).shape,
        voxels=dict(zip(labels.names, counts.tolist(), strict=True)),
        structures=_structures(indices, labels),
        image=voxel_digest(scan.image),
        label_map=voxel_digest(label_map.labels.astype(smallest_integer_type(label_map.labels), copy=False)),
    )
    foreground = sample_foreground(scan.image, indices > 0, sample=sample, seed=name)
    case = case.model_copy(update={"typical": typical_values(scan.image, foreground)})
    return MeasuredCase(case=case, foreground=foreground)


def _encode(labels_ZYX: Integers, labels: Labels) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int64]]:
    """Label indices (Z, Y, X), -1 where ignored, and the voxels of each label; plane by plane, since numpy makes 64-bit copies."""
    indices, counts = np.empty(labels_ZYX.shape, np.int16), np.zeros(len(labels.names) + 1, np.int64)
    for stored, plane in zip(labels_ZYX, indices, strict=True):
        plane[:] = labels.encode(stored)
        counts += np.bincount(plane.ravel() + 1, minlength=len(counts))
    return indices, counts[1:]


def _structures(indices_ZYX: npt.NDArray[np.int16], labels: Labels) -> dict[str, Shape]:
    """The shape of the bounding box of the largest component of each foreground label that occurs, by the label's name."""
    boxes = ndimage.find_objects(indices_ZYX, max_label=len(labels.names) - 1)
    found = [(i, box) for i, box in enumerate(boxes, 1) if box is not None]
    return {labels.names[i]: _largest_component(indices_ZYX[box] == i) for i, box in found}


def _largest_component(mask_ZYX: npt.NDArray[np.bool_]) -> Shape:
    """The shape of the bounding box of the largest component, in voxels."""
    coarse, step = mask_ZYX, 1
    while coarse.size > MOST_VOXELS:
        coarse, step = _halve(coarse), 2 * step
    components, count = ndimage.label(coarse, TOUCHING)
    largest = np.bincount(components[coarse]).argmax() if count > 1 else 1
    box = ndimage.find_objects(components == largest, max_label=1)[0]
    z, y, x = (min(step * (side.stop - side.start), n) for side, n in zip(box, mask_ZYX.shape, strict=True))
    return z, y, x


def _halve(mask_ZYX: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The mask at half the resolution; a voxel is true if any of its block is, so that components stay connected."""
    for axis in range(3):
        even, odd = (np.swapaxes(mask_ZYX, 0, axis)[start::2] for start in (0, 1))
        joined = even.copy()
        joined[: len(odd)] |= odd
        mask_ZYX = np.swapaxes(joined, 0, axis)
    return mask_ZYX


def _hash_files(case: Case) -> str:
    """The key of a case; empty if its files cannot be read."""
    try:
        return case_key(case)
    except (NnsegError, OSError):
        return ""


def failure_of(case: Case, outcome: Outcome[Any, Any]) -> Finding:
    """The finding of a case that failed; the traceback of an unexpected failure is logged."""
    if outcome.details:
        log.error("case %s failed unexpectedly:\n%s", case.name, outcome.details)
    return Finding.read(str(outcome.reason), "NS-X001" if outcome.details else "NS-S001", case=case.name, files=case.files)


def _find_unfit(labels: Labels, cases: list[CaseMeasure]) -> Iterator[Finding]:
    """What cases have in common that training cannot use, or that makes its scores rough."""
    if not _has_foreground(labels, cases):
        declared = labels.describe()
        yield Finding.of("NS-D016", f"no foreground voxel in {len(cases)} cases; the declared labels are {declared}")
    flat, solid = [c.name for c in cases if c.is_2d], [c.name for c in cases if not c.is_2d]
    if flat and solid:
        which = f"{len(flat)} in 2D ({listed(flat)}), {len(solid)} in 3D ({listed(solid)})"
        yield Finding.of("NS-D017", f"single slices and volumes are mixed; make two datasets of them: {which}")
    if len(cases) == 1:
        yield Finding.of("NS-D021", "there is 1 case: none can be held out, so the model's quality stays unknown; add cases")
    elif len(cases) < FEW_CASES:
        lost = f"at most {len(cases)} folds, each holding out one case, so scores are rough"
        yield Finding.of("NS-D021", f"there are {len(cases)} cases: {lost}; add cases")


def _has_foreground(labels: Labels, cases: list[CaseMeasure]) -> bool:
    return any(n for case in cases for label, n in case.voxels.items() if label != labels.names[0])


def _find_rare_labels(labels: Labels, cases: list[CaseMeasure]) -> list[Finding]:
    """A warning for each label in no case, or in at most two of three or more; overlaps count for the labels that overlap."""
    findings, parts, overlaps = [], labels.parts(), set(labels.partial_overlaps.values())
    for name, value in labels.named.items():
        if value in overlaps:
            continue
        holders = [case.name for case in cases if any(case.voxels[part] for part in parts.get(name, (name,)))]
        if not any(case.annotated is None or name in case.annotated for case in cases):
            message = f"label {name} ({value}) is annotated in none of {len(cases)} cases: only a model that has it can teach it"
            findings.append(Finding.of("NS-D039", f"{message}; give it with --init, or remove the label"))
        elif not holders and _has_foreground(labels, cases):
            message = f"label {name} ({value}) is declared but occurs in none of {len(cases)} cases, so it cannot be learned"
            findings.append(Finding.of("NS-D014", message))
        elif 0 < len(holders) <= 2 < len(cases):
            count = f"{len(holders)} of {len(cases)} cases ({listed(holders)})"
            findings.append(Finding.of("NS-D015", f"label {name} ({value}) occurs in only {count}, too few to learn"))
    return findings
