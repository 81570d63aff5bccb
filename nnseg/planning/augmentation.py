"""The augmentation section of a plan: nnU-Net's rules, and a policy for the modality of the channels."""

from __future__ import annotations

from typing import Final

from nnseg.core.dataset import list_some
from nnseg.core.fingerprint import Fingerprint
from nnseg.core.geometry import format_axes
from nnseg.core.labels import Pairs, find_label_pairs, swapped_heads
from nnseg.planning.inputs import Content, PlanInputs, apply_recipe
from nnseg.planning.modality import MODALITY_NAMES, Modality, has_word
from nnseg.planning.spacing import AXIS_NAMES

OTHER_NAMES: Final = r"x|xr|xray|cr|dx|us|ultrasound|pet|suv|spect|fundus|octa?|endoscopy|dermoscopy|photo\w*"
"""Words in the names of other channels."""


def find_modality(fingerprint: Fingerprint, *, has_sides: bool) -> tuple[Modality | None, str]:
    """The modality of all channels, with the reason for its policy; None if it is unknown or differs between channels.

    Args:
        fingerprint: of the dataset.
        has_sides: there are left and right labels, so that images show bodies and not tissue.
    """
    names = ", ".join(fingerprint.channels)
    for modality, pattern in MODALITY_NAMES.items():
        if all(has_word(name, pattern) for name in fingerprint.channels):
            return modality, f"{names}: {POLICY_REASONS[modality]}"
    known = "|".join([*MODALITY_NAMES.values(), OTHER_NAMES])
    if any(has_word(name, known) for name in fingerprint.channels) or has_sides or not fingerprint.is_2d:
        return None, ""
    if bool((fingerprint.spacings == 1.0).all()):
        return "microscopy", f"single images without a size in mm ({names}): {POLICY_REASONS['microscopy']}"
    return None, ""


POLICY_REASONS: Final[dict[Modality, str]] = {
    "ct": "CT has absolute units, and its contrast is never inverted",
    "mr": "such artefacts occur in MR",
    "microscopy": "tissue under a microscope has no orientation and no fixed shape",
}
"""Why each modality has a policy of its own."""


LEFT_RIGHT = 2
"""The right-left axis of a scan in canonical orientation; the columns of a 2D image."""

UPRIGHT_DEGREES = 30.0
"""Largest rotation after which left and right can still be told apart."""


def augmentation_section(inputs: PlanInputs, given: Content, *, short: bool = False) -> Content:
    """Rotation and mirroring by nnU-Net's rules, the policy for the modality, and the recipe's settings, which take precedence.

    Args:
        inputs: of the plan.
        given: settings of the recipe.
        short: the training sees the data so few times that the recipe has other settings for it.
    """
    pairs = () if given.get("swapped_labels") == () else find_label_pairs(inputs.labels)
    modality, reason = find_modality(inputs.fingerprint, has_sides=bool(pairs))
    decided = _by_patch(inputs)
    if modality is not None and inputs.recipe.by_modality:
        policy = getattr(inputs.recipe.modality, modality).model_dump(exclude_unset=True)
        decided = {**decided, **policy, "why": {**decided["why"], **dict.fromkeys(policy, reason), **policy.get("why", {})}}
    if short:
        of_short = inputs.recipe.short
        changes = of_short.augmentation.model_dump(exclude_unset=True)
        reason = f"the training sees each voxel fewer than {of_short.passes:g} times: more variety would only make it harder"
        decided = {**decided, **changes, "why": {**decided["why"], **dict.fromkeys(changes, reason)}}
    if pairs and modality != "microscopy":
        decided = _keep_sides(inputs, decided, pairs)
    return _add_quarter_turns(inputs, apply_recipe(decided, given))


def _by_patch(inputs: PlanInputs) -> Content:
    """Rotation and mirroring by the shape of the patch, as in nnU-Net."""
    patch, axes = inputs.patch, list(range(inputs.dimensions))
    in_plane = inputs.dimensions == 3 and max(patch) / patch[0] > inputs.rules.anisotropy
    if inputs.dimensions == 2 and max(patch) / min(patch) > 1.5:
        degrees, reason = 15.0, "the patch is oblong"
    elif inputs.dimensions == 2:
        degrees, reason = 180.0, "all directions are equivalent in a nearly square patch"
    elif in_plane:
        degrees, reason = 180.0, "slices are rotated in their plane only, by any angle"
    else:
        degrees, reason = 30.0, "volumes are rotated about each axis"
    why = {"rotation_degrees": reason, "mirror_axes": "all"}
    if in_plane:
        shape, ratio = format_axes(patch), inputs.rules.anisotropy
        why["in_plane"] = f"the patch ({shape} voxels) is over {ratio:.3g} times longer than it is thick"
    return {"rotation_degrees": degrees, "in_plane": in_plane, "mirror_axes": axes, "why": why}


def _keep_sides(inputs: PlanInputs, decided: Content, pairs: Pairs) -> Content:
    """The decisions changed so that left and right stay apart: flips swap the labels, or there are none; rotations are limited."""
    axis = inputs.resolution.axes.index(LEFT_RIGHT) - (3 - inputs.dimensions)
    if axis < 0:
        return decided  # sagittal slices, each on one side
    labels, why = inputs.labels, dict(decided["why"])
    named = list_some([f"{labels.names[left]} and {labels.names[right]}" for left, right in pairs])
    decided = {**decided, "why": why}
    if swapped_heads(labels, pairs) is None:
        why["mirror_axes"] = f"all but {AXIS_NAMES[LEFT_RIGHT]}: flips would swap {named}, but not all regions have a counterpart"
        return {**decided, "mirror_axes": [a for a in decided["mirror_axes"] if a != axis]}
    why["swapped_labels"] = f"flips along {AXIS_NAMES[LEFT_RIGHT]} exchange left and right: {named}"
    why["swap_axis"] = f"axis {AXIS_NAMES[LEFT_RIGHT]} of scans runs from right to left"
    if decided["rotation_degrees"] > UPRIGHT_DEGREES and not (decided["in_plane"] and axis == 0):
        decided["rotation_degrees"] = UPRIGHT_DEGREES
        why["rotation_degrees"] = "after larger rotations left and right could be confused"
    return {**decided, "swapped_labels": pairs, "swap_axis": axis}


def _add_quarter_turns(inputs: PlanInputs, decided: Content) -> Content:
    """The decisions with the axes of quarter turns, if there are any: those along which patch and voxels are equally long."""
    if not decided.get("quarter_turn_probability") or "quarter_turn_axes" in decided:
        return decided
    first = 1 if decided["in_plane"] else 0
    free = [a for a in range(first, inputs.dimensions) if a != decided.get("swap_axis")]
    axes = max(([b for b in free if _are_equal(inputs, a, b)] for a in free), key=len, default=[])
    if len(axes) < 2:
        why = {**decided["why"], "quarter_turn_probability": "no two axes of the patch are equal in voxels and spacing"}
        return {**decided, "quarter_turn_probability": 0.0, "why": why}
    why = {**decided["why"], "quarter_turn_axes": "the patch is equal in voxels and spacing along them"}
    return {**decided, "quarter_turn_axes": axes, "why": why}


def _are_equal(inputs: PlanInputs, a: int, b: int) -> bool:
    """True if a patch has as many voxels along two axes, with a spacing that differs by at most 10 %."""
    patch, spacing = inputs.patch, inputs.requirements.spacing
    return patch[a] == patch[b] and max(spacing[a], spacing[b]) <= 1.1 * min(spacing[a], spacing[b])
