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
    """

    paths: tuple[Path, ...]
    coding: LabelCoding = "values"
    values: Mapping[str, int] = Field(default_factory=dict)
    overlaps: Mapping[str, int] = Field(default_factory=dict)
    view: Path | None = None
    outside: int = 0

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
