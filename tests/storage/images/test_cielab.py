"""Colours in DICOM's own coding."""

import highdicom as hd
import pytest

from nnseg.core.colours import OKABE_ITO, colour_of
from nnseg.storage.images.cielab import from_cielab, to_cielab


def test_white_and_black_are_the_ends_of_lightness_without_colour():
    assert to_cielab((255, 255, 255)) == pytest.approx((65535, 32896, 32896), abs=40)
    assert to_cielab((0, 0, 0)) == (0, 32896, 32896)


@pytest.mark.parametrize("number", range(len(OKABE_ITO)))
def test_colours_come_back_and_are_those_of_highdicom(number):
    code = to_cielab(colour_of(number))
    assert from_cielab(code) == colour_of(number)
    assert hd.color.CIELabColor.from_rgb(*colour_of(number)).value == pytest.approx(code, abs=40)


def test_the_first_label_is_orange_and_the_colours_repeat():
    assert colour_of(0) == (230, 159, 0)
    assert colour_of(len(OKABE_ITO)) == colour_of(0)
