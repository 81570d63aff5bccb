"""`preprocess` brings a scan to the network's grid, and `restore` brings probabilities back to the scan's.

The order is nnU-Net's: crop to the nonzero voxels, permute axes, normalize, and only then resample, so that masked normalization
sees true zeros. Source: Isensee et al. 2021, supplement 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from nnseg.core.errors import ModelError, ScanError
from nnseg.core.geometry import Box, Grid, Placement, Reorientation, Vector, as_vector, format_axes
from nnseg.core.image import Floats, Integers, LabelMap, PreprocessedCase, Scan, nonzero_box
from nnseg.core.plan import Plan
from nnseg.core.registration import Registration
from nnseg.preprocessing.borders import FAR, add_borders
from nnseg.preprocessing.normalize import normalize
from nnseg.preprocessing.resample import resample_image, resample_labels, separate_axis
from nnseg.storage.images.raw import check_memory

OwnNormalizer = Callable[[Floats], Floats]


def preprocess(
    scan: Scan,
    label_map: LabelMap | None,
    plan: Plan,
    *,
    name: str = "",
    previous: LabelMap | None = None,
    objects_ZYX: Integers | None = None,
    normalizer: OwnNormalizer | None = None,
) -> PreprocessedCase:
    """The case as the network sees it: cropped, reoriented, normalized and resampled, with label indices instead of values.

    Args:
        scan: with the plan's channels, in their order.
        label_map: on the scan's grid; None for a scan to predict.
        plan: one for 2D networks does not resample across slices.
        previous: for a cascade's plan, the label map of the previous stage on the scan's grid; its label indices become the image's
            last channel.
        objects_ZYX: numbers of the objects in the label map, for a plan whose labels have borders; None for connected components.
        normalizer: replaces the plan's normalization: a function of the cropped image (C, Z, Y, X) to one of the same shape.

    Raises:
        ScanError: the scan has another number of channels, or one that fits the first nowhere near, or a label map another shape or
            undeclared values.
        ModelError: the previous stage's label map is missing, or the plan is not a cascade's.
    """
    _check(scan, plan, label_map=label_map, previous=previous)
    scan, registrations = _registered(scan, plan)
    turn = plan_orientation(scan, plan)
    if turn != Reorientation():
        scan = replace(scan, image=turn.apply(scan.image), grid=scan.grid.reoriented(turn))
    placement = _place(scan.grid, nonzero_box(scan.image), plan)
    _check_memory(scan, plan, placement)
    separate = _separate(plan, current=_scan_spacing(placement), new=placement.spacing)
    cropped = _cropped(scan.image, placement)
    image = _normalized(cropped, normalizer) if normalizer else normalize(cropped, plan.preprocessing.normalization)
    if scan.missing:
        image[list(scan.missing)] = 0.0  # as in training (`apply_channel_dropout`); "ct" makes another number of zero
    image = resample_image(image, placement.shape, order=plan.preprocessing.image_order, separate=separate)
    encoded = [None if m is None else plan.labels.encode(_cropped(turn.apply(m.labels), placement)) for m in (label_map, previous)]
    if encoded[0] is not None and plan.labels.borders:
        objects = None if objects_ZYX is None else _cropped(turn.apply(objects_ZYX), placement)
        encoded[0] = add_borders(encoded[0], objects, plan.labels, **_border(plan, placement, separate))
    labels, indices = (None if e is None else resample_labels(e, placement.shape, separate=separate) for e in encoded)
    if indices is not None:
        image = np.concatenate([image, np.maximum(indices, 0)[np.newaxis].astype(np.float32)])  # ignored voxels get index 0
    return PreprocessedCase(name=name, image=image, labels=labels, placement=placement, registrations=registrations)


def _registered(scan: Scan, plan: Plan) -> tuple[Scan, tuple[Registration, ...]]:
    if plan.preprocessing.registration == "none":
        return scan, ()
    from nnseg.preprocessing.register import register_channels  # noqa: PLC0415 (SimpleITK, which training does without)

    return register_channels(scan, plan.preprocessing.registration)


def restore(probabilities_KZYX: Floats, placement: Placement, plan: Plan) -> Floats:
    """Probabilities on the scan's grid, in the plan's orientation, float32 (K, Z, Y, X); outside the crop all is background.

    Holds everything at once; `nnseg.inference.restore` does the same block by block.

    Args:
        probabilities_KZYX: one volume for each of ``plan.labels.heads``, on the network's grid.

    Raises:
        ModelError: the probabilities do not have the shape of the plan's heads and the placement.
    """
    expected = (len(plan.labels.heads), *placement.shape)
    if probabilities_KZYX.shape != expected:
        raise ModelError(f"probabilities have shape {probabilities_KZYX.shape}, this scan and plan need {expected}; predict again")
    separate = separate_back(placement, plan)
    restored = np.zeros((len(probabilities_KZYX), *placement.scan.shape), np.float32)
    if not plan.labels.regions:
        restored[0] = 1.0
    for volume, head in zip(restored, probabilities_KZYX, strict=True):  # one at a time, to save memory
        resampled = resample_image(head[np.newaxis], placement.cropped_shape, order=1, separate=separate)
        volume[placement.crop.slices] = resampled[0].transpose(placement.back)
    return restored


def separate_back(placement: Placement, plan: Plan) -> int | None:
    """The axis of the network's grid that is resampled separately on the way back to the scan, if there is one."""
    return _separate(plan, current=placement.spacing, new=_scan_spacing(placement))


