"""Reading of datasets (a folder in, a checked `Dataset` out) and of their cases."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from nnseg.core.dataset import AS_FOUND, Case, Dataset, Finding, Reading
from nnseg.core.errors import ScanError
from nnseg.core.frozen import digest
from nnseg.core.geometry import Grid, Shape
from nnseg.core.image import LabelMap, Scan
from nnseg.core.label_files import LabelFiles, label_paths
from nnseg.core.labels import Labels
from nnseg.storage.datasets.dataset_json import ANNOTATED_KEY
from nnseg.storage.datasets.items import FoundDataset
from nnseg.storage.datasets.labels.meaning import find_meaning
from nnseg.storage.datasets.labels.request import FEWEST_OBJECTS, LabelMeaning, ShownLabels, no_label, show_labels
from nnseg.storage.datasets.layouts import find_layout
from nnseg.storage.datasets.partial_labels import mark_annotated
from nnseg.storage.files import file_hash
from nnseg.storage.images.formats import files_of, suffix_of
from nnseg.storage.images.label_codings import count_values
from nnseg.storage.images.read import (
    RESAMPLED,
    count_label_channels,
    has_segments,
    labels_on_grid_of,
    read_label_map,
    read_marks,
    read_scan,
    stored_grid,
)
from nnseg.storage.images.resampling import NEAR
from nnseg.system.parallel import map_items

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


def read_dataset(folder: Path, *, reading: Reading = AS_FOUND, workers: int = 1) -> Dataset:
    """The dataset in a folder, whichever layout it has; what is wrong with single cases becomes findings.

    Label maps are read if their content tells the labels (`needs_look`), and the first image for its channels. Nothing is written.

    Args:
        folder: of a dataset in one of the `nnseg.storage.datasets.layouts.LAYOUTS`.
        reading: what its names do not tell, or tell wrongly.
        workers: processes that read label maps, if they have to be read.

    Raises:
        DatasetError: no such folder, no known layout or several, a malformed dataset.json, or no usable case.

    Example:
        ``read_dataset(Path("Task04_Hippocampus")).describe()``
    """
    folder = Path(folder).absolute()
    found = find_layout(folder, reading)
    if not needs_look(found):
        return make_dataset(folder, found, None)
    outcomes = list(map_items(look_at_labels, found.cases, workers=workers, label="reading label values"))
    shown = {o.item.name: o.result for o in outcomes if o.result is not None}
    return make_dataset(folder, found, understand(folder, found, shown, {o.item.name: o.reason for o in outcomes if o.reason}))


def needs_look(found: FoundDataset) -> bool:
    """True if the content of label maps tells their labels: no dataset.json does, or their values need not be the labels'."""
    about = found.description
    if not about or not about.labels or (about.instances and len(about.labels.values) == 2):
        return True
    sources = [case.labels for case in found.cases if case.labels is not None]
    return any(isinstance(s, LabelFiles) or has_segments(s) for s in sources) or count_label_channels(sources[0]) > 1


def look_at_labels(case: Case) -> ShownLabels:
    """What the label map of a case shows.

    Raises:
        ScanError: it cannot be read.
    """
    assert case.labels is not None
    return show_labels(read_marks(case.labels, sheared=True)[0])


def understand(folder: Path, found: FoundDataset, shown: Mapping[str, ShownLabels], problems: Mapping[str, str]) -> LabelMeaning:
    """What label maps mean, by what they show.

    Args:
        shown: by case.
        problems: why the label map of a case cannot be read.

    Raises:
        DatasetError: they show no label, or cannot be understood.
    """
    errors = [
        Finding(level="error", message=problems[c.name], case=c.name, file=str(label_paths(c.labels)[0]))
        for c in found.cases
        if c.name in problems
    ]
    if not shown:
        raise no_label(folder, errors)
    about = found.description
    meaning = find_meaning(
        folder,
        found.cases,
        shown,
        declared=found.declared,
        instances=about.instances if about else (),
        problems=errors,
    )
    order = {case.name: i for i, case in enumerate(found.cases)}
    return replace(meaning, problems=tuple(sorted(meaning.problems, key=lambda finding: order[finding.case])))


