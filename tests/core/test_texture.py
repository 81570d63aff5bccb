"""How neighbouring voxels differ."""

import numpy as np
import pytest

from nnseg.core.texture import SAMPLE, measure_texture


def test_texture_by_hand():
    ramp = np.array([0.0, 1.0, 2.0, 6.0])[:, None, None] * np.ones((4, 2, 3))
    variance = np.array([0.0, 1.0, 2.0, 6.0]).var()
    rough, seams = measure_texture(ramp)
    assert rough == pytest.approx(((1 + 1 + 16) / 3 / (2 * variance), 0.0, 0.0))
    assert seams == pytest.approx((16.0, 0.0, 0.0))


def test_noise_is_rough_and_even():
    rough, seams = measure_texture(np.random.default_rng(0).normal(size=(20, 30, 40)))
    assert rough == pytest.approx((1.0,) * 3, abs=0.05)
    assert all(1 < value < 1.3 for value in seams)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 9, 9), (5, 1, 7)])
def test_thin_and_constant_images_have_none(shape):
    assert measure_texture(np.full(shape, 7.0)) == ((0.0,) * 3, (0.0,) * 3)
    rough, _ = measure_texture(np.random.default_rng(0).normal(size=shape))
    assert [value == 0 for value in rough] == [n == 1 for n in shape]


def test_some_lines_of_a_large_image_say_the_same_as_all():
    smooth = np.random.default_rng(1).normal(size=(160, 200, 200)).cumsum(0)
    assert smooth.size > 4 * SAMPLE
    (z, y, _), _ = measure_texture(smooth)
    assert z == pytest.approx(np.square(np.diff(smooth, axis=0)).mean() / (2 * smooth.var()), rel=0.1)
    assert y == pytest.approx(np.square(np.diff(smooth, axis=1)).mean() / (2 * smooth.var()), rel=0.1)
