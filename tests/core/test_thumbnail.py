"""Coarse pictures of scans."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnseg.core.thumbnail import POSES, SIDE, layout, pack, thumbnail, unpack


def ramp(shape=(16, 24, 40)):
    """Brighter towards the end of each axis, by 1, 2 and 3."""
    z, y, x = np.meshgrid(*(np.linspace(0, 1, n) for n in shape), indexing="ij")
    return z + 2 * y + 3 * x


def test_blocks_are_means_with_mean_0_and_norm_1():
    image = np.arange(16.0)[:, None, None] * np.ones((16, 8, 8))
    means = np.arange(SIDE) * 2 + 0.5
    expected = (means - means.mean()) / (np.sqrt(SIDE * SIDE) * np.linalg.norm(means - means.mean()))
    np.testing.assert_allclose(thumbnail(image)[:, 0, 0], expected)
    assert np.linalg.norm(thumbnail(image)) == pytest.approx(1.0)


@given(st.tuples(*[st.integers(1, 20)] * 3))
def test_images_of_any_shape_have_one(shape):
    assert thumbnail(np.random.default_rng(0).normal(size=shape)).shape == (SIDE,) * 3


def test_a_constant_image_is_like_none():
    flat = thumbnail(np.full((9, 9, 9), 1e6))
    assert not flat.any()
    assert layout(unpack(pack(flat)), thumbnail(ramp())) == [0.0] * (1 + len(POSES))


def test_eight_bits_change_a_correlation_by_little():
    one, other = (thumbnail(ramp() + np.random.default_rng(i).normal(size=(16, 24, 40))) for i in (0, 1))
    exact, packed = (one * other).sum(), (unpack(pack(one)) * unpack(pack(other))).sum()
    assert packed == pytest.approx(exact, abs=0.005)


def test_text_that_is_no_thumbnail_is_refused():
    for text in ("", "AAAA", "no base64!"):
        with pytest.raises(ValueError):
            unpack(text)


def test_a_mirrored_image_fits_better_in_its_mirrored_pose():
    mean = thumbnail(ramp())
    upright = layout(thumbnail(ramp()), mean)
    assert upright[0] == pytest.approx(1.0)
    assert min(upright[1:]) > 0
    for axis, pose in enumerate(("mirrored along z", "mirrored along y", "mirrored along x")):
        values = dict(zip(POSES, layout(thumbnail(np.flip(ramp(), axis)), mean)[1:], strict=True))
        assert values[pose] == pytest.approx(-upright[1 + axis])


def test_a_quarter_turn_fits_better_when_turned_back():
    cube, mean = ramp((16, 16, 16)), thumbnail(ramp((16, 16, 16)))
    values = dict(zip(POSES, layout(thumbnail(np.rot90(cube, 1, (1, 2))), mean)[1:], strict=True))
    assert values["turned in the plane of y and x"] < 0
