"""`Fingerprint`: measurements of a dataset: shapes, spacings, labels, and the foreground's intensities."""

from __future__ import annotations

from math import prod
from statistics import median
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from nnseg.core.dataset import Finding
from nnseg.core.frozen import FrozenModel, digest
from nnseg.core.geometry import Shape, Vector, as_vector
from nnseg.core.labels import Labels
from nnseg.core.units import LengthUnit, in_unit, main_unit, shown_unit


class Intensity(FrozenModel):
    """Intensities of the foreground in one channel; each case has the same weight.

    Args:
        mean, std, min, max: over all foreground voxels.
        median, percentile_00_5, percentile_99_5: over a sample of them.
    """

    mean: float
    median: float
    std: float
    min: float
    max: float
    percentile_00_5: float
    percentile_99_5: float


class CaseMeasure(FrozenModel):
    """Measurements of one case.

    Args:
        name: of the case.
        key: content hash of its image and label files.
        shape: voxels of the canonical scan (z, y, x).
        spacing: mm (z, y, x).
        cropped_shape: voxels of the bounding box of all nonzero voxels.
        voxels: number per label, by name; ignored voxels are not counted.
        structures: voxels (z, y, x) of the bounding box of the largest connected component of each label that occurs, except
            the background, by name. Empty if not measured.
        annotated: names of the labels that were annotated; None for all.
        length_unit: in which the file gives lengths; "voxel" if it gives none, so that mm are voxels.
        image, label_map: digests of their voxels, whatever the files; "" if not measured.
        typical: of each channel its 1st and 99th percentile, and the foreground's median, or without a foreground that of all
            voxels; empty if not measured.
        is_test: the dataset, or the division given for it, sets it apart for testing, so that no plan depends on it.
    """

    name: str
    key: str
    shape: Shape
    spacing: Vector
    cropped_shape: Shape
    voxels: dict[str, int]
    structures: dict[str, Shape] = {}
    annotated: tuple[str, ...] | None = None
    length_unit: str = "mm"
    image: str = ""
    label_map: str = ""
    typical: tuple[tuple[float, float, float], ...] = ()
    is_test: bool = False

    @property
    def is_2d(self) -> bool:
        """True for a single slice, whatever its orientation."""
        return min(self.shape) == 1


class Fingerprint(FrozenModel):
    """Measurements of a dataset.

    Args:
        format: of this record; a file without it is older.
        dataset: its name.
        layout: of its folder, in words.
        channels: names.
        cases: usable ones, in the dataset's order.
        intensities: of the foreground, one per channel, without test cases.
        findings: all problems of the dataset, with the reason for each unusable case.
        unusable: content hash of the files of each unusable case ("" if they cannot be read), by name.
        objects: names of labels whose objects the label maps number.
    """

    format: Literal[2] = 2
    dataset: str
    layout: str
    channels: tuple[str, ...]
    labels: Labels
    cases: tuple[CaseMeasure, ...]
    intensities: tuple[Intensity, ...]
    findings: tuple[Finding, ...] = ()
    unusable: dict[str, str] = {}
    objects: tuple[str, ...] = Field(default=(), exclude_if=lambda names: not names)

    @property
    def key(self) -> str:
        """A digest of the usable cases' content in any order, of channels and of labels."""
        cases = sorted([case.name, case.key] for case in self.cases)
        return digest([cases, list(self.channels), self.labels.model_dump(mode="json")])

    @property
    def lost_cases(self) -> dict[str, str]:
        """Why each case that cannot be used cannot, by name."""
        usable = {case.name for case in self.cases}
        return {f.case: f.message for f in self.findings if f.level == "error" and f.case and f.case not in usable}

    @property
    def is_2d(self) -> bool:
        """True if the cases are single slices."""
        return all(case.is_2d for case in self.cases)

    @property
    def length_unit(self) -> LengthUnit:
        """What lengths are shown in."""
        return main_unit(shown_unit(case.length_unit, is_2d=self.is_2d) for case in self.cases)

    @property
    def has_spacing(self) -> bool:
        """True if the size of voxels is known."""
        return self.length_unit not in ("voxel", "pixel")

    @property
    def spacings_shown(self) -> list[Vector]:
        """The spacing of each case in ``length_unit``."""
        unit = self.length_unit
        return [in_unit(case.spacing, unit) for case in self.cases]

    def volumes_of(self, label: str) -> list[float]:
        """Thousands of cubed ``length_unit`` (ml for mm) of a label in each case that has it."""
        sizes = zip(self.cases, self.spacings_shown, strict=True)
        return [case.voxels[label] * prod(spacing) / 1000 for case, spacing in sizes if case.voxels.get(label)]

    @property
    def planned_for(self) -> tuple[CaseMeasure, ...]:
        """The cases that a plan depends on: all but those that are set apart for testing."""
        return tuple(case for case in self.cases if not case.is_test) or self.cases

    @property
    def spacings(self) -> npt.NDArray[np.float64]:
        """(cases, 3) mm."""
        return np.array([case.spacing for case in self.planned_for], np.float64)

    @property
    def cropped_shapes(self) -> npt.NDArray[np.float64]:
        """(cases, 3) voxels."""
        return np.array([case.cropped_shape for case in self.planned_for], np.float64)

    @property
    def relative_size_after_cropping(self) -> float:
        """Median fraction of a scan's voxels that cropping keeps."""
        return median(prod(c.cropped_shape) / prod(c.shape) for c in self.planned_for)

    @property
    def largest_structure_mm(self) -> Vector | None:
        """Extent in mm (z, y, x): along each axis the largest of all labels' median extents; None if none was measured.

        The axes may come from different labels. Along any one axis, a patch of this size contains every label's largest component
        in half of the cases with that label.
        """
        cases = self.planned_for
        extents = [[np.multiply(c.structures[n], c.spacing) for c in cases if n in c.structures] for n in self.labels.names]
        medians = [np.percentile(of_label, 50, axis=0) for of_label in extents if of_label]
        return as_vector(np.max(medians, axis=0)) if medians else None
