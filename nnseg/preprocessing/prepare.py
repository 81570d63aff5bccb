"""`prepare_scan`: steps between reading a scan and preprocessing it, chosen by name, each with a record of what it did.

None of them is learned. "n4" divides each channel by a smooth bias field. "register" moves the channels onto the first one. "mask"
keeps the brain in MRI, as a threshold and morphology find it: no skull-stripping network, and coarse at the brain's edge.
"normalize" scales a window of percentiles to 0 to 1.

Source: Tustison et al. 2010, doi:10.1109/TMI.2010.2046908, of SimpleITK ("n4"); Otsu 1979, doi:10.1109/TSMC.1979.4310076 ("mask").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from nnseg.core.errors import ScanError, coded
from nnseg.core.geometry import Grid, Vector
from nnseg.core.image import Floats, Scan
from nnseg.core.options import SKIP, PreparationStep, parse_steps
from nnseg.core.registration import StepRecord
from nnseg.preprocessing.register import register_channels, shrunk, to_image

Booleans = npt.NDArray[np.bool_]

FIELD_MM, LEVELS, ITERATIONS = 4.0, 3, 50
"""Of N4: voxels are averaged to about this size before the search; resolutions of the field, and iterations of each."""

RANGE = (1.0, 99.0)
"""Percentiles of the field in the foreground that are recorded, over its mean there."""

SMOOTHING_MM = 1.0
"""Standard deviation of the Gaussian before the mask is sought."""

SKIN, OPENING, REGROWN, CLOSING = 0.05, 0.045, 0.06, 0.06
"""Lengths of the mask, as shares of the cube root of the head's volume, so that they fit small heads: layer below the skin that is
left out; opening, which parts brain and scalp; how far the brain then grows back; closing, which fills furrows."""

SHARE, MOST_ML = (0.15, 0.75), 2500.0
"""Shares of the head between which a mask may be that of a brain, and its largest volume."""

MOST_NEGATIVE = 0.01
"""Share of voxels below 0 above which a scan is no MRI as it was acquired, but a CT or normalized."""

WINDOW = (1.0, 99.0)
"""Percentiles that become 0 and 1."""

CHANNEL_BYTES, STEP_BYTES = 8.0, 40.0
"""For each voxel: of each channel, as it was and as it becomes; and of what a step holds of one channel."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Prepared:
    """A scan between two steps.

    Args:
        mask: of the brain (Z, Y, X), once it was found.
    """

    scan: Scan
    mask: Booleans | None = None


def prepare_scan(scan: Scan, steps: str | Sequence[str], keep: Callable[[StepRecord, Scan], None] | None = None) -> Scan:
    """The scan after some steps, done in their order, with the record of each in ``preparation``.

    Args:
        scan: as `nnseg.read_scan` returns it; channels that it lacks stay zero.
        steps: names: "n4", "register", "mask", "normalize", as "n4,mask" or ["n4", "mask"]. After "mask:skip" a scan with which the
            step cannot be done goes without it, with a note.
        keep: called with each step that was done, and the scan after it.

    Raises:
        ScanError: a step cannot be done with the scan.
        NnsegError: a step is unknown.

    Example:
        >>> scan = nnseg.prepare_scan(nnseg.read_scan("T1.nii.gz"), "n4,mask,normalize")
        >>> {record.step: record.measured for record in scan.preparation}
    """
    found = _Prepared(scan=scan)
    for step in parse_steps(steps):
        name: PreparationStep = step.removesuffix(SKIP)  # type: ignore[assignment]
        try:
            found, record = STEPS[name](found)
        except ScanError as error:
            if step == name:
                raise
            record = StepRecord(step=name, status="skipped", reason=str(error))
            note = coded(f"the step {name} was skipped: {error}", "NS-S042")
            found = replace(found, scan=replace(found.scan, notes=(*found.scan.notes, note)))
        found = replace(found, scan=replace(found.scan, preparation=(*found.scan.preparation, record)))
        if keep and record.status == "done":
            keep(record, found.scan)
    return found.scan


