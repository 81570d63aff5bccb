import base64

import numpy as np
import pytest
from pydantic import ValidationError

from nnseg.core import trust
from nnseg.core.reliability import BINS, RELIABILITY_TEMPERATURES, Reliability


def test_sums_come_back_to_three_digits_however_small():
    random = np.random.default_rng(0)
    sums = 10.0 ** random.uniform(-9, 0, (len(RELIABILITY_TEMPERATURES), BINS, 3)) * random.choice(
        [-1, 1], (len(RELIABILITY_TEMPERATURES), BINS, 3)
    )
    brier = 10.0 ** random.uniform(-6, 0, len(RELIABILITY_TEMPERATURES))
    kept = Reliability.model_validate_json(Reliability.of(sums, brier).model_dump_json())
    np.testing.assert_allclose(kept.sums, sums, rtol=1e-3)
    np.testing.assert_allclose(kept.brier, brier, rtol=1e-3)


def test_it_is_small():
    nothing = Reliability.of(np.zeros((len(RELIABILITY_TEMPERATURES), BINS, 3)), np.zeros(len(RELIABILITY_TEMPERATURES)))
    assert len(nothing.model_dump_json()) < 2400


def test_its_temperatures_are_among_those_that_are_tried_and_one_is_1():
    assert trust.TEMPERATURES[: len(RELIABILITY_TEMPERATURES)] == RELIABILITY_TEMPERATURES
    assert 1.0 in RELIABILITY_TEMPERATURES


@pytest.mark.parametrize("packed", ["", "no base64!", base64.b64encode(b"ab").decode(), base64.b64encode(b"\xff" * 1748).decode()])
def test_what_is_damaged_is_refused(packed):
    with pytest.raises(ValidationError):
        Reliability(packed=packed)
