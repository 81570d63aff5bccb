import math
from collections.abc import Iterator

import numpy as np
import pytest
import surface_distance as deepmind
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from nnseg.evaluation.surface import surface_distances

CORNER = math.sqrt(3) / 8
"""Area of the element at a corner of a voxel of 1 mm."""
TOLERANCES = (0.0, 0.5, 1.0, 2.0, 4.0)


def voxel(*index: int, shape=(3, 3, 8)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[index] = True
    return mask


def measured(prediction, reference, spacing, ignored=None) -> list[float]:
    found = surface_distances(prediction, reference, spacing, ignored=ignored)
    return [found.hd, found.hd95, found.assd, *(found.nsd(t) for t in TOLERANCES)]


def oracle(prediction, reference, spacing) -> list[float]:
    """The same by DeepMind's package, which takes 2D arrays for 2D."""
    if 1 in reference.shape:
        flat = reference.shape.index(1)
        prediction, reference, spacing = prediction.take(0, flat), reference.take(0, flat), np.delete(spacing, flat)
    found = deepmind.compute_surface_distances(reference, prediction, spacing)
    distances = np.concatenate([found["distances_gt_to_pred"], found["distances_pred_to_gt"]])
    areas = np.concatenate([found["surfel_areas_gt"], found["surfel_areas_pred"]])
    hausdorff = [deepmind.compute_robust_hausdorff(found, percent) for percent in (100, 95)]
    within = [deepmind.compute_surface_dice_at_tolerance(found, t) for t in TOLERANCES]
    return [*hausdorff, (distances @ areas) / areas.sum(), *within]


def random_mask(rng: np.random.Generator, shape: tuple[int, ...], kind: int) -> np.ndarray:
    """Noise, blobs, one box, or a few specks far apart."""
    if kind == 0:
        return rng.random(shape) < rng.uniform(0.05, 0.95)
    if kind == 1:
        return ndimage.gaussian_filter(rng.normal(size=shape), 1.2) > 0
    mask = np.zeros(shape, bool)
    for _ in range(1 if kind == 2 else 3):
        corner = [int(rng.integers(0, n)) for n in shape]
        size = rng.integers(1, 12 if kind == 2 else 3, 3)
        mask[tuple(slice(a, a + n) for a, n in zip(corner, size, strict=True))] = True
    return mask


def random_pairs(flat: int | None, count: int) -> Iterator[tuple[np.ndarray, np.ndarray, tuple[float, float, float]]]:
    for seed in range(count):
        rng = np.random.default_rng([seed, 9 if flat is None else flat])
        shape = [int(n) for n in rng.integers(2, 26 if seed % 4 == 3 else 14, 3)]
        if flat is not None:
            shape[flat] = 1
        z, y, x = rng.uniform(0.3, 5, 3).tolist()
        masks = [random_mask(rng, tuple(shape), seed % 4) for _ in range(2)]
        if all(mask.any() for mask in masks):
            yield *masks, (1.0, 1.0, 1.0) if seed % 3 == 0 else (z, y, x)


@pytest.mark.parametrize("flat", [None, 0, 1, 2], ids=["3d", "2d_z", "2d_y", "2d_x"])
def test_distances_are_those_of_the_package_of_deepmind(flat):
    compared = 0
    for prediction, reference, spacing in random_pairs(flat, 240):
        expected = oracle(prediction, reference, spacing)
        assert measured(prediction, reference, spacing) == pytest.approx(expected, abs=1e-6)
        compared += 1
    assert compared > 200


def test_two_voxels_worked_by_hand():
    found = surface_distances(voxel(1, 1, 4), voxel(1, 1, 1), (1.0, 1.0, 1.0))
    assert found.area_mm2 == pytest.approx(16 * CORNER)
    assert (found.hd, found.hd95) == (3.0, 3.0)  # from the far corners of either; the near ones are 2 mm apart
    assert found.assd == pytest.approx(2.5)
    assert found.distance_mm3 == pytest.approx(16 * CORNER * 2.5)
    assert [found.nsd(1.9), found.nsd(2.0), found.nsd(3.0)] == pytest.approx([0.0, 0.5, 1.0])
    assert found.within_mm2(2.0) == pytest.approx(8 * CORNER)


def test_the_outline_of_a_slice_is_measured_by_its_length():
    found = surface_distances(voxel(0, 0, 1, shape=(1, 1, 4)), voxel(0, 0, 1, shape=(1, 1, 4)), (5.0, 3.0, 4.0))
    assert found.area_mm2 == pytest.approx(2 * 4 * 2.5)  # twice four times half the diagonal of 3 x 4 mm


def test_equal_masks_are_nowhere_apart():
    mask = np.random.default_rng(0).random((5, 6, 7)) < 0.3
    assert measured(mask, mask, (3.0, 0.7, 0.7)) == [0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0]


def test_95_percent_of_the_area_counts_not_of_the_elements():
    reference = np.zeros((12, 12, 12), bool)
    reference[2:10, 2:10, 2:10] = True
    prediction = reference.copy()
    prediction[5, 5, 11] = True  # a speck, of which the eight small elements lie 1 or 2 mm from the cube
    found = surface_distances(prediction, reference, (1.0, 1.0, 1.0))
    assert found.hd == 2.0
    assert found.hd95 == 0.0


def test_nothing_is_measured_where_a_side_is_empty():
    mask, nothing = voxel(1, 1, 1), np.zeros((3, 3, 8), bool)
    assert surface_distances(nothing, mask, (1.0, 1.0, 1.0)) is None
    assert surface_distances(mask, nothing, (1.0, 1.0, 1.0)) is None
    assert surface_distances(nothing, nothing, (1.0, 1.0, 1.0)) is None


def test_elements_that_touch_ignored_voxels_are_measured_to_but_not_from():
    ignored = voxel(1, 1, 5)  # beside the prediction, whose far corners it touches
    found = surface_distances(voxel(1, 1, 4), voxel(1, 1, 1), (1.0, 1.0, 1.0), ignored=ignored)
    assert found.area_mm2 == pytest.approx(12 * CORNER)
    assert found.assd == pytest.approx((4 * 2 + 4 * 2 + 4 * 3) / 12)
    between = surface_distances(voxel(1, 1, 4), voxel(1, 1, 1), (1.0, 1.0, 1.0), ignored=voxel(1, 1, 2))
    assert between.area_mm2 == pytest.approx(12 * CORNER)  # four of the reference's are gone
    assert between.assd == pytest.approx((4 * 3 + 4 * 3 + 4 * 2) / 12)  # and the way to them still counts


def test_ignored_voxels_are_in_neither_mask():
    both = voxel(1, 1, 1) | voxel(1, 1, 6)
    found = surface_distances(both, voxel(1, 1, 1), (1.0, 1.0, 1.0), ignored=voxel(1, 1, 6))
    assert (found.hd, found.nsd(0.0)) == (0.0, 1.0)
    assert surface_distances(voxel(1, 1, 1), both, (1.0, 1.0, 1.0), ignored=voxel(1, 1, 1)) is None  # nothing predicted is left


def test_nothing_is_measured_where_all_touches_ignored_voxels():
    mask = voxel(1, 1, 1)
    assert surface_distances(mask, mask, (1.0, 1.0, 1.0), ignored=ndimage.binary_dilation(mask) & ~mask) is None


def test_ignored_voxels_elsewhere_change_nothing():
    rng = np.random.default_rng(0)
    prediction, reference = rng.random((2, 6, 7, 8)) < 0.2
    ignored = np.zeros((6, 7, 16), bool)
    ignored[:, :, 10:] = True
    wide = [np.pad(mask, ((0, 0), (0, 0), (0, 8))) for mask in (prediction, reference)]
    assert measured(*wide, (2.0, 1.0, 1.0), ignored) == measured(prediction, reference, (2.0, 1.0, 1.0))


@given(seed=st.integers(0, 10**6), margin=st.integers(1, 4), flat=st.booleans())
@settings(max_examples=40, deadline=None)
def test_what_is_around_both_masks_does_not_matter(seed, margin, flat):
    rng = np.random.default_rng(seed)
    prediction, reference = rng.random((2, 1 if flat else 4, 5, 6)) < 0.4
    if prediction.any() and reference.any():
        around = [(0, 0) if flat else (margin, 0), (margin, margin), (0, margin)]
        padded = [np.pad(mask, around) for mask in (prediction, reference)]
        assert measured(*padded, (2.0, 0.7, 1.3)) == pytest.approx(measured(prediction, reference, (2.0, 0.7, 1.3)))


@given(seed=st.integers(0, 10**6), axes=st.permutations([0, 1, 2]), flip=st.integers(0, 2))
@settings(max_examples=40, deadline=None)
def test_sides_may_be_swapped_and_axes_turned_with_their_spacing(seed, axes, flip):
    rng = np.random.default_rng(seed)
    prediction, reference = rng.random((2, 4, 5, 6)) < 0.4
    spacing = (2.0, 0.7, 1.3)
    turned = [np.flip(mask.transpose(axes), flip) for mask in (reference, prediction)]
    expected = measured(prediction, reference, spacing)
    assert measured(*turned, tuple(spacing[a] for a in axes))[0] == pytest.approx(expected[0])
    assert measured(reference, prediction, spacing) == pytest.approx(expected)


@given(seed=st.integers(0, 10**6), scale=st.floats(0.1, 10))
@settings(max_examples=40, deadline=None)
def test_distances_grow_with_the_spacing(seed, scale):
    rng = np.random.default_rng(seed)
    prediction, reference = rng.random((2, 4, 5, 6)) < 0.4
    small = surface_distances(prediction, reference, (2.0, 0.7, 1.3))
    large = surface_distances(prediction, reference, (2.0 * scale, 0.7 * scale, 1.3 * scale))
    assert [large.hd, large.assd] == pytest.approx([small.hd * scale, small.assd * scale])
    assert large.area_mm2 == pytest.approx(small.area_mm2 * scale**2)


# Sheared axes, as of a CT with a tilted gantry

UPRIGHT = (1.0, 0.5, 0.5)
TILTED = ((0.0, 0.5, 1.0), (0.0, 0.5, 0.0), (0.5, 0.0, 0.0))
"""Steps (z, y, x) in mm, components (x, y, z): the same points as at right angles, each slice one row further along y."""


def test_a_voxel_of_a_sheared_grid_lies_where_its_steps_lead():
    here, along_the_axis, straight_above = voxel(0, 1, 1), voxel(1, 1, 1), voxel(1, 0, 1)
    assert surface_distances(here, along_the_axis, TILTED).hd == pytest.approx(math.sqrt(1.0 + 0.25))
    assert surface_distances(here, straight_above, TILTED).hd == pytest.approx(1.0)
    far, farther = voxel(2, 1, 1, shape=(60, 3, 8)), voxel(42, 1, 1, shape=(60, 3, 8))
    assert surface_distances(far, farther, TILTED).hd == pytest.approx(40 * math.sqrt(1.0 + 0.25))


def test_steps_at_right_angles_measure_as_their_lengths_do():
    for prediction, reference, spacing in random_pairs(None, 6):
        if prediction.any() and reference.any():
            turned = ((0.0, 0.0, spacing[0]), (0.0, spacing[1], 0.0), (spacing[2], 0.0, 0.0))
            assert measured(prediction, reference, turned) == pytest.approx(measured(prediction, reference, spacing))


def test_balls_on_sheared_and_on_upright_voxels_are_equally_far_apart():
    def ball(centre: tuple[float, float, float], steps: np.ndarray, rows: int) -> np.ndarray:
        index = np.stack(np.mgrid[:30, :100, :60], -1) - np.array([0, rows, 0])
        return ((index @ steps - centre) ** 2).sum(-1) < 9.0**2

    leaning = np.array([[0.0, 0.3, 1.0], [0.0, 0.5, 0.0], [0.5, 0.0, 0.0]])
    upright = np.array([[0.0, 0.0, 1.0], [0.0, 0.5, 0.0], [0.5, 0.0, 0.0]])
    found = []
    for steps, rows in ((leaning, 20), (upright, 0)):
        pair = (ball(centre, steps, rows) for centre in ((14.0, 14.0, 14.0), (15.5, 14.5, 14.0)))
        found.append(surface_distances(*pair, tuple(map(tuple, steps))))
    assert found[0].assd == pytest.approx(found[1].assd, rel=0.06)
    assert found[0].area_mm2 == pytest.approx(found[1].area_mm2, rel=0.06)


def test_a_single_sheared_slice_is_measured_within_its_plane():
    square, wider = np.zeros((1, 12, 12), bool), np.zeros((1, 12, 12), bool)
    square[0, 3:6, 3:6], wider[0, 3:8, 3:6] = True, True
    found, upright = (surface_distances(square, wider, steps) for steps in (TILTED, UPRIGHT))
    assert (found.hd, found.assd, found.area_mm2) == pytest.approx((upright.hd, upright.assd, upright.area_mm2))
    assert found.hd == pytest.approx(1.0)
