"""Left and right: which names go together, and what swapping labels does to heads."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnseg.core.labels import Labels, Region, find_label_pairs, find_side_pairs, swap_order, swapped_heads


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("left", "right"),
        ("Left Kidney", "right kidney"),
        ("kidney_left", "kidney_right"),
        ("Kidney-L", "Kidney-R"),
        ("l_femur", "r_femur"),
        ("femurL", "femurR"),
        ("hippocampus.lh", "hippocampus.rh"),
        ("ctx-lh-cuneus", "ctx-rh-cuneus"),
        ("lung_upper_lobe_left", "lung_upper_lobe_right"),
        ("Niere links", "Niere rechts"),
        ("ren sinister", "ren dexter"),
        ("Left-Lateral-Ventricle", "Right-Lateral-Ventricle"),
    ],
)
def test_names_that_differ_in_their_side_are_a_pair(left, right):
    assert find_side_pairs(["background", right, "liver", left]) == ((3, 1),)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("left kidney", "right lung"),
        ("L1", "R1"),
        ("LV", "RV"),
        ("leftover", "rightover"),
        ("cleft", "cright"),
        ("left kidney", "kidney right"),
        ("left ventricle", "right ventricle"),
        ("heart_atrium_left", "heart_atrium_right"),
    ],
)
def test_other_names_are_none(one, other):
    assert find_side_pairs(["background", one, other]) == ()


def test_several_pairs_keep_the_order_of_names():
    assert find_side_pairs(["background", "r_eye", "l_lens", "l_eye", "r_lens"]) == ((2, 4), (3, 1))


@given(st.permutations(range(1, 7)), st.integers(0, 3))
def test_swapping_twice_changes_nothing(order, count):
    pairs = tuple((order[2 * i], order[2 * i + 1]) for i in range(count))
    swapped = swap_order(pairs, 7)
    assert [swapped[swapped[i]] for i in range(7)] == list(range(7))
    assert sum(swapped[i] != i for i in range(7)) == 2 * count


def labels(*regions):
    made = tuple(Region(name=name, values=values, paint=values[0]) for name, values in regions)
    return Labels(names=("background", "left", "right", "tumour"), values=(0, 10, 20, 30), regions=made)


def test_heads_of_labels_are_the_labels():
    assert swapped_heads(labels(), ((1, 2),)) == ((1, 2),)


def test_a_region_of_both_sides_stays_and_regions_of_one_change_places():
    found = swapped_heads(labels(("all", (10, 20, 30)), ("right one", (20,)), ("both", (10, 20)), ("left one", (10,))), ((1, 2),))
    assert found == ((1, 3),)


def test_a_region_without_a_counterpart_cannot_be_swapped():
    assert swapped_heads(labels(("left and tumour", (10, 30)), ("right", (20,))), ((1, 2),)) is None
    assert swapped_heads(labels(("left and tumour", (10, 30)), ("right", (20,))), ()) == ()


def test_swapped_heads_are_the_heads_of_swapped_labels():
    of = labels(("all", (10, 20, 30)), ("right one", (20,)), ("left one", (10,)))
    pairs = ((1, 2),)
    indices = np.random.default_rng(0).integers(0, 4, 50)
    members, order = of.members(), np.array(swap_order(pairs, 4))
    heads = list(swap_order(swapped_heads(of, pairs), 3))
    assert np.array_equal(members[:, order[indices]], members[heads][:, indices])


def test_regions_tell_sides_where_labels_do_not():
    named = Labels(
        names=("background", "a", "b"),
        values=(0, 7, 3),
        regions=(
            Region(name="whole", values=(7, 3), paint=7),
            Region(name="right lung", values=(7,), paint=7),
            Region(name="left lung", values=(3,), paint=3),
        ),
    )
    assert find_label_pairs(named) == ((2, 1),)
