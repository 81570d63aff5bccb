"""`LabelFiles`: label maps that are more than one file, or in which a voxel's value is not the label's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

from pydantic import Field

from nnseg.core.frozen import FrozenModel

LabelCoding = Literal["values", "masks", "channels", "segments", "colours", "instances"]
"""What says which label a voxel has: its value; the file or the channel in which it is not 0; the segment that the header describes
for its value; its colour; or just that its value is not 0, values being numbers of objects."""

OBJECT: Final = "object"
"""Key of `LabelFiles.values` for instances."""

Marks = Mapping[tuple[str, ...], int]
"""Voxels of each mark of a label map; values are marks like ("3",)."""


class LabelFiles(FrozenModel):
    """The files of a label map, and how they say which label a voxel has.

    Args:
        paths: one file; of masks one for each label.
        coding: see `LabelCoding`.
        values: label value by key: of masks and channels by their number from 0 ("0", "1", ...), of segments by name, of colours by
            "#rrggbb"; of instances by "object". Empty for values.
        overlaps: label value where several overlap, by their keys joined with "+", in the order of files, channels or segments;
            elsewhere an overlap is an error.
        view: mask of the field of view; None if the whole image is annotated.
        outside: value of the voxels outside the field of view.
        objects: file with the number of the object at each voxel, of all labels that are instances; None if there is none.
    """

    paths: tuple[Path, ...]
    coding: LabelCoding = "values"
    values: Mapping[str, int] = Field(default_factory=dict)
    overlaps: Mapping[str, int] = Field(default_factory=dict)
    view: Path | None = None
    outside: int = 0
    objects: Path | None = None

    @property
    def has_numbers(self) -> bool:
        """True if objects have numbers: values of the label map, or in a file beside it."""
        return self.coding == "instances" or self.objects is not None

    def numbers(self, value: int) -> bool:
        """True if the objects of the label with this value have numbers."""
        return self.objects is not None or (self.coding == "instances" and value in self.values.values())

    def value_of(self, mark: Sequence[str]) -> int | None:
        """The label value of voxels with these keys, 0 without any; None if it is not said."""
        return (self.overlaps if len(mark) > 1 else self.values).get(join_marks(mark), None if mark else 0)


def join_marks(mark: Sequence[str]) -> str:
    """The key of `LabelFiles.overlaps` for several that overlap."""
    return "+".join(mark)


LabelSource = Path | LabelFiles
"""Where a label map is: a file whose values are the labels' values, or `LabelFiles`."""


def label_paths(source: LabelSource | None) -> tuple[Path, ...]:
    """The files of a label map; () if there is none."""
    if source is None:
        return ()
    return source.paths if isinstance(source, LabelFiles) else (source,)


def all_label_files(source: LabelSource | None) -> tuple[Path, ...]:
    """The files of a label map, of its field of view and of the numbers of its objects."""
    beside = (source.view, source.objects) if isinstance(source, LabelFiles) else ()
    return (*label_paths(source), *(path for path in beside if path))
