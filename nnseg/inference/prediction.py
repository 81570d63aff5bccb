"""`Prediction`, what a model predicts for one scan, and `PreparedScan`, what it predicts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from nnseg.core.frozen import short_repr
from nnseg.core.image import Floats, Integers, LabelMap, PreprocessedCase, Scan
from nnseg.core.registration import Registration
from nnseg.core.trust import Confidence


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedScan:
    """A scan preprocessed for a model's networks.

    Args:
        scan: as it was read.
        cases: the preprocessed scan, by the digest of its preprocessing; those of cascade networks come after the previous stage.
        previous: the same for the networks of a cascade's previous stage.
        seconds: that each of ``cases`` took, by the same digests and by stage.
    """

    scan: Scan
    cases: Mapping[str, PreprocessedCase]
    previous: PreparedScan | None = None
    seconds: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    __repr__ = short_repr


@dataclass(frozen=True, kw_only=True, eq=False)
class NumberedObjects:
    """The objects in a label map.

    Args:
        numbers: of the objects (Z, Y, X) from 1 to n, 0 where there is none.
        counts: number of objects of each label, in the order of their numbers.
        scores: (n,), the mean probability of each object's label in it.
    """

    numbers: Integers
    counts: Mapping[str, int]
    scores: npt.NDArray[np.float64]

    __repr__ = short_repr


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """A model's prediction for one scan.

    Args:
        label_map: on the scan's canonical grid.
        probabilities: float32 (K, Z, Y, X) on the same grid, one for each of ``labels.heads``; large ones are mapped from a file.
            None unless requested.
        objects: numbers of the objects (Z, Y, X) on the same grid, 0 where there is none; None unless the networks learned
            borders of objects, or components of a label are objects.
        intensities: float64 (n, C), mean intensity of each object in each channel of the scan.
        object_scores: float64 (n,), the mean probability of each object's label in it.
        object_counts: number of objects of each label that has some, in the order of their numbers.
        interior: uint8 (Z, Y, X), the share of the interior, beside the border, in the label's probability; 255 for all of it.
        levels: uint8 (labels, Z, Y, X), the probability of each label whose objects are counted, borders first; 255 for 1.
        uncertainty: float32 (Z, Y, X) on the same grid, the probability that a voxel's label is wrong; None unless requested.
        confidence: expected quality of the whole, and whether the scan resembles the training scans; with the uncertainty.
        unlike: differences of the scan from those of the training, in spacing, size and intensities; always measured.
        sample: voxels sampled with their probabilities, if requested.
        registrations: how channels were moved onto the first one, where the plan says so.
        seconds: of "preprocess", "network" and "restore".
    """

    label_map: LabelMap
    objects: Integers | None = None
    intensities: npt.NDArray[np.float64] | None = None
    object_scores: npt.NDArray[np.float64] | None = None
    object_counts: Mapping[str, int] = field(default_factory=dict)
    interior: npt.NDArray[np.uint8] | None = None
    levels: npt.NDArray[np.uint8] | None = None
    probabilities: Floats | None = None
    uncertainty: Floats | None = None
    confidence: Confidence | None = None
    unlike: tuple[str, ...] = ()
    sample: DrawnVoxels | None = None
    registrations: tuple[Registration, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)

    __repr__ = short_repr


@dataclass(frozen=True, kw_only=True, eq=False)
class DrawnVoxels:
    """Voxels sampled from a prediction, to measure its calibration.

    Args:
        voxels: int (n, 3), indices (z, y, x).
        probabilities: float32 (n, K), before the temperature.
        weights: float64 (n,), how many voxels each stands for.
    """

    voxels: npt.NDArray[np.int64]
    probabilities: Floats
    weights: npt.NDArray[np.float64]

    __repr__ = short_repr