def preparation_gb(grid: Grid, channels: int) -> float:
    """RAM in GB that steps take at most."""
    return (CHANNEL_BYTES * channels + STEP_BYTES) * math.prod(grid.shape) / 1e9


def _correct_bias(given: _Prepared) -> tuple[_Prepared, StepRecord]:
    """N4: each channel over its bias field."""
    scan = given.scan
    _check_mri(scan, "n4")
    image, measured = scan.image.copy(), dict[str, list[float]]()
    for number in scan.present:
        volume = scan.image[number]
        field, foreground = _bias_field(volume, scan, number)
        image[number] = volume / field
        low, high = np.percentile(field[foreground], RANGE) / field[foreground].mean()
        before, after = (float(values.std() / values.mean()) for values in (volume[foreground], image[number][foreground]))
        for name, value in zip(_FIELD, (low, high, before, after), strict=True):
            measured.setdefault(name, []).append(float(value))
    record = StepRecord(
        step="n4",
        method="N4 inside the foreground by Otsu's threshold",
        settings={"voxels_mm": FIELD_MM, "levels": LEVELS, "iterations": ITERATIONS, "field_percentiles": RANGE},
        measured={name: tuple(values) for name, values in measured.items()},
    )
    return replace(given, scan=replace(scan, image=image)), record


_FIELD = ("field_low", "field_high", "variation_before", "variation_after")
"""Measured by "n4": percentiles of the field over its mean, and coefficients of variation of the foreground."""


def _bias_field(volume: Floats, scan: Scan, number: int) -> tuple[Floats, Booleans]:
    """The bias field of a channel on its grid, and the foreground in which it was sought."""
    image = to_image(volume, scan.grid.spacing)
    small = shrunk(image, FIELD_MM)
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetNumberOfThreads(1)  # sums in another order would give other digits
    n4.SetMaximumNumberOfIterations([ITERATIONS] * LEVELS)
    try:
        n4.Execute(small, sitk.OtsuThreshold(small, 0, 1))
        field = np.exp(sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(image))).astype(np.float32)
    except RuntimeError as error:
        raise _refusal(scan, number, "n4", f"N4 ended with: {str(error).splitlines()[-1]}", "an image of a body") from error
    return field, sitk.GetArrayFromImage(sitk.OtsuThreshold(image, 0, 1)) > 0


def _register(given: _Prepared) -> tuple[_Prepared, StepRecord]:
    """Every channel moved onto the first one, rigidly."""
    _check_volume(given.scan, "register")
    if len(given.scan.present) < 2:
        return given, StepRecord(step="register", status="skipped", reason="the scan has one channel")
    scan, registrations = register_channels(given.scan, "rigid")
    method = "rigid, by mutual information, from where the headers put the channels"
    return replace(given, scan=scan), StepRecord(step="register", method=method, registrations=registrations)


def _mask_brain(given: _Prepared) -> tuple[_Prepared, StepRecord]:
    """All channels with zeros outside the brain, which is found in the first one."""
    scan = given.scan
    _check_mri(scan, "mask")
    first, voxel_ml = scan.present[0], float(np.prod(scan.grid.spacing)) / 1000.0
    mask, head = _find_brain(scan.image[first], scan.grid.spacing)
    volume, share = float(mask.sum()) * voxel_ml, float(mask.sum()) / max(float(head.sum()), 1.0)
    if not SHARE[0] <= share <= SHARE[1] or volume > MOST_ML:
        found = f"the part that a threshold parts from the rest has {volume:.0f} ml, {share:.0%} of what is no air"
        raise _refusal(scan, first, "mask", found, "an MRI of a whole head, with its skull")
    record = StepRecord(
        step="mask",
        method="Otsu's threshold, opening, largest part, closing, holes filled, in the first channel; not learned",
        settings={"smoothing_mm": SMOOTHING_MM, "skin": SKIN, "opening": OPENING, "regrown": REGROWN, "closing": CLOSING},
        measured={"volume_ml": (volume,), "share_of_head": (share,)},
    )
    return _Prepared(scan=replace(scan, image=scan.image * mask), mask=mask), record


