"""The mean Dice of a folder without references."""

import math

import numpy as np
import pytest

from nnseg.core.trust import Agreement, Confidence, DiceErrors
from nnseg.evaluation.folder_dice import estimate_folder_dice

AGREEMENT = Agreement(labels={"a": 0.9}, foreground=0.9, voxels={"a": 10.0})


def confidences(qualities, errors=None, foreign=()):
    """Of scans; those at the places ``foreign`` are foreign."""
    return [
        Confidence(quality=q, expected_dice={}, flagged=None, foreign=i in foreign, unlike=(), agreement=AGREEMENT, errors=errors)
        for i, q in enumerate(qualities)
    ]


def test_the_interval_by_hand():
    found = estimate_folder_dice(confidences([0.8, 0.6], DiceErrors(cases=2, patients=2, mean=0.05, spread=0.01)))
    reach = 6.3138 * 0.01 * math.sqrt(1 / 2 + 1 / 2)  # Student's 95 % quantile with one degree of freedom
    assert (found.scans, found.foreign, found.expected) == (2, 0, pytest.approx(0.7))
    assert found.interval == pytest.approx((0.75 - reach, 0.75 + reach), abs=1e-5)


def test_foreign_scans_count_from_zero_to_one():
    errors = DiceErrors(cases=40, patients=40, mean=0.0, spread=0.0)
    found = estimate_folder_dice(confidences([0.8, 0.8, 0.8, 0.2], errors, foreign=(3,)))
    assert (found.foreign, found.expected, found.interval) == (1, pytest.approx(0.65), pytest.approx((0.6, 0.85)))
    assert estimate_folder_dice(confidences([0.3], errors, foreign=(0,))).interval == (0.0, 1.0)


def test_what_was_not_measured_is_not_said():
    assert estimate_folder_dice([]) is None
    found = estimate_folder_dice(confidences([0.8]))
    assert (found.expected, found.interval) == (pytest.approx(0.8), None)


@pytest.mark.parametrize(("held_out", "scans"), [(10, 1), (10, 50), (40, 5), (40, 200)])
def test_nine_of_ten_folders_lie_inside(held_out, scans):
    random, inside = np.random.default_rng(0), []
    for _ in range(1000):
        errors = random.normal(0.02, 0.05, held_out)
        known = DiceErrors(cases=held_out, patients=held_out, mean=float(errors.mean()), spread=float(errors.std(ddof=1)))
        low, high = estimate_folder_dice(confidences([0.6] * scans, known)).interval
        inside.append(low <= 0.6 + random.normal(0.02, 0.05, scans).mean() <= high)
    assert 0.87 <= np.mean(inside) <= 0.93