def plan_orientation(scan: Scan, plan: Plan) -> Reorientation:
    """From a canonical scan to the orientation that the plan's networks were trained in."""
    if plan.preprocessing.orientation == "stored":
        return scan.source.grid.canonical().inverse()
    return RAS if plan.preprocessing.orientation == "ras" else Reorientation()


RESAMPLED_BYTES = 12
"""For each voxel and channel of the network's grid: the image, a copy, and one axis half resampled."""

RAS = Reorientation(flips=(False, True, True))
"""From axes towards left, posterior and superior to right, anterior and superior."""


def _check(scan: Scan, plan: Plan, *, label_map: LabelMap | None, previous: LabelMap | None) -> None:
    file = scan.source.files[0].name if scan.source.files else "the scan"
    found, channels = len(scan.image), plan.channels
    if found != len(channels):
        raise ScanError(f"{file}: {found} channels, but the plan needs {len(channels)} ({', '.join(channels)}), in this order")
    if plan.previous and previous is None:
        raise ModelError(f"{file}: the {plan.name} plan needs the label map of {plan.previous}, which is missing; predict it first")
    if previous is not None and not plan.previous:
        raise ModelError(f"{file}: the {plan.name} plan takes no previous label map; leave it out, or use a cascade's plan")
    for name, given in (("label map", label_map), ("previous label map", previous)):
        if given is not None:
            _check_labels(f"{file}: the {name}", given, scan, plan)


def _check_memory(scan: Scan, plan: Plan, placement: Placement) -> None:
    """Raise ScanError if the network's grid of a scan has more voxels than fit into memory, as by a wrong spacing."""
    file = scan.source.files[0].name if scan.source.files else "the scan"
    spacing, shape = format_axes(scan.grid.spacing), format_axes(placement.shape)
    found = f"has voxels of {spacing} mm, which are {shape} of the plan's, {{:,.1f}} GB in all"
    check_memory(file, RESAMPLED_BYTES * plan.stored_channels * math.prod(placement.shape), found, "correct the spacing")


def _check_labels(name: str, label_map: LabelMap, scan: Scan, plan: Plan) -> None:
    if label_map.labels.shape != scan.image.shape[1:]:
        raise ScanError(f"{name}'s shape {label_map.labels.shape} is not the scan's {scan.image.shape[1:]}")
    undeclared = plan.labels.whole.undeclared(label_map.labels)
    if undeclared:
        raise ScanError(
            f"{name} has values {undeclared}, the plan declares {plan.labels.whole.describe()}; "
            "declare them in the dataset or correct the file"
        )


def _normalized(cropped: Floats, normalizer: OwnNormalizer) -> Floats:
    image = np.asarray(normalizer(cropped), np.float32)
    if image.shape != cropped.shape:
        raise ScanError(f"the normalizer made an image of shape {image.shape} of one of {cropped.shape}; it must keep the shape")
    return image


def _place(scan: Grid, crop: Box, plan: Plan) -> Placement:
    grid = plan.grid(crop.shape, scan.spacing)
    return Placement(scan=scan, crop=crop, axes=plan.preprocessing.axes, shape=grid.shape, spacing=grid.spacing)


def _scan_spacing(placement: Placement) -> Vector:
    """The scan's spacing in network axis order."""
    return as_vector(placement.scan.spacing[a] for a in placement.axes)


def _separate(plan: Plan, *, current: Vector, new: Vector) -> int | None:
    """The axis resampled separately; for 2D networks always the slice axis, since they see single slices."""
    return 0 if plan.dimensions == 2 else separate_axis(current, new, plan.preprocessing.separate_axis_ratio)


def _border(plan: Plan, placement: Placement, separate: int | None) -> dict[str, Any]:
    """Width of the border of objects, and the spacing of the scan in the same unit, the finest voxel edge of the network's grid."""
    unit, spacing = min(plan.preprocessing.spacing), _scan_spacing(placement)
    steps = as_vector(FAR if axis == separate else length / unit for axis, length in enumerate(spacing))
    return {"width": plan.preprocessing.border, "spacing": steps}


def _cropped(voxels: npt.NDArray[Any], placement: Placement) -> npt.NDArray[Any]:
    """The crop of (..., Z, Y, X) voxels, contiguous, in network axis order."""
    block = voxels[(..., *placement.crop.slices)]
    lead = block.ndim - 3
    return np.ascontiguousarray(block.transpose(*range(lead), *(lead + a for a in placement.axes)))
