"""Registration of the channels of a scan: each is moved onto the first one, rigidly or affinely.

The mutual information of both inside the first one's foreground is maximised by gradient descent, from strongly to weakly smoothed
images. Both begin where their headers put them. A channel is refused where the place found fits hardly better than places some mm
away, as of another part of the body.

Source: Mattes et al. 2003, doi:10.1109/TMI.2003.809072; of SimpleITK.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from nnseg.core.errors import ScanError
from nnseg.core.geometry import Vector
from nnseg.core.image import Floats, Scan
from nnseg.core.options import RegistrationKind
from nnseg.core.registration import Registration
from nnseg.preprocessing.channel_shift import classify, mutual_information

Numbers = npt.NDArray[np.float64]

WORK_MM = 2.0
"""Voxels are averaged to about this size before the search."""

SIGMAS_MM = (6.0, 3.0, 1.0)
"""Of the smoothing, one level each."""

ITERATIONS, LONGEST_STEP, SHORTEST_STEP = 150, 2.0, 0.02
"""Of the gradient descent; steps in mm."""

BINS, SHARE = 32, 0.3
"""Of the metric: classes of intensities, and share of the voxels that are sampled."""

DIGITS = 6
"""To which the result is rounded, since sums in another order differ in the last digits."""

AWAY_MM, AWAY_SHARE = 20.0, 0.25
"""Displacement along each axis with which the place found is compared, and the most of it as a share of the volume."""

LEAST_CONTRAST = 2.0
"""Mutual information in place over that of places away, below which a channel is refused."""


def register_channels(scan: Scan, kind: RegistrationKind) -> tuple[Scan, tuple[Registration, ...]]:
    """The scan with every channel moved onto the first one that it has, and how each was moved.

    Args:
        scan: a volume; pictures and scans of one channel stay as they are, and so do missing channels.
        kind: "rigid" turns and shifts, "affine" also stretches and shears; with "none" the scan stays as it is.

    Raises:
        ScanError: a channel does not fit the first one anywhere near.
    """
    there = scan.present
    if kind == "none" or len(there) < 2 or scan.source.is_2d:
        return scan, ()
    first, spacing, image, found = scan.image[there[0]], scan.grid.spacing, scan.image.copy(), []
    for number in there[1:]:
        other = scan.image[number]
        registration, transform = register_volume(first, other, spacing, kind, channel=number)
        if registration.contrast < LEAST_CONTRAST:
            raise ScanError.at(
                scan.file_of(number),
                f"channel {number + 1} does not fit the first one after registration (mutual information "
                f"{registration.after:.3f}, {registration.contrast:.2f} times that some mm away)",
                "channels of one examination",
                "check that it shows the same part of the same patient, or register it yourself",
                "NS-S040",
            )
        image[number] = _resampled(other, spacing, transform)
        found.append(registration)
    return replace(scan, image=image), tuple(found)


def register_volume(
    first: Floats, other: Floats, spacing: Vector, kind: RegistrationKind, *, channel: int = 1
) -> tuple[Registration, sitk.Transform]:
    """How a volume (Z, Y, X) is moved onto another one on the same grid, and the transform from a place in the first to one in it.

    Args:
        spacing: mm along (z, y, x).
        channel: number of the volume, for the record.
    """
    fixed, moving = (shrunk(to_image(volume, spacing), WORK_MM) for volume in (first, other))
    mask = _foreground(fixed)
    transform: sitk.Transform = sitk.Euler3DTransform()
    transform.SetCenter(fixed.TransformContinuousIndexToPhysicalPoint([(size - 1) / 2 for size in fixed.GetSize()]))
    before = _information(fixed, moving, mask, transform)
    transform = _optimize(fixed, moving, mask, transform)
    if kind == "affine":
        affine = sitk.AffineTransform(3)
        affine.SetCenter(transform.GetCenter())
        affine.SetMatrix(transform.GetMatrix())
        affine.SetTranslation(transform.GetTranslation())
        transform = _optimize(fixed, moving, mask, affine)
    after = _information(fixed, moving, mask, transform)
    away = np.mean([_information(fixed, moving, mask, displaced) for displaced in _displaced(transform, fixed)])
    matrix = np.array(transform.GetMatrix()).reshape(3, 3)[::-1, ::-1]
    registration = Registration(
        channel=channel,
        matrix=tuple(tuple(row) for row in matrix.tolist()),
        translation=transform.GetTranslation()[::-1],
        centre=transform.GetCenter()[::-1],
        rotation=_angle(matrix),
        before=before,
        after=after,
        contrast=after / max(float(away), 1e-9),
    )
    return registration, transform


def to_image(volume: Floats, spacing: Vector) -> sitk.Image:
    """A volume along its own axes, from 0 mm on."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume, np.float32))
    image.SetSpacing(spacing[::-1])
    return image


