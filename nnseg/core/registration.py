"""`Registration`: how a channel of a scan was moved onto the first one."""

from __future__ import annotations

from pydantic import FiniteFloat

from nnseg.core.frozen import FrozenModel


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
