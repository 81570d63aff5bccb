"""`LabelFolder`: the label maps of a folder, by case, and what is known of their values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nnseg.core.label_files import LabelSource
from nnseg.core.labels import Labels

SEGMENTATION = ".dcm"
"""Of DICOM-SEG; a folder of label maps holds no other DICOM."""


@dataclass(frozen=True, kw_only=True)
class LabelFolder:
    """The label maps of a folder.

    Args:
        files: by name of the case; of `LabelFiles` that are masks ``values`` is empty.
        masks: of a case with a file for each label the names of the labels, in the order of its files.
        labels: that its record or its dataset.json names; None if neither does.
        named_by: the file that names them.
        instances: of these labels, those whose connected components are objects.
        annotated: names of the labels that were annotated, of cases where that is not all.
        predicted: nnseg predict wrote into it.
        objects: files with numbers of the objects in label maps, by name of the case.
        notes: what was chosen, and what is not used, in one line each.
    """

    path: Path
    files: Mapping[str, LabelSource]
    masks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    labels: Labels | None = None
    named_by: str = ""
    instances: tuple[str, ...] = ()
    annotated: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    predicted: bool = False
    objects: Mapping[str, Path] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
