"""Tests of a run's record."""

import time
from pathlib import Path

import numpy as np
import pytest

from nnseg.storage.run_folder import RunFolder
from nnseg.storage.run_record import read_record, timed


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_a_stage_is_recorded_with_its_time_and_its_own_peak(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with timed(run, "first"):
        block = np.ones(150_000_000, np.uint8)
        time.sleep(0.5)
        del block
    with timed(run, "second"):
        time.sleep(0.01)
    record = read_record(run)
    assert record["seconds"]["first"] >= 0.5  # it slept as long
    assert record["seconds"]["second"] >= 0.01
    assert record["peak_gb"]["first"] - record["peak_gb"]["second"] == pytest.approx(0.15, abs=0.03)


def test_a_resumed_stage_that_finds_its_work_done_keeps_both_figures(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with timed(run, "train"):
        time.sleep(0.05)
    before = read_record(run)
    with timed(run, "train"):
        pass
    assert read_record(run) == before
