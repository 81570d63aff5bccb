"""Units of length: what files call them, and their length in mm."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from nnseg.core.geometry import Vector, as_vector

PER_MM: Final = {"pm": 1e9, "angstrom": 1e7, "nm": 1e6, "um": 1e3, "mm": 1.0}
MM_IN: Final = {"cm": 10.0, "dm": 100.0, "m": 1000.0, "inch": 25.4}
"""How many of a unit make a millimetre, and how many millimetres a unit has: whole numbers, so that conversion is exact."""

SPELLINGS: Final = {
    "um": ("µm", "μm", r"\u00b5m", "micron", "microns", "micrometer", "micrometers", "micrometre", "micrometres"),
    "nm": ("nanometer", "nanometers", "nanometre", "nanometres"),
    "pm": ("picometer", "picometre"),
    "mm": ("millimeter", "millimeters", "millimetre", "millimetres"),
    "cm": ("centimeter", "centimeters", "centimetre", "centimetres"),
    "dm": ("decimeter", "decimetre"),
    "m": ("meter", "meters", "metre", "metres"),
    "inch": ("in", "inches", "''", '"'),
    "angstrom": ("å", "angstroms", "ångström"),
}
"""Source: UnitsLength of OME 2016-06; UDUNITS-2, which OME-Zarr names; ImageJ's Calibration."""

_NAMES: Final = {name: unit for unit, names in SPELLINGS.items() for name in (unit, *names)}


def unit_of(text: object) -> str | None:
    """The unit that a file means; None for "pixel" and whatever is no unit of length."""
    return _NAMES.get(str(text).strip().lower())


def to_mm(value: float, unit: str) -> float:
    """A length in mm: ``to_mm(0.2, "um") == 0.0002``."""
    return value / PER_MM[unit] if unit in PER_MM else value * MM_IN[unit]


def from_mm(spacing: Iterable[float], unit: str) -> Vector:
    """Lengths in a unit, without the noise of the last digit."""
    return as_vector(float(f"{value * PER_MM[unit] if unit in PER_MM else value / MM_IN[unit]:.14g}") for value in spacing)
