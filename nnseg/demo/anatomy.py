"""A head of ellipsoids, each painted over the ones before, in world coordinates (LPS, mm, with the head's centre at 0)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from nnseg.core.geometry import Vector, as_vector

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Ellipsoid:
    """One piece of a head, painted over the pieces before it.

    Args:
        tissue: a key of `TISSUES`.
        centre: (x, y, z) in mm.
        axes: half lengths in mm along its own (x, y, z).
        turn: its rotation about (x, y, z) in degrees.
        folds: amplitude of the folds of its surface, as a fraction of its squared radius.
        signal: brightness in each channel.
    """

    tissue: str
    centre: Vector
    axes: Vector
    turn: Vector = (0.0, 0.0, 0.0)
    folds: float = 0.0
    signal: tuple[float, float] = (0.0, 0.0)

    @property
    def volume_ml(self) -> float:
        """Volume in millilitres, without folds."""
        return float(4 / 3 * np.pi * np.prod(self.axes)) / 1000

    @property
    def rotation(self) -> Array:
        """(3, 3) matrix whose columns are its own axes in the world."""
        return np.asarray(Rotation.from_euler("xyz", self.turn, degrees=True).as_matrix())

    def level(self, points: Array) -> Array:
        """Squared distance (...) of world points (3, ...) from the centre; below 1 inside."""
        level = np.zeros(points.shape[1:])
        for own_axis, half in zip(self.rotation.T, self.axes, strict=True):
            x, y, z = own_axis / half
            along = points[0] * x
            along += points[1] * y
            along += points[2] * z
            along -= np.dot(self.centre, own_axis) / half
            level += np.square(along, out=along)
        return level + self.folds * _gyri(points) if self.folds else level

    def reach(self, direction: Vector) -> float:
        """Extent in mm from the centre along a unit vector, folds included."""
        return float(np.linalg.norm(self.rotation.T @ direction * self.axes) * np.sqrt(1 + self.folds))

    def surface(self, count: int = 200) -> Array:
        """World points (3, count) spread evenly over the surface without folds."""
        height = 1 - (2 * np.arange(count) + 1) / count
        angle = np.arange(count) * np.pi * (3 - np.sqrt(5))  # the golden angle
        ring = np.sqrt(1 - height**2)
        sphere = np.stack([ring * np.cos(angle), ring * np.sin(angle), height], axis=1)
        return np.asarray(((sphere * self.axes) @ self.rotation.T + self.centre).T)

    def touches(self, other: Ellipsoid) -> bool:
        """True if the two overlap or nearly do."""
        return bool(np.any(self.level(other.surface()) < 1.15) or np.any(other.level(self.surface()) < 1.15))


def make_head(random: np.random.Generator, *, lesions: int) -> tuple[Ellipsoid, ...]:
    """The pieces of one head, in the order they are painted; every head differs in size, shape and brightness."""
    size = random.uniform(0.94, 1.06, 3)
    tone = {tissue: np.array(signal) * random.uniform(0.93, 1.07, 2) for tissue, signal in TISSUES.items()}
    pieces = [_vary(random, piece, size=size, tone=tone[piece.tissue]) for piece in TEMPLATE]
    for _ in range(lesions):
        pieces.append(_make_lesion(random, pieces))
    return tuple(pieces)


def _vary(random: np.random.Generator, piece: Ellipsoid, *, size: Array, tone: Array) -> Ellipsoid:
    """A random variant of a piece of the template; only inner pieces deviate from the head's common size."""
    own = float(piece.tissue in INNER)
    return replace(
        piece,
        centre=as_vector(np.array(piece.centre) * size + random.normal(0, 0.6 * own, 3)),
        axes=as_vector(np.array(piece.axes) * size * (1 + 0.18 * own * random.uniform(-1, 1, 3))),
        turn=as_vector(np.array(piece.turn) + random.normal(0, 4 * own, 3)),
        signal=(float(tone[0]), float(tone[1])),
    )


def _make_lesion(random: np.random.Generator, pieces: list[Ellipsoid]) -> Ellipsoid:
    """A lesion inside the brain that touches no fissure, ventricle, nucleus or other lesion."""
    brain = next(piece for piece in pieces if piece.tissue == "grey")
    others = [piece for piece in pieces if piece.tissue in ("fissure", "ventricle", "nuclei", "lesion")]
    radius = float(np.exp(random.uniform(np.log(3.2), np.log(8.0))))
    contrast = random.uniform(0.85, 1.1)
    signal = (TISSUES["lesion"][0] / contrast, TISSUES["lesion"][1] * contrast)
    while True:
        radius *= 0.998  # so that the search ends
        lesion = Ellipsoid(
            tissue="lesion",
            centre=as_vector(np.array(brain.centre) + random.uniform(-1, 1, 3) * brain.axes),
            axes=as_vector(radius * np.exp(random.normal(0, 0.15, 3))),
            turn=as_vector(random.uniform(-90, 90, 3)),
            signal=signal,
        )
        inside = np.all(brain.level(lesion.surface()) < 0.85)
        if inside and lesion.centre[2] > -8 and not any(lesion.touches(other) for other in others):
            return lesion


