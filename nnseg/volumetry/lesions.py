"""Lesions of predicted scans, each with volume and diameters, and what becomes of them between visits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from nnseg.core.dataset import listed
from nnseg.core.errors import DatasetError
from nnseg.core.frozen import FrozenModel
from nnseg.core.geometry import Grid
from nnseg.core.image import Integers
from nnseg.core.labels import Labels
from nnseg.core.names import nearest_name
from nnseg.core.validation import NotNegative, Number

MOST_SUMMED, MOST_OF_LABEL = 5, 2
"""Lesions whose diameters are added, and those of one label among them. Source: RECIST 1.1, which asks for five, two an organ."""

ChangeKind = Literal["new", "vanished", "grown", "shrunken", "unchanged", "merged", "split", "merged and split", "out of view"]


class Lesion(FrozenModel):
    """One object of a label in one scan.

    Args:
        label: name of the label or region.
        number: among the objects of its label in the scan, from 1, the largest first.
        ml: its volume, or what stands for ml.
        longest, in_slice, perpendicular: diameters in mm, or what stands for it, as `nnseg.evaluation.diameters` measures them.
        centre: world position (x, y, z) in mm, LPS.
    """

    label: str
    number: int = Field(ge=1)
    ml: NotNegative
    longest: NotNegative
    in_slice: NotNegative
    perpendicular: NotNegative
    centre: tuple[Number, Number, Number]

    @property
    def product(self) -> float:
        """Of both diameters within the slice."""
        return self.in_slice * self.perpendicular


class LesionChange(FrozenModel):
    """What became of a lesion, or of several that have merged or split.

    Args:
        label: name of the label or region.
        kind: "grown" and "shrunken" tell the sign of the change of volume, however small; "out of view" is a lesion where the other
            scan has no voxels.
        before, after: the lesions at both visits.
    """

    label: str
    kind: ChangeKind
    before: tuple[Lesion, ...] = ()
    after: tuple[Lesion, ...] = ()

    @property
    def ml(self) -> tuple[float, float]:
        """Volume before and after."""
        return sum(one.ml for one in self.before), sum(one.ml for one in self.after)

    @property
    def in_slice(self) -> tuple[float, float]:
        """The longest diameter within a slice before and after; 0 without a lesion."""
        before, after = (max((one.in_slice for one in lesions), default=0.0) for lesions in (self.before, self.after))
        return before, after

    @property
    def percent(self) -> float | None:
        """The change of volume; None of new lesions, and of those out of view."""
        before, after = self.ml
        return 100 * (after / before - 1) if before and self.kind != "out of view" else None


class LesionChanges(FrozenModel):
    """What became of the lesions since the visit before.

    Args:
        since: name of the earlier case.
        changes: label by label.
        aligned: mm by which tissue in the middle of the scan had moved, where scans were registered.
    """

    since: str
    changes: tuple[LesionChange, ...]
    aligned: NotNegative | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class LesionMap:
    """The lesions of one label in a scan.

    Args:
        numbers: of the lesion in each voxel (Z, Y, X), 0 where there is none.
        grid: of the numbers.
        lesions: in the order of their numbers.
    """

    numbers: Integers
    grid: Grid
    lesions: tuple[Lesion, ...]


def check_labels(names: Collection[str], labels: Labels) -> None:
    """Refuse names that no label or region has.

    Raises:
        DatasetError: with the nearest name.
    """
    for name in names:
        if name not in labels.foreground:
            known = nearest_name(name, labels.foreground) or listed(labels.foreground)
            raise DatasetError(f'there is no label "{name}" to be measured; give {known}')


def sum_of_largest(lesions: Sequence[Lesion]) -> float:
    """The sum of the longest diameters within slices of the largest lesions, at most five, and at most two of a label.

    It is like the sum of RECIST 1.1, but for the least size of a lesion there, the short axis of lymph nodes, and that these would
    be the same lesions at each visit.
    """
    taken, total = Counter[str](), 0.0
    for lesion in sorted(lesions, key=lambda one: -one.in_slice):
        if taken[lesion.label] < MOST_OF_LABEL and taken.total() < MOST_SUMMED:
            taken[lesion.label] += 1
            total += lesion.in_slice
    return total
