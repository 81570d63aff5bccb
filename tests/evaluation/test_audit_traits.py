"""Traits of a scan: its border, and marks in its corners."""

from pathlib import Path

import numpy as np
import pytest

from nnseg.core.geometry import Grid
from nnseg.core.image import Scan, Source
from nnseg.evaluation.audit_traits import find_marks, measure_traits

GRID = Grid(shape=(10, 40, 40))


def scan_of(image) -> Scan:
    grid = Grid(shape=image.shape)
    return Scan(image=image[None].astype(np.float32), grid=grid, source=Source(files=(Path("a.nii"),), grid=grid))


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).normal(100, 10, (10, 40, 40)).astype(np.float32)


@pytest.mark.parametrize(
    ("where", "corner"),
    [
        (np.s_[:, 2:6, 34:38], "front left"),
        (np.s_[4, 34:37, 1:5], "back right"),  # of one slice
        (np.s_[1, 2:5, :], ""),  # a line through the image
        (np.s_[4:7, 15:25, 15:25], ""),  # in the middle
        (np.s_[:, :12, :12], ""),  # reaches out of the corner
        (np.s_[5, 3, 3], ""),  # a single voxel
    ],
)
def test_a_mark_is_a_compact_bright_spot_within_a_corner(image, where, corner):
    image[where] = 255
    assert (corner in set(find_marks(image))) == bool(corner)
    assert corner or not list(find_marks(image))


def test_a_bright_spot_that_fades_out_is_no_mark(image):
    y, x = np.mgrid[:40, :40]
    image += np.clip(400 - 40 * np.hypot(y - 4, x - 4), 0, 200)  # clipped, as fat near a coil
    assert list(find_marks(image)) == []


def test_an_image_without_marks_has_none(image):
    assert list(find_marks(image)) == []
    assert list(find_marks(np.zeros((3, 20, 20), np.float32))) == []
    assert list(find_marks(image[:, :4, :4])) == []


def test_a_bright_or_constant_border_is_measured(image):
    plain = measure_traits(scan_of(image))
    assert plain.border_brightness == pytest.approx(0.5, abs=0.05)
    assert plain.border_constant < 0.01
    for end in (0, -1):
        image[end] = image[:, end] = image[:, :, end] = 150
    framed = measure_traits(scan_of(image))
    assert framed.border_brightness > 0.6  # those of the border are equal, and in the middle of them
    assert framed.border_constant == 1.0


def test_traits_of_a_picture_are_measured_in_its_plane():
    traits = measure_traits(scan_of(np.random.default_rng(0).random((1, 30, 30))))
    assert traits.marks == frozenset()
    assert traits.border_constant == pytest.approx(2 / 120, abs=0.02)
    assert traits.orientation == "z+y+x+"
