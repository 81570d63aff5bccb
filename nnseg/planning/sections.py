"""A plan's sections, decided one by one, each with its reasons."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from nnseg.core.fingerprint import Intensity
from nnseg.planning.augmentation import augmentation_section
from nnseg.planning.draft import Content, Draft, overruled
from nnseg.planning.network_size import Fit

SCHEMES = {"ct": "ct", "nonorm": "none", "zscore": "zscore", "rescale_to_0_1": "rescale_to_0_1", "rgb_to_0_1": "rgb_to_0_1"}
"""Normalization by the channel's name (nnU-Net's names); all other channels are standardized case by case."""

SPLINES = {0: "nearest neighbour", 1: "linear: quicker than cubic", 3: "cubic: sharper than linear"}


def patch_reason(draft: Draft) -> str:
    """Why the patch has its size."""
    fitted, constants = draft.fit, draft.rules.constants(draft.dimensions)
    shape = _by(draft.demand.shape)
    count = fitted.estimate / 1e6
    room = fitted.allowance / constants.patch_batch * constants.reference_batch / 1e6
    cost = f"{count:.3g} million feature values each; {room:.3g} million are what is affordable for {draft.rules.aim}"
    divisors = _by(fitted.topology.divisor)
    if all(p >= s for p, s in zip(draft.patch, draft.demand.shape, strict=True)):
        return f"the median scan on this grid ({shape} voxels) fits whole, rounded up to multiples of {divisors} ({cost})"
    if math.prod(draft.patch) >= math.prod(fitted.start):
        return f"the largest patch tried ({_by(fitted.start)}) fits; the median scan has {shape} voxels ({cost})"
    cut = f"cut from {_by(fitted.start)} in the proportions of the median scan ({shape} voxels)"
    return f"{cut} until {constants.patch_batch} are affordable ({cost})"


def preprocessing_section(draft: Draft) -> Content:
    """From a scan to the network's grid."""
    names, share = draft.fingerprint.channels, draft.fingerprint.relative_size_after_cropping
    masked = share < draft.rules.mask_below
    pairs = zip(names, draft.fingerprint.intensities, strict=True)
    why = dict(draft.resolution.why)
    why["normalization"] = "; ".join(_normalization_reason(name, masked, share) for name in dict.fromkeys(names))
    why["image_order"] = SPLINES[draft.rules.image_order]
    if draft.dimensions == 2 and not draft.fingerprint.is_2d:
        why["spacing"] += "; slices keep their own distance"
    if draft.kind == "3d_lowres":
        coarser = math.prod(draft.resolution.shape) / math.prod(draft.demand.shape)
        why["spacing"] = f"{coarser:.2g} times fewer voxels than the full grid, so that a patch shows more of a scan"
    return {
        "axes": draft.resolution.axes,
        "spacing": draft.demand.spacing,
        "normalization": [_normalization(name, masked, intensity) for name, intensity in pairs],
        "image_order": draft.rules.image_order,
        "separate_axis_ratio": draft.rules.anisotropy,
        "why": why,
    }


def _normalization(name: str, masked: bool, intensity: Intensity) -> Content:
    scheme = SCHEMES.get(name.casefold(), "zscore")
    if scheme != "ct":
        return {"scheme": scheme, "masked": masked and scheme == "zscore"}
    return {
        "scheme": scheme,
        "mean": intensity.mean,
        "std": intensity.std,
        "low": intensity.percentile_00_5,
        "high": intensity.percentile_99_5,
    }


def _normalization_reason(name: str, masked: bool, share: float) -> str:
    scheme = SCHEMES.get(name.casefold(), "zscore")
    if scheme == "ct":
        return f"{name} has absolute units, so all cases are scaled alike, by the foreground's mean and spread"
    if scheme != "zscore":
        return f"{name} asks for it by name"
    where = f", where it is not zero (cropping keeps only {share:.0%})" if masked else ""
    return f"{name} is not known to have absolute units, so each case is scaled by its own mean and spread{where}"


