"""Labels by masks, in files or channels of their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from nnseg.core.dataset import Finding
from nnseg.core.errors import DatasetError
from nnseg.core.label_files import OBJECT, LabelCoding, LabelFiles, LabelSource, label_paths
from nnseg.core.labels import Labels
from nnseg.storage.datasets.labels.overlaps import Overlaps, find_overlaps
from nnseg.storage.datasets.labels.request import LabelMeaning, Request, ShownLabels
from nnseg.storage.images.label_codings import is_background


def name_masks(request: Request) -> LabelMeaning:
    """Masks whose values the names of files tell."""
    singles = {}
    for name in request.shown:
        source = request.cases[name].labels
        singles[name] = dict(source.values) if isinstance(source, LabelFiles) else {"0": 1}
    declared = request.declared
    values = sorted({v for of_case in singles.values() for v in of_case.values()} - {0})
    names = declared.by_value if declared else {v: f"label {v}" for v in values}
    return by_marks(request, singles, names, "masks", ())


def name_channels(request: Request) -> LabelMeaning:
    """One label a channel; the first channel is the background if every voxel is in just one channel."""
    usable = request.usable()
    count = Counter(shown.channels for shown in usable.values()).most_common(1)[0][0]
    for name, shown in usable.items():
        if shown.channels != count:
            request.refuse(name, f"has {shown.channels} channels of masks", f"{count}, as the others have", "correct the file")
    usable = request.usable()
    exclusive = all(len(mark) == 1 for shown in usable.values() for mark in shown.marks)
    first = 0 if exclusive else 1
    labels = request.declared
    if labels is not None and len(labels.values) != count + first:
        found = f"has label maps of {count} channels{' that exclude each other, the first the background' if exclusive else ''}"
        expected = f"the {len(labels.values) - first} of dataset.json"
        raise DatasetError.at(request.folder, found, expected, "correct its labels")
    values = labels.values if labels else tuple(range(count + first))
    names = labels.names if labels else ("background", *(f"label {v}" for v in values[1:]))
    singles = {name: {str(i): values[i + first] for i in range(count)} for name in usable}
    background = "; the first is the background, since they exclude each other" if exclusive else ""
    line = f"label maps have a channel for each label ({count}){background}"
    return by_marks(request, singles, dict(zip(values[1:], names[1:], strict=True)), "channels", (line,))


def name_objects(request: Request) -> LabelMeaning:
    """Files that hold one object each, or numbers of objects, as names of files tell."""
    labels = request.declared or Labels(names=("background", OBJECT), values=(0, 1))
    return LabelMeaning(labels=labels, sources=request.plain(), instances=request.instances or labels.names[1:2])


def by_marks(
    request: Request,
    singles: Mapping[str, Mapping[str, int]],
    names: Mapping[int, str],
    coding: LabelCoding,
    inferred: tuple[str, ...],
) -> LabelMeaning:
    """The meaning of marks, of which each alone has a value, and several together may make regions.

    Args:
        singles: label value by mark, by case; 0 for the background.
        names: of values.
    """
    usable = {name: shown for name, shown in request.usable().items() if name in singles and shown.coding == coding}
    overlaps = find_overlaps({name: shown.marks for name, shown in usable.items()}, singles, names, declared=request.declared)
    sources = request.plain()
    for name, shown in usable.items():
        paths = label_paths(request.cases[name].labels)
        sources[name] = _simplest(shown, paths, coding, singles[name], overlaps.values[name])
    return LabelMeaning(
        labels=overlaps.labels,
        sources=sources,
        instances=request.instances,
        findings=_noise_findings(overlaps),
        inferred=(*inferred, *overlaps.inferred),
    )


def _noise_findings(overlaps: Overlaps) -> tuple[Finding, ...]:
    return tuple(Finding.of("NS-D029", message) for message in overlaps.noise)


def _simplest(
    shown: ShownLabels, paths: tuple[Path, ...], coding: LabelCoding, values: Mapping[str, int], overlaps: Mapping[str, int]
) -> LabelSource:
    """The file alone if its values are the labels' values."""
    same = all(values.get(s.name, 0) == s.value and not s.channel for s in shown.segments if not is_background(s.name))
    if coding == "segments" and same and shown.channels == 1 and not any(is_background(s.name) for s in shown.segments):
        return paths[0]
    return LabelFiles(paths=paths, coding=coding, values=values, overlaps=overlaps)
