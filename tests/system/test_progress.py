"""The live line, and the time left that it tells."""

import logging
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from nnseg.system import progress as module
from nnseg.system.progress import Stage, TimeLeft, clock, columns, fit, progress, sizes_of, stage

AXON_SECONDS = (110.6, 148, 173, 194, 216, 240, 443, 488, 567, 602)
AXON_BYTES = (1004958, 926903, 407415, 418019, 391749, 480267, 2434671, 722477, 2297802, 912029)
"""When each of ten micrographs was predicted, on two cores beside other programs, and the bytes of each."""


def made_sequences() -> Iterator[tuple[str, Sequence[float], Sequence[float]]]:
    """Names of works, when their parts were finished, and the weights of these."""
    draw = np.random.default_rng(0)
    alike = [1.0] * 100
    yield "steady", np.arange(1, 101), alike
    yield "a first part that takes thirty times as long", np.arange(100) + 30.0, alike
    yield "parts that vary", np.cumsum(draw.lognormal(0, 0.5, 100)), alike
    yield "two processes", np.repeat(np.arange(1, 51), 2) + np.tile((0, 0.1), 50), alike
    yield "four processes that start slowly", np.repeat(np.arange(25), 4) + 8.0 + np.tile((0, 0.1, 0.2, 0.3), 25), alike
    sizes = draw.uniform(1, 10, 60)
    yield "sizes that grow, and are known", np.cumsum(np.sort(sizes)) + 20, list(np.sort(sizes))
    base = 0.2 * sum(AXON_BYTES) / len(AXON_BYTES)
    yield "recorded", AXON_SECONDS, [size + base for size in AXON_BYTES]


@pytest.mark.parametrize(("times", "weights"), [s[1:] for s in made_sequences()], ids=[s[0] for s in made_sequences()])
def test_the_time_left_is_right_within_half_from_a_tenth_to_two_thirds_of_the_time(
    times: Sequence[float], weights: Sequence[float]
) -> None:
    total, told = sum(weights), []
    left = TimeLeft(total, 0.0)
    for now, weight in zip(times, weights, strict=True):
        left.finish(weight, now)
        estimate, rest = left.seconds(now), times[-1] - now
        if left.done >= 0.1 * total and estimate is not None and rest > times[-1] / 3:
            told.append(estimate / rest)
    assert len(told) >= 4
    assert max(told) < 1.5
    assert min(told) > 1 / 1.5


def test_the_time_left_falls_between_two_parts_but_never_below_what_the_others_take() -> None:
    left = TimeLeft(10, 0.0)
    for now in range(1, 6):
        left.finish(1, float(now))
    assert [left.seconds(now) for now in (5.0, 5.5, 6.0, 60.0)] == [5.0, 4.5, 4.0, 4.0]


def test_no_time_is_told_by_the_first_part_alone() -> None:
    left = TimeLeft(10, 0.0)
    assert left.seconds(3.0) is None
    left.finish(1, 3.0)
    assert left.seconds(3.0) is None


def test_a_clock_has_minutes_and_hours() -> None:
    assert [clock(s) for s in (0, 47.6, 120, 723, 3723, -1)] == ["0:00", "0:48", "2:00", "12:03", "1:02:03", "0:00"]


def test_columns_are_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for told, used in (("60", 60), ("200", 200), ("7", module.NARROWEST)):
        monkeypatch.setenv("COLUMNS", told)
        assert columns() == used


def test_the_richest_line_that_fits_is_shown_and_steers_no_terminal() -> None:
    assert fit(["a long line", "short"], 8) == "short"
    assert fit(["much too long"], 8) == "much too"
    assert fit(["\u6f22\u5b57"], 3) == "\u6f22"
    assert fit(["\x1b[31m"], 20) == r"\x1b[31m"


def test_a_stage_counts_its_parts_and_leaves_out_what_does_not_fit() -> None:
    shown = Stage("measuring", 4.0, 4)
    shown.began -= 65
    shown.left = TimeLeft(4.0, shown.began)
    shown.advance()
    assert shown.line(80) == "measuring  [===         ]  1 of 4  1:05"
    assert shown.line(30) == "measuring  1 of 4  1:05"
    shown.advance()
    assert shown.line(80).startswith("measuring  [======      ]  2 of 4  1:05, 0:")
    assert shown.line(80).endswith(" left")


def test_work_of_known_sizes_is_weighed_by_them(tmp_path: Path) -> None:
    for name, size in (("a", 1000), ("b", 3000)):
        (tmp_path / name).write_bytes(bytes(size))
    assert sizes_of({"a": [tmp_path / "a"], "both": [tmp_path / "a", tmp_path / "b"]}) == {"a": 1501.0, "both": 4501.0}
    assert sizes_of({"a": [tmp_path / "a"], "folder": [tmp_path]}) == {"a": 1.0, "folder": 1.0}
    assert sizes_of({"gone": [tmp_path / "gone"]}) == {"gone": 1.0}


def test_a_log_gets_a_line_when_a_stage_begins_and_then_one_now_and_then(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clocks = iter(np.arange(0, 10000, 7.0))
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(clocks)))
    with caplog.at_level(logging.INFO, logger="nnseg"), stage("training", noted=True):
        assert list(progress(range(8), total=8, label="counting")) == list(range(8))
    first, *others = caplog.messages
    assert first == "training"
    assert 1 <= len(others) <= 6
    assert all(line.startswith("counting: ") and line.endswith(" left") for line in others)


def test_a_process_forked_while_the_line_is_shown_neither_waits_nor_writes(capfd: pytest.CaptureFixture[str]) -> None:
    with stage("forking"):
        module._line._bar = module._new_bar()
        time.sleep(0.01)
        child = os.fork()
        if not child:
            with module.beside_line(), stage("of the child"):
                os._exit(7 if module._line._bar is None else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert "of the child" not in capfd.readouterr().err
