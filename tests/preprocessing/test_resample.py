import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates, zoom
from skimage.transform import resize

from nnseg.preprocessing.resample import resample_image, resample_labels, separate_axis

SHAPES = [(20, 14, 9), (7, 20, 12), (10, 15, 12), (5, 7, 6)]


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return gaussian_filter(np.random.default_rng(0).normal(size=(2, 10, 15, 12)), (0, 1, 1, 1)).astype(np.float32)


@pytest.fixture(scope="module")
def labels(image) -> np.ndarray:
    return (np.digitize(image[0], [-0.05, 0.1]) - (image[1] > 0.2)).astype(np.int16)  # -1, 0, 1, 2


def skimage_resize(volume, shape, order):
    return resize(volume.astype(float), shape, order, mode="edge", clip=True, anti_aliasing=False)


def slices_then_nearest(volume, shape, axis, order):
    """nnU-Net's separate-axis rule, spelt out: each slice resized, then SciPy's nearest neighbour along the coarse axis."""
    in_plane = [n for a, n in enumerate(shape) if a != axis]
    stack = np.stack([skimage_resize(s, in_plane, order) for s in np.moveaxis(volume, axis, 0)])
    scale = stack.shape[0] / shape[axis]
    where = np.meshgrid(scale * (np.arange(shape[axis]) + 0.5) - 0.5, *map(np.arange, in_plane), indexing="ij")
    return np.moveaxis(map_coordinates(stack, where, order=0, mode="nearest"), 0, axis)


def test_nothing_is_done_or_copied_where_the_shape_stays(image, labels):
    assert resample_image(image, (10, 15, 12), order=3) is image
    assert resample_labels(labels, (10, 15, 12)) is labels


@pytest.mark.parametrize("order", [0, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_splines_equal_skimage(image, shape, order):
    result = resample_image(image, shape, order=order)
    expected = np.stack([skimage_resize(channel, shape, order) for channel in image])
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_linear_equals_scipy_and_skimage(image, shape):
    result = resample_image(image, shape, order=1)
    factors = [n / o for n, o in zip(shape, image.shape[1:], strict=True)]
    for channel, resampled in zip(image, result, strict=True):
        expected = zoom(channel.astype(float), factors, order=1, mode="nearest", grid_mode=True)
        np.testing.assert_allclose(resampled, expected, atol=1e-5)
        np.testing.assert_allclose(resampled, skimage_resize(channel, shape, 1), atol=1e-5)


def test_spline_overshoot_is_clipped_to_the_range_of_the_input():
    step = np.zeros((1, 4, 4, 12), np.float32)
    step[..., 6:] = 1.0
    result = resample_image(step, (4, 4, 30), order=3)
    assert (result.min(), result.max()) == (0.0, 1.0)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("shape", [(13, 18, 16), (4, 10, 5), (10, 20, 20), (10, 15, 7)])
def test_separate_axis_equals_slices_then_nearest_neighbour(image, shape, order, axis):
    result = resample_image(image, shape, order=order, separate=axis)
    expected = np.stack([slices_then_nearest(channel, shape, axis, order) for channel in image])
    np.testing.assert_allclose(result, expected, atol=1e-5)


@pytest.mark.parametrize(("new", "expected"), [(2, [1, 3]), (8, [0, 0, 1, 1, 2, 2, 3, 3]), (3, [0, 2, 3]), (1, [2])])
def test_slices_along_the_separate_axis_are_repeated_not_blended(new, expected):
    # of four slices: position i of n lies at 4 / n * (i + 1/2) - 1/2; halves go up
    ramp = np.broadcast_to(np.arange(4, dtype=np.float32)[:, None, None], (1, 4, 3, 3)).copy()
    assert resample_image(ramp, (new, 3, 3), order=3, separate=0)[0, :, 0, 0].tolist() == expected


@pytest.mark.parametrize("shape", SHAPES)
def test_labels_are_the_argmax_of_linear_indicators(labels, shape):
    values = np.unique(labels)
    indicators = np.stack([skimage_resize(labels == v, shape, 1) for v in values])
    first, second = np.sort(indicators, axis=0)[[-1, -2]]
    clear = first - second > 1e-6  # where two labels tie, either is right
    result = resample_labels(labels, shape)
    assert result.dtype == np.int16
    assert clear.mean() > 0.7
    assert np.array_equal(result[clear], values[indicators.argmax(0)][clear])


def test_labels_of_separate_slices_do_not_mix(labels):
    shape = (5, 18, 20)
    result = resample_labels(labels, shape, separate=0)
    whole = resample_labels(labels, (10, 18, 20), separate=0)
    assert np.array_equal(result, whole[1::2])  # 10 to 5: positions 0.5, 2.5, ... and halves go up
    alone = labels.copy()
    alone[3] = 0
    changed = (resample_labels(alone, (10, 18, 20), separate=0) != whole).any(axis=(1, 2))
    assert np.flatnonzero(changed).tolist() == [3]


def test_labels_never_become_a_value_between_two():
    row = np.tile(np.array([0, 0, 2, 2], np.int16), (4, 4, 1))
    assert set(np.unique(resample_labels(row, (7, 9, 11)))) == {0, 2}


@pytest.mark.parametrize(
    ("current", "new", "expected"),
    [
        ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), None),
        ((5.0, 1.0, 1.0), (1.0, 1.0, 1.0), 0),
        ((1.0, 1.0, 5.0), (1.0, 1.0, 1.0), 2),
        ((1.0, 1.0, 1.0), (1.0, 4.0, 1.0), 1),
        ((3.0, 1.0, 1.0), (3.0, 1.0, 1.0), None),  # exactly the ratio is not above it
        ((5.0, 5.0, 1.0), (5.0, 1.0, 1.0), None),  # two axes equally coarse, and the current spacing decides
        ((1.0, 5.0, 1.0), (5.0, 1.0, 1.0), 1),
    ],
)
def test_separate_axis_is_the_one_much_coarser_axis(current, new, expected):
    assert separate_axis(current, new, 3.0) == expected
