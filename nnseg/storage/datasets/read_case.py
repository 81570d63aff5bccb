"""Reading of a case: its scan and label map, checked to belong together."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from nnseg.core.dataset import Case, Finding
from nnseg.core.errors import ScanError
from nnseg.core.geometry import Grid, Shape
from nnseg.core.image import LabelMap, Scan
from nnseg.core.label_files import label_paths
from nnseg.core.labels import Labels
from nnseg.storage.datasets.dataset_json import ANNOTATED_KEY
from nnseg.storage.datasets.labels.request import FEWEST_OBJECTS
from nnseg.storage.images.canonical import RESAMPLED
from nnseg.storage.images.label_codings import count_values
from nnseg.storage.images.read import labels_on_grid_of, read_header, read_label_map, read_scan, stored_grid
from nnseg.storage.images.resampling import NEAR


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledScan:
    """A case, read and checked.

    Args:
        label_map: on the scan's grid, every value declared.
    """

    scan: Scan
    label_map: LabelMap
    findings: tuple[Finding, ...] = ()


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
    scan = read_case_scan(case, channels)
    label_map = read_label_map(case.labels, like=scan.source, sheared=True)
    read = place_labels(case, scan, label_map)
    more = check_values(case, count_values(label_map.labels), labels)
    return replace(read, findings=(*more, *read.findings))


def read_case_scan(case: Case, channels: int | None) -> Scan:
    """A case's scan.

    Args:
        channels: number that it must have; None if that is not known yet.

    Raises:
        ScanError: a file cannot be used, or a channel is constant.
    """
    scan = read_scan(case.images, resample=True, spacing=case.spacing)
    if channels is not None:
        check_channels(case, len(scan.image), scan.grid.shape, channels)
    _check_constant(case, scan)
    return scan


def place_labels(case: Case, scan: Scan, label_map: LabelMap) -> LabelledScan:
    """A scan and its label map on one grid, with what is to be known of either.

    Raises:
        ScanError: shape or position do not agree.
    """
    path = label_paths(case.labels)[0]
    offset = _check_position(case.images, stored_grid(scan), path, label_map)
    findings = [offset] if offset else []
    cropped = label_map.source is not None and sorted(label_map.source.grid.shape) != sorted(label_map.grid.shape)
    findings += [Finding(level="note" if cropped else "warning", message=note) for note in label_map.notes]
    placed = [f.model_copy(update={"case": case.name, "file": str(path)}) for f in findings]
    for note in scan.notes:
        level: Literal["warning", "note"] = "warning" if RESAMPLED in note else "note"
        placed.append(Finding(level=level, message=note, case=case.name, file=str(case.images[0])))
    label_map = replace(labels_on_grid_of(scan, label_map), grid=scan.grid)
    return LabelledScan(scan=scan, label_map=label_map, findings=tuple(placed))


def check_values(case: Case, counts: Mapping[int, int], labels: Labels) -> tuple[Finding, ...]:
    """A warning if a label map is empty.

    Args:
        counts: voxels of each value that occurs.

    Raises:
        ScanError: a value is undeclared, or that of a label which was not annotated.
    """
    path = label_paths(case.labels)[0]
    _check_declared(path, counts, labels)
    _check_annotated(path, counts, labels, case.annotated)
    if set(counts) & set(labels.values[1:]):
        return ()
    message = "label map is empty: no voxel of any label; check it"
    return (Finding(level="warning", message=message, case=case.name, file=str(path)),)


def check_channels(case: Case, count: int, shape: Shape, channels: int) -> None:
    """Raise ScanError if a scan has another number of channels than its dataset.

    Args:
        count: of the scan's channels.
        channels: of the dataset.
    """
    if count != channels:
        found = f"the scan has {count} channels in {len(case.images)} files (shape {shape})"
        advice = "correct the files, or the dataset's channel names"
        raise ScanError.at(case.images[0], found, f"{channels} as the dataset has", advice)


def _check_constant(case: Case, scan: Scan) -> None:
    for i, channel in enumerate(scan.image):
        if channel.min() == channel.max():
            file = case.images[i] if len(case.images) == len(scan.image) else case.images[0]
            found = f"channel {i} is constant: every voxel is {channel.flat[0]:g}"
            raise ScanError.at(file, found, "an image", "export it again, or remove the case")


def _check_position(images: Sequence[Path], grid: Grid, path: Path, label_map: LabelMap) -> Finding | None:
    """A note if the canonical label map and its image, on ``grid``, lie apart by rounding.

    Raises:
        ScanError: they have different shapes, or lie further apart.
    """
    image = images[0]
    if label_map.grid.shape != grid.shape:
        found = f"label map has shape {label_map.grid.shape} (z, y, x), but its image {image.name} has {grid.shape}"
        raise ScanError.at(path, found, "equal shapes", _advise_on_shape(images, label_map.grid.shape))
    if grid.matches(label_map.grid):
        return None
    gap = grid.largest_gap(label_map.grid)
    if gap > NEAR * min(grid.spacing):
        found = f"label map lies up to {gap:.3g} mm away from its image {image.name}"
        advice = "correct origin, spacing or direction in the header of the wrong one"
        raise ScanError.at(path, found, f"less than {NEAR * min(grid.spacing):.2g} mm", advice)
    return Finding(
        level="note", message=f"label map lies up to {gap:.2g} mm away from its image, by rounding; its image's grid is used"
    )


def _advise_on_shape(images: Sequence[Path], shape: Shape) -> str:
    """What to do with a label map of another shape than the first image: another channel may be what it was drawn on."""
    for image in images[1:]:
        with suppress(ScanError):
            if read_header([image]).grid.shape == shape:
                return f"it fits {image.name}: name that channel first with --channels, and the others are resampled onto it"
    return "resample the label map onto the image with nearest neighbour"


def _check_declared(path: Path, counts: Mapping[int, int], labels: Labels) -> None:
    undeclared = labels.undeclared(np.array(list(counts)))
    if undeclared:
        listed = ", ".join(f"{v} ({counts[v]} voxels)" for v in undeclared[:10]) + (", ..." if len(undeclared) > 10 else "")
        declared = ", ".join(map(str, [*labels.values, *([] if labels.ignore is None else [labels.ignore])]))
        found = f"label map has the value{'s' if len(undeclared) > 1 else ''} {listed}"
        advice = 'add it to "labels" or fix the file'
        if len(undeclared) >= FEWEST_OBJECTS and len(labels.values) == 2:
            advice += f'; if values number objects, write "instances": ["{labels.names[1]}"] into dataset.json'
        raise ScanError.at(path, found, f"the declared {declared}", advice)


def _check_annotated(path: Path, counts: Mapping[int, int], labels: Labels, annotated: Collection[str] | None) -> None:
    named = zip(labels.names[1:], labels.values[1:], strict=True)
    surplus = [(n, counts[v]) for n, v in named if v in counts and annotated is not None and n not in annotated]
    if surplus:
        listed = ", ".join(f"{name} ({voxels} voxels)" for name, voxels in surplus)
        found = f"label map shows {listed}, which {ANNOTATED_KEY} does not list for it"
        raise ScanError.at(path, found, f"only {', '.join(annotated or ())}", "list it if it is complete, or remove it")
