"""`measure_folder`: a dataset and its fingerprint from one pass over the files, also where label maps tell what their labels are.

Each label map is first measured by its own marks (values, segments, colours, ...), under provisional names. Once all are read, the
labels are known, and the measures get their names. A case is read again only where a label consists of several marks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from nnseg.core.dataset import AS_FOUND, Case, Dataset, Reading
from nnseg.core.errors import ScanError
from nnseg.core.fingerprint import CaseMeasure, Fingerprint
from nnseg.core.geometry import Shape
from nnseg.core.image import LabelMap, Scan
from nnseg.core.label_files import OBJECT, LabelFiles, LabelSource, join_marks
from nnseg.core.labels import Labels
from nnseg.planning.duplicates import voxel_digest
from nnseg.planning.measure import (
    MeasuredCase,
    find_channels_apart,
    make_fingerprint,
    measure_all,
    measure_case,
    read_and_measure,
    sample_size,
)
from nnseg.storage.datasets.content import case_key, content_hash
from nnseg.storage.datasets.items import FoundDataset
from nnseg.storage.datasets.labels.request import BLACK, ShownLabels, show_labels
from nnseg.storage.datasets.layouts import find_layout
from nnseg.storage.datasets.read import make_dataset, name_channels, needs_look, read_dataset, understand
from nnseg.storage.datasets.read_case import check_channels, check_values, place_labels, read_case_scan
from nnseg.storage.datasets.splits import cases_for_testing
from nnseg.storage.images.label_codings import MarkedMap
from nnseg.storage.images.read import read_marks
from nnseg.system.parallel import Outcome, map_items
from nnseg.system.progress import sizes_of

UNUSED = "\0"
"""Name of a provisional label that no voxel has."""

OBJECTS = Labels(names=("background", OBJECT), values=(0, 1))


@dataclass(frozen=True, kw_only=True)
class _LookedAt:
    """A case that was read before its labels were known.

    Args:
        shown: by its label map; None if that could not be read, for a reason.
        measured: by provisional names; None if the case cannot be used, for a reason.
        objects: measured with all objects as one label, if values may be their numbers.
        channels: of the scan.
    """

    shown: ShownLabels | None = None
    label_problem: str = ""
    measured: MeasuredCase | None = None
    objects: MeasuredCase | None = None
    problem: str = ""
    channels: int = 0
    is_2d: bool = False


def measure_folder(
    folder: Path, *, reading: Reading = AS_FOUND, workers: int = 0, found: FoundDataset | None = None, split: str = "auto"
) -> tuple[Dataset, Fingerprint]:
    """The dataset in a folder and its fingerprint, as `nnseg.storage.datasets.read.read_dataset` and `measure_all` make them.

    Args:
        found: what the folder holds, if `find_layout` has looked already.
        split: option for the folds; a file may set cases apart for testing.

    Raises:
        DatasetError: as those raise.
    """
    folder = Path(folder).absolute()
    found = found or find_layout(folder, reading)
    test = cases_for_testing(found.cases, split, unusable={finding.case for finding in found.findings})
    if any(case.view or case.objects for case in found.cases) or not needs_look(found, workers):
        dataset = read_dataset(folder, workers=workers, found=found)
        return dataset, measure_all(dataset, workers=workers, test=test)
    about = found.description
    look = partial(
        look_and_measure,
        declared=found.declared,
        channels=len(about.channels) or None if about else None,
        sample=sample_size(len(found.cases)),
    )
    sizes = sizes_of({case.name: case.files for case in found.cases})
    measured = map_items(look, found.cases, workers=workers, label="measuring cases", weigh=lambda case: sizes[case.name])
    outcomes = {o.item.name: o for o in measured}
    dataset = _dataset(folder, found, outcomes)
    looked = {name: outcome.result for name, outcome in outcomes.items() if outcome.result is not None}
    return dataset, make_fingerprint(dataset, _finished(dataset, looked, workers), test=test)


def _dataset(folder: Path, found: FoundDataset, outcomes: Mapping[str, Outcome[Case, _LookedAt]]) -> Dataset:
    looked = {case.name: o.result for case in found.cases if (o := outcomes[case.name]).result is not None}
    shown = {name: one.shown for name, one in looked.items() if one.shown is not None}
    problems = {name: o.reason for name, o in outcomes.items() if o.reason}
    problems |= {name: one.label_problem for name, one in looked.items() if one.label_problem}
    meaning = understand(folder, found, shown, problems)
    cases = (case for case in found.cases if case.name in meaning.sources and looked[case.name].channels)
    counted = ((c, looked[c.name]) for c in cases)
    channels = next((name_channels(c, one.channels, is_2d=one.is_2d, named=found.channels) for c, one in counted), ("image",))
    return make_dataset(folder, found, meaning, channels)


def look_and_measure(case: Case, *, declared: Labels | None, channels: int | None, sample: int) -> _LookedAt:
    """What a case shows, and its measures by provisional names.

    Args:
        declared: labels, of which the background's and the ignored value are taken.
        channels: number that the scan must have; None if that is not known.
        sample: foreground voxels to draw from each channel.
    """
    assert case.labels is not None
    scan, problem, key = None, "", ""
    try:
        key = content_hash(case.files)  # first, so that a change of the files while they are read is noticed later
        scan = read_case_scan(case, channels)
    except ScanError as error:
        problem = error.coded
    try:
        marked, label_map, misplaced = _read_marks(case.labels, scan)
    except ScanError as error:
        return _LookedAt(label_problem=error.coded)
    shown = show_labels(marked)
    looked = _LookedAt(shown=shown, problem=problem or misplaced)
    if scan is None or misplaced:
        return looked
    looked = replace(looked, channels=len(scan.image), is_2d=scan.source.is_2d)
    try:
        read = place_labels(case, scan, label_map)
    except ScanError as error:
        return replace(looked, problem=error.coded)
    how = partial(measure_case, scan, name=case.name, key=key, sample=sample)
    measured = how(read.label_map, labels=_provisional(marked, shown, declared))
    renamed = measured.case.model_copy(update={"label_map": _digest(marked)} if marked.marks else {})
    objects = how(_as_objects(read.label_map), labels=OBJECTS) if shown.components else None
    findings = (*read.findings, *find_channels_apart(scan, case.name))
    return replace(looked, measured=replace(measured, case=renamed, findings=findings), objects=objects)


def _read_marks(source: LabelSource, scan: Scan | None) -> tuple[MarkedMap, LabelMap, str]:
    """The marks of a label map, in its place in a scan; or where it has none, as it is, and why."""
    try:
        return *read_marks(source, like=scan.source if scan else None, sheared=True), ""
    except ScanError as error:
        return *read_marks(source, sheared=True), error.coded


def _digest(marked: MarkedMap) -> str:
    """A digest of the marks of all voxels, whatever their codes and the case of names."""
    names = np.array([join_marks(mark).casefold() for mark in marked.marks])
    ranks = np.argsort(np.argsort(names)).astype(np.int32)
    return voxel_digest(ranks[marked.codes]) + voxel_digest(np.sort(names))


def _as_objects(label_map: LabelMap) -> LabelMap:
    return replace(label_map, labels=(label_map.labels != 0).astype(np.uint8))


def _provisional(marked: MarkedMap, shown: ShownLabels, declared: Labels | None) -> Labels:
    """Labels named by marks: values as they are, or codes; the background first."""
    if marked.marks:
        back = _background(shown)
        names = [join_marks(mark) for mark in marked.marks]
        order = sorted(range(len(names)), key=lambda code: marked.marks[code] != back)
        found, ignore = [(names[code], code) for code in order], None
    else:
        first, ignore = (declared.values[0], declared.ignore) if declared else (0, None)
        rest = sorted(int(value) for (value,) in shown.marks)
        found = [(str(value), value) for value in dict.fromkeys((first, *rest)) if value != ignore]
    if len(found) < 2:
        found.append((UNUSED, max(value for _, value in found) + 1 if ignore is None else max(ignore, *(v for _, v in found)) + 1))
    return Labels(names=tuple(name for name, _ in found), values=tuple(value for _, value in found), ignore=ignore)


def _background(shown: ShownLabels) -> tuple[str, ...]:
    """The mark that stands for the background, as far as one case tells."""
    if shown.coding == "colours" and (BLACK,) in shown.marks:
        return (BLACK,)
    exclusive = shown.coding == "channels" and all(len(mark) == 1 for mark in shown.marks)
    return ("0",) if exclusive else ()


def _finished(dataset: Dataset, looked: Mapping[str, _LookedAt], workers: int) -> Iterator[Outcome[Case, MeasuredCase]]:
    """The measures of the cases of a dataset, by its labels."""
    again = []
    for case in dataset.cases:
        (outcome,) = map_items(partial(_finish, one=looked[case.name], dataset=dataset), [case])
        if outcome.result is None and outcome.reason is None:
            again.append(case)
        else:
            yield Outcome(item=case, result=outcome.result, reason=outcome.reason, details=outcome.details)
    sample = sample_size(len(looked))
    read = partial(read_and_measure, labels=dataset.labels, channels=len(dataset.channels), sample=sample)
    yield from map_items(read, again, workers=workers, label="measuring cases again")


def _finish(case: Case, *, one: _LookedAt, dataset: Dataset) -> MeasuredCase | None:
    """The measures of a case by the dataset's labels; None if it must be read again for them.

    Raises:
        ScanError: it cannot be used.
    """
    if one.measured is None or one.shown is None:
        raise ScanError(one.problem)
    check_channels(case, one.channels, one.measured.case.shape, len(dataset.channels))
    if isinstance(case.labels, LabelFiles) and case.labels.coding not in (one.shown.coding, "instances"):
        return None
    values = {mark: _value_of(case.labels, mark, one.shown) for mark in one.shown.marks}
    counts: dict[int, int] = {}
    for mark, value in values.items():
        counts[value] = counts.get(value, 0) + one.shown.marks[mark]
    findings = (*check_values(case, counts, dataset.labels), *one.measured.findings)
    measured = _renamed(one, values, dataset.labels, isinstance(case.labels, LabelFiles) and case.labels.coding == "instances")
    if measured is None:
        return None
    update = {"key": case_key(case, measured.case.key), "annotated": case.annotated}
    return replace(measured, case=measured.case.model_copy(update=update), findings=findings)


def _value_of(source: LabelSource | None, mark: tuple[str, ...], shown: ShownLabels) -> int:
    if isinstance(source, Path) and shown.coding == "segments":
        return next((segment.value for segment in shown.segments if (segment.name,) == mark), 0)
    if isinstance(source, LabelFiles) and source.coding == "instances":
        return 0 if mark in ((), ("0",)) else source.values[OBJECT]
    if isinstance(source, LabelFiles) and source.coding != "values":
        value = source.value_of(mark)
        if value is None:
            raise ScanError.at(source.paths[0], f"has voxels of {join_marks(mark)}", "a label for them", "name it")
        return value
    return int(mark[0])


def _renamed(one: _LookedAt, values: Mapping[tuple[str, ...], int], labels: Labels, objects: bool) -> MeasuredCase | None:
    """The measures by the names of labels; None where they cannot be told from those of the marks."""
    assert one.measured is not None
    names = labels.by_value
    if objects:
        if one.objects is None:
            return None
        of_objects = one.objects.case
        update = _by_name(of_objects, {"background": labels.names[0], OBJECT: labels.names[1]}, labels)
        return replace(one.objects, case=of_objects.model_copy(update=update))
    to = {join_marks(mark): names[value] for mark, value in values.items() if value in names}
    case = one.measured.case
    background, *_ = case.voxels
    foreground = [name for mark, name in to.items() if mark != background]
    if (
        len(set(foreground)) < len(foreground)
        or labels.names[0] in foreground
        or to.get(background, labels.names[0]) != labels.names[0]
    ):
        return None
    return replace(one.measured, case=case.model_copy(update=_by_name(case, to, labels)))


def _by_name(case: CaseMeasure, to: Mapping[str, str], labels: Labels) -> dict[str, dict[str, int] | dict[str, Shape]]:
    """Voxels and structures of a case under other names."""
    voxels = {to[mark]: n for mark, n in case.voxels.items() if mark in to}
    structures = {to[mark]: shape for mark, shape in case.structures.items() if mark in to}
    return {
        "voxels": {name: voxels.get(name, 0) for name in labels.names},
        "structures": {name: structures[name] for name in labels.names if name in structures},
    }