def _find_brain(volume: Floats, spacing: Vector) -> tuple[Booleans, Booleans]:
    """Masks (Z, Y, X) of the brain, empty if there is none, and of the head."""
    smooth = sitk.DiscreteGaussian(to_image(volume, spacing), SMOOTHING_MM**2)
    bright = sitk.OtsuThreshold(smooth, 0, 1)
    head = _filled(bright)
    size = float(sitk.GetArrayViewFromImage(head).sum() * np.prod(spacing)) ** (1 / 3)
    inner = sitk.And(bright, _eroded(head, SKIN * size))
    parts = sitk.RelabelComponent(sitk.ConnectedComponent(_eroded(inner, OPENING * size)))
    brain = sitk.And(inner, _dilated(parts == 1, REGROWN * size))
    closed = _filled(_eroded(_dilated(brain, CLOSING * size), CLOSING * size))
    return sitk.GetArrayFromImage(closed) > 0, sitk.GetArrayFromImage(head) > 0


def _eroded(mask: sitk.Image, mm: float) -> sitk.Image:
    return _distance(mask == 0) > mm


def _dilated(mask: sitk.Image, mm: float) -> sitk.Image:
    return _distance(mask) <= mm


def _distance(mask: sitk.Image) -> sitk.Image:
    """From each voxel to the nearest one of a mask, in mm; 0 or less inside."""
    return sitk.SignedMaurerDistanceMap(mask, insideIsPositive=False, squaredDistance=False, useImageSpacing=True)


def _filled(mask: sitk.Image) -> sitk.Image:
    """A mask without holes in its slices: the lowest one cuts through what is open below."""
    filled = sitk.JoinSeries([sitk.BinaryFillhole(mask[:, :, z]) for z in range(mask.GetDepth())])
    filled.CopyInformation(mask)
    return filled


def _normalize(given: _Prepared) -> tuple[_Prepared, StepRecord]:
    """Each channel with a window of its percentiles, in the mask if there is one, scaled to 0 to 1."""
    scan, mask = given.scan, given.mask
    image, bounds = scan.image.copy(), []
    for number in scan.present:
        volume = scan.image[number]
        low, high = np.percentile(volume if mask is None else volume[mask], WINDOW)
        if not low < high:
            found = f"the percentiles {WINDOW[0]:g} and {WINDOW[1]:g} are both {low:g}"
            raise _refusal(scan, number, "normalize", found, "an image with contrast")
        image[number] = np.clip((volume - low) / (high - low), 0.0, 1.0)
        bounds.append((float(low), float(high)))
    if mask is not None:
        image *= mask
    record = StepRecord(
        step="normalize",
        method="window of percentiles, of the voxels " + ("in the mask" if mask is not None else "of the whole image"),
        settings={"percentiles": WINDOW},
        measured={name: tuple(values) for name, values in zip(("low", "high"), zip(*bounds, strict=True), strict=True)},
    )
    return replace(given, scan=replace(scan, image=image)), record


def _check_volume(scan: Scan, step: str) -> None:
    """Raise ScanError for a picture, and for a single slice."""
    if scan.source.is_2d or min(scan.grid.shape) < 2:
        raise _refusal(scan, 0, step, f"has the shape {scan.grid.shape}", "a volume of several slices")


def _check_mri(scan: Scan, step: str) -> None:
    """Raise ScanError for what cannot be an MRI as it was acquired."""
    _check_volume(scan, step)
    for number in scan.present:
        share = float((scan.image[number] < 0).mean())
        if share > MOST_NEGATIVE:
            found = f"{share:.0%} of the voxels of channel {number + 1} are below 0"
            raise _refusal(scan, number, step, found, "intensities of MRI, from 0 on")


def _refusal(scan: Scan, number: int, step: str, found: str, expected: str) -> ScanError:
    advice = f"leave the step {step} out, or write {step}{SKIP} to go on without it"
    return ScanError.at(scan.file_of(number), f"the step {step} cannot be done: {found}", expected, advice, "NS-S041")


STEPS: dict[PreparationStep, Callable[[_Prepared], tuple[_Prepared, StepRecord]]] = {
    "n4": _correct_bias,
    "register": _register,
    "mask": _mask_brain,
    "normalize": _normalize,
}
"""What does each step."""
