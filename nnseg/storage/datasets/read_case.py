"""Reading of a case: its scan and label map, checked to belong together."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nnseg.core.dataset import Case, Finding
from nnseg.core.errors import ScanError
from nnseg.core.geometry import Grid, Shape
from nnseg.core.image import LabelMap, Scan
from nnseg.core.label_files import LabelFiles, label_paths
from nnseg.core.labels import Labels
from nnseg.storage.datasets.dataset_json import ANNOTATED_KEY
from nnseg.storage.datasets.labels.request import FEWEST_OBJECTS
from nnseg.storage.images.label_codings import count_values
from nnseg.storage.images.read import labels_on_grid_of, read_header, read_label_map, read_numbers, read_scan, stored_grid
from nnseg.storage.images.resampling import NEAR
from nnseg.system.parallel import map_items

SAME_PLACE = 0.01
"""Distance in voxels up to which a label map and its image lie at one place."""


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
        ScanError: a file cannot be used, also one with numbers of objects; channels, shape or position do not agree; a channel is
            constant; a value is undeclared, or that of a label which was not annotated.
    """
    if case.labels is None:
        raise ScanError.at(case.images[0], "has no label map", "one", "add it to the dataset", "NS-D005")
    scan = read_case_scan(case, channels)
    label_map = read_label_map(case.labels, like=scan.source, sheared=True)
    read = place_labels(case, scan, label_map)
    if isinstance(case.labels, LabelFiles) and case.labels.objects:
        read_numbers(case.labels, like=scan.source, beside=label_map)
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


def find_unreadable(cases: Sequence[Case], *, workers: int = 0) -> dict[str, str]:
    """Why scans cannot be read, by the names of their cases: each is read in another process, which a file may crash.

    Args:
        workers: processes, at least one.
    """
    outcomes = map_items(_try_to_read, cases, workers=max(1, workers))
    return {outcome.item.name: outcome.reason for outcome in outcomes if outcome.reason and not outcome.is_fault}


def _try_to_read(case: Case) -> None:
    read_scan(case.images, repair=True, spacing=case.spacing)


def place_labels(case: Case, scan: Scan, label_map: LabelMap) -> LabelledScan:
    """A scan and its label map on one grid, with what is to be known of either.

    Raises:
        ScanError: shape or position do not agree.
    """
    path = label_paths(case.labels)[0]
    notes = [*_check_position(case.images, stored_grid(scan), path, label_map), *_note_order(scan, label_map), *label_map.notes]
    findings = [Finding.read(note, "NS-L001", case=case.name, file=path) for note in notes]
    for note in scan.notes:
        file = next((one for one in case.images if note.startswith(f"{one.name}: ")), case.images[0])
        findings.append(Finding.read(note, "NS-S029", case=case.name, file=file))
    label_map = replace(labels_on_grid_of(scan, label_map), grid=scan.grid)
    return LabelledScan(scan=scan, label_map=label_map, findings=tuple(findings))


def _note_order(scan: Scan, label_map: LabelMap) -> tuple[str, ...]:
    """A note if a label map stores its axes in another order, or other directions, than its scan."""
    stored = label_map.source
    if stored is None or stored.grid.canonical() == scan.source.grid.canonical() or not stored.exif == scan.source.exif == 1:
        return ()
    return ("label map stores its axes in another order or direction than its image; it was turned [NS-L012]",)


def check_values(case: Case, counts: Mapping[int, int], labels: Labels) -> tuple[Finding, ...]:
    """A warning if a label map is empty, a note if it is full.

    Args:
        counts: voxels of each value that occurs.

    Raises:
        ScanError: a value is undeclared, or that of a label which was not annotated.
    """
    path = label_paths(case.labels)[0]
    _check_declared(path, counts, labels)
    _check_annotated(path, counts, labels, case.annotated)
    if not set(counts) & set(labels.values[1:]):
        return (Finding.of("NS-L007", "label map is empty: no voxel of any label; check it", case=case.name, file=path),)
    if labels.values[0] in counts or labels.ignore in counts:
        return ()
    return (Finding.of("NS-L008", "labels fill the whole image: it has no background", case=case.name, file=path),)


def check_channels(case: Case, count: int, shape: Shape, channels: int) -> None:
    """Raise ScanError if a scan has another number of channels than its dataset.

    Args:
        count: of the scan's channels.
        channels: of the dataset.
    """
    if count != channels:
        found = f"the scan has {count} channels in {len(case.images)} files (shape {shape})"
        advice = "correct the files, or the dataset's channel names"
        raise ScanError.at(case.images[0], found, f"{channels} as the dataset has", advice, "NS-S024")


def _check_constant(case: Case, scan: Scan) -> None:
    for i, channel in enumerate(scan.image):
        if channel.min() == channel.max():
            file = case.images[i] if len(case.images) == len(scan.image) else case.images[0]
            found = f"channel {i} is constant: every voxel is {channel.flat[0]:g}"
            raise ScanError.at(file, found, "an image", "export it again, or remove the case", "NS-S008")


def _check_position(images: Sequence[Path], grid: Grid, path: Path, label_map: LabelMap) -> tuple[str, ...]:
    """A note if the canonical label map and its image, on ``grid``, lie apart by more than headers are rounded.

    Raises:
        ScanError: they have different shapes, or lie further apart.
    """
    image = images[0]
    if label_map.grid.shape != grid.shape:
        found = f"label map has shape {label_map.grid.shape} (z, y, x), but its image {image.name} has {grid.shape}"
        raise ScanError.at(path, found, "equal shapes", _advise_on_shape(images, label_map.grid.shape), "NS-L009")
    if grid.agrees(label_map.grid, SAME_PLACE):
        return ()
    gap = grid.gap_beside_rounding(label_map.grid)
    if gap > NEAR * min(grid.spacing):
        found = f"label map lies up to {gap:.3g} mm away from its image {image.name}"
        advice = "correct origin, spacing or direction in the header of the wrong one"
        raise ScanError.at(path, found, f"less than {NEAR * min(grid.spacing):.2g} mm", advice, "NS-L010")
    return (f"label map lies up to {gap:.2g} mm away from its image, by rounding; its image's grid is used [NS-L011]",)


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
        advice = 'add it to "labels", here with --auto-labels, or fix the file'
        if len(undeclared) >= FEWEST_OBJECTS and len(labels.values) == 2:
            advice += f'; if values number objects, write "instances": ["{labels.names[1]}"] into dataset.json'
        raise ScanError.at(path, found, f"the declared {declared}", advice, "NS-L004")


def _check_annotated(path: Path, counts: Mapping[int, int], labels: Labels, annotated: Collection[str] | None) -> None:
    named = labels.named.items()
    surplus = [(n, counts[v]) for n, v in named if v in counts and annotated is not None and n not in annotated]
    if surplus:
        listed = ", ".join(f"{name} ({voxels} voxels)" for name, voxels in surplus)
        found = f"label map shows {listed}, which {ANNOTATED_KEY} does not list for it"
        raise ScanError.at(path, found, f"only {', '.join(annotated or ())}", "list it if it is complete, or remove it", "NS-L006")
