"""Scans beside those of a training."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import ndimage

from nnseg.core.geometry import Grid
from nnseg.core.scan_ranges import SAMPLE, ScanRanges, find_ranges, measure_scan

GRID = Grid(shape=(40, 50, 60), spacing=(1.0, 0.9, 0.8))


def anatomy(shape):
    """A bright body, brighter towards the end of each axis, by different amounts, around a dark hole."""
    z, y, x = np.meshgrid(*(np.linspace(0, 1, n) for n in shape), indexing="ij")
    hole = np.square(z - 0.4) + np.square(y - 0.3) + np.square(x - 0.6) < 0.05
    return np.where(hole, -2.0, z + 2 * y + 3 * x)


def image_of(random, shape=(12, 14, 16)):
    """A scan of one kind before normalization: the same anatomy, other noise, brightness and position."""
    larger = anatomy(tuple(n + 2 for n in shape))
    moved = larger[tuple(slice(start, start + n) for start, n in zip(random.integers(0, 3, 3), shape, strict=True))]
    return random.uniform(80, 120) * (10 + moved + random.normal(0, 0.3, shape))


def measured(image, spacing=(1.0, 1.0, 1.0), shape=(40, 40, 40)):
    """Facts of a scan, normalized by its own mean and standard deviation."""
    spread = image.std() or 1.0
    return measure_scan(Grid(shape=shape, spacing=spacing), ((image - image.mean()) / spread)[None], image[None])


def scans(count, seed=0):
    """Facts of scans of one kind: spacing 0.9 to 1.1 mm, brain-like sizes, z-scored intensities."""
    random = np.random.default_rng(seed)
    return [
        measured(image_of(random), tuple(random.uniform(0.9, 1.1, 3).tolist()), tuple(random.integers(30, 50, 3).tolist()))
        for _ in range(count)
    ]


def test_facts_by_hand():
    image = np.stack([np.arange(101.0), np.zeros(101)]).reshape(2, 101, 1, 1)
    facts = measure_scan(GRID, image, 1000 * image)
    assert facts.spacing == (1.0, 0.9, 0.8)
    assert facts.size_mm == pytest.approx((40.0, 45.0, 48.0))
    assert facts.intensities == ((1.0, 25.0, 50.0, 75.0, 99.0), (0.0,) * 5)
    assert facts.spreads == pytest.approx((98_000.0, 0.0))
    assert facts.roughness[0] == pytest.approx((1 / (2 * image[0].var()), 0.0, 0.0))
    assert facts.roughness[1] == (0.0,) * 3
    assert facts.seams == (pytest.approx((1.0, 0.0, 0.0)), (0.0,) * 3)


def test_a_few_voxels_of_a_large_scan_say_the_same_as_all():
    image = np.random.default_rng(1).normal(size=(1, 8, SAMPLE // 400, 400))
    facts = measure_scan(GRID, image, image)
    few, everything = facts.intensities[0], np.percentile(image, [1, 25, 50, 75, 99])
    np.testing.assert_allclose(few, everything, atol=0.03)
    assert facts.roughness[0] == pytest.approx((1.0,) * 3, abs=0.02)  # noise
    assert measure_scan(GRID, image, image) == facts


def test_reasons_name_the_quantity_the_axis_and_both_numbers():
    ranges = find_ranges(scans(20), ("T1",))
    one = scans(1, seed=5)[0]
    coarse = one.model_copy(update={"spacing": (5.0, 1.0, 1.0)})
    (reason,) = ranges.differences(coarse)
    assert reason.startswith("spacing 5 mm along z; training scans had 0.9")
    assert reason.endswith(" to 1.1")
    (reason,) = ranges.differences(one.model_copy(update={"size_mm": (40.0, 40.0, 400.0)}))
    assert reason.startswith("size 400 mm along x; training scans had ")
    (reason,) = ranges.differences(one.model_copy(update={"intensities": ((*one.intensities[0][:4], 30.0),)}))
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
    assert np.mean(flagged) <= 0.05


def test_a_scan_without_contrast_is_flagged():
    ranges = find_ranges(scans(20), ("T1",))
    assert ranges.differences(measured(np.full((12, 14, 16), 1000.0)))


def test_three_scans_say_nothing_of_others():
    assert find_ranges(scans(3), ("T1",)) is None


@given(factor=st.floats(1.0, 3.0), more=st.floats(1.0, 3.0))
def test_what_is_further_out_is_not_less_unlike(factor, more):
    near, far = (SCANS[0].model_copy(update={"spacing": (f, 1.0, 1.0)}) for f in (factor, factor * more))
    assert len(RANGES.differences(far)) >= len(RANGES.differences(near))


SCANS = scans(12)
RANGES = find_ranges(SCANS, ("T1",))


def test_ranges_survive_their_json():
    assert type(RANGES).model_validate_json(RANGES.model_dump_json()) == RANGES


def make_foreign(kind, image, random):
    """A scan of another kind, made of one of the same kind."""
    made = {
        "noise": lambda: random.normal(image.mean(), image.std(), image.shape),
        "inverted": lambda: image.max() + image.min() - image,
        "blurred": lambda: ndimage.gaussian_filter(image, 2.0),
        "scaled": lambda: 10 * image,
        "mirrored": lambda: image[:, ::-1],
        "turned": lambda: np.rot90(image, 1, (1, 2)),
        "half": lambda: image[:, :7],
        "shuffled": lambda: np.concatenate([image[:, 7:], image[:, :7]], 1),
    }
    return made[kind]()


WORDS = {
    "noise": "neighbours along",
    "inverted": "correlation with the mean training scan -",
    "blurred": "neighbours along",
    "scaled": "before normalization",
    "mirrored": "if mirrored along y",
    "turned": "if turned in the plane of y and x",
    "half": "correlation with the mean training scan 0.",
    "shuffled": "across one plane along y",
}


@pytest.mark.parametrize("kind", list(WORDS))
def test_scans_of_another_kind_are_different(kind):
    ranges, random = find_ranges(scans(40), ("T1",)), np.random.default_rng(2)
    found = [measured(make_foreign(kind, image_of(random), random)) for _ in range(20)]
    assert all(ranges.differences(one) for one in found)
    assert all((ranges.distance(one) > 0) == (kind != "scaled") for one in found)
    assert any(WORDS[kind] in reason for one in found for reason in ranges.differences(one))


def test_a_difference_is_said_of_one_axis_and_one_percentile_only():
    ranges, random = find_ranges(scans(40), ("T1",)), np.random.default_rng(3)
    reasons = ranges.differences(measured(random.normal(0, 1, (12, 14, 16))))
    topics = ("neighbours along", "across one plane", "after normalization", "if ")
    assert all(sum(topic in reason for reason in reasons) <= 1 for topic in topics)


def test_the_distance_is_zero_for_scans_of_the_same_kind_and_counts_how_far_others_are_outside():
    facts = scans(20)
    ranges = find_ranges(facts, ("T1",))
    assert [ranges.distance(one) for one in facts] == [0.0] * 20
    low, high = ranges.spacing[0].low, ranges.spacing[0].high
    tolerated = min(max(ranges.tolerance * math.log(high / low), math.log(1.25)), math.log(1.5))
    for times in (1.5, 2.0, 4.0):
        far = facts[0].model_copy(update={"spacing": (high * math.exp(times * tolerated), *facts[0].spacing[1:])})
        assert ranges.distance(far) == pytest.approx(times - 1.0)


def test_scans_of_several_brightness_have_a_range_each():
    random = np.random.default_rng(4)
    facts = [measured(image_of(random) * (100 if i % 2 else 1)) for i in range(20)]
    ranges = find_ranges(facts, ("T1",))
    assert len(ranges.looks[0].spreads) == 2
    between = measured(image_of(random) * 10)
    assert any("before normalization; training scans had" in reason and " or " in reason for reason in ranges.differences(between))
    assert ranges.distance(between) == 0  # normalization removes it


def test_scans_that_differ_much_are_given_more_room():
    calm = find_ranges(scans(40), ("T1",)).tolerance
    facts = [
        one.model_copy(update={"size_mm": (40.0 * 2.0 ** (4 if i % 9 == 0 else 0), 40.0, 40.0)}) if i % 3 == 0 else one
        for i, one in enumerate(scans(40))
    ]
    assert calm <= find_ranges(facts, ("T1",)).tolerance <= 1.0 + 4 / 40


def test_scans_of_one_patient_are_compared_with_those_of_others():
    """Two scans of a patient have the same size, twice that of the patient before: each patient is unlike the others."""
    facts = [one.model_copy(update={"size_mm": (40.0 * 2.0 ** (i // 2), 40.0, 40.0)}) for i, one in enumerate(scans(16))]
    patients = [f"patient {i // 2}" for i in range(16)]
    alone, together = find_ranges(facts, ("T1",)), find_ranges(facts, ("T1",), patients)
    assert together.tolerance > alone.tolerance
    assert together.model_copy(update={"tolerance": None, "looks": ()}) == alone.model_copy(update={"tolerance": None, "looks": ()})
    assert find_ranges(facts, ("T1",), ["the same"] * 16) == alone  # nothing else to compare with


def test_ranges_of_earlier_versions_compare_what_they_have():
    old = [one.model_copy(update={"spreads": (), "roughness": (), "seams": (), "thumbnails": ()}) for one in scans(20)]
    ranges = find_ranges(old, ("T1",))
    assert ranges.looks == ()
    record = ranges.model_dump(mode="json", exclude={"looks", "tolerance"})
    earlier = type(ranges).model_validate(record)
    assert earlier.differences(scans(1, seed=5)[0]) == ()
    assert earlier.differences(measured(np.full((12, 14, 16), 1000.0)))


def test_a_thumbnail_that_is_none_is_refused():
    with pytest.raises(ValidationError):
        type(SCANS[0]).model_validate(SCANS[0].model_dump() | {"thumbnails": ("AAAA",)})


def test_ranges_of_other_channels_or_percentiles_are_none():
    known = find_ranges(scans(6), ("T1",)).model_dump()
    for wrong in ({"channels": ("T1", "T2")}, {"looks": known["looks"] * 3}, {"intensities": ((),)}, {"intensities": ()}):
        with pytest.raises(ValidationError, match="there must be"):
            ScanRanges.model_validate(known | wrong)
    with pytest.raises(ValidationError, match="at least 1 item"):
        ScanRanges.model_validate(known | {"looks": ({**known["looks"][0], "spreads": ()},)})
