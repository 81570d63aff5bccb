"""Samples of memory while a piece of work runs."""

import os
import time

import pytest

from nnseg.system.usage import area, sampled_usage, tree_memory


def test_the_area_under_a_curve_counts_each_value_until_the_next():
    assert area([0.0, 1.0, 3.0], [2.0, 5.0, 7.0]) == 12.0
    assert area([0.0], [2.0]) == 0.0


def test_memory_that_is_taken_and_given_back_is_seen():
    with sampled_usage(interval=0.02) as usage:
        time.sleep(0.1)
        held = bytearray(os.urandom(2**20) * 200)
        time.sleep(0.2)
        del held
        time.sleep(0.2)
    amounts = [sample.ram_gb for sample in usage.samples]
    assert max(amounts) - amounts[0] == pytest.approx(0.21, abs=0.05)
    assert max(amounts) - amounts[-1] == pytest.approx(0.21, abs=0.05)
    times = [sample.seconds for sample in usage.samples]
    assert times == sorted(times)
    assert usage.seconds >= 0.5
    assert not any(sample.device_gb for sample in usage.samples)


def test_a_process_that_has_ended_holds_nothing():
    assert tree_memory(2**22 + 1) == 0
