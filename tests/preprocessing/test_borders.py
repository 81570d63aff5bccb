"""The edges of objects as labels of their own."""

import numpy as np
import pytest
from scipy import ndimage

from nnseg.core.labels import Labels
from nnseg.preprocessing.borders import FAR, add_borders

CELLS = Labels(names=("background", "cell", "fibre"), values=(0, 1, 2)).with_borders(["cell"])
CUBE = (1.0, 1.0, 1.0)


def digits(*rows: str) -> np.ndarray:
    return np.array([[[int(letter) for letter in row] for row in rows]])


def bordered(labels, objects, width=1.0, spacing=CUBE, names=CELLS):
    return add_borders(labels.astype(np.int16), objects, names, width=width, spacing=spacing)


def test_the_edge_of_an_object_is_its_border_also_towards_another_object_and_the_image_has_none():
    objects = digits("1111222", "1111222", "1111222", "0000000")
    expected = digits("1113311", "1113311", "3333333", "0000000")  # a corner is one voxel from the object beside
    np.testing.assert_array_equal(bordered(objects > 0, objects), expected)


def test_numbers_need_not_be_consecutive_and_other_labels_and_ignored_voxels_stay():
    labels = digits("01112", "01112", "01112").astype(np.int16)
    labels[0, 0, 0] = -1
    found = bordered(labels, np.where(labels == 1, 77, labels))
    np.testing.assert_array_equal(found[0], [[-1, 3, 1, 3, 2], [0, 3, 1, 3, 2], [0, 3, 1, 3, 2]])


def test_a_small_object_keeps_an_interior_and_one_that_is_all_edge_has_no_border():
    small, line = np.pad(np.ones((1, 3, 3), int), ((0, 0), (3, 3), (3, 3))), digits("000000", "011110", "000000")
    assert np.count_nonzero(bordered(small, small, width=5.0) == 1) == 1
    np.testing.assert_array_equal(bordered(line, line), line)


def test_no_border_is_drawn_across_an_axis_of_far_slices():
    objects = np.zeros((3, 7, 7), int)
    objects[1, 1:6, 1:6] = 1
    near, far = bordered(objects, objects), bordered(objects, objects, spacing=(FAR, 1.0, 1.0))
    np.testing.assert_array_equal(near, objects)  # one slice thick: every voxel is at the edge
    assert np.count_nonzero(far == 1) == 9
    assert np.count_nonzero(far == 3) == 16


def test_voxels_coarser_than_the_width_still_have_a_border():
    objects = digits("111111222222", *["111111222222"] * 8)
    assert (bordered(objects > 0, objects, width=2.0, spacing=(3.0, 3.0, 3.0))[0, :, 5:7] == 3).all()


def test_an_object_that_fills_the_image_has_no_border():
    whole = np.ones((2, 3, 3), int)
    np.testing.assert_array_equal(bordered(whole, whole), whole)


def test_without_numbers_components_are_the_objects():
    apart = digits("11101110", "11101110", "11101110", "00000000")
    numbers = ndimage.label(apart, np.ones((3, 3, 3)))[0]
    np.testing.assert_array_equal(bordered(apart, None), bordered(apart, numbers))


@pytest.mark.parametrize("seed", range(5))
def test_every_object_has_one_interior_of_its_own(seed):
    rng, shape = np.random.default_rng(seed), (8, 40, 40) if seed % 2 else (1, 60, 60)
    points = rng.uniform(0, shape, (12, 3))
    nearest = np.linalg.norm(np.moveaxis(np.indices(shape), 0, -1)[..., None, :] - points, axis=-1)
    objects = np.where(nearest.min(-1) < 11, nearest.argmin(-1) + 1, 0)  # cells of a Voronoi diagram, which touch
    interior = bordered(objects > 0, objects, width=2.0) == 1
    parts, count = ndimage.label(interior)
    owners = [set(np.unique(objects[parts == part]).tolist()) for part in range(1, count + 1)]
    assert all(len(of) == 1 for of in owners)
    assert set.union(*owners) == set(np.unique(objects).tolist()) - {0}
