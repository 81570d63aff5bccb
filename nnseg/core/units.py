"""Units in which lengths and volumes are shown: mm and ml, smaller ones of microscopy, and voxels where no size is known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Literal

LengthUnit = Literal["mm", "um", "nm", "voxel", "pixel"]
"""What lengths are shown in. A voxel, and the pixel of a picture, has a length of 1."""

_NAMES: dict[LengthUnit, tuple[str, str]] = {
    "mm": ("mm", "ml"),
    "um": ("um", "1000 um³"),
    "nm": ("nm", "1000 nm³"),
    "voxel": ("voxels", "1000 voxels"),
    "pixel": ("pixels", "1000 pixels"),
}

_PER_MM: dict[LengthUnit, float] = {"um": 1e3, "nm": 1e6}


def length_name(unit: LengthUnit) -> str:
    """What lengths are counted in: "mm", "voxels"."""
    return _NAMES[unit][0]


def volume_name(unit: LengthUnit) -> str:
    """What volumes are counted in, a thousand of the cube of the length: "ml", "1000 voxels"."""
    return _NAMES[unit][1]


def length_in(unit: LengthUnit, mm: float) -> float:
    """A length in a unit, without the noise of the last digit."""
    return float(f"{mm * _PER_MM[unit]:.14g}") if unit in _PER_MM else mm


def in_unit(lengths_mm: tuple[float, float, float], unit: LengthUnit) -> tuple[float, float, float]:
    """Lengths (z, y, x) in a unit."""
    z, y, x = (length_in(unit, length) for length in lengths_mm)
    return z, y, x


def shown_unit(stated: str, *, is_2d: bool) -> LengthUnit:
    """What lengths are shown in: a file's own unit if it is a small one, pixels or voxels if it states none ("voxel"), else mm."""
    small: dict[str, LengthUnit] = {"um": "um", "nm": "nm"}
    return small.get(stated, "mm") if stated != "voxel" else "pixel" if is_2d else "voxel"


def common_unit(units: Iterable[LengthUnit]) -> LengthUnit:
    """The unit of several cases; mm if it is not the same for all."""
    found = set(units)
    return found.pop() if len(found) == 1 else "mm"


def main_unit(units: Iterable[LengthUnit]) -> LengthUnit:
    """The unit that most of several cases state, the larger of equally many; mm if some cases state none and others do."""
    counts = Counter(units)
    if len(counts) > 1 and {"voxel", "pixel"} & counts.keys():
        return "mm"
    return max(_NAMES, key=lambda unit: counts[unit]) if counts else "mm"