def _gyri(points: Array) -> Array:
    """Folds of about 8 mm at world points (3, ...), between -1 and 1."""
    x, y, z = points
    return np.asarray(np.sin(0.85 * x + 0.3 * z) * np.sin(0.8 * y - 0.25 * x) + np.sin(0.75 * z + 0.4 * y - 0.3 * x)) / 2


def _both_sides(piece: Ellipsoid) -> tuple[Ellipsoid, Ellipsoid]:
    (x, y, z), (about_x, about_y, about_z) = piece.centre, piece.turn
    return piece, replace(piece, centre=(-x, y, z), turn=(about_x, -about_y, -about_z))


TISSUES: dict[str, tuple[float, float]] = {
    "soft": (0.50, 0.45),
    "scalp": (1.00, 0.70),
    "skull": (0.12, 0.08),
    "csf": (0.24, 0.14),
    "fissure": (0.24, 0.14),
    "ventricle": (0.24, 0.14),
    "eye": (0.26, 0.20),
    "grey": (0.62, 0.82),
    "white": (1.00, 0.62),
    "thalamus": (0.72, 0.80),
    "nuclei": (0.74, 0.80),
    "lesion": (0.58, 1.15),
}
"""Brightness of each tissue in T1 and FLAIR, white matter in T1 being 1."""

INNER = ("eye", "ventricle", "thalamus", "nuclei")
"""Tissues whose pieces vary independently."""

TEMPLATE: tuple[Ellipsoid, ...] = (
    Ellipsoid(tissue="soft", centre=(0, -22, -18), axes=(19, 15, 20)),
    Ellipsoid(tissue="soft", centre=(0, 6, -36), axes=(15, 16, 22)),
    Ellipsoid(tissue="scalp", centre=(0, 0, 0), axes=(30, 37, 33)),
    Ellipsoid(tissue="skull", centre=(0, 0, 0), axes=(27.8, 34.8, 30.8)),
    Ellipsoid(tissue="soft", centre=(0, -37, -19), axes=(3, 4, 6), turn=(-20, 0, 0)),
    *_both_sides(Ellipsoid(tissue="eye", centre=(9.5, -31, -13), axes=(4, 4, 4))),
    Ellipsoid(tissue="csf", centre=(0, 0, 0.5), axes=(25.5, 32.5, 28.5)),
    Ellipsoid(tissue="grey", centre=(0, 0, 1), axes=(25, 32, 27.8), folds=0.13),
    Ellipsoid(tissue="white", centre=(0, 0, 1), axes=(20.8, 27.8, 23.4), folds=0.3),
    Ellipsoid(tissue="fissure", centre=(0, -2, 24), axes=(0.8, 28, 16)),
    Ellipsoid(tissue="fissure", centre=(0, 16, -11), axes=(17, 14, 1.3), turn=(-14, 0, 0)),
    Ellipsoid(tissue="grey", centre=(0, 16, -18), axes=(13, 10, 6.5), folds=0.25),
    Ellipsoid(tissue="white", centre=(0, 4, -20), axes=(5, 5, 16), turn=(12, 0, 0)),
    *_both_sides(Ellipsoid(tissue="ventricle", centre=(4, -4, 6.5), axes=(2.4, 11, 3.4), turn=(8, 0, -10))),
    *_both_sides(Ellipsoid(tissue="ventricle", centre=(7.5, 10, 4.5), axes=(2.4, 8, 3.2), turn=(-14, 0, -16))),
    *_both_sides(Ellipsoid(tissue="thalamus", centre=(4.8, 7.5, -1), axes=(3.3, 4.6, 3.6))),
    *_both_sides(Ellipsoid(tissue="nuclei", centre=(12.3, -3, 0), axes=(4.6, 9.5, 6.2), turn=(0, 10, -12))),
    Ellipsoid(tissue="ventricle", centre=(0, 3, 0), axes=(0.9, 6, 4)),
)
"""The average head, outermost piece first. The thalami have the brightness of the nuclei, but are not labelled."""
