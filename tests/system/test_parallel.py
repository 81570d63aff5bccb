import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nnseg.core.errors import ScanError, WriteError
from nnseg.system import activity, isolation, parallel
from nnseg.system.isolation import Outcome, outcome_of
from nnseg.system.parallel import map_items
from nnseg.system.progress import progress


def _halve(number: int) -> int:
    if number == 3:
        raise ScanError("three is odd")
    if number == 5:
        raise ZeroDivisionError("five")
    if number == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 9:
        os.kill(os.getpid(), signal.SIGSEGV)
    if number == 11:
        sys.exit(3)
    if number == 13:
        os.kill(os.getpid(), signal.SIGBUS)
    return number // 2


def _hang(number: int) -> int:
    if number == 1:
        time.sleep(100)
    while number == 3:
        pass
    return number


def _fill_disk(number: int) -> int:
    raise WriteError(f"cannot write {number}")


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_bad_item_costs_no_other(workers: int) -> None:
    outcomes = {o.item: o for o in map_items(_halve, [0, 2, 3, 4, 5, 6], workers=workers)}
    assert {n: o.result for n, o in outcomes.items() if o.reason is None} == {0: 0, 2: 1, 4: 2, 6: 3}
    assert outcomes[3].reason == "three is odd"
    assert outcomes[3].details is None
    assert outcomes[5].reason == "ZeroDivisionError: five"
    assert "Traceback" in str(outcomes[5].details)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_process_that_dies_costs_only_its_item(workers: int) -> None:
    outcomes = {o.item: o for o in map_items(_halve, [0, 7, 9, 2, 11, 13, 8, 10], workers=workers)}
    assert {n: o.result for n, o in outcomes.items() if o.reason is None} == {0: 0, 2: 1, 8: 4, 10: 5}
    assert "was killed (SIGKILL); most likely memory ran out (twice, the second time alone)" in str(outcomes[7].reason)
    assert "crashed (SIGSEGV)" in str(outcomes[9].reason)
    assert "failed: exit code 3" in str(outcomes[11].reason)
    assert "crashed (SIGBUS); most likely a file was cut, or its disk failed" in str(outcomes[13].reason)


def test_what_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "POLL_INTERVAL", 0.1)
    monkeypatch.setattr(isolation, "HANG_TIMEOUT", 0.4)
    outcomes = {o.item: o for o in map_items(_hang, [0, 1, 2, 4], workers=2)}
    assert {n for n, o in outcomes.items() if o.result == n} == {0, 2, 4}
    assert "hung for" in str(outcomes[1].reason)


def test_what_computes_for_ever_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "POLL_INTERVAL", 0.1)
    monkeypatch.setattr(activity, "ACTIVE_CPU_SECONDS", 0.0)
    monkeypatch.setenv(isolation.TIMEOUT_VARIABLE, "1s")
    outcomes = {o.item: o for o in map_items(_hang, [3, 0], workers=1)}
    assert outcomes[0].result == 0
    assert "was not done after 1 s and was ended (NNSEG_TIMEOUT" in str(outcomes[3].reason)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_cannot_be_written_ends_all(workers: int) -> None:
    with pytest.raises(WriteError, match="cannot write"):
        list(map_items(_fill_disk, [0, 1, 2], workers=workers))


def test_without_a_process_left_the_work_is_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(isolation.multiprocessing.get_context("fork").Process, "start", refused)
    assert [o.result for o in map_items(_halve, [0, 2, 4], workers=2)] == [0, 1, 2]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere processes are not forked")
def test_children_hold_no_file_of_their_parent(tmp_path: Path) -> None:
    with (tmp_path / "open").open("w"):
        (outcome,) = map_items(_open_files, [0], workers=1)
    assert not any(name.startswith(str(tmp_path)) for name in outcome.result or [])


def _open_files(_: int) -> list[str]:
    return [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.exists()]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("fallback", [False, True])
def test_children_end_with_their_parent(number: signal.Signals, fallback: bool) -> None:
    program = (
        "import os, time; from nnseg.system import process; from nnseg.system.parallel import map_items\n"
        f"process.PARENT_DEATH_SIGNAL = process.PARENT_DEATH_SIGNAL and {not fallback}\n"
        "def work(_):\n    os.write(1, b'%d\\n' % os.getpid())\n    time.sleep(100)\n"
        "list(map_items(work, [1, 2], workers=2))"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        children = [int(parent.stdout.readline()) for _ in range(2)]
        parent.send_signal(number)
    assert parent.returncode == -number
    assert [child for child in children if _lives(child)] == []


def _lives(pid: int) -> bool:
    until = time.monotonic() + 30
    while (lives := Path(f"/proc/{pid}").exists()) and time.monotonic() < until:
        time.sleep(0.01)
    return lives


def test_another_engine_takes_the_place_of_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    def engine(function, items, workers):
        assert workers == 2
        yield from (Outcome(item=item, result=-outcome_of(function, item).result) for item in items)

    monkeypatch.setattr(parallel, "outcomes_of_children", engine)
    assert [outcome.result for outcome in map_items(_halve, [2, 4, 6], workers=2)] == [-1, -2, -3]


def test_progress_passes_everything_through(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert list(progress(range(3), total=3, label="counting")) == [0, 1, 2]
    assert capsys.readouterr().out == ""
