"""From agreement to expected Dice, quality and flags."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from nnseg.core.scan_ranges import ScanFacts, find_ranges
from nnseg.core.trust import EDGE, Agreement, EnsembleShift, LabelTrust, Trust, expit, largest_volume_error, logit

SHARES = st.floats(0.0, 1.0)


def agreement(a=0.9, b=0.8, *, foreground=0.9, voxels=(100.0, 100.0)):
    return Agreement(labels={"a": a, "b": b}, foreground=foreground, voxels=dict(zip("ab", voxels, strict=True)))


def test_without_held_out_cases_agreement_stands_as_it_is():
    trust = Trust()
    assert trust.expected_dice(agreement()) == pytest.approx({"a": 0.9, "b": 0.8})
    assert trust.expected_mean_dice(agreement()) == pytest.approx(0.85)
    assert trust.confidence(agreement()).flagged is None


def test_certain_votes_are_trusted():
    assert Trust().expected_mean_dice(agreement(1.0, 1.0, foreground=1.0)) == pytest.approx(1.0, abs=2 * EDGE)


def test_expected_dice_by_hand():
    trust = Trust(slopes=(0.5, 0.25, 1.0), labels={"a": LabelTrust(offset=-4.0)})
    one = agreement(0.9, foreground=0.8, voxels=(100.0, 100.0))
    value = -4.0 + 0.5 * math.log(9) + 0.25 * math.log(4) + math.log(100)
    assert trust.expected_dice(one)["a"] == pytest.approx(1 / (1 + math.exp(-value)))


def test_a_label_that_is_always_there_and_was_not_found_costs_its_share():
    trust = Trust(labels={"b": LabelTrust(missing=0.0)})
    one = agreement(0.9, 1.0, voxels=(100.0, 0.0))
    assert trust.expected_dice(one) == pytest.approx({"a": 0.9})
    assert trust.expected_mean_dice(one) == pytest.approx(0.45)


def test_a_label_that_is_surely_absent_counts_nowhere():
    trust = Trust(labels={"b": LabelTrust(missing=1.0)})
    assert trust.expected_mean_dice(agreement(0.9, 1.0, voxels=(100.0, 0.0))) == pytest.approx(0.9)


def test_a_label_that_some_votes_see_lowers_the_quality():
    trust = Trust(labels={"b": LabelTrust(missing=1.0)})
    unsure, sure = (trust.expected_mean_dice(agreement(0.9, b, voxels=(100.0, 0.0))) for b in (0.2, 0.95))
    assert unsure < sure < 0.9 + 1e-9


def test_fewer_networks_are_fewer():
    with pytest.raises(ValidationError, match="3 networks are no fewer than 3"):
        EnsembleShift(few=3, many=3, labels=-0.1, foreground=-0.1)


def test_nothing_found_is_as_good_as_the_chance_that_nothing_is_there():
    alone = Agreement(labels={"tumour": 1.0}, foreground=1.0, voxels={"tumour": 0.0})
    assert Trust(labels={"tumour": LabelTrust(missing=0.8)}).expected_mean_dice(alone) == pytest.approx(0.8)
    assert Trust(labels={"tumour": LabelTrust(missing=0.0)}).expected_mean_dice(alone) == 0.0
    assert Trust().expected_mean_dice(alone) == 1.0


@given(a=SHARES, b=SHARES, more=SHARES)
def test_more_agreement_never_means_less_quality(a, b, more):
    trust = Trust(slopes=(0.7, 0.5, 0.2), labels={"a": LabelTrust(offset=-2.0), "b": LabelTrust(offset=-3.0)})
    higher = a + (1.0 - a) * more
    assert trust.expected_mean_dice(agreement(higher, b)) >= trust.expected_mean_dice(agreement(a, b)) - 1e-12


def test_a_case_below_the_threshold_is_flagged():
    trust = Trust(cases=20, threshold=0.84)
    assert trust.confidence(agreement(0.9, 0.7)).flagged is True
    assert trust.confidence(agreement(0.9, 0.8)).flagged is False


def test_a_scan_unlike_the_training_is_told():
    facts = ScanFacts(spacing=(1.0, 1.0, 1.0), size_mm=(40.0, 50.0, 40.0), intensities=((-2.0, -1.0, 0.0, 1.0, 2.0),))
    trust = Trust(ranges=find_ranges([facts] * 5, ("T1",)))
    assert trust.confidence(agreement(), facts).unlike == ()
    (reason,) = trust.confidence(agreement(), facts.model_copy(update={"spacing": (6.5, 1.0, 1.0)})).unlike
    assert reason == "spacing 6.5 mm along z; training scans had 1"
    assert trust.confidence(agreement()).unlike == ()


def test_logits_are_finite_and_undone():
    assert logit(0.0) == pytest.approx(-logit(1.0))
    assert expit(logit(0.3)) == pytest.approx(0.3)
    assert expit(-800.0) == 0.0


def test_trust_survives_its_json():
    facts = ScanFacts(spacing=(1.0, 1.0, 1.0), size_mm=(40.0, 50.0, 40.0), intensities=((-2.0, -1.0, 0.0, 1.0, 2.0),))
    trust = Trust(
        cases=4, temperature=1.3, labels={"a": LabelTrust(offset=-1.0, missing=0.1)}, ranges=find_ranges([facts] * 4, ("T1",))
    )
    assert Trust.model_validate_json(trust.model_dump_json()) == trust


SEEN = ScanFacts(spacing=(1.0, 1.0, 1.0), size_mm=(40.0, 50.0, 40.0), intensities=((-2.0, -1.0, 0.0, 1.0, 2.0),))
CALIBRATED = Trust(
    threshold=0.6,
    labels={"a": LabelTrust(cases=20, errors=(-1.0, 0.5), volume_factors=(0.9, 1.25)), "b": LabelTrust(cases=5)},
    ranges=find_ranges([SEEN] * 5, ("T1",)),
)


def test_intervals_by_hand():
    of = CALIBRATED.confidence(agreement(), SEEN)
    assert of.dice_intervals == {"a": pytest.approx((expit(math.log(9) - 1.0), expit(math.log(9) + 0.5)))}
    assert of.volume_factors == {"a": (0.9, 1.25)}  # b has too few cases
    assert (of.foreign, of.flagged) == (False, False)


def test_intervals_grow_with_the_distance_from_the_held_out_cases():
    one = agreement(0.9, foreground=0.8, voxels=(100.0, 100.0))
    known = LabelTrust(cases=20, errors=(-1.0, 0.5), volume_errors=(-0.5, 1.0))
    unit = ((1.0, 0.0, 0.0), (0.0, 4.0, 0.0), (0.0, 0.0, 1.0))
    near = Trust(labels={"a": known.model_copy(update={"centre": one.features("a")})}, precision=unit)
    a, b, voxels = one.features("a")
    far = Trust(labels={"a": known.model_copy(update={"centre": (a - 1.0, b + 2.0, voxels + 1.0)})}, precision=unit)
    assert (near.spread(one, "a"), far.spread(one, "a")) == pytest.approx((1.0, math.sqrt(1 + 18 / 3)))
    for trust, times in ((near, 1.0), (far, math.sqrt(7))):
        of = trust.confidence(one)
        assert of.dice_intervals["a"] == pytest.approx((expit(math.log(9) - times), expit(math.log(9) + 0.5 * times)))
        most = largest_volume_error(of.dice_intervals["a"][0])
        assert of.volume_factors["a"] == pytest.approx((math.exp(-0.5 * most), math.exp(most)))
        assert trust.label_intervals([one])[0].volume == pytest.approx(of.volume_factors["a"])


def test_the_volume_error_that_a_dice_leaves_room_for():
    assert largest_volume_error(0.8) == pytest.approx(math.log(1.5))  # 2 voxels within 3
    assert largest_volume_error(1.0) == pytest.approx(0.0, abs=3 * EDGE)


@pytest.mark.parametrize(("spacing", "part"), [(1.4, math.log(1.25) / math.log(1.4)), (3.0, 0.5)])
def test_a_foreign_scan_is_expected_less_of_and_flagged_and_has_no_interval(spacing, part):
    """How often the tolerance of 1.25 fits into the distance, but half at least."""
    far = SEEN.model_copy(update={"spacing": (spacing, 1.0, 1.0)})
    plain, of = CALIBRATED.confidence(agreement(), SEEN), CALIBRATED.confidence(agreement(), far)
    assert of.quality == pytest.approx(part * plain.quality)
    assert of.expected_dice == pytest.approx({name: part * dice for name, dice in plain.expected_dice.items()})
    assert (of.foreign, of.flagged) == (True, of.quality < 0.6)
    assert (of.dice_intervals, of.volume_factors) == ({}, {})


def test_without_ranges_no_scan_is_called_foreign():
    assert Trust().confidence(agreement(), SEEN).foreign is None
    assert CALIBRATED.confidence(agreement()).foreign is None


def test_the_intervals_of_a_label_are_those_at_its_mean_expected_dice():
    found = CALIBRATED.label_intervals([agreement(0.8), agreement(0.9), agreement(0.99, 0.5, voxels=(0.0, 9.0))])
    assert [(of.label, of.cases, of.volume) for of in found] == [("a", 20, (0.9, 1.25)), ("b", 5, None)]
    assert found[0].expected == pytest.approx(0.85)
    assert found[0].dice == pytest.approx((expit(logit(0.85) - 1.0), expit(logit(0.85) + 0.5)))
    assert found[1].dice is None


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_the_largest_numbers_that_a_file_may_hold_still_give_a_confidence(sign):
    most = sign * 1e30
    label = LabelTrust(offset=most, centre=(most,) * 3, errors=(-1e30, 1e30), volume_errors=(-1e30, 1e30), cases=9)
    together = EnsembleShift(few=999_999, many=1_000_000, labels=-1e30, foreground=-1e30)
    trust = Trust(cases=9, slopes=(most,) * 3, precision=((most,) * 3,) * 3, labels={"a": label}, together=together)
    found = trust.confidence(agreement(), networks=1_000_000)
    assert 0 <= found.quality <= 1
    assert found.volume_factors["a"][1] <= 1e30
    for wrong in ({"slopes": (1e31,) * 3}, {"together": {"few": 1, "many": 10**400, "labels": 0, "foreground": 0}}):
        with pytest.raises(ValidationError):
            Trust.model_validate(wrong)
