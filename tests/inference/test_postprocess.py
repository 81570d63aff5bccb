import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from nnseg.core.decisions import PostprocessingStep
from nnseg.core.image import Integers
from nnseg.core.labels import Labels
from nnseg.inference.postprocess import postprocess

LABELS = Labels(names=("background", "a", "b", "c"), values=(0, 1, 2, 3))


def picture(*rows: str) -> Integers:
    """(1, Y, X) from digits; a dot is background."""
    return np.array([[[0 if c == "." else int(c) for c in row] for row in rows]], np.uint8)


def largest(*labels: int) -> PostprocessingStep:
    return PostprocessingStep(action="largest", labels=labels)


def smaller(*labels: int, mm3: float) -> PostprocessingStep:
    return PostprocessingStep(action="smaller", labels=labels, mm3=mm3)


def holes(*labels: int, fill: int) -> PostprocessingStep:
    return PostprocessingStep(action="holes", labels=labels, fill=fill)


def postprocessed(before: Integers, *steps: PostprocessingStep, voxel_mm3: float = 1.0) -> Integers:
    return postprocess(before, steps, LABELS, voxel_mm3=voxel_mm3)


def test_the_largest_component_of_a_label_stays_and_voxels_sharing_a_corner_belong_together():
    before = picture(
        "11...1",
        "..1..1",
        "22..2.",
    )
    after = picture(
        "11....",
        "..1...",
        "22..2.",
    )
    np.testing.assert_array_equal(postprocessed(before, largest(1)), after)


def test_components_of_the_same_largest_size_all_stay():
    before = picture("11.11.1")
    np.testing.assert_array_equal(postprocessed(before, largest(1)), picture("11.11.."))


def test_labels_of_a_region_hold_each_other_together():
    before = picture(
        "12.21.3",
        "1......",
    )
    np.testing.assert_array_equal(postprocessed(before, largest(1, 2)), picture("12....3", "1......"))
    np.testing.assert_array_equal(postprocessed(before, largest(1)), picture("12.2..3", "1......"))


def test_steps_are_applied_in_order():
    """With 3 gone, 1 no longer holds together what lies on both sides of it."""
    before = picture("22311..33")
    np.testing.assert_array_equal(postprocessed(before, largest(3), largest(1, 2)), picture("22.11..33"))
    np.testing.assert_array_equal(postprocessed(before, largest(1, 2, 3), largest(3)), picture("22311...."))


def test_components_below_a_volume_are_removed_and_one_that_has_it_stays():
    before = picture("1.11.111")
    np.testing.assert_array_equal(postprocessed(before, smaller(1, mm3=2.0)), picture("..11.111"))
    np.testing.assert_array_equal(postprocessed(before, smaller(1, mm3=2.1)), picture(".....111"))
    np.testing.assert_array_equal(postprocessed(before, smaller(1, mm3=9.0)), picture("........"))


def test_the_volume_counts_and_not_the_number_of_voxels():
    before = picture("1.11.111")
    np.testing.assert_array_equal(postprocessed(before, smaller(1, mm3=0.9), voxel_mm3=0.3), picture(".....111"))
    np.testing.assert_array_equal(postprocessed(before, smaller(1, mm3=0.9), voxel_mm3=0.9), before)


def test_a_volume_without_the_size_of_a_voxel_is_an_error():
    with pytest.raises(ValueError, match="volume of a voxel"):
        postprocess(picture("1.11"), [smaller(1, mm3=2.0)], LABELS)


def test_enclosed_background_is_filled_and_other_labels_in_a_cavity_are_not():
    before = picture(
        "11111.111",
        "1.2.1.1.1",
        "1...1.1..",
        "11111.111",
    )
    after = picture(
        "11111.111",
        "11211.1.1",
        "11111.1..",
        "11111.111",
    )
    np.testing.assert_array_equal(postprocessed(before, holes(1, fill=1)), after)


def test_a_hole_is_closed_by_corners_and_left_through_faces():
    """As 26 neighbours make an object, 6 make its outside."""
    np.testing.assert_array_equal(postprocessed(picture(".1.", "1.1", ".1."), holes(1, fill=1)), picture(".1.", "111", ".1."))
    np.testing.assert_array_equal(postprocessed(picture(".1.", "1..", ".1."), holes(1, fill=1)), picture(".1.", "1..", ".1."))


def test_holes_of_a_region_take_the_value_that_it_names():
    before = picture(
        "112",
        "1.2",
        "112",
    )
    np.testing.assert_array_equal(postprocessed(before, holes(1, 2, fill=2)), picture("112", "122", "112"))
    np.testing.assert_array_equal(postprocessed(before, holes(1, fill=1)), before)


def test_a_ring_in_one_of_several_slices_has_no_hole():
    ring = picture("111", "1.1", "111")
    volume = np.concatenate([np.zeros_like(ring), ring, np.zeros_like(ring)])
    np.testing.assert_array_equal(postprocessed(volume, holes(1, fill=1)), volume)
    closed = np.concatenate([np.ones_like(ring), ring, np.ones_like(ring)])
    np.testing.assert_array_equal(postprocessed(closed, holes(1, fill=1)), np.ones_like(closed))


def test_a_cavity_at_the_border_of_the_scan_is_open():
    volume = np.ones((3, 3, 3), np.uint8)
    volume[0, 1, 1] = 0
    np.testing.assert_array_equal(postprocessed(volume, holes(1, fill=1)), volume)


