"""Augmentation settings of a plan, by the modality that the channels' names tell."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Literal

from nnseg.core.fingerprint import Fingerprint
from nnseg.core.labels import Pairs, label_pairs, swapped_heads
from nnseg.planning.inputs import Content, PlanInputs, apply_recipe
from nnseg.planning.spacing import AXIS_NAMES

Modality = Literal["ct", "mr", "microscopy"]

MODALITY_NAMES: Final[dict[Modality, str]] = {
    "ct": r"ct|cbct|ncct|cta",
    "mr": r"mri?|t1\w*|t2\w*|flair|adc|dwi|pdw?|swi|dce|lge|cine|bssfp",
    "microscopy": r"em|sem|tem|microscopy|histology|fluorescence|brightfield|dic|dapi|gfp|haematoxylin|hematoxylin",
}
"""Words that channels of a modality are called by; letter case does not matter."""

OTHERS: Final = r"x|xr|xray|cr|dx|us|ultrasound|pet|suv|spect|fundus|octa?|endoscopy|dermoscopy|photo\w*"
"""Words for what is none of these."""


def find_modality(fingerprint: Fingerprint, *, has_sides: bool) -> tuple[Modality | None, str]:
    """The modality of all channels, with the reason for it; None if it is not known, or not the same.

    Args:
        fingerprint: of the dataset.
        has_sides: labels know left from right, so that images show bodies and not tissue.
    """
    names = ", ".join(fingerprint.channels)
    for modality, pattern in MODALITY_NAMES.items():
        if all(_is_called(name, pattern) for name in fingerprint.channels):
            return modality, f"{names}: {MODALITY_WORDS[modality]}"
    known = "|".join([*MODALITY_NAMES.values(), OTHERS])
    if any(_is_called(name, known) for name in fingerprint.channels) or has_sides or not fingerprint.is_2d:
        return None, ""
    if bool((fingerprint.spacings == 1.0).all()):
        return "microscopy", f"single images without a size in mm ({names}): {MODALITY_WORDS['microscopy']}"
    return None, ""


MODALITY_WORDS: Final[dict[Modality, str]] = {
    "ct": "CT has absolute units, and never the other sign",
    "mr": "MR scanners have such faults",
    "microscopy": "tissue under a microscope has no upright position and no fixed shape",
}
"""Why each has a policy of its own."""


def _is_called(name: str, pattern: str) -> bool:
    return any(re.fullmatch(pattern, word) for word in re.findall(r"[^\W_]+", name.casefold()))


LEFT_RIGHT = 2
"""The axis of a scan in canonical orientation that leads from the right to the left; in a picture, its columns."""

UPRIGHT_DEGREES = 30.0
"""Up to which turns do not make left and right change places."""


def augmentation_section(inputs: PlanInputs, given: Content) -> Content:
    """Rotation and mirroring by nnU-Net's rules, a policy for the modality, and above both what the recipe says of every dataset.

    Args:
        inputs: of the plan.
        given: what the recipe says.
    """
    pairs = () if given.get("swapped_labels") == () else label_pairs(inputs.fingerprint.labels)
    modality, reason = find_modality(inputs.fingerprint, has_sides=bool(pairs))
    decided = _by_patch(inputs)
    if modality is not None and inputs.recipe.by_modality:
        policy = getattr(inputs.recipe.modality, modality).model_dump(exclude_unset=True)
        decided = {**decided, **policy, "why": {**decided["why"], **dict.fromkeys(policy, reason), **policy.get("why", {})}}
    if pairs and modality != "microscopy":
        decided = _with_sides(inputs, decided, pairs)
    return _with_quarter_turns(inputs, apply_recipe(decided, given))


def _by_patch(inputs: PlanInputs) -> Content:
    patch, axes = inputs.patch, list(range(inputs.dimensions))
    in_plane = inputs.dimensions == 3 and max(patch) / patch[0] > inputs.rules.anisotropy
    if inputs.dimensions == 2:
        square = max(patch) / min(patch) <= 1.5
        degrees, reason = (180.0, "all directions are alike in a nearly square patch") if square else (15.0, "the patch is oblong")
    elif in_plane:
        degrees, reason = 180.0, "slices are turned in their plane only, by any angle"
    else:
        degrees, reason = 30.0, "volumes are turned about each axis"
    why = {"rotation_degrees": reason, "mirror_axes": "all"}
    if in_plane:
        shape = " x ".join(f"{n:g}" for n in patch)
        why["in_plane"] = f"the patch ({shape} voxels) is over {inputs.rules.anisotropy:.3g} times longer than it is thick"
    return {"rotation_degrees": degrees, "in_plane": in_plane, "mirror_axes": axes, "why": why}


def _with_sides(inputs: PlanInputs, decided: Content, pairs: Pairs) -> Content:
    """What is decided, so that left stays left: labels swapped by flips, or no flips; and nothing turned upside down."""
    axis = inputs.resolution.axes.index(LEFT_RIGHT) - (3 - inputs.dimensions)
    if axis < 0:
        return decided  # slices from left to right, each on one side
    labels, why = inputs.fingerprint.labels, dict(decided["why"])
    named = _listed([f"{labels.names[left]} and {labels.names[right]}" for left, right in pairs])
    decided = {**decided, "why": why}
    if swapped_heads(labels, pairs) is None:
        why["mirror_axes"] = f"all but {AXIS_NAMES[LEFT_RIGHT]}: flips would swap {named}, but not all regions have a counterpart"
        return {**decided, "mirror_axes": [a for a in decided["mirror_axes"] if a != axis]}
    why["swapped_labels"] = f"flips along {AXIS_NAMES[LEFT_RIGHT]} make left right: {named}"
    why["swap_axis"] = f"axis {AXIS_NAMES[LEFT_RIGHT]} of scans leads from right to left"
    if decided["rotation_degrees"] > UPRIGHT_DEGREES and not (decided["in_plane"] and axis == 0):
        decided["rotation_degrees"] = UPRIGHT_DEGREES
        why["rotation_degrees"] = "turned further, left could not be told from right"
    return {**decided, "swapped_labels": pairs, "swap_axis": axis}


def _with_quarter_turns(inputs: PlanInputs, decided: Content) -> Content:
    """What is decided, with the axes of quarter turns if there are to be any: along which patch and voxels are equally long."""
    if not decided.get("quarter_turn_probability") or "quarter_turn_axes" in decided:
        return decided
    first = 1 if decided["in_plane"] else 0
    free = [a for a in range(first, inputs.dimensions) if a != decided.get("swap_axis")]
    axes = max(([b for b in free if _alike(inputs, a, b)] for a in free), key=len, default=[])
    if len(axes) < 2:
        why = {**decided["why"], "quarter_turn_probability": "the patch has no two axes alike"}
        return {**decided, "quarter_turn_probability": 0.0, "why": why}
    return {**decided, "quarter_turn_axes": axes, "why": {**decided["why"], "quarter_turn_axes": "the patch is alike along them"}}


def _alike(inputs: PlanInputs, a: int, b: int) -> bool:
    patch, spacing = inputs.patch, inputs.requirements.spacing
    return patch[a] == patch[b] and max(spacing[a], spacing[b]) <= 1.1 * min(spacing[a], spacing[b])


def _listed(texts: Sequence[str]) -> str:
    most = 3
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")
