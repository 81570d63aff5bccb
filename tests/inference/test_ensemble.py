"""Means over members."""

import numpy as np
import pytest

from nnseg.inference.ensemble import average


def test_weighted_mean_by_hand():
    assert average([np.array([0.0]), np.array([1.0])], [1, 3]) == np.array([0.75], np.float32)
    assert average([np.array([1.0, 2.0]), np.array([3.0, 6.0])]).tolist() == [2.0, 4.0]


def test_equal_members_equal_one_exactly():
    part = np.random.default_rng(0).random((3, 4, 5, 6), np.float32)
    assert np.array_equal(average([part] * 7), part)
    assert np.array_equal(average([part] * 3, [1, 5, 2]), part)


def test_the_mean_is_numpys():
    parts = list(np.random.default_rng(1).random((5, 2, 3, 4, 5), np.float32))
    weights = [1.0, 2.0, 0.5, 3.0, 1.0]
    np.testing.assert_allclose(average(parts, weights), np.average(parts, 0, weights), rtol=1e-6)
    assert average(parts).dtype == np.float32


def test_parts_are_left_as_they_were_and_may_come_one_by_one():
    parts = [np.ones(3, np.float32), np.zeros(3, np.float32)]
    assert average(iter(parts)).tolist() == [0.5] * 3
    assert parts[0].tolist() == [1.0] * 3


def test_nothing_has_no_mean():
    with pytest.raises(ValueError, match="nothing"):
        average([])
