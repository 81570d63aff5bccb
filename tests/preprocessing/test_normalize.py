import numpy as np
import pytest

from nnseg.core.errors import ScanError
from nnseg.core.plan import Normalization
from nnseg.preprocessing.normalize import NORMALIZERS, filled_mask, normalize


def one_channel(*values: float) -> np.ndarray:
    return np.array(values, np.float32).reshape(1, 1, 1, -1)


def normalized(image: np.ndarray, **numbers) -> list[float]:
    return normalize(image, (Normalization(**numbers),)).ravel().tolist()


def test_zscore_of_a_row_worked_by_hand():
    # mean 5, variance (9 + 1 + 1 + 9) / 4 = 5
    assert normalized(one_channel(2, 4, 6, 8), scheme="zscore") == pytest.approx([x / 5**0.5 for x in (-3, -1, 1, 3)])


def test_masked_zscore_takes_statistics_where_the_scan_is_not_zero_and_leaves_zero_elsewhere():
    # of 2 and 6: mean 4, std 2
    assert normalized(one_channel(0, 2, 6, 0), scheme="zscore", masked=True) == pytest.approx([0, -1, 1, 0])


def test_a_hole_inside_the_scan_belongs_to_it():
    image = np.ones((1, 3, 3, 3), np.float32)
    image[0, 1, 1, 1] = 0.0
    assert filled_mask(image).all()
    result = normalize(image, (Normalization(scheme="zscore", masked=True),))
    assert result[0, 1, 1, 1] == pytest.approx(-(26**0.5), rel=1e-5)  # mean 26/27, std sqrt(26)/27


def test_the_mask_comes_from_all_channels_and_acts_on_those_that_ask_for_it():
    image = np.concatenate([one_channel(0, 0, 2, 4), one_channel(0, 8, 0, 0)])
    schemes = (Normalization(scheme="zscore", masked=True), Normalization(scheme="zscore"))
    result = normalize(image, schemes)
    # channel 0 over voxels 1 to 3: 0, 2, 4, mean 2, variance 8/3; channel 1 over all: mean 2, variance 12
    assert result[0].ravel().tolist() == pytest.approx([0, -2 / (8 / 3) ** 0.5, 0, 2 / (8 / 3) ** 0.5])
    assert result[1].ravel().tolist() == pytest.approx([x / 12**0.5 for x in (-2, 6, -2, -2)])


def test_ct_clips_then_scales_by_the_numbers_of_the_dataset():
    numbers = {"mean": 100.0, "std": 50.0, "low": -50.0, "high": 250.0}
    assert normalized(one_channel(-1000, 0, 100, 3000), scheme="ct", **numbers) == pytest.approx([-3, -2, 0, 3])


def test_rescale_puts_least_at_0_and_greatest_at_1():
    assert normalized(one_channel(-10, 0, 30), scheme="rescale_to_0_1") == pytest.approx([0, 0.25, 1])


def test_rgb_is_divided_by_255():
    assert normalized(one_channel(0, 51, 255), scheme="rgb_to_0_1") == pytest.approx([0, 0.2, 1])


def test_rgb_of_more_than_8_bits_is_refused():
    with pytest.raises(ScanError, match="from 0 to 4095"):
        normalized(one_channel(0, 4095), scheme="rgb_to_0_1")


def test_none_leaves_values_alone():
    assert normalized(one_channel(-3, 7.5), scheme="none") == [-3, 7.5]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("value", [0.0, 0.1, 1234.567])
@pytest.mark.parametrize("scheme", ["zscore", "rescale_to_0_1"])
def test_a_constant_channel_becomes_zeros(scheme, value, masked):
    image = np.full((1, 5, 6, 7), value, np.float32)
    assert not normalize(image, (Normalization(scheme=scheme, masked=masked),)).any()


def test_ct_without_spread_gives_finite_numbers():
    assert normalized(one_channel(5, 5), scheme="ct", mean=5.0, std=0.0, low=5.0, high=5.0) == [0, 0]


@pytest.mark.parametrize("scheme", NORMALIZERS)
def test_every_scheme_gives_float32_and_leaves_its_input_alone(scheme):
    image = np.random.default_rng(0).uniform(0, 255, (1, 3, 4, 5)).astype(np.float32)
    before = image.copy()
    result = normalize(image, (Normalization(scheme=scheme, high=200.0),))
    assert result.dtype == np.float32
    assert not np.shares_memory(result, image)
    assert np.array_equal(image, before)
