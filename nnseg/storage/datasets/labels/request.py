"""What is known of label maps before their labels are named, and what is found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import numpy as np
from scipy import ndimage

from nnseg.core.dataset import Case, Finding, counted
from nnseg.core.errors import DatasetError
from nnseg.core.geometry import TOUCHING
from nnseg.core.image import Integers
from nnseg.core.label_files import LabelCoding, LabelSource, Marks, label_paths
from nnseg.core.labels import Labels
from nnseg.storage.images.label_codings import MarkedMap, count_values
from nnseg.storage.images.raw import LabelSegment

FEWEST_OBJECTS = 8
"""Connected components are counted in label maps of at least so many values."""

BLACK = "#000000"
"""Mostly the background's colour."""

MOST_NAMED = 5
"""Labels named in a message."""

MOST_OVERLAP = 20
"""Boxes of all values together may have so many times the voxels of the image, or their components are not counted."""


@dataclass(frozen=True, kw_only=True)
class ShownLabels:
    """What a label map shows, before its marks have names.

    Args:
        channels: of the file.
        components: connected components of each value; empty if they were not counted.
    """

    coding: LabelCoding
    marks: Marks
    segments: tuple[LabelSegment, ...] = ()
    channels: int = 1
    components: Mapping[tuple[str, ...], int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class LabelMeaning:
    """The labels of a dataset, and what says in each label map which label a voxel has.

    Args:
        sources: of each case.
        problems: of cases whose label map cannot be used.
        inferred: what was concluded, in one line each.
    """

    labels: Labels
    sources: Mapping[str, LabelSource]
    instances: tuple[str, ...] = ()
    problems: tuple[Finding, ...] = ()
    findings: tuple[Finding, ...] = ()
    inferred: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be named: the cases whose label map could be read, and what is known of the dataset."""

    folder: Path
    cases: Mapping[str, Case]
    shown: Mapping[str, ShownLabels]
    declared: Labels | None
    instances: tuple[str, ...]
    problems: list[Finding]
    auto_labels: bool = False

    def path(self, name: str) -> Path:
        """The label map of a case, or the first of its files."""
        return label_paths(self.cases[name].labels)[0]

    def refuse(self, name: str, found: str, expected: str, advice: str, code: str = "NS-L004") -> None:
        """Exclude a case."""
        path = self.path(name)
        self.problems.append(Finding.of(code, f"{path} {found}; expected {expected}; {advice}", case=name, file=path))

    def usable(self) -> dict[str, ShownLabels]:
        """What is shown by cases that are not excluded."""
        lost = {finding.case for finding in self.problems}
        return {name: shown for name, shown in self.shown.items() if name not in lost}

    def legend_folders(self) -> list[Path]:
        """Where a legend of colours may lie: in the dataset's folder, beside label maps, or above these."""
        folders = sorted({self.path(name).parent for name in self.shown})
        return [self.folder, *folders[:4], *(folder.parent for folder in folders[:1])]

    def plain(self) -> dict[str, LabelSource]:
        """The label maps as they are."""
        return {name: source for name in self.usable() if (source := self.cases[name].labels) is not None}


def full_value(marks: Iterable[tuple[str, ...]]) -> int | None:
    """The value of a mask of 0 and the highest number of 8 or 16 bits, by the values of its voxels; None if it is none."""
    values = {int(value) for (value,) in marks if value != "0"}
    return max(values) if len(values) == 1 and values <= {255, 65535} else None


def show_labels(marked: MarkedMap) -> ShownLabels:
    """What a marked map shows."""
    counts = count_values(marked.codes)
    marks = {(marked.marks[code] if marked.marks else (str(code),)): n for code, n in counts.items()}
    values = [value for value in counts if value > 0] if marked.coding == "values" else []
    components = _count_components(marked.codes, values) if len(values) >= FEWEST_OBJECTS else {}
    return ShownLabels(coding=marked.coding, marks=marks, segments=marked.segments, channels=marked.channels, components=components)


def _count_components(labels_ZYX: Integers, values: Sequence[int]) -> dict[tuple[str, ...], int]:
    """Connected components of each value; {} where the values lie all over the image, as intensities do."""
    codes = np.searchsorted(np.array([0, *values]), np.maximum(labels_ZYX, 0)).astype(np.int32)
    boxes = ndimage.find_objects(codes)
    sizes = [prod(side.stop - side.start for side in box) for box in boxes if box is not None]
    if sum(sizes) > MOST_OVERLAP * labels_ZYX.size:
        return {}
    parts = [ndimage.label(codes[box] == code, TOUCHING)[1] for code, box in enumerate(boxes, 1) if box is not None]
    return {(str(value),): int(n) for value, n in zip(values, parts, strict=True)}


SWAPPED = "check that these are the label maps, not scans: --images and --labels say which is which"


def no_label(folder: Path, problems: Sequence[Finding], *, empty: bool = True) -> DatasetError:
    """The error of a dataset whose label maps show no label.

    Args:
        empty: some of them can be read.
    """
    first = f"; the first: {problems[0]}" if problems else ""
    if not empty:
        swapped = f"; {SWAPPED}" if problems and "whole numbers" in problems[0].message else ""
        return DatasetError(f"{folder}: none of {counted(len(problems), 'label map')} can be read{first}{swapped}")
    others = f"; {len(problems)} cannot be read{first}" if problems else ""
    found_text = f"shows no label: no label map that can be read has a value other than 0{others}"
    return DatasetError.at(folder, found_text, "label maps with values", SWAPPED, "NS-D016")
