"""The picture of an attribution map: where it is strong and of which sign, over the slice with most of the structure."""

import io

import numpy as np
from PIL import Image

from nnseg.core.geometry import Grid
from nnseg.core.image import Scan, Source
from nnseg.reporting.heat import FALL, RISE, draw_attribution

GRID = Grid(shape=(4, 12, 12))
SCAN = Scan(image=np.full((1, 4, 12, 12), 5, np.float32), grid=GRID, source=Source(files=(), grid=GRID))


def drawn(values):
    structure = np.zeros(GRID.shape, bool)
    structure[2, 4:8, 4:8] = True
    content = draw_attribution(SCAN, structure, values)
    picture = Image.open(io.BytesIO(content))
    assert picture.info["Software"] == "nnseg"
    return np.asarray(picture).astype(int)


def test_values_above_and_below_0_have_colours_of_their_own_and_0_none():
    values = np.zeros(GRID.shape, np.float32)
    values[2, 0:3, 0:3], values[2, 9:, 9:] = 1, -1
    picture = drawn(values)
    assert picture.shape == (360, 360, 3)
    grey, rise, fall = picture[15, 340], picture[15, 15], picture[345, 345]
    assert grey[0] == grey[1] == grey[2]
    assert np.abs(rise - (0.25 * grey + 0.75 * np.array(RISE))).max() < 2
    assert np.abs(fall - (0.25 * grey + 0.75 * np.array(FALL))).max() < 2


def test_the_structure_has_a_white_outline_and_what_lies_in_other_slices_is_not_drawn():
    values = np.zeros(GRID.shape, np.float32)
    values[1] = 1
    picture = drawn(values)
    assert (picture[120, 120:240] == 255).all()
    assert (picture[180, 180] == picture[15, 15]).all()
