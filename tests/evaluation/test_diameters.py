"""Diameters of objects, by hand, against all pairs of points, and of shapes of known size."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import ConvexHull

from nnseg.core.geometry import Grid, as_matrix
from nnseg.evaluation.diameters import measure_diameters, object_diameters, slice_axis


def surface_points(mask: np.ndarray, grid: Grid) -> np.ndarray:
    """Both halfway points of every voxel along each axis, one after another."""
    ends = [side * axis for axis in np.eye(3) for side in (0.5, -0.5)]
    return np.array([(voxel + end) @ grid.steps for voxel in np.argwhere(mask) for end in ends])


def test_a_box_is_measured_from_face_to_face():
    # 2 x 3 x 4 voxels of 5 x 2 x 1 mm: from the middle of one end face to that of the other along z, 10, 4 and 3 mm apart
    found = measure_diameters(np.ones((2, 3, 4), bool), Grid(shape=(9, 9, 9), spacing=(5.0, 2.0, 1.0)), 0)
    assert found.longest == pytest.approx(np.sqrt(10**2 + 4**2 + 3**2))
    # in a slice: from (-1, 0) to (5, 3) mm; of both diagonals none has another length
    assert found.in_slice == pytest.approx(np.hypot(6, 3))


def test_a_single_voxel_is_as_long_as_its_sides():
    found = measure_diameters(np.ones((1, 1, 1), bool), Grid(shape=(9, 9, 9), spacing=(4.0, 1.0, 2.0)), 0)
    assert (found.longest, found.in_slice, found.perpendicular, found.product) == (4, 2, 1, 2)


def test_the_perpendicular_is_the_longest_line_at_right_angles_to_the_diameter():
    cross = np.zeros((1, 5, 9), bool)
    cross[0, 2, :] = cross[0, :, 6] = True  # 9 across; the other bar is not in the middle, and counts in full
    found = measure_diameters(cross, Grid(shape=(1, 5, 9)), 0)
    assert (found.longest, found.in_slice, found.perpendicular, found.product) == (9, 9, 5, 45)


def test_the_largest_slice_counts_and_is_that_of_the_acquisition():
    mask = np.zeros((3, 8, 8), bool)
    mask[0, 0, :3], mask[1, 0, :6], mask[2, 0, :2] = True, True, True
    grid = Grid(shape=(3, 8, 8), spacing=(3.0, 1.0, 1.0))
    assert [measure_diameters(mask, grid, axis).in_slice for axis in (0, 1)] == [6, pytest.approx(np.hypot(9, 2))]


def test_slices_are_across_the_largest_spacing_or_as_stored():
    spacings = {(1.0, 1.0, 1.0): 0, (1.0, 1.0, 5.0): 2, (1.0, 3.0, 1.0): 1, (1.0, 1.005, 1.0): 0, (2.0, 2.0, 1.0): 0}
    assert {spacing: slice_axis(Grid(shape=(4, 4, 4), spacing=spacing)) for spacing in spacings} == spacings
    assert slice_axis(Grid(shape=(4, 1, 4), spacing=(9.0, 1.0, 1.0))) == 1


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_an_ellipsoid_has_its_axes_to_half_a_voxel(axis):
    spacing = np.array([1.5, 0.8, 1.0])
    places = np.moveaxis(np.indices((31, 57, 45)), 0, -1) * spacing
    radii = np.array([9.6, 20.0, 12.3])
    mask = ((((places - places[15, 28, 22]) / radii) ** 2).sum(-1)) <= 1
    found = measure_diameters(mask, Grid(shape=mask.shape, spacing=tuple(spacing)), axis)
    short, long = sorted(2 * radii[[other for other in range(3) if other != axis]])
    assert found.longest == pytest.approx(40.0, abs=1.0)
    assert (found.in_slice, found.perpendicular) == (pytest.approx(long, abs=1.0), pytest.approx(short, abs=1.0))


@given(seed=st.integers(0, 10_000), axis=st.sampled_from((0, 1, 2)))
@settings(max_examples=40, deadline=None)
def test_diameters_are_those_of_all_pairs_on_oblique_and_sheared_grids(seed, axis):
    noise = np.random.default_rng(seed)
    mask = noise.random((3, 4, 4)) < 0.3
    mask[tuple(noise.integers(0, 3, 3))] = True
    turned, _ = np.linalg.qr(noise.normal(size=(3, 3)))
    turned[2] += 0.2 * turned[1]  # as of a gantry that was tilted
    turned /= np.linalg.norm(turned, axis=1, keepdims=True)
    grid = Grid(shape=(9, 9, 9), spacing=tuple(noise.uniform(0.5, 4.0, 3)), direction=as_matrix(turned))
    found = measure_diameters(mask, grid, axis)
    points = surface_points(mask, grid)
    assert found.longest == pytest.approx(np.linalg.norm(points[:, None] - points[None], axis=-1).max())
    best = 0.0
    for number in np.flatnonzero(mask.any(tuple(other for other in range(3) if other != axis))):
        part = np.zeros_like(mask)
        place = tuple(number if other == axis else slice(None) for other in range(3))
        part[place] = mask[place]
        ends = [side * row for other, row in enumerate(np.eye(3)) if other != axis for side in (0.5, -0.5)]
        own = np.array([(voxel + end) @ grid.steps for voxel, end in product(np.argwhere(part), ends)])
        best = max(best, np.linalg.norm(own[:, None] - own[None], axis=-1).max())
    assert found.in_slice == pytest.approx(best)
    assert found.perpendicular <= found.in_slice * (1 + 1e-9)


def test_the_perpendicular_is_that_of_a_search_along_the_diameter():
    noise = np.random.default_rng(3)
    for _ in range(10):
        mask = noise.random((12, 15)) < 0.1
        found = measure_diameters(mask[None], Grid(shape=(1, 12, 15)), 0)
        points = np.array([voxel + end for voxel in np.argwhere(mask) for end in ((0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5))])
        distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
        best = 0.0
        for first, last in np.argwhere(np.triu(distances > found.in_slice - 1e-9)):
            along = (points[last] - points[first]) / found.in_slice
            across = np.array([-along[1], along[0]])
            *sides, beyond = ConvexHull(points).equations.T  # a line is cut off at each side
            for share in np.linspace(0.001, 0.999, 999):
                start = -(beyond + np.array(sides).T @ (points[first] + share * found.in_slice * along))
                slope = np.array(sides).T @ across
                best = max(best, (start / slope)[slope > 1e-9].min() - (start / slope)[slope < -1e-9].max())
        assert best <= found.perpendicular + 1e-9
        assert found.perpendicular == pytest.approx(best, rel=5e-3)


def test_objects_are_measured_by_number():
    numbers = np.zeros((1, 4, 9), np.uint32)
    numbers[0, 0, 0], numbers[0, 2, 2:8] = 2, 1
    assert [one.in_slice for one in object_diameters(numbers, Grid(shape=(1, 4, 9)), 0)] == [6, 1]
    assert object_diameters(np.zeros((1, 4, 9), np.uint16), Grid(shape=(1, 4, 9)), 0) == []
