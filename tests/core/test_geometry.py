import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnseg.core.geometry import IDENTITY, Box, Grid, Placement, Reorientation

TURNS = [
    Reorientation(axes=axes, flips=flips)
    for axes in itertools.permutations((0, 1, 2))
    for flips in itertools.product((False, True), repeat=3)
]


def test_world_of_a_canonical_grid_by_hand() -> None:
    grid = Grid(shape=(3, 4, 5), spacing=(2.0, 1.0, 0.5), origin=(10.0, 20.0, 30.0))
    assert grid.world((1, 2, 4)) == (10 + 4 * 0.5, 20 + 2 * 1.0, 30 + 1 * 2.0)
    assert grid.voxel_ml == pytest.approx(0.001)


def test_a_voxel_of_sheared_axes_has_the_volume_of_its_base_times_its_height():
    tilted = Grid(shape=(8, 9, 10), spacing=(2.0, 1.0, 0.5), direction=((0.0, 0.6, 0.8), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)))
    assert tilted.is_sheared
    assert tilted.voxel_ml == pytest.approx(2.0 * 0.8 * 1.0 * 0.5 / 1000)


def test_there_are_48_orientations_and_each_can_be_undone() -> None:
    voxels = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    assert len({turn.apply(voxels).tobytes() + bytes(turn.apply(voxels).shape) for turn in TURNS}) == 48
    for turn in TURNS:
        np.testing.assert_array_equal(turn.inverse().apply(turn.apply(voxels)), voxels)


@pytest.mark.parametrize("turn", TURNS)
def test_any_orientation_becomes_the_same_canonical_grid_with_the_same_voxels(turn: Reorientation) -> None:
    canonical = Grid(shape=(2, 3, 4), spacing=(3.0, 2.0, 1.0), origin=(-5.0, 7.0, 11.0))
    voxels = np.arange(24).reshape(2, 3, 4)
    stored = canonical.reoriented(turn)
    back = stored.canonical()
    assert stored.reoriented(back) == canonical
    np.testing.assert_array_equal(back.apply(turn.apply(voxels)), voxels)


@given(st.tuples(*[st.floats(-0.6, 0.6)] * 3), st.sampled_from(TURNS))
def test_every_voxel_of_an_oblique_grid_stays_where_it_is(angles: tuple[float, float, float], turn: Reorientation) -> None:
    cos, sin = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cos[0], -sin[0]], [0, sin[0], cos[0]]])
    about_y = np.array([[cos[1], 0, sin[1]], [0, 1, 0], [-sin[1], 0, cos[1]]])
    about_z = np.array([[cos[2], -sin[2], 0], [sin[2], cos[2], 0], [0, 0, 1]])
    rows = np.asarray(IDENTITY) @ (about_x @ about_y @ about_z)
    grid = Grid(shape=(4, 3, 2), spacing=(1.0, 2.0, 3.0), origin=(1.0, 2.0, 3.0), direction=tuple(map(tuple, rows.tolist())))
    turned = grid.reoriented(turn)
    index = np.arange(24).reshape(4, 3, 2)
    for number in (0, 7, 23):
        there = np.argwhere(turn.apply(index) == number)[0]
        here = np.argwhere(index == number)[0]
        np.testing.assert_allclose(turned.world(tuple(there)), grid.world(tuple(here)), atol=1e-9)


def test_grids_match_within_a_hundredth_of_a_voxel() -> None:
    grid = Grid(shape=(5, 5, 5), spacing=(2.0, 2.0, 2.0))
    near = Grid(shape=(5, 5, 5), spacing=(2.0, 2.0, 2.0), origin=(0.015, 0.0, 0.0))
    far = Grid(shape=(5, 5, 5), spacing=(2.0, 2.0, 2.0), origin=(50.0, 0.0, 0.0))
    assert grid.matches(near)
    assert not grid.matches(far)
    assert grid.largest_gap(far) == pytest.approx(50.0)
    assert not grid.matches(Grid(shape=(5, 5, 4), spacing=(2.0, 2.0, 2.0)))


def test_grids_of_rounded_headers_agree_whatever_their_size_but_not_after_a_shift() -> None:
    grid = Grid(shape=(9, 512, 512))
    scaled, moved = (Grid(shape=(9, 512, 512), spacing=(1.0, 1.0009, 1.0009), origin=(x, 0.0, 0.0)) for x in (0.0, 1.0))
    assert grid.largest_gap(scaled) > 0.6
    assert (grid.agrees(scaled, 0.01), grid.matches(scaled)) == (True, False)
    assert not grid.agrees(Grid(shape=(9, 512, 512), spacing=(1.0, 1.003, 1.003)), 0.1)
    assert not Grid(shape=(9, 64, 64)).agrees(Grid(shape=(9, 64, 64), origin=(0.5, 0.0, 0.0)), 0.1)
    assert not Grid(shape=(9, 64, 64)).agrees(Grid(shape=(9, 64, 65)), 0.1)
    assert grid.gap_beside_rounding(moved) < grid.largest_gap(moved)


def test_a_resampled_grid_keeps_its_extent() -> None:
    assert Grid(shape=(10, 20, 3), spacing=(2.0, 1.0, 5.0)).resampled((1.0, 2.0, 50.0)).shape == (20, 10, 1)


@pytest.mark.parametrize(("shape", "spacing"), [((0, 1, 1), (1, 1, 1)), ((1, 1, 1), (0, 1, 1)), ((1, 1, 1), (1, float("nan"), 1))])
def test_impossible_grids_are_refused(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match=r"voxel|spacing"):
        Grid(shape=shape, spacing=spacing)


def test_placement_knows_the_way_back() -> None:
    box = Box(start=(1, 2, 3), stop=(4, 8, 12))
    place = Placement(scan=Grid(shape=(9, 9, 15)), crop=box, axes=(2, 0, 1), shape=(9, 3, 6), spacing=(1.0, 1.0, 1.0))
    assert place.cropped_shape == (9, 3, 6)
    assert np.zeros(place.cropped_shape).transpose(place.back).shape == box.shape
