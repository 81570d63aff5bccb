import logging
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from nnseg.core.errors import ScanError
from nnseg.system import parallel
from nnseg.system.parallel import map_items, progress


def _halve(number: int) -> int:
    time.sleep(0.02)
    if number == 3:
        raise ScanError("three is odd")
    if number == 5:
        raise ZeroDivisionError("five")
    if number == 7 and os.environ.get("OMP_NUM_THREADS") == "1":  # only in a worker
        os.kill(os.getpid(), signal.SIGKILL)
    return number // 2


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bad_item_costs_no_other(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "WORTH_A_POOL", 0.0)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    outcomes = {o.item: o for o in map_items(_halve, [0, 2, 3, 4, 5, 6], workers=workers)}
    assert {n: o.result for n, o in outcomes.items() if o.reason is None} == {0: 0, 2: 1, 4: 2, 6: 3}
    assert outcomes[3].reason == "three is odd"
    assert outcomes[3].details is None
    assert outcomes[5].reason == "ZeroDivisionError: five"
    assert "Traceback" in str(outcomes[5].details)


def test_a_killed_worker_costs_only_its_item(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "WORTH_A_POOL", 0.0)
    outcomes = {o.item: o for o in map_items(_halve, [0, 2, 7, 8, 10], workers=2)}
    assert "died" in str(outcomes[7].reason)
    assert {n: o.result for n, o in outcomes.items() if n != 7} == {0: 0, 2: 1, 8: 4, 10: 5}


def test_another_engine_takes_the_place_of_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    def engine(workers: int) -> ThreadPoolExecutor:
        started.append(workers)
        return ThreadPoolExecutor(workers)

    monkeypatch.setattr(parallel, "WORTH_A_POOL", 0.0)
    monkeypatch.setattr(parallel, "start_pool", engine)
    assert sorted(str(outcome.result) for outcome in map_items(_halve, [0, 2, 4, 6], workers=2)) == ["0", "1", "2", "3"]
    assert started == [2]


def test_progress_passes_everything_through(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert list(progress(range(3), total=3, label="counting")) == [0, 1, 2]
    assert capsys.readouterr().out == ""
