"""What the marks of a dataset's label maps mean, by what says in them which label a voxel has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from nnseg.core.dataset import Case, Finding
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
) -> LabelMeaning:
    """The meaning of what label maps show.

    Args:
        folder: of the dataset, where a legend of colours may lie.
        shown: by case, of all label maps that could be read.
        declared: labels, where a dataset.json or names of files tell them.
        instances: names of labels whose components are objects.
        problems: of further cases, whose label map could not be read.

    Raises:
        DatasetError: the label maps show no label, or cannot be understood.
    """
    by_name = {case.name: case for case in cases if case.name in shown}
    request = Request(folder=folder, cases=by_name, shown=shown, declared=declared, instances=instances, problems=[*problems])
    counts = Counter("segments" if s.coding == "values" and _has_segments(shown) else s.coding for s in shown.values())
    coding = counts.most_common(1)[0][0]
    for name, one in shown.items():
        if one.coding != coding and (one.coding, coding) != ("values", "segments"):
            request.refuse(name, f"says labels by {one.coding}", f"{coding}, as the others do", "save it as the others")
    meaning = _MEANINGS[coding](request)
    return replace(meaning, problems=tuple(request.problems))


def _has_segments(shown: Mapping[str, ShownLabels]) -> bool:
    return any(one.coding == "segments" for one in shown.values())


_MEANINGS: dict[str, Callable[[Request], LabelMeaning]] = {
    "values": name_values,
    "segments": name_segments,
    "masks": name_masks,
    "channels": name_channels,
    "colours": name_colours,
    "instances": name_objects,
}
"""The meaning of label maps by what says in them which label a voxel has."""
