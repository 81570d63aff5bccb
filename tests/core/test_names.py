"""Names of labels and channels of two datasets."""

import pytest

from nnseg.core.names import match_names


@pytest.mark.parametrize(
    ("names", "known", "places"),
    [
        (("b", "a"), ("a", "b"), (1, 0)),
        (("Liver", "tumour"), ("background", "liver"), (1, None)),
        (("Left kidney", "LEFT-LUNG"), ("left_lung", "left_kidney"), (1, 0)),
        (("liver", "Liver"), ("Liver", "liver"), (1, 0)),  # the same name first
        (("LIVER",), ("Liver", "liver"), (None,)),  # which of them?
        (("Liver", "liver"), ("LIVER",), (None, None)),
        (("liver", "Liver"), ("liver",), (0, None)),
        ((), ("a",), ()),
    ],
)
def test_names_are_matched(names: tuple[str, ...], known: tuple[str, ...], places: tuple[int | None, ...]) -> None:
    assert match_names(names, known) == places
