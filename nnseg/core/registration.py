"""`StepRecord`: what a step before preprocessing did to a scan; `Registration`: how a channel was moved onto the first one."""

from __future__ import annotations

from typing import Literal

from pydantic import FiniteFloat

from nnseg.core.frozen import FrozenModel

Setting = str | FiniteFloat | tuple[FiniteFloat, ...]


class Registration(FrozenModel):
    """How a channel of a scan was moved onto the first one, in mm along the scan's axes (z, y, x).

    Args:
        channel: its number, from 0.
        matrix: of the affine map from a place in the first channel to that in this one, about ``centre``.
        translation: mm, of that map.
        centre: mm from the first voxel.
        rotation: degrees, of the rigid part.
        before, after: mutual information of the two channels inside the first one's foreground, in nats.
        contrast: mutual information in place over that some mm away; 1 where the place makes no difference.
    """

    channel: int
    matrix: tuple[tuple[FiniteFloat, FiniteFloat, FiniteFloat], ...]
    translation: tuple[FiniteFloat, FiniteFloat, FiniteFloat]
    centre: tuple[FiniteFloat, FiniteFloat, FiniteFloat]
    rotation: FiniteFloat
    before: FiniteFloat
    after: FiniteFloat
    contrast: FiniteFloat


class StepRecord(FrozenModel):
    """What a step of preparation did to a scan.

    Args:
        step: its name, of `nnseg.core.options.PreparationStep`.
        status: "skipped" if it could not be done, or had nothing to do.
        reason: why it was skipped; "" if it was not.
        method: how it works, and what it does not do.
        settings: what it was done with, by name.
        measured: by name a number for each channel that the scan has, or one number of the scan.
        registrations: how "register" moved the channels.
    """

    step: str
    status: Literal["done", "skipped"] = "done"
    reason: str = ""
    method: str = ""
    settings: dict[str, Setting] = {}
    measured: dict[str, tuple[FiniteFloat, ...]] = {}
    registrations: tuple[Registration, ...] = ()
