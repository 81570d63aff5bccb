"""`OKABE_ITO`: the colours of labels, in reports and in the files that have a place for them."""

from __future__ import annotations

from typing import Final

OKABE_ITO: Final = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#cc79a7", "#d55e00", "#0072b2")
"""Colours that the colour-blind can tell apart, those that stand out from grey first.

Source: Okabe and Ito, Color universal design, 2008.
"""

Colour = tuple[int, int, int]
"""Red, green and blue of sRGB, 0 to 255."""


def hex_colour_of(number: int) -> str:
    """The colour of the label or region with this number among those without the background, from 0, like "#e69f00"."""
    return OKABE_ITO[number % len(OKABE_ITO)]


def colour_of(number: int) -> Colour:
    """The same as red, green and blue."""
    text = hex_colour_of(number)
    red, green, blue = (int(text[i : i + 2], 16) for i in (1, 3, 5))
    return red, green, blue
