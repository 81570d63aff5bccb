"""Scans beside those of a training."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnseg.core.geometry import Grid
from nnseg.core.scan_ranges import SAMPLE, find_ranges, measure_scan

GRID = Grid(shape=(40, 50, 60), spacing=(1.0, 0.9, 0.8))


def scans(count, seed=0):
    """Facts of scans of one kind: spacing 0.9 to 1.1 mm, brain-like sizes, z-scored intensities."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        spacing, shape = tuple(random.uniform(0.9, 1.1, 3).tolist()), random.integers(30, 50, 3)
        image = random.normal(random.normal(0, 0.05), random.uniform(0.9, 1.1), (1, 2000))
        found.append(measure_scan(Grid(shape=tuple(shape.tolist()), spacing=spacing), image))
    return found


def test_facts_by_hand():
    image = np.stack([np.arange(101.0), np.zeros(101)]).reshape(2, 101, 1, 1)
    facts = measure_scan(GRID, image)
    assert facts.spacing == (1.0, 0.9, 0.8)
    assert facts.size_mm == pytest.approx((40.0, 45.0, 48.0))
    assert facts.intensities == ((1.0, 25.0, 50.0, 75.0, 99.0), (0.0,) * 5)


def test_a_few_voxels_of_a_large_scan_say_the_same_as_all():
    image = np.random.default_rng(1).normal(size=(1, 8 * SAMPLE))
    few, everything = measure_scan(GRID, image).intensities[0], np.percentile(image, [1, 25, 50, 75, 99])
    np.testing.assert_allclose(few, everything, atol=0.03)
    assert measure_scan(GRID, image).intensities[0] == few


def test_reasons_name_the_quantity_the_axis_and_both_numbers():
    ranges = find_ranges(scans(20), ("T1",))
    one = scans(1, seed=5)[0]
    coarse = one.model_copy(update={"spacing": (5.0, 1.0, 1.0)})
    (reason,) = ranges.differences(coarse)
    assert reason.startswith("spacing 5 mm along z; training scans had 0.9")
    assert reason.endswith(" to 1.07")
    (reason,) = ranges.differences(one.model_copy(update={"size_mm": (40.0, 40.0, 400.0)}))
    assert reason.startswith("size 400 mm along x; training scans had ")
    (reason,) = ranges.differences(one.model_copy(update={"intensities": ((-2.3, -0.7, 0.0, 0.7, 30.0),)}))
    assert reason.startswith("T1: the brightest voxels (99% are below) are at 30 after normalization; training scans had ")


def test_equal_training_scans_leave_room_for_a_little_more():
    ranges = find_ranges([scans(1)[0]] * 4, ("T1",))
    spacing = ranges.spacing[0].low
    for factor, expected in ((1.2, 0), (0.85, 0), (1.3, 1), (0.7, 1)):
        facts = scans(1)[0].model_copy(update={"spacing": (spacing * factor, *scans(1)[0].spacing[1:])})
        assert len(ranges.differences(facts)) == expected
    facts = scans(1)[0].model_copy(update={"spacing": (5.0, *scans(1)[0].spacing[1:])})
    assert ranges.differences(facts)[0].endswith(f"training scans had {spacing:.3g}")


def test_training_scans_are_like_themselves():
    facts = scans(30)
    ranges = find_ranges(facts, ("T1",))
    assert not any(ranges.differences(one) for one in facts)


@pytest.mark.parametrize("count", [4, 8, 40])
def test_scans_of_the_same_kind_are_hardly_ever_flagged(count):
    ranges = find_ranges(scans(count), ("T1",))
    flagged = [bool(ranges.differences(one)) for one in scans(300, seed=9)]
    assert np.mean(flagged) <= 0.03


def test_a_scan_without_contrast_is_flagged():
    ranges = find_ranges(scans(20), ("T1",))
    assert ranges.differences(measure_scan(GRID, np.zeros((1, 4, 4, 4))))


def test_three_scans_say_nothing_of_others():
    assert find_ranges(scans(3), ("T1",)) is None


@given(factor=st.floats(1.0, 3.0), more=st.floats(1.0, 3.0))
def test_what_is_further_out_is_not_less_unlike(factor, more):
    ranges, one = find_ranges(SCANS, ("T1",)), SCANS[0]
    near, far = (one.model_copy(update={"spacing": (f, 1.0, 1.0)}) for f in (factor, factor * more))
    assert len(ranges.differences(far)) >= len(ranges.differences(near))


SCANS = scans(12)


def test_ranges_survive_their_json():
    ranges = find_ranges(SCANS, ("T1",))
    assert type(ranges).model_validate_json(ranges.model_dump_json()) == ranges
