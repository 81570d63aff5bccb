"""Channels are moved onto the first one, the same way each time, or refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from nnseg.core.errors import ScanError
from nnseg.core.geometry import Grid
from nnseg.core.image import Scan, Source
from nnseg.core.plan import Normalization
from nnseg.preprocessing.preprocess import preprocess
from nnseg.preprocessing.register import register_channels

SPACING = (4.0, 2.0, 2.0)
SHAPE = (20, 64, 56)


def head(seed: int = 0) -> np.ndarray:
    """Two channels of other contrasts of an ellipsoid with structures in it."""
    random = np.random.default_rng(seed)
    z, y, x = (np.linspace(-1.3, 1.3, n) for n in SHAPE)
    inside = (z[:, None, None] ** 2 + y[None, :, None] ** 2 + x[None, None] ** 2) < 1
    tissue = 1 + np.digitize(ndimage.gaussian_filter(random.normal(size=SHAPE), (1.5, 4, 4)), (-0.015, 0.0, 0.02))
    tissue = np.where(inside, tissue, 0)
    values = np.array([[0.0, 100.0, 60.0, 90.0, 30.0], [0.0, 30.0, 90.0, 120.0, 70.0]])[:, tissue]
    return (values + random.normal(0, 3, values.shape)).astype(np.float32)


def moved(volume: np.ndarray, shift_mm, degrees: float) -> np.ndarray:
    """A volume turned in the plane about its middle, and shifted."""
    angle, steps = np.radians(degrees), np.array(SPACING)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    matrix, middle = turn * steps / steps[:, None], (np.array(SHAPE) - 1) / 2
    return ndimage.affine_transform(volume, matrix, middle - matrix @ (middle + np.array(shift_mm) / steps), order=1)


def scan_of(image: np.ndarray) -> Scan:
    grid = Grid(shape=SHAPE, spacing=SPACING)
    return Scan(image=image.astype(np.float32), grid=grid, source=Source(files=(Path("t1.nii.gz"), Path("t2.nii.gz")), grid=grid))


@pytest.fixture(scope="module")
def apart() -> np.ndarray:
    first, second = head()
    return np.stack([first, moved(second, (4.0, -5.0, 6.0), 5.0)])


@pytest.mark.parametrize("kind", ["rigid", "affine"])
def test_a_channel_is_moved_onto_the_first_one(apart, kind):
    registered, (how,) = register_channels(scan_of(apart), kind)
    given = head()[1]
    middle = np.s_[3:-3, 8:-8, 8:-8]
    before, after = (np.abs(image[1] - given)[middle].mean() for image in (apart, registered.image))
    assert after < 0.5 * before
    np.testing.assert_array_equal(registered.image[0], apart[0])
    assert (how.channel, how.rotation) == (1, pytest.approx(5.0, abs=1.0))
    assert np.linalg.norm(how.translation) == pytest.approx(np.linalg.norm((4.0, -5.0, 6.0)), abs=1.0)
    assert how.after > how.before
    again, same = register_channels(scan_of(apart), kind)
    np.testing.assert_array_equal(again.image, registered.image)
    assert same == (how,)


def test_what_shows_something_else_is_refused():
    structures = ndimage.gaussian_filter(np.random.default_rng(1).normal(size=SHAPE), (1.5, 4, 4))
    with pytest.raises(ScanError, match=r"t2.nii.gz: channel 2 does not fit the first one after registration"):
        register_channels(scan_of(np.stack([head()[0], structures])), "rigid")


def test_one_channel_pictures_and_scans_without_registration_stay_as_they_are(apart):
    scan = scan_of(apart)
    assert register_channels(scan, "none") == (scan, ())
    alone = replace(scan, image=apart[:1])
    assert register_channels(alone, "rigid") == (alone, ())
    picture = replace(scan, source=replace(scan.source, is_2d=True))
    assert register_channels(picture, "rigid") == (picture, ())


def test_preprocessing_registers_as_the_plan_says(apart, small_plan):
    channels = {"channels": ("T1", "T2"), "normalization": (Normalization(scheme="none"),) * 2, "spacing": SPACING}
    plan, plain = (small_plan(**channels, registration=kind) for kind in ("rigid", "none"))
    registered, (how,) = register_channels(scan_of(apart), "rigid")
    case = preprocess(scan_of(apart), None, plan)
    assert case.registrations == (how,)
    np.testing.assert_array_equal(case.image, preprocess(registered, None, plain).image)
    assert (preprocess(scan_of(apart), None, plain).registrations, plan.key() != plain.key()) == ((), True)


def test_missing_channels_are_not_registered(apart):
    for lost in (0, 1):
        scan = scan_of(apart).without([lost])
        assert register_channels(scan, "rigid") == (scan, ())
