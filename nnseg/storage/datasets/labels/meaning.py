"""What the marks of a dataset's label maps mean, by what says in them which label a voxel has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from nnseg.core.dataset import Case, Finding
from nnseg.core.label_files import LabelCoding
from nnseg.core.labels import Labels
from nnseg.storage.datasets.labels.colours import name_colours
from nnseg.storage.datasets.labels.masks import name_channels, name_masks, name_objects
from nnseg.storage.datasets.labels.request import LabelMeaning, Request, ShownLabels
from nnseg.storage.datasets.labels.segments import name_segments
from nnseg.storage.datasets.labels.values import name_values


def find_meaning(
    folder: Path,
    cases: Sequence[Case],
    shown: Mapping[str, ShownLabels],
    *,
    declared: Labels | None = None,
    instances: tuple[str, ...] = (),
    problems: Sequence[Finding] = (),
    auto_labels: bool = False,
) -> LabelMeaning:
    """The meaning of what label maps show.

    Args:
        folder: of the dataset, where a legend of colours may lie.
        shown: by case, of all label maps that could be read.
        declared: labels, where a dataset.json or names of files tell them.
        instances: names of labels whose components are objects.
        problems: of further cases, whose label map could not be read.
        auto_labels: values that are not declared are labels too.

    Raises:
        DatasetError: the label maps show no label, or cannot be understood.
    """
    by_name = {case.name: case for case in cases if case.name in shown}
    coding, shown = _one_coding(shown)
    request = Request(
        folder=folder,
        cases=by_name,
        shown=shown,
        declared=declared,
        instances=instances,
        problems=[*problems],
        auto_labels=auto_labels,
    )
    for name, one in shown.items():
        if one.coding != coding and (one.coding, coding) != ("values", "segments"):
            request.refuse(name, f"says labels by {one.coding}", f"{coding}, as the others do", "save it as the others")
    meaning = _MEANINGS[coding](request)
    return replace(meaning, problems=tuple(request.problems))


def _one_coding(shown: Mapping[str, ShownLabels]) -> tuple[LabelCoding, dict[str, ShownLabels]]:
    """What says labels in most label maps, and label maps that only seemed to say it otherwise, such as empty ones, changed to it.

    Values count as that only if there are no others, or more of values that are nothing else.
    """
    counts = Counter(one.coding for one in shown.values())
    others = [(coding, n) for coding, n in counts.most_common() if coding != "values"]
    if not others:
        return "values", dict(shown)
    coding, count = others[0]
    channels = max(one.channels for one in shown.values() if one.coding == coding)
    changed = {name: _as_coded(one, coding, channels) for name, one in shown.items()}
    left = sum(one.coding == "values" for one in changed.values())
    return (coding, changed) if coding == "segments" or left <= count else ("values", dict(shown))


def _as_coded(shown: ShownLabels, coding: LabelCoding, channels: int) -> ShownLabels:
    """A label map of values as one of colours, of which it has only shades of grey, or of channels that are all the same."""
    if shown.coding != "values" or shown.channels != channels:
        return shown
    if coding == "colours" and all(0 <= int(value) < 256 for (value,) in shown.marks):
        marks: dict[tuple[str, ...], int] = {(f"#{int(v):02x}{int(v):02x}{int(v):02x}",): n for (v,), n in shown.marks.items()}
        return replace(shown, coding="colours", marks=marks, components={})
    if coding == "channels" and len(shown.marks) <= 2:
        every = tuple(map(str, range(channels)))
        marks = {(() if v == "0" else every): n for (v,), n in shown.marks.items()}
        return replace(shown, coding="channels", marks=marks, components={})
    return shown


_MEANINGS: dict[str, Callable[[Request], LabelMeaning]] = {
    "values": name_values,
    "segments": name_segments,
    "masks": name_masks,
    "channels": name_channels,
    "colours": name_colours,
    "instances": name_objects,
}
"""The meaning of label maps by what says in them which label a voxel has."""
