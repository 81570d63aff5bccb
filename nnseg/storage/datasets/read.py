"""Reading of datasets (a folder in, a checked `Dataset` out) and of their cases."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nnseg.core.dataset import Case, Dataset, Finding
from nnseg.core.errors import DatasetError, ScanError
from nnseg.core.image import LabelMap, Scan
from nnseg.core.label_files import label_paths
from nnseg.core.labels import Labels
from nnseg.storage.datasets.dataset_json import ANNOTATED_KEY
from nnseg.storage.datasets.layouts import FoundDataset, find_layout
from nnseg.storage.datasets.partial_labels import mark_annotated
from nnseg.storage.files import file_hash
from nnseg.storage.images.formats import files_of, suffix_of
from nnseg.storage.images.label_codings import count_values
from nnseg.storage.images.read import read_label_map, read_scan
from nnseg.storage.images.resampling import NEAR
from nnseg.system.parallel import map_items

MANY_VALUES = 256
"""More undeclared values than this in label maps are intensities, not labels."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledScan:
    """A case, read and checked.

    Args:
        label_map: on the scan's grid, every value declared.
    """

    scan: Scan
    label_map: LabelMap
    findings: tuple[Finding, ...] = ()


def read_dataset(folder: Path, *, workers: int = 1) -> Dataset:
    """The dataset in a folder, whichever layout it has; what is wrong with single cases becomes findings.

    Without a dataset.json the label maps are read for their values, and the first image for its channels. Nothing is written.

    Args:
        folder: of a dataset in Decathlon, nnU-Net raw or pair-of-folders layout.
        workers: processes that read label maps, if they have to be read.

    Raises:
        DatasetError: no such folder, no known layout, a malformed dataset.json, or no usable case.

    Example:
        ``read_dataset(Path("Task04_Hippocampus")).describe()``
    """
    folder = Path(folder).absolute()
    found = find_layout(folder)
    about = found.description
    if about and about.labels:
        labels, cases, findings = about.labels, found.cases, found.findings
    else:
        labels, cases, more = _labels_from_files(folder, found, workers)
        findings = (*found.findings, *more)
    cases, notes = mark_annotated(cases, labels, folder=folder, description=about, unusable={f.case for f in findings})
    suffix = Counter(suffix_of(c.images[0]) for c in cases).most_common(1)[0][0]
    return Dataset(
        name=(about and about.name) or folder.name,
        folder=folder,
        layout=found.layout,
        cases=cases,
        channels=(about.channels if about else ()) or _channels_from_files(cases),
        labels=labels,
        suffix=(about.suffix if about else "") or suffix,
        instances=about.instances if about else (),
        findings=(*findings, *notes),
        about=about.about if about else {},
    )


def read_case(case: Case, *, channels: int, labels: Labels) -> LabelledScan:
    """A case's scan and label map, checked to belong together.

    Args:
        case: with a label map.
        channels: number that the scan must have.
        labels: with the values that its label map may have.

    Raises:
        ScanError: a file cannot be used; channels, shape or position do not agree; a channel is constant; a value is undeclared, or
            that of a label which was not annotated.
    """
    if case.labels is None:
        raise ScanError.at(case.images[0], "has no label map", "one", "add it to the dataset")
    scan = read_scan(case.images)
    _check_channels(case, scan, channels)
    label_map = read_label_map(case.labels, like=scan.source)
    path = label_paths(case.labels)[0]
    offset = _check_position(case.images[0], scan, path, label_map)
    counts = count_values(label_map.labels)
    _check_declared(path, counts, labels)
    _check_annotated(path, counts, labels, case.annotated)
    findings = [offset] if offset else []
    if not set(counts) & set(labels.values[1:]):
        findings.append(Finding(level="warning", message="label map is empty: no voxel of any label; check it"))
    cropped = label_map.source is not None and sorted(label_map.source.grid.shape) != sorted(label_map.grid.shape)
    findings += [Finding(level="note" if cropped else "warning", message=note) for note in label_map.notes]
    placed = [f.model_copy(update={"case": case.name, "file": str(path)}) for f in findings]
    placed += [Finding(level="note", message=note, case=case.name, file=str(case.images[0])) for note in scan.notes]
    return LabelledScan(scan=scan, label_map=replace(label_map, grid=scan.grid), findings=tuple(placed))


