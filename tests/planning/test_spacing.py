"""Expected values are worked by hand from the rules in Isensee 2021."""

import numpy as np
import pytest

from nnseg.planning.spacing import choose_resolution


def test_median_spacing_is_taken_axis_by_axis():
    spacings = np.array([[1.0, 0.5, 0.5], [2.0, 0.6, 0.7], [3.0, 0.9, 0.8]])
    resolution = choose_resolution(spacings, np.full((3, 3), 100.0))
    assert resolution.spacing == (2.0, 0.6, 0.7)


def test_coarsest_axis_comes_first_and_the_others_keep_their_order():
    resolution = choose_resolution(np.array([[0.5, 0.7, 2.0]]), np.array([[300.0, 200.0, 90.0]]))
    assert resolution.axes == (2, 0, 1)
    assert resolution.why["axes"] == "axis x is the coarsest (2 mm), so it comes first"
    assert resolution.spacing == (2.0, 0.5, 0.7)
    assert resolution.shape == (90.0, 300.0, 200.0)


def test_few_thick_slices_take_the_10th_percentile():
    thickness = np.arange(4.0, 15.0)  # 4, 5, ..., 14: the 10th percentile is 5
    spacings = np.stack([thickness, np.ones(11), np.ones(11)], axis=1)
    resolution = choose_resolution(spacings, np.tile([20.0, 200.0, 200.0], (11, 1)))
    assert resolution.spacing == (5.0, 1.0, 1.0)
    assert "axis z is 9 times coarser than the others (9 against 1 mm): the 10th percentile" in resolution.why["spacing"]
    small = choose_resolution(spacings / 1000, np.tile([20.0, 200.0, 200.0], (11, 1)), unit="um")
    assert "(9 against 1 um): the 10th percentile of its spacing (5 um)" in small.why["spacing"]


def test_10th_percentile_is_never_finer_than_the_other_axes():
    thickness = np.array([0.5, 0.5, 4.0, 4.0, 4.0])
    spacings = np.stack([thickness, np.ones(5), np.ones(5)], axis=1)
    resolution = choose_resolution(spacings, np.tile([20.0, 200.0, 200.0], (5, 1)))
    assert resolution.spacing == pytest.approx((1.00001, 1.0, 1.0), abs=1e-9)


def test_many_thick_slices_are_not_strongly_anisotropic():
    spacings = np.stack([np.arange(4.0, 15.0), np.ones(11), np.ones(11)], axis=1)
    resolution = choose_resolution(spacings, np.tile([80.0, 200.0, 200.0], (11, 1)))
    assert resolution.spacing == (9.0, 1.0, 1.0)


@pytest.mark.parametrize(("coarse", "fine"), [(0.9, 0.3), (3.6, 1.2), (7.2, 2.4)])
def test_exactly_three_times_coarser_is_treated_as_in_nnunet(coarse: float, fine: float):
    # In floating point 3 * 1.2 is a little less than 3.6 (and 3.6 / 1.2 is 3): nnU-Net multiplies.
    spacings = np.array([[coarse, fine, fine]] * 9 + [[2 * fine, fine, fine]] * 2)
    assert choose_resolution(spacings, np.tile([20.0, 200.0, 200.0], (11, 1))).spacing == (2 * fine, fine, fine)


def test_median_of_an_even_number_of_cases_is_nnunets_to_the_last_digit():
    spacings = np.array([[0.43] * 3, [2.21] * 3])
    assert choose_resolution(spacings, np.full((2, 3), 100.0)).spacing == (1.3199999999999998,) * 3  # np.median gives 1.32


def test_median_shape_is_that_of_resampled_cases_rounded_half_to_even():
    spacings = np.array([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [0.5, 1.0, 2.0]])
    shapes = np.array([[10.0, 10.0, 10.0], [12.0, 12.0, 12.0], [21.0, 11.0, 9.0]])  # third becomes 10 (10.5), 11, 18
    assert choose_resolution(spacings, shapes).shape == (10.0, 11.0, 12.0)


def test_single_voxel_axis_comes_first_even_if_another_is_coarser():
    resolution = choose_resolution(np.array([[2.0, 1.0, 2.5]]), np.array([[256.0, 1.0, 256.0]]))
    assert resolution.axes == (1, 0, 2)
    assert "axis y has a single voxel" in resolution.why["axes"]
