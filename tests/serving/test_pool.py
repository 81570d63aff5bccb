"""Worker processes that die, hang or are stopped are detected and named, and only the case that caused it can fail."""

import logging
import os
import signal
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from standin import start, task

from nnseg.core.errors import NnsegError, RunError, Stopped
from nnseg.serving import pipeline, worker_process
from nnseg.serving.messages import PredictionOrder
from nnseg.serving.pool import POLL_INTERVAL, WorkerPool


@contextmanager
def workers(tmp_path, *, model="model", **kept):
    with WorkerPool(
        PredictionOrder(models=(Path(model),), out=tmp_path / "out", device="cpu"), start=start, memory_gb=100.0, **kept
    ) as pool:
        yield pool


def predicted(tmp_path, names, **kept):
    """The records of scans with these names."""
    with workers(tmp_path, **kept) as pool:
        pool.ready()
        return dict(pool.predict([task(tmp_path / "scans", name) for name in names]))


def statuses(written):
    return {name: (w.status, w.attempts) for name, w in written.items()}


def test_all_cases_are_predicted_by_one_process_that_loaded_once(tmp_path):
    written = predicted(tmp_path, ["a", "b", "c", "d", "e", "f", "g"])
    assert statuses(written) == dict.fromkeys("abcdefg", ("done", 1))
    assert len({p.name.split("_")[1] for p in tmp_path.glob("seen_*")}) == 1
    assert all(w.peak_gb > 0.01 for w in written.values())


def test_several_devices_share_the_cases(tmp_path):
    written = predicted(tmp_path, [f"{i}" for i in range(16)], devices=("cpu", "cpu"))
    assert len(written) == 16
    assert len({p.name.split("_")[1] for p in tmp_path.glob("seen_*")}) == 2


def test_a_killed_process_is_named_and_its_case_tried_again_alone(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "nnseg"):
        written = predicted(tmp_path, ["a", "b", "fragile", "d", "e"])
    assert {s for s, _ in statuses(written).values()} == {"done"}
    assert written["fragile"].attempts == 2
    said = next(r.getMessage() for r in caplog.records if "SIGKILL" in r.getMessage())
    assert "fragile (network)" in said
    assert "by computation" in said


def test_a_case_that_kills_twice_fails_and_costs_no_other(tmp_path):
    written = predicted(tmp_path, ["a", "b", "deadly", "d", "e"])
    assert {n: s for n, (s, _) in statuses(written).items()} == {
        "a": "done",
        "b": "done",
        "deadly": "failed",
        "d": "done",
        "e": "done",
    }
    reason = written["deadly"].reason
    assert reason.count("SIGKILL") == 2
    assert "second attempt, alone" in reason
    assert written["deadly"].attempts == 2


def test_a_process_that_hangs_is_reported_in_time_and_replaced(tmp_path, caplog, monkeypatch):
    assert worker_process.HANG_SECONDS + 2 * POLL_INTERVAL < 5
    monkeypatch.setattr(worker_process, "HANG_SECONDS", 0.6)
    monkeypatch.setattr(worker_process, "HANG_TIMEOUT", 1.2)
    with caplog.at_level(logging.INFO, "nnseg"):
        written = predicted(tmp_path, ["a", "slow", "c"])
    assert {s for s, _ in statuses(written).values()} == {"done"}
    assert written["slow"].attempts == 2
    said = [r.getMessage() for r in caplog.records]
    assert any("hangs" in line and "slow (network)" in line for line in said)
    assert any("hung for 1 s and was killed" in line for line in said)
    assert any("standin.py" in line and "in infer" in line for line in said), "its stacks are logged"


def test_a_reader_that_computes_for_ever_is_ended(tmp_path, monkeypatch):
    read = pipeline.read_scan

    def read_for_ever(files, **kept):
        while "endless" in files[0].name:
            pass
        return read(files, **kept)

    monkeypatch.setattr(pipeline, "read_scan", read_for_ever)
    monkeypatch.setenv("NNSEG_TIMEOUT", "2s")
    written = predicted(tmp_path, ["a", "endless", "c"])
    assert statuses(written) == {"a": ("done", 1), "endless": ("failed", 2), "c": ("done", written["c"].attempts)}
    assert "had not read a scan after 2 s" in written["endless"].reason