def content_hash(files: Sequence[Path]) -> str:
    """A digest of all bytes that reading images depends on, in this order; names do not count, but those of volumes inside a file.

    Args:
        files: images, volumes in files, or folders of DICOM slices. A file that is read with an image (voxels of .mhd, spacing of
            TIFF) counts too.

    Raises:
        ScanError: a file is missing or cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    for path in files:
        for part in files_of(path):
            try:
                digest.update(bytes.fromhex(file_hash(part)))
            except OSError as error:
                raise ScanError.at(part, f"cannot be read ({error.strerror})", "a file", "restore it") from error
        if path.parent.is_file():
            digest.update(path.name.encode())
    return digest.hexdigest()


def _labels_from_files(folder: Path, found: FoundDataset, workers: int) -> tuple[Labels, tuple[Case, ...], tuple[Finding, ...]]:
    """Labels for the values in the label maps, the cases whose label map could be read, and what was found on the way."""
    outcomes = list(map_items(_read_values, found.cases, workers=workers, label="reading label values"))
    errors = {
        o.item.name: Finding(level="error", message=o.reason or "", case=o.item.name, file=str(label_paths(o.item.labels)[0]))
        for o in outcomes
        if o.result is None
    }
    cases = tuple(c for c in found.cases if c.name not in errors)
    values = sorted({v for o in outcomes for v in o.result or ()} | {0})
    if len(values) < 2:
        first = f"; the first problem: {next(iter(errors.values()))}" if errors else ""
        found_text = f"shows no label: no usable label map has a value other than 0{first}"
        raise DatasetError.at(folder, found_text, "label maps with values", "check that these are the label maps")
    if len(values) > MANY_VALUES:
        found_text = f"has label maps with {len(values)} different values"
        advice = "check that these are label maps, or name the labels in a dataset.json"
        raise DatasetError.at(folder, found_text, f"at most {MANY_VALUES}", advice)
    foreground = ["foreground"] if len(values) == 2 else [f"label {v}" for v in values[1:]]
    labels = Labels(names=("background", *foreground), values=tuple(values))
    listed = ", ".join(f"{value} {name}" for name, value in zip(labels.names, labels.values, strict=True))
    note = Finding(level="note", message=f"labels were taken from the label maps: {listed}; a dataset.json can name them")
    return labels, cases, (*(errors[c.name] for c in found.cases if c.name in errors), note)


def _read_values(case: Case) -> tuple[int, ...]:
    assert case.labels is not None
    values = tuple(count_values(read_label_map(case.labels).labels))
    if values[0] < 0:
        advice = 'name it in a dataset.json (as "ignore" if those voxels were not annotated) or correct the file'
        raise ScanError.at(label_paths(case.labels)[0], f"has the negative label value {values[0]}", "values from 0", advice)
    return values


def _channels_from_files(cases: Sequence[Case]) -> tuple[str, ...]:
    """Names for the channels of the first case that can be read; later cases are checked against them."""
    for case in cases:
        try:
            scan = read_scan(case.images)
        except ScanError as error:
            log.debug("not counting the channels of case %s: %s", case.name, error)
            continue
        count = len(scan.image)
        if count == 3 and len(case.images) == 1 and scan.source.is_2d:
            return "red", "green", "blue"
        return ("image",) if count == 1 else tuple(f"channel {i}" for i in range(count))
    return ("image",)


def _check_channels(case: Case, scan: Scan, channels: int) -> None:
    path = case.images[0]
    if len(scan.image) != channels:
        found = f"the scan has {len(scan.image)} channels in {len(case.images)} files (shape {scan.grid.shape})"
        raise ScanError.at(path, found, f"{channels} as the dataset has", "correct the files, or the dataset's channel names")
    for i, channel in enumerate(scan.image):
        if channel.min() == channel.max():
            file = case.images[i] if len(case.images) == channels else path
            found = f"channel {i} is constant: every voxel is {channel.flat[0]:g}"
            raise ScanError.at(file, found, "an image", "export it again, or remove the case")


def _check_position(image: Path, scan: Scan, path: Path, label_map: LabelMap) -> Finding | None:
    """A note if the canonical label map and its image lie apart by rounding.

    Raises:
        ScanError: they have different shapes, or lie further apart.
    """
    if label_map.grid.shape != scan.grid.shape:
        found = f"label map has shape {label_map.grid.shape} (z, y, x), but its image {image.name} has {scan.grid.shape}"
        raise ScanError.at(path, found, "equal shapes", "resample the label map onto the image with nearest neighbour")
    if scan.grid.matches(label_map.grid):
        return None
    gap = scan.grid.largest_gap(label_map.grid)
    if gap > NEAR * min(scan.grid.spacing):
        found = f"label map lies up to {gap:.3g} mm away from its image {image.name}"
        advice = "correct origin, spacing or direction in the header of the wrong one"
        raise ScanError.at(path, found, f"less than {NEAR * min(scan.grid.spacing):.2g} mm", advice)
    return Finding(
        level="note", message=f"label map lies up to {gap:.2g} mm away from its image, by rounding; its image's grid is used"
    )


def _check_declared(path: Path, counts: dict[int, int], labels: Labels) -> None:
    undeclared = labels.undeclared(np.array(list(counts)))
    if undeclared:
        listed = ", ".join(f"{v} ({counts[v]} voxels)" for v in undeclared[:10]) + (", ..." if len(undeclared) > 10 else "")
        declared = ", ".join(map(str, [*labels.values, *([] if labels.ignore is None else [labels.ignore])]))
        found = f"label map has the value{'s' if len(undeclared) > 1 else ''} {listed}"
        raise ScanError.at(path, found, f"the declared {declared}", 'add it to "labels" or fix the file')


def _check_annotated(path: Path, counts: dict[int, int], labels: Labels, annotated: Collection[str] | None) -> None:
    named = zip(labels.names[1:], labels.values[1:], strict=True)
    surplus = [(n, counts[v]) for n, v in named if v in counts and annotated is not None and n not in annotated]
    if surplus:
        listed = ", ".join(f"{name} ({voxels} voxels)" for name, voxels in surplus)
        found = f"label map shows {listed}, which {ANNOTATED_KEY} does not list for it"
        raise ScanError.at(path, found, f"only {', '.join(annotated or ())}", "list it if it is complete, or remove it")
