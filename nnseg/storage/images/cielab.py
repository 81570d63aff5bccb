"""Colours as DICOM writes them for display: CIELab in three 16-bit numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nnseg.core.colours import Colour

_XYZ = np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
"""XYZ of linear sRGB. Source: ITU-R BT.709."""

_WHITE = np.array([0.95047, 1.0, 1.08883])
"""XYZ of D65, which highdicom, dcmqi and viewers take; the standard's profile would be adapted to D50, a difference hardly seen."""

_CODE = np.array([65535 / 100, 65535 / 255, 65535 / 255])
_SHIFT = np.array([0.0, 128.0, 128.0])
"""L from 0 to 100, and a and b from -128 to 127, become 0 to 65535. Source: DICOM PS3.3, C.10.7.1.1."""

_KNEE, _SLOPE = 6 / 29, 3 * (6 / 29) ** 2


def to_cielab(colour: Colour) -> tuple[int, int, int]:
    """A colour as RecommendedDisplayCIELabValue."""
    share = np.asarray(colour) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    x, y, z = _XYZ @ linear / _WHITE
    fx, fy, fz = (t ** (1 / 3) if t > _KNEE**3 else t / _SLOPE + 4 / 29 for t in (x, y, z))
    code = (np.array([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)]) + _SHIFT) * _CODE
    first, second, third = (int(v) for v in np.clip(np.rint(code), 0, 65535))
    return first, second, third


def from_cielab(code: Sequence[int]) -> Colour:
    """The colour of a RecommendedDisplayCIELabValue; the nearest where sRGB has none."""
    light, a, b = np.asarray(code, float) / _CODE - _SHIFT
    fy = (light + 16) / 116
    share = [t**3 if t > _KNEE else _SLOPE * (t - 4 / 29) for t in (fy + a / 500, fy, fy - b / 200)]
    linear = np.clip(np.linalg.solve(_XYZ, share * _WHITE), 0, 1)
    red, green, blue = (
        int(v) for v in np.rint(255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055))
    )
    return red, green, blue
