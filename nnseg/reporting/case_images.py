"""`CaseImages`: what is drawn of a case."""

from __future__ import annotations

from dataclasses import dataclass

from nnseg.core.geometry import Grid
from nnseg.core.image import Floats, Integers
from nnseg.core.labels import Labels


@dataclass(frozen=True, kw_only=True, eq=False)
class CaseImages:
    """Scan and label maps of a case, on one grid in canonical orientation.

    Args:
        name: of the case.
        caption: why it is shown, and its score.
        image: float32 (C, Z, Y, X), the scan; the viewer takes three channels of one slice for colours.
        grid: of the voxels.
        prediction: (Z, Y, X), stored values.
        labels: what the values mean.
        reference: (Z, Y, X), stored values, where there is one.
        uncertainty: (Z, Y, X), the estimated chance that the label is wrong, where it is known.
        channels: their names.
        notes: shown beside the case.
    """

    name: str
    caption: str
    image: Floats
    grid: Grid
    prediction: Integers
    labels: Labels
    reference: Integers | None = None
    uncertainty: Floats | None = None
    channels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
