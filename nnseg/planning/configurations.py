"""Which plans a dataset gets: 2D, 3D, 3D on a coarser grid, or several of them for an ensemble."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nnseg.core.errors import PlanError
from nnseg.core.network_kinds import KINDS
from nnseg.core.plan import PLAN_NAMES, PlanName
from nnseg.planning.inputs import PlanInputs
from nnseg.planning.spacing import AXIS_NAMES

FEW_SLICES = 4
"""Volumes with fewer slices than this are planned as 2D."""

THIN_SLICES = 24
"""Anisotropic volumes with at most this many slices are segmented about as well in 2D as in 3D, and best by both (Isensee 2021)."""

COVERAGE_GAIN = 1.5
"""How many times more of a structure a patch on a coarser grid must cover for a plan of its own."""

FIRST_STAGES: dict[str, PlanName] = {"3d_cascade": "3d_lowres"}
"""The first stage of a cascade, by the name of the second."""

Choice = tuple[tuple[str, str], ...]
"""Names of plans, each with the reason for it."""


def check_names(kinds: Sequence[str]) -> None:
    """Raise an error for a name that no plan has.

    Raises:
        PlanError: a name is unknown.
    """
    if tuple(kinds) not in (("auto",), ("all",)) and (unknown := [kind for kind in kinds if kind not in PLAN_NAMES]):
        raise PlanError(f'there is no plan "{unknown[0]}"; choose auto, all, or some of {", ".join(PLAN_NAMES)}')


def choose_configurations(kinds: Sequence[str], possible: Mapping[str, PlanInputs]) -> Choice:
    """The plans to make.

    Args:
        kinds: names of plans, or "auto" or "all" alone; a cascade adds its first stage.
        possible: inputs of all plans that the dataset can have, by name.

    Raises:
        PlanError: a name is unknown, or this dataset cannot have the plan.
    """
    if tuple(kinds) == ("auto",):
        return choose_suitable(possible)
    if tuple(kinds) == ("all",):
        return tuple((kind, "requested") for kind in possible)
    check_names(kinds)
    for kind in kinds:
        if kind not in possible:
            dataset = possible["2d"].fingerprint.dataset
            raise PlanError(f"{dataset} cannot be planned as {kind}: {_explain_missing(possible)}")
    reasons: dict[str, str] = {first: f"{kind} needs its prediction" for kind, first in FIRST_STAGES.items() if kind in kinds}
    reasons |= dict.fromkeys(kinds, "requested")
    return tuple((kind, reasons[kind]) for kind in PLAN_NAMES if kind in reasons)


def choose_suitable(possible: Mapping[str, PlanInputs]) -> Choice:
    """The plans that suit a dataset best.

    Single images, and volumes of fewer than `FEW_SLICES` slices, are planned in 2D, all others in 3D. If a 3D patch does not cover
    the largest structure and one on a coarser grid covers more of it, a plan on that grid is added; with a time budget it replaces
    the 3D plan, if a 3D patch covers less than half. Strongly anisotropic volumes of at most `THIN_SLICES` slices get 2D and 3D, if
    there is no time budget. A kind of network that takes 2D patches only is planned in 2D.
    """
    flat, volume, has_time_budget = possible["2d"], possible.get("3d"), possible["2d"].budget.seconds is not None
    if volume is None:
        return (("2d", "the dataset consists of single images"),)
    slices, axis = flat.resolution.shape[0], AXIS_NAMES[flat.resolution.axes[0]]
    too_few = f"scans have {slices:.3g} slices along {axis}, too few for 3D (--plans 3d plans it anyway)"
    kind = KINDS.get(flat.rules.network)
    if slices < FEW_SLICES or (kind and 3 not in kind.dimensions):
        return (("2d", too_few if slices < FEW_SLICES else f"a {flat.rules.network} network takes 2D patches"),)
    covered, coarse = volume.structure_coverage, possible.get("3d_lowres")
    if coarse is not None and covered < 1 and coarse.structure_coverage >= COVERAGE_GAIN * covered:
        share = f"{min(coarse.structure_coverage, 1):.0%}"
        why = f"a patch on the full grid covers only {covered:.0%} of the largest structure"
        if not has_time_budget:
            return ("3d_lowres", f"{why}, one on a coarser grid {share}"), ("3d", "for the details")
        if covered < 0.5:
            why = f"{why}, and time is limited: one on a coarser grid covers {share} (--plans 3d for the full grid)"
            return (("3d_lowres", why),)
    ratio = volume.resolution.spacing[0] / max(volume.resolution.spacing[1:])
    if ratio > volume.rules.anisotropy and slices <= THIN_SLICES and not has_time_budget:
        why = f"{slices:.3g} slices {ratio:.2g} times thicker than voxels are wide: 2D and 3D are about equally good"
        return ("2d", f"{why}, and best together"), ("3d", why)
    return (("3d", f"scans are volumes of {slices:.3g} slices along {axis}, so neighbouring slices help"),)


def _explain_missing(possible: Mapping[str, PlanInputs]) -> str:
    if "3d" not in possible:
        return "it consists of single 2D images; use --plans 2d or auto"
    share = min(possible["3d"].scan_coverage, 1)
    return f"a patch on the full grid already covers {share:.0%} of a scan, so a coarser grid gains little; use --plans 3d or auto"
