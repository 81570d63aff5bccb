"""The order in which to annotate scans."""

import numpy as np

from nnseg.evaluation.annotation_order import annotation_order

EAST, NORTH, NEARLY_EAST = np.array([1.0, 0.0]), np.array([0.0, 1.0]), np.array([0.8, 0.6])


def test_the_worst_comes_first_and_what_resembles_it_later():
    # worth after the first: 0.5 x 0, 0.45 x (1 - 0.8), 0.3 x (1 - 0)
    assert annotation_order(np.array([0.5, 0.55, 0.7]), np.stack([EAST, NEARLY_EAST, NORTH]), 3) == [0, 2, 1]


def test_without_descriptions_the_order_is_that_of_the_expected_dice():
    assert annotation_order(np.array([0.9, 0.2, 0.5]), np.zeros((3, 2)), 3) == [1, 2, 0]


def test_no_scan_is_named_twice_and_no_more_than_there_are():
    same = np.stack([EAST] * 4)
    assert sorted(annotation_order(np.array([0.5, 0.5, 1.0, 1.0]), same, 9)) == [0, 1, 2, 3]
    assert annotation_order(np.array([0.5, 0.4]), same[:2], 1) == [1]