def network_section(draft: Draft) -> Content:
    """The U-Net."""
    fitted = draft.fit
    edge = draft.rules.smallest_edge
    smallest, cap = _by(fitted.topology.sizes[-1]), draft.rules.constants(draft.dimensions).features_cap
    return {
        "kind": draft.rules.network,
        "features": fitted.features,
        "strides": fitted.topology.strides,
        "kernels": fitted.topology.kernels,
        "blocks": fitted.blocks,
        "decoder_blocks": fitted.decoder_blocks,
        "why": {
            "features": f"from {fitted.features[0]} doubled at each stage, at most {cap}",
            "strides": f"an axis is halved while {edge} voxels remain, which leaves {smallest} at the coarsest stage",
            "kernels": _kernel_reason(fitted),
        },
    }


def _kernel_reason(fitted: Fit) -> str:
    if all(k == 3 for kernel in fitted.topology.kernels for k in kernel):
        return "3 along every axis, since none is twice as coarse as another"
    return "1 along an axis while it is twice as coarse as the others, 3 once pooling has made voxels nearly cubic"


def training_section(draft: Draft) -> Content:
    """How weights are learned: the recipe's settings, and the planner's decisions where it leaves them open."""
    given = draft.recipe.training.model_dump(exclude_unset=True)
    if given.get("batch_size") == 0:
        del given["batch_size"]
    given.pop("steps", None)  # see `length`
    batch_dice, batch_dice_reason = _batch_dice(draft)
    decided = {"batch_size": draft.fit.batch, "batch_dice": batch_dice}
    why = {"batch_size": _batch_reason(draft), "batch_dice": batch_dice_reason}
    augmentation = augmentation_section(draft, given.pop("augmentation", {}))
    return {**overruled({**decided, "why": why}, given), "augmentation": augmentation}


def length(draft: Draft) -> tuple[int, str]:
    """The steps of a training without a time budget, and the reason for them."""
    rules, cases, given = draft.rules, len(draft.fingerprint.cases), draft.recipe.training.steps
    if draft.budget.steps is not None:
        return draft.budget.steps, "asked for"
    if given is not None:
        return given, "the recipe says so"
    steps = min(max(rules.steps_per_case * cases, rules.fewest_steps), rules.most_steps)
    if rules.fewest_steps == rules.most_steps:
        return steps, "the recipe trains every dataset equally long"
    return steps, f"{rules.steps_per_case} for each of {cases} cases, between {rules.fewest_steps} and {rules.most_steps}"


def _batch_reason(draft: Draft) -> str:
    rules, size = draft.rules, draft.fit.batch
    return {
        "cost": f"{size} patches of this size are affordable for {rules.aim}",
        "share": f"{size} patches are {rules.dataset_share:.0%} of the dataset's voxels, the most one step may see",
        "largest": f"{size} patches are the recipe's most; more would cost time and bring little",
        "smallest": f"never fewer than {size}",
    }[draft.fit.limit]


def _batch_dice(draft: Draft) -> tuple[bool, str]:
    """nnU-Net's rule: score a batch as one volume in 2D, and in 3D where patches show so little that a coarse plan would help."""
    if draft.dimensions == 2:
        return True, "a slice shows few labels, so a batch of slices is scored as one volume"
    if draft.kind == "3d_lowres":
        return False, "a patch on the coarse grid shows enough of a scan to be scored on its own"
    if not draft.has_coarser:
        return False, f"a patch shows enough of a scan ({min(draft.share_of_scan, 1):.0%}) to be scored on its own"
    return True, f"a patch shows only {draft.share_of_scan:.1%} of a scan, so a batch is scored as one volume"


def inference_section(draft: Draft, mirror_axes: Sequence[int]) -> Content:
    """How scans are predicted: mirrored as in training, unless the recipe says otherwise."""
    reason = "those mirrored in training" if mirror_axes else "training mirrors none"
    decided = {"mirror_axes": tuple(mirror_axes), "why": {"mirror_axes": reason}}
    return overruled(decided, draft.recipe.inference.model_dump(exclude_unset=True))


def _by(values: Iterable[float]) -> str:
    return " x ".join(f"{v:g}" for v in values)