def shrunk(image: sitk.Image, to_mm: float) -> sitk.Image:
    """A volume whose voxels are averages of those that fit into a length."""
    factors = [max(1, int(to_mm / length)) for length in image.GetSpacing()]
    return sitk.BinShrink(image, [min(factor, size) for factor, size in zip(factors, image.GetSize(), strict=True)])


def _foreground(image: sitk.Image) -> sitk.Image:
    """What is brighter than Otsu's threshold, and 5 mm around it."""
    radius = [math.ceil(5.0 / length) for length in image.GetSpacing()]
    return sitk.BinaryDilate(sitk.OtsuThreshold(image, 0, 1), radius)


def _optimize(fixed: sitk.Image, moving: sitk.Image, mask: sitk.Image, start: sitk.Transform) -> sitk.Transform:
    """The transform of the kind of ``start`` with the largest mutual information near it."""
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricFixedMask(mask)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(SHARE, 1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetShrinkFactorsPerLevel([1] * len(SIGMAS_MM))
    method.SetSmoothingSigmasPerLevel(SIGMAS_MM)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=LONGEST_STEP, minStep=SHORTEST_STEP, numberOfIterations=ITERATIONS, relaxationFactor=0.6
    )
    method.SetOptimizerScalesFromPhysicalShift()
    transform = type(start)(start)
    method.SetInitialTransform(transform, inPlace=True)
    method.Execute(fixed, moving)
    transform.SetParameters([round(value, DIGITS) for value in transform.GetParameters()])
    return transform


def _information(fixed: sitk.Image, moving: sitk.Image, mask: sitk.Image, transform: sitk.Transform) -> float:
    """Mutual information inside the mask, where both have voxels."""
    least = float(sitk.GetArrayViewFromImage(moving).min()) - 1.0
    moved = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, transform, sitk.sitkLinear, least))
    inside = (sitk.GetArrayViewFromImage(mask) > 0) & (moved > least)
    if not inside.any():
        return 0.0
    return mutual_information(*(classify(values[inside]) for values in (sitk.GetArrayFromImage(fixed), moved)))


def _displaced(transform: sitk.Transform, fixed: sitk.Image) -> Iterator[sitk.Transform]:
    """The transform, moved along each axis both ways."""
    for axis, (size, length) in enumerate(zip(fixed.GetSize(), fixed.GetSpacing(), strict=True)):
        away = min(AWAY_MM, AWAY_SHARE * size * length)
        for side in (-away, away):
            moved = type(transform)(transform)
            translation = list(transform.GetTranslation())
            translation[axis] += side
            moved.SetTranslation(translation)
            yield moved


def _resampled(volume: Floats, spacing: Vector, transform: sitk.Transform) -> Floats:
    image = to_image(volume, spacing)
    moved = sitk.Resample(image, image, transform, sitk.sitkLinear, float(volume.min()))
    return np.asarray(sitk.GetArrayFromImage(moved), np.float32)


def _angle(matrix: Numbers) -> float:
    """Degrees of the rotation next to a matrix."""
    u, _, v = np.linalg.svd(matrix)
    return float(np.degrees(np.arccos(np.clip((np.trace(u @ v) - 1) / 2, -1, 1))))
