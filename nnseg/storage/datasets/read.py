"""Reading of datasets: a folder in, a checked `Dataset` out."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from nnseg.core.dataset import AS_FOUND, Case, Dataset, Finding, Reading
from nnseg.core.label_files import LabelFiles, label_paths
from nnseg.core.labels import Labels
from nnseg.storage.datasets.items import FoundDataset
from nnseg.storage.datasets.labels.meaning import find_meaning
from nnseg.storage.datasets.labels.request import LabelMeaning, ShownLabels, full_value, no_label, show_labels
from nnseg.storage.datasets.layouts import find_layout
from nnseg.storage.datasets.partial_labels import mark_annotated
from nnseg.storage.images.formats import suffix_of
from nnseg.storage.images.read import (
    count_label_channels,
    has_segments,
    read_marks,
    read_scan,
)
from nnseg.system.parallel import map_items

FEW = 3
"""Label maps that are looked at where values are declared: they may be masks of 0 and 255."""

log = logging.getLogger(__name__)


def read_dataset(folder: Path, *, reading: Reading = AS_FOUND, workers: int = 0, found: FoundDataset | None = None) -> Dataset:
    """The dataset in a folder, whichever layout it has; what is wrong with single cases becomes findings.

    Label maps are read if their content tells the labels (`needs_look`), and the first image for its channels. Nothing is written.

    Args:
        folder: of a dataset in one of the `nnseg.storage.datasets.layouts.LAYOUTS`.
        reading: what its names do not tell, or tell wrongly.
        workers: processes that read label maps, if they have to be read.
        found: what the folder holds, if `find_layout` has looked already.

    Raises:
        DatasetError: no such folder, no known layout or several, a malformed dataset.json, or no usable case.

    Example:
        ``read_dataset(Path("Task04_Hippocampus")).describe()``
    """
    folder = Path(folder).absolute()
    found = found or find_layout(folder, reading)
    if not needs_look(found, workers):
        return make_dataset(folder, found, None, workers=workers)
    outcomes = list(map_items(look_at_labels, found.cases, workers=workers, label="reading label values"))
    shown = {o.item.name: o.result for o in outcomes if o.result is not None}
    meaning = understand(folder, found, shown, {o.item.name: o.reason for o in outcomes if o.reason})
    return make_dataset(folder, found, meaning, workers=workers)


def needs_look(found: FoundDataset, workers: int = 0) -> bool:
    """True if the content of label maps tells their labels: no dataset.json does, or their values need not be the labels'.

    Args:
        workers: processes for reading; 0 reads here.
    """
    about = found.description
    if not about or not about.labels or (about.instances and len(about.labels.values) == 2) or found.reading.auto_labels:
        return True
    cases = [case for case in found.cases if case.labels is not None]
    sources = [case.labels for case in cases if case.labels is not None]
    if any(isinstance(s, LabelFiles) or has_segments(s) for s in sources):
        return True
    (counted,) = map_items(count_label_channels, sources[:1], workers=workers)
    masks = map_items(_is_full_mask, cases[:FEW] if len(about.labels.values) == 2 else (), workers=workers)
    return (counted.result or 0) > 1 or any(outcome.result for outcome in masks)


def _is_full_mask(case: Case) -> bool:
    """True if a label map is a mask of 0 and 255, or 65535."""
    return full_value(look_at_labels(case).marks) is not None


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
        Finding.read(problems[c.name], "NS-S001", case=c.name, file=label_paths(c.labels)[0])
        for c in found.cases
        if c.name in problems
    ]
    if not shown:
        raise no_label(folder, errors, empty=False)
    about = found.description
    meaning = find_meaning(
        folder,
        found.cases,
        shown,
        declared=found.declared,
        instances=about.instances if about else (),
        problems=errors,
        auto_labels=found.reading.auto_labels,
    )
    order = {case.name: i for i, case in enumerate(found.cases)}
    return replace(meaning, problems=tuple(sorted(meaning.problems, key=lambda finding: order[finding.case])))


def make_dataset(
    folder: Path, found: FoundDataset, meaning: LabelMeaning | None, channels: tuple[str, ...] = (), *, workers: int = 0
) -> Dataset:
    """The dataset of a folder.

    Args:
        meaning: of its label maps; None if values are as declared.
        channels: names, where the images were counted already and none are declared.
        workers: processes for reading; 0 reads here.
    """
    about = found.description
    if meaning is None:
        assert about is not None and about.labels is not None
        meaning = LabelMeaning(
            labels=about.labels, sources={c.name: c.labels for c in found.cases if c.labels}, instances=about.instances
        )
    cases = tuple(replace(c, labels=meaning.sources[c.name]) for c in found.cases if c.name in meaning.sources)
    cases, labels = _restrict_to_views(_with_numbers(cases), meaning.labels)
    findings = (*found.findings, *meaning.problems, *meaning.findings)
    unusable = {f.case for f in findings}
    cases, notes = mark_annotated(cases, labels, folder=folder, description=about, unusable=unusable)
    suffix = Counter(suffix_of(c.images[0]) for c in cases).most_common(1)[0][0]
    return Dataset(
        name=(about and about.name) or folder.name,
        folder=folder,
        layout=found.layout,
        cases=cases,
        channels=(about.channels if about else ()) or channels or _channels_from_files(cases, found.channels, workers),
        labels=labels,
        suffix=(about.suffix if about else "") or suffix,
        instances=meaning.instances,
        findings=(*findings, *notes),
        inferred=(*found.inferred, *meaning.inferred),
        unused=found.unused,
        reading=found.reading,
        about=about.about if about else {},
    )


def _with_numbers(cases: tuple[Case, ...]) -> tuple[Case, ...]:
    """Cases whose label maps know the numbers of their objects, where a file has them."""
    return tuple(
        replace(case, labels=_files(case).model_copy(update={"objects": case.objects})) if case.objects else case for case in cases
    )


def _files(case: Case) -> LabelFiles:
    return case.labels if isinstance(case.labels, LabelFiles) else LabelFiles(paths=label_paths(case.labels))


def _restrict_to_views(cases: tuple[Case, ...], labels: Labels) -> tuple[tuple[Case, ...], Labels]:
    """Cases with the ignore value outside their fields of view, and labels that have one; numbered objects stay as they are."""
    if not any(case.view for case in cases):
        return cases, labels
    outside = max(labels.values) + 1 if labels.ignore is None else labels.ignore

    def restricted(case: Case) -> Case:
        if case.view is None or _files(case).coding == "instances":
            return case
        return replace(case, labels=_files(case).model_copy(update={"view": case.view, "outside": outside}))

    return tuple(map(restricted, cases)), labels.model_copy(update={"ignore": outside})


def _channels_from_files(cases: Sequence[Case], named: tuple[str, ...], workers: int) -> tuple[str, ...]:
    """Names for the channels of the first case that can be read; later cases are checked against them.

    Args:
        named: names that fit if there are as many channels.
    """
    for case in cases:
        (outcome,) = map_items(_count_channels, [case], workers=workers)
        if outcome.result:
            count, is_2d = outcome.result
            return name_channels(case, count, is_2d=is_2d, named=named)
        log.debug("not counting the channels of case %s: %s", case.name, outcome.reason)
    return named or ("image",)


def _count_channels(case: Case) -> tuple[int, bool]:
    scan = read_scan(case.images, resample=True, spacing=case.spacing)
    return len(scan.image), scan.source.is_2d


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