def test_any_values_are_postprocessed_and_the_background_need_not_be_zero():
    labels = Labels(names=("background", "a", "b"), values=(7, 65535, -2))
    before = np.array([[[-2, 7, -2, -2, 7, 65535, 65535, 7, 65535]]])
    after = np.array([[[7, 7, -2, -2, 7, 65535, 65535, 7, 7]]])
    np.testing.assert_array_equal(postprocess(before, [largest(-2), largest(65535)], labels), after)


def test_labels_that_do_not_occur_and_no_steps_change_nothing_and_the_input_stays():
    before = picture("1.11")
    kept = before.copy()
    np.testing.assert_array_equal(postprocessed(before, largest(3), smaller(3, mm3=5.0), holes(3, fill=3)), kept)
    np.testing.assert_array_equal(postprocessed(before), kept)
    postprocessed(before, largest(1))
    np.testing.assert_array_equal(before, kept)
    assert postprocessed(before, largest(1)).dtype == np.uint8


LABEL_MAPS = arrays.arrays(np.uint8, st.tuples(*[st.integers(1, 6)] * 3), elements=st.sampled_from([0, 0, 1, 2, 3]))
OBJECTS = st.sets(st.sampled_from([1, 2, 3]), min_size=1).map(lambda found: tuple(sorted(found)))


@given(LABEL_MAPS, OBJECTS, st.sampled_from([1.0, 2.0, 5.0]))
@settings(deadline=None, max_examples=60)
def test_laws_of_removing(before: Integers, labels: tuple[int, ...], mm3: float):
    for step in (largest(*labels), smaller(*labels, mm3=mm3)):
        after = postprocessed(before, step)
        changed = after != before
        assert np.isin(before[changed], labels).all()
        assert (after[changed] == 0).all()
        np.testing.assert_array_equal(postprocessed(after, step), after)
        if step.action == "largest":
            assert np.isin(after, labels).any() == np.isin(before, labels).any()


@given(LABEL_MAPS, OBJECTS)
@settings(deadline=None, max_examples=60)
def test_laws_of_filling(before: Integers, labels: tuple[int, ...]):
    step = holes(*labels, fill=labels[-1])
    after = postprocessed(before, step)
    changed = after != before
    assert (before[changed] == 0).all()
    assert (after[changed] == labels[-1]).all()
    np.testing.assert_array_equal(postprocessed(after, step), after)


@given(LABEL_MAPS, OBJECTS, st.permutations([0, 1, 2]))
@settings(deadline=None, max_examples=30)
def test_a_reoriented_label_map_is_postprocessed_the_same(before: Integers, labels: tuple[int, ...], axes: list[int]):
    for step in (largest(*labels), smaller(*labels, mm3=3.0), holes(*labels, fill=labels[0])):
        turned = before.transpose(axes)[::-1, :, ::-1]
        np.testing.assert_array_equal(postprocessed(turned, step), postprocessed(before, step).transpose(axes)[::-1, :, ::-1])


def test_the_results_are_those_of_nnunet():
    """Recorded of remove_all_but_largest_component_from_segmentation for [1, 2, 3], then for 1, then for (2, 3).

    Source: nnunetv2 2.8.1; 150 more random label maps of up to 8 x 8 x 8 and 1 x 13 x 13 voxels agreed as well.
    """
    for pair in RECORDED.items():
        before, after = (picture(*text.split("/")) for text in pair)
        np.testing.assert_array_equal(postprocessed(before, largest(1, 2, 3), largest(1), largest(2, 3)), after)


RECORDED = {
    ".1..1...../..2...3.1./2...22..../3.3......1/3113.11.../.2..1.2.../..1.2....1": (
        "........../........../2........./3........./3....11.../.2..1...../.........."
    ),
    "..21.....3/....2.1.../.1.22.112./32..21..../...11....2/2323.12..1/..12..1...": (
        "........../......1.../......11../.....1..../...11...../2323.1..../...2..1..."
    ),
    "31.1.....2/1..131..../..23....../23.332..../....11.1../.313..131./3.1......1": (
        "........../....3...../..23....../23.332..../....11.1../......1.1./.........1"
    ),
    "313....2../3..11.3.../1....2..../3...2.123./....3.2.../2223....../.3.2223.3.": (
        ".......2../...11.3.../.....2..../....2...../....3...../2223....../.3.2223..."
    ),
    ".2.11...3./332..2..2./.2.33....2/..12.3...2/2...1..1../..3..122../.23.....3.": (
        ".2.11...../332..2..../.2.33...../...2.3..../....1...../.....1..../.........."
    ),
    "....322.11/11313...3./.3.21...../..1..1.2.2/2.3123.2../13...3.221/...1.13.1.": (
        "........../...1....../....1...../.....1.2../....23.2../.....3.22./......3..."
    ),
}


def test_memory_besides_the_result_is_at_most_eight_bytes_a_voxel_of_the_object():
    before = np.ones((64, 64, 64), np.uint8)
    before[20:30, 20:30, 20:30] = 0
    before[0] = 0
    before[0, 0, 0] = 2
    for step in (largest(1), largest(1, 2), smaller(1, mm3=4.0), holes(1, fill=1)):
        tracemalloc.start()
        postprocessed(before, step)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 9 * before.size
