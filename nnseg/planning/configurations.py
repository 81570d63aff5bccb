"""Which plans a dataset gets: 2D, 3D, 3D on a coarser grid, or several to be ensembled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nnseg.core.errors import PlanError
from nnseg.core.plan import PLAN_NAMES, PlanName
from nnseg.planning.draft import Draft
from nnseg.planning.spacing import AXIS_NAMES

FEW_SLICES = 4
"""Volumes with fewer slices than this are planned as 2D."""

THIN = 24
"""Anisotropic volumes with at most so many slices are segmented about as well in 2D as in 3D, and best by both (Isensee 2021)."""

CLEARER = 1.5
"""How much more of a structure a patch on a coarser grid must show to be worth a network."""

PREVIOUS: dict[str, PlanName] = {"3d_cascade": "3d_lowres"}
"""The plan whose answer another one is shown."""

Choice = tuple[tuple[str, str], ...]
"""Names of plans, each with the reason for it."""


def wanted(kinds: Sequence[str], drafts: Mapping[str, Draft]) -> Choice:
    """The plans to make.

    Args:
        kinds: names of plans, or "auto" or "all" alone; with a cascade comes the plan whose answer it is shown.
        drafts: of all plans that the dataset can have, by name.

    Raises:
        PlanError: a name is unknown, or this dataset cannot have the plan.
    """
    if tuple(kinds) == ("auto",):
        return suitable(drafts)
    if tuple(kinds) == ("all",):
        return tuple((kind, "asked for") for kind in drafts)
    for kind in kinds:
        if kind not in PLAN_NAMES:
            raise PlanError(f'there is no plan "{kind}"; choose auto, all, or some of {", ".join(PLAN_NAMES)}')
        if kind not in drafts:
            raise PlanError(f"{drafts['2d'].fingerprint.dataset} cannot be planned as {kind}: {_obstacle(kind, drafts)}")
    reasons: dict[str, str] = {before: f"{kind} is shown its answer" for kind, before in PREVIOUS.items() if kind in kinds}
    reasons |= dict.fromkeys(kinds, "asked for")
    return tuple((kind, reasons[kind]) for kind in PLAN_NAMES if kind in reasons)


def suitable(drafts: Mapping[str, Draft]) -> Choice:
    """The plans that suit a dataset best.

    Single images, and volumes of fewer than `FEW_SLICES` slices, are planned in 2D, all others in 3D. If a 3D patch cannot show the
    largest structure and there is a coarser grid on which it can, that grid is trained too, or instead where time is short and a
    patch shows less than half. Strongly anisotropic volumes of at most `THIN` slices get 2D and 3D, where time is not short.
    """
    flat, volume, short = drafts["2d"], drafts.get("3d"), drafts["2d"].budget.seconds is not None
    if volume is None:
        return (("2d", "the dataset consists of single images"),)
    slices, axis = flat.resolution.shape[0], AXIS_NAMES[flat.resolution.axes[0]]
    if slices < FEW_SLICES:
        return (("2d", f"scans have {slices:.3g} slices along {axis}, too few for 3D (--plans 3d to have it all the same)"),)
    seen = volume.share_of_structure
    if "3d_lowres" in drafts and seen < 1 and drafts["3d_lowres"].share_of_structure >= CLEARER * seen:
        coarse = min(drafts["3d_lowres"].share_of_structure, 1)
        why = f"a patch on the full grid shows only {seen:.0%} of the largest structure"
        if not short:
            return ("3d_lowres", f"{why}, one on a coarser grid {coarse:.0%}"), ("3d", "for the details")
        if seen < 0.5:
            return (
                ("3d_lowres", f"{why}, and time is short: one on a coarser grid shows {coarse:.0%} (--plans 3d for the full one)"),
            )
    ratio = volume.resolution.spacing[0] / max(volume.resolution.spacing[1:])
    if ratio > volume.rules.anisotropy and slices <= THIN and not short:
        why = f"{slices:.3g} slices {ratio:.2g} times thicker than voxels are wide: 2D and 3D see them about equally well"
        return ("2d", f"{why}, and best together"), ("3d", why)
    return (("3d", f"scans are volumes of {slices:.3g} slices along {axis}, so neighbouring slices help"),)


def _obstacle(kind: str, drafts: Mapping[str, Draft]) -> str:
    if "3d" not in drafts:
        return "it consists of single 2D images; ask for 2d or auto"
    share = min(drafts["3d"].share_of_scan, 1)
    return f"a patch on the full grid already shows {share:.0%} of a scan, so a coarser grid hardly shows more; ask for 3d or auto"
