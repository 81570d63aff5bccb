"""The sections of a plan, each decision with its reason."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nnseg.core.fingerprint import Intensity
from nnseg.core.geometry import format_axes
from nnseg.planning.augmentation import augmentation_section
from nnseg.planning.inputs import Content, PlanInputs, apply_recipe
from nnseg.planning.modality import normalization_of

BORDER = 2.0
"""Width in voxels of the border of objects that is learned: enough for a label that survives interpolation and augmentation."""

SPLINES = {0: "nearest neighbour", 1: "linear: faster than cubic", 3: "cubic: sharper than linear"}


def explain_patch(inputs: PlanInputs) -> str:
    """The reason for the size of the patch."""
    size, constants = inputs.size, inputs.rules.constants(inputs.dimensions)
    shape, start = format_axes(inputs.requirements.shape), format_axes(size.start)
    allowed = size.allowance / constants.patch_batch * constants.reference_batch / 1e6
    affordable = f"{allowed:.3g} million are affordable for {inputs.rules.aim}"
    cost = f"{size.estimate / 1e6:.3g} million feature values per patch; {affordable}"
    if all(p >= s for p, s in zip(inputs.patch, inputs.requirements.shape, strict=True)):
        divisors = format_axes(size.topology.divisor)
        return f"the whole median scan on this grid ({shape} voxels) fits, rounded up to multiples of {divisors} ({cost})"
    if math.prod(inputs.patch) >= math.prod(size.start):
        return f"the largest patch tried ({start}) fits; the median scan has {shape} voxels ({cost})"
    cut = f"cut from {start} in the proportions of the median scan ({shape} voxels)"
    return f"{cut} until {constants.patch_batch} are affordable ({cost})"


def preprocessing_section(inputs: PlanInputs) -> Content:
    """Grid and normalization."""
    fingerprint, rules = inputs.fingerprint, inputs.rules
    names, share = fingerprint.channels, fingerprint.relative_size_after_cropping
    masked = share < rules.mask_below
    why = dict(inputs.resolution.why)
    why["normalization"] = "; ".join(_explain_normalization(name, masked, share) for name in dict.fromkeys(names))
    why["image_order"] = SPLINES[rules.image_order]
    if inputs.dimensions == 2 and not fingerprint.is_2d:
        why["spacing"] += "; the spacing between slices is kept"
    if fingerprint.objects:
        named = " and ".join(fingerprint.objects)
        why["border"] = (
            f"label maps number each {named}: their edges are learned as labels of their own, which keeps apart what touches"
        )
    if inputs.kind == "3d_lowres":
        fewer = math.prod(inputs.resolution.shape) / math.prod(inputs.requirements.shape)
        why["spacing"] = f"{fewer:.2g} times fewer voxels than the full grid, so that a patch covers more of a scan"
    return {
        "axes": inputs.resolution.axes,
        "spacing": inputs.requirements.spacing,
        "normalization": [_normalization(name, masked, of) for name, of in zip(names, fingerprint.intensities, strict=True)],
        "image_order": rules.image_order,
        "separate_axis_ratio": rules.anisotropy,
        **({"border": BORDER} if fingerprint.objects else {}),
        "why": why,
    }


def _normalization(name: str, masked: bool, intensity: Intensity) -> Content:
    scheme = normalization_of(name)
    if scheme != "ct":
        return {"scheme": scheme, "masked": masked and scheme == "zscore"}
    low, high = intensity.percentile_00_5, intensity.percentile_99_5
    return {"scheme": scheme, "mean": intensity.mean, "std": intensity.std, "low": low, "high": high}


def _explain_normalization(name: str, masked: bool, share: float) -> str:
    scheme = normalization_of(name)
    if scheme == "ct":
        return f"{name} has absolute units, so all cases are normalized by the foreground's mean and standard deviation"
    if scheme != "zscore":
        return f"given by the channel name {name}"
    where = f", where it is not zero (cropping keeps only {share:.0%})" if masked else ""
    return f"{name} is not known to have absolute units, so each case is normalized by its own mean and standard deviation{where}"


def network_section(inputs: PlanInputs) -> Content:
    """The U-Net."""
    size, topology, rules = inputs.size, inputs.size.topology, inputs.rules
    cap = rules.constants(inputs.dimensions).features_cap
    kernels = "1 along an axis while it is twice as coarse as the others, 3 once pooling has made voxels nearly cubic"
    if all(k == 3 for kernel in topology.kernels for k in kernel):
        kernels = "3 along every axis, since none is twice as coarse as another"
    edge, smallest = rules.smallest_edge, format_axes(topology.sizes[-1])
    return {
        "kind": rules.network,
        "features": size.features,
        "strides": topology.strides,
        "kernels": topology.kernels,
        "blocks": size.blocks,
        "decoder_blocks": size.decoder_blocks,
        "dropout": rules.dropout,
        "attention_gates": rules.attention_gates,
        "why": {
            "features": f"{size.features[0]} in the first stage, doubled at each further one, at most {cap}",
            "strides": f"an axis is halved while at least {edge} voxels remain, which leaves {smallest} at the coarsest stage",
            "kernels": kernels,
        },
    }


def training_section(inputs: PlanInputs, *, short: bool = False) -> Content:
    """Training: the recipe's settings, and the planner's decisions on the others; without the number of steps."""
    given = inputs.recipe.training.model_dump(exclude_unset=True)
    if given.get("batch_size") == 0:
        del given["batch_size"]
    given.pop("steps", None)  # see `choose_steps`
    batch_dice, batch_dice_reason = _choose_batch_dice(inputs)
    why = {"batch_size": _explain_batch(inputs), "batch_dice": batch_dice_reason}
    augmentation = augmentation_section(inputs, given.pop("augmentation", {}), short=short)
    decided = apply_recipe({"batch_size": inputs.size.batch, "batch_dice": batch_dice, "why": why}, given)
    return {**decided, "augmentation": augmentation}


def steps_of_short_training(inputs: PlanInputs) -> int:
    """Steps from which on a training is no short one of the recipe's."""
    voxels = inputs.size.batch * math.prod(inputs.patch)
    return math.ceil(inputs.recipe.short.passes * inputs.requirements.voxels / voxels)