def make_dataset(folder: Path, found: FoundDataset, meaning: LabelMeaning | None, channels: tuple[str, ...] = ()) -> Dataset:
    """The dataset of a folder.

    Args:
        meaning: of its label maps; None if values are as declared.
        channels: names, where the images were counted already and none are declared.
    """
    about = found.description
    if meaning is None:
        assert about is not None and about.labels is not None
        meaning = LabelMeaning(
            labels=about.labels, sources={c.name: c.labels for c in found.cases if c.labels}, instances=about.instances
        )
    cases = tuple(replace(c, labels=meaning.sources[c.name]) for c in found.cases if c.name in meaning.sources)
    findings = (*found.findings, *meaning.problems, *meaning.findings)
    unusable = {f.case for f in findings}
    cases, notes = mark_annotated(cases, meaning.labels, folder=folder, description=about, unusable=unusable)
    suffix = Counter(suffix_of(c.images[0]) for c in cases).most_common(1)[0][0]
    return Dataset(
        name=(about and about.name) or folder.name,
        folder=folder,
        layout=found.layout,
        cases=cases,
        channels=(about.channels if about else ()) or channels or _channels_from_files(cases, found.channels),
        labels=meaning.labels,
        suffix=(about.suffix if about else "") or suffix,
        instances=meaning.instances,
        findings=(*findings, *notes),
        inferred=(*found.inferred, *meaning.inferred),
        unused=found.unused,
        reading=found.reading,
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
    offset = _check_position(case.images[0], stored_grid(scan), path, label_map)
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


def case_key(case: Case, content: str = "") -> str:
    """A digest of all that reading a case depends on: the bytes of its files, what its label map's marks mean, a given spacing.

    Args:
        content: `content_hash` of its files, if it is known.

    Raises:
        ScanError: a file is missing or cannot be read.
    """
    content = content or content_hash(case.files)
    marks = [case.labels.model_dump(mode="json", exclude={"paths"})] if isinstance(case.labels, LabelFiles) else []
    given = [*marks, *([case.spacing] if case.spacing else [])]
    return digest([content, *given]) if given else content


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


def _channels_from_files(cases: Sequence[Case], named: tuple[str, ...]) -> tuple[str, ...]:
    """Names for the channels of the first case that can be read; later cases are checked against them.

    Args:
        named: names that fit if there are as many channels.
    """
    for case in cases:
        try:
            scan = read_scan(case.images, resample=True, spacing=case.spacing)
        except ScanError as error:
            log.debug("not counting the channels of case %s: %s", case.name, error)
            continue
        return name_channels(case, len(scan.image), is_2d=scan.source.is_2d, named=named)
    return named or ("image",)


def name_channels(case: Case, count: int, *, is_2d: bool, named: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Names for the channels of a dataset by one of its cases.

    Args:
        named: names that fit if there are as many channels.
    """
    if count == len(named):
        return named
    if count == 3 and len(case.images) == 1 and is_2d:
        return "red", "green", "blue"
    return ("image",) if count == 1 else tuple(f"channel {i}" for i in range(count))


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


def _check_position(image: Path, grid: Grid, path: Path, label_map: LabelMap) -> Finding | None:
    """A note if the canonical label map and its image, on ``grid``, lie apart by rounding.

    Raises:
        ScanError: they have different shapes, or lie further apart.
    """
    if label_map.grid.shape != grid.shape:
        found = f"label map has shape {label_map.grid.shape} (z, y, x), but its image {image.name} has {grid.shape}"
        raise ScanError.at(path, found, "equal shapes", "resample the label map onto the image with nearest neighbour")
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
