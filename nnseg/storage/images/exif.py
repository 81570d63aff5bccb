"""How photos are to be turned, by EXIF data or TIFF's tag of the same number: the direction of their grid."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np

from nnseg.core.geometry import Grid, Matrix, as_matrix, as_vector
from nnseg.storage.images.raw import RawImage

ORIENTATION: Final = 274
"""Number of the tag, in EXIF data and in TIFF."""

RIGHT, DOWN = np.array([1.0, 0, 0]), np.array([0, 1.0, 0])

DIRECTIONS: Final = {
    1: (DOWN, RIGHT),
    2: (DOWN, -RIGHT),
    3: (-DOWN, -RIGHT),
    4: (-DOWN, RIGHT),
    5: (RIGHT, DOWN),
    6: (-RIGHT, DOWN),
    7: (-RIGHT, -DOWN),
    8: (RIGHT, -DOWN),
}
"""Where stored rows and columns lead on the upright picture. Source: TIFF 6.0, tag Orientation; EXIF 2.32, 4.6.4."""

IN_WORDS: Final = {
    2: "mirrored",
    3: "turned by 180 degrees",
    4: "mirrored upside down",
    5: "mirrored and turned by 90 degrees",
    6: "turned by 90 degrees",
    7: "mirrored and turned by 90 degrees",
    8: "turned by 90 degrees",
}


def orientation_of(value: Any) -> int:
    """An orientation, 1 to 8; 1, upright, for whatever else a file holds."""
    return value if isinstance(value, int) and value in DIRECTIONS else 1


def exif_note(exif: int) -> tuple[str, ...]:
    """What a user should know of a picture that is stored turned."""
    if exif == 1:
        return ()
    return (f"is stored {IN_WORDS[exif]}, as its EXIF data say (orientation {exif}); it is read upright",)


def turned(raw: RawImage, exif: int, *notes: str) -> RawImage:
    """An image with the direction that brings it upright; the upright grid is that of any picture, at the origin."""
    direction: Matrix = as_matrix((raw.grid.direction[0], *DIRECTIONS[exif]))
    grid = replace(raw.grid, direction=direction)
    return replace(raw, grid=_at_origin(grid), exif=exif, notes=(*raw.notes, *notes))


def _at_origin(grid: Grid) -> Grid:
    corner = grid.reoriented(grid.canonical()).origin
    return replace(grid, origin=as_vector(np.asarray(grid.origin) - corner + 0.0))