def choose_steps(inputs: PlanInputs) -> tuple[int, str]:
    """The number of steps of a training without a time budget, and the reason for it."""
    rules, cases, given = inputs.rules, len(inputs.fingerprint.cases), inputs.recipe.training.steps
    if inputs.budget.steps is not None:
        return inputs.budget.steps, "requested"
    if given is not None:
        return given, "set by the recipe"
    steps = min(max(rules.steps_per_case * cases, rules.fewest_steps), rules.most_steps)
    if rules.fewest_steps == rules.most_steps:
        return steps, "the recipe trains every dataset equally long"
    return steps, f"{rules.steps_per_case} for each of {cases} cases, between {rules.fewest_steps} and {rules.most_steps}"


def _explain_batch(inputs: PlanInputs) -> str:
    rules, batch = inputs.rules, inputs.size.batch
    return {
        "cost": f"{batch} patches of this size are affordable for {rules.aim}",
        "share": f"{batch} patches are {rules.dataset_share:.0%} of the dataset's voxels, the largest share for one step",
        "largest": f"{batch} patches are the recipe's maximum; more would cost time and gain little",
        "smallest": f"{batch} patches are the recipe's minimum",
    }[inputs.size.limit]


def _choose_batch_dice(inputs: PlanInputs) -> tuple[bool, str]:
    """Whether the Dice loss is computed over a whole batch, with the reason.

    nnU-Net's rule: in 2D, and in 3D where a patch covers so little of a scan that the dataset gets a coarser grid too.
    """
    if inputs.dimensions == 2:
        return True, "a slice contains few labels, so the loss takes a batch of slices as one volume"
    if inputs.kind == "3d_lowres":
        return False, "a patch on the coarse grid covers enough of a scan for a loss of its own"
    if not inputs.has_coarser:
        return False, f"a patch covers enough of a scan ({min(inputs.scan_coverage, 1):.0%}) for a loss of its own"
    return True, f"a patch covers only {inputs.scan_coverage:.1%} of a scan, so the loss takes a batch as one volume"


def inference_section(inputs: PlanInputs, mirror_axes: Sequence[int]) -> Content:
    """Inference: mirrored along the axes of training, unless the recipe sets others."""
    reason = "the axes mirrored in training" if mirror_axes else "training mirrors no axis"
    decided = {"mirror_axes": tuple(mirror_axes), "why": {"mirror_axes": reason}}
    return apply_recipe(decided, inputs.recipe.inference.model_dump(exclude_unset=True))