def test_a_stopped_process_counts_as_hanging(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(worker_process, "HANG_SECONDS", 0.6)
    monkeypatch.setattr(worker_process, "HANG_TIMEOUT", 1.0)
    with caplog.at_level(logging.INFO, "nnseg"), workers(tmp_path) as pool:
        pool.ready()
        [worker] = pool._workers
        written = {}
        for name, outcome in pool.predict([task(tmp_path / "scans", f"{i}") for i in range(12)]):
            if not written:
                os.kill(worker.child.process.pid, signal.SIGSTOP)
            written[name] = outcome
    assert {w.status for w in written.values()} == {"done"}
    assert len(written) == 12
    assert any("hangs" in r.getMessage() for r in caplog.records)


def test_where_processes_cannot_be_inspected_their_heartbeat_shows_who_hangs(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("nnseg.system.activity.process_usage", lambda pid: None)
    monkeypatch.setattr(worker_process, "HANG_SECONDS", 1.5)
    monkeypatch.setattr(worker_process, "HANG_TIMEOUT", 2.0)
    with caplog.at_level(logging.INFO, "nnseg"):
        written = predicted(tmp_path, ["a", "slow"])
    assert statuses(written) == {"a": ("done", 1), "slow": ("done", 2)}


def test_a_scan_too_large_for_its_share_is_predicted_alone(tmp_path):
    tasks = [task(tmp_path / "scans", "a", 2), task(tmp_path / "scans", "large", 70), task(tmp_path / "scans", "huge", 200)]
    with workers(tmp_path, devices=("cpu", "cpu")) as pool:
        pool.ready()
        written = dict(pool.predict(tasks))
    assert statuses(written) == {"a": ("done", 1), "large": ("done", 2), "huge": ("failed", 2)}
    assert "needs 200.00 GB" in written["huge"].reason


def test_a_model_that_cannot_be_loaded_is_an_error_before_any_case(tmp_path):
    with workers(tmp_path, model="missing") as pool, pytest.raises(NnsegError, match="there is no model missing"):
        pool.ready()


def test_dying_again_and_again_while_loading_ends_it(tmp_path):
    with workers(tmp_path, model="deadly") as pool, pytest.raises(RunError, match=r"loading the model.*SIGKILL"):
        pool.ready()


def test_hanging_while_loading_ends_too(tmp_path, monkeypatch):
    monkeypatch.setattr(worker_process, "HANG_SECONDS", 0.3)
    monkeypatch.setattr(worker_process, "HANG_TIMEOUT", 0.5)
    monkeypatch.setattr(worker_process, "STACK_SECONDS", 0.1)
    with workers(tmp_path, model="stuck") as pool, pytest.raises(RunError, match=r"loading the model.*hung"):
        pool.ready()


def test_no_process_is_left_whatever_happens(tmp_path):
    with workers(tmp_path, devices=("cpu", "cpu")) as pool:
        pool.ready()
        processes = [worker.child.process for worker in pool._workers]
        assert [p.poll() for p in processes] == [None, None]
        next(iter(pool.predict([task(tmp_path / "scans", "a")])))
    assert all(p.poll() is not None for p in processes)


def test_a_process_ends_when_its_stdin_is_closed(tmp_path):
    with workers(tmp_path) as pool:
        pool.ready()
        process = pool._workers[0].child.process
        pool._workers[0].child.close_input()
        assert process.wait(5) == 0


def test_ctrl_c_ends_it_with_everything_that_is_done(tmp_path):
    written = {}
    with pytest.raises(Stopped) as end, workers(tmp_path) as pool:
        pool.ready()
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        for name, outcome in pool.predict([task(tmp_path / "scans", name) for name in ["a", "stuck", "c"]]):
            written[name] = outcome
            start_waiting = time.monotonic()
    assert end.value.code == 130
    assert time.monotonic() - start_waiting < 5
    assert statuses(written) == {"a": ("done", 1)}
