"""Tiles are counted without being listed, for volumes of any size."""

from itertools import product

import pytest

from nnseg.core.geometry import count_tiles, tile_starts
from nnseg.inference.tiles import Tiling, Window, held_slices


@pytest.mark.parametrize(("length", "patch", "step"), list(product((8, 9, 31, 64, 200), (1, 8), (0.1, 0.5, 1.0))))
def test_tiles_of_an_axis_are_counted_as_they_are_listed(length, patch, step):
    assert count_tiles(length, patch, step) == len(tile_starts(length, patch, step))


@pytest.mark.parametrize("patch", [(8, 8), (16, 16, 16), (4, 8, 16)])
@pytest.mark.parametrize("batch", [1, 8, 30])
def test_slices_held_at_once_are_those_of_the_tiling(patch, batch):
    window = Window(patch=patch, heads=2, batch=batch)
    for shape in ((1, 5, 9), (7, 8, 8), (20, 16, 16), (50, 40, 9)):
        tiling = Tiling.of(shape, window)
        assert held_slices(shape, window) == (tiling.padded, tiling.depth(window.tile[0]))


def test_tiles_of_a_volume_that_no_memory_holds_are_counted_at_once():
    padded, depth = held_slices((2**48, 2**48, 2**48), Window(patch=(16, 16, 16), heads=2))
    assert (padded, depth) == ((2**48,) * 3, 16)
    assert count_tiles(2**48, 16, 0.5) == 2**45 - 1


def test_the_tiles_of_a_layer_lie_at_its_slices_and_corners():
    tiling = Tiling.of((6, 4, 10), Window(patch=(4, 6, 8), heads=2))
    assert (tiling.layers, tiling.corners, tiling.before) == (((0,), (2,)), ((0, 0), (0, 2)), (0, 1, 0))
    rows = slice(0, 6)
    assert tiling.boxes((2,), (4, 6, 8)) == [(slice(2, 6), rows, slice(0, 8)), (slice(2, 6), rows, slice(2, 10))]
