"""Tests of a run's record."""

import time
from pathlib import Path

import numpy as np
import pytest

from nnseg.storage.run import Run


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_a_stage_is_recorded_with_its_time_and_its_own_peak(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with run.timed("first"):
        block = np.ones(150_000_000, np.uint8)
        time.sleep(0.5)
        del block
    with run.timed("second"):
        time.sleep(0.01)
    record = run.record
    assert record["seconds"]["first"] >= 0.5  # it slept as long
    assert record["seconds"]["second"] >= 0.01
    assert record["peak_gb"]["first"] - record["peak_gb"]["second"] == pytest.approx(0.15, abs=0.03)


def test_a_resumed_stage_that_finds_its_work_done_keeps_both_figures(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with run.timed("train"):
        time.sleep(0.05)
    before = run.record
    with run.timed("train"):
        pass
    assert run.record == before
