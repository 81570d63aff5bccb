import numpy as np
import pytest

from nnseg.core.reliability import BINS, RELIABILITY_TEMPERATURES, Reliability
from nnseg.evaluation.calibration import calibration


def case(weights, surer, right, brier=0.0) -> Reliability:
    """The same at every temperature, by bin."""
    sums = np.zeros((BINS, 3))
    for place in weights:
        sums[place] = weights[place], surer[place], right[place]
    return Reliability.of(np.tile(sums, (len(RELIABILITY_TEMPERATURES), 1, 1)), np.full(len(RELIABILITY_TEMPERATURES), brier))


def test_error_and_curve_by_hand():
    one = case({8: 0.25, 14: 0.75}, {8: 0.05, 14: -0.01}, {8: 0.1, 14: 0.75}, 0.08)
    found = calibration([one] * 5, 1.0)
    assert (found.n, found.before) == (5, found.after)
    assert found.before.ece == pytest.approx(0.05 + 0.01, rel=1e-3)
    assert found.before.brier == pytest.approx(0.08, rel=1e-3)
    low, high = found.before.curve
    assert (low.share, low.confidence, low.accuracy) == pytest.approx((0.25, 0.6, 0.4), rel=1e-3)
    assert (high.share, high.confidence, high.accuracy) == pytest.approx((0.75, 0.74 / 0.75, 1.0), rel=1e-3)


def test_cases_weigh_the_same_and_their_errors_may_cancel():
    sure, unsure = case({14: 1.0}, {14: 0.02}, {14: 0.95}), case({14: 1.0}, {14: -0.02}, {14: 0.97})
    assert calibration([sure, unsure] * 3, 1.0).before.ece == pytest.approx(0.0, abs=1e-9)
    found = calibration([sure, sure, unsure, sure] * 2, 1.0).before
    assert found.ece == pytest.approx(0.01, rel=1e-3)
    assert found.ece_interval[0] <= found.ece <= found.ece_interval[1] <= 0.0201


def test_between_two_temperatures_sums_change_evenly_and_beyond_they_stay():
    brier = (np.log(RELIABILITY_TEMPERATURES) + 1.0) / 10
    one = Reliability.of(np.zeros((len(RELIABILITY_TEMPERATURES), BINS, 3)), brier)
    assert calibration([one] * 5, 1.7).after.brier == pytest.approx((np.log(1.7) + 1.0) / 10, rel=1e-3)
    assert calibration([one] * 5, 1.7).before.brier == pytest.approx(0.1, rel=1e-3)
    assert calibration([one] * 5, 11.0).after.brier == pytest.approx((np.log(4.0) + 1.0) / 10, rel=1e-3)


def test_few_cases_say_nothing():
    assert calibration([], 1.0) is None
    assert calibration([case({14: 1.0}, {14: 0.0}, {14: 1.0})] * 4, 1.0) is None
