"""Python processes of our own: messages both ways, their log, why they ended, and that none outlives its parent."""

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nnseg.serving.messages import Refused
from nnseg.system import process
from nnseg.system.process import ChildProcess, launch

CONNECT = "from nnseg.system.process import ParentConnection; parent = ParentConnection()\n"


@pytest.fixture
def child_of(monkeypatch):
    """Starts a child that runs a program, and returns it with the list of its lines."""
    children = []

    def start(program, **kept):
        monkeypatch.setattr(process, "own_process", lambda *_: [sys.executable, "-c", program])
        lines = []
        children.append(ChildProcess(launch("any", **kept), lines.append))
        return children[-1], lines

    yield start
    for child in children:
        child.kill()


@pytest.mark.parametrize(
    ("program", "end"),
    [
        ("raise ValueError('no such thing')", "failed: ValueError: no such thing"),
        ("import sys; sys.exit(3)", "failed: exit code 3"),
        ("import os; os.kill(os.getpid(), 9)", "was killed (SIGKILL); most likely memory ran out"),
        ("import os; os.kill(os.getpid(), 15)", "was killed (SIGTERM)"),
    ],
)
def test_how_a_process_ended_is_explained(child_of, program, end):
    child, _ = child_of(program)
    assert child.wait(20) is not None
    assert child.explain_end() == end


def test_memory_that_ran_out_is_known_from_the_kernel_s_count(child_of, monkeypatch):
    child, _ = child_of("import os; os.kill(os.getpid(), 9)")
    monkeypatch.setattr(process, "oom_kills", lambda: 10**9)
    child.wait(20)
    assert child.explain_end() == "was killed (SIGKILL); memory had run out on the machine or in its control group"


def test_messages_go_both_ways_and_prints_do_not_mix_with_them(child_of, caplog):
    program = f"{CONNECT}from nnseg.serving.messages import Refused\nprint('noise')\nparent.send(parent.receive(Refused))"
    with caplog.at_level(logging.INFO, "nnseg"):
        child, lines = child_of(program)
        child.send(Refused(reason="because"))
        assert child.wait(20) == 0
    assert Refused.model_validate_json(lines[0]).reason == "because"
    assert lines[1:] == [None]
    assert [record.getMessage() for record in caplog.records] == ["noise"]


def test_a_process_that_reads_nothing_does_not_block_its_parent_and_can_be_killed(child_of):
    child, lines = child_of("import time; time.sleep(100)")
    child.send(Refused(reason="x" * 1_000_000))
    assert child.wait(0) is None
    child.kill()
    assert child.wait(0) == -9
    assert lines == [None]


def test_threads_of_its_libraries_can_be_limited(child_of):
    child, lines = child_of("import os; print(os.environ['OMP_NUM_THREADS'], os.getsid(0) == os.getpid())", threads=3)
    assert child.wait(20) == 0
    assert lines[0].split() == [b"3", b"True"]


@pytest.mark.skipif(not Path("/proc/self/oom_score_adj").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(("end_signal", "first_victim"), [("SIGKILL", True), ("SIGTERM", False)])
def test_only_a_process_whose_work_is_repeated_is_the_first_victim_when_memory_runs_out(child_of, end_signal, first_victim):
    program = (
        "from nnseg.system.process import bind_to_parent; import os\n"
        f"bind_to_parent(os.getppid(), {end_signal!r}); print(open('/proc/self/oom_score_adj').read())"
    )
    child, lines = child_of(program)
    assert child.wait(20) == 0
    assert (int(lines[0]) == 1000) == first_victim


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells a child of its parent's end")
def test_a_process_ends_with_its_parent_even_if_it_does_not_read():
    child = (
        "from nnseg.system.process import bind_to_parent; import os, time; bind_to_parent(os.getppid()); print(1); time.sleep(100)"
    )
    parent = (
        f"import os, subprocess, sys; child = subprocess.Popen([sys.executable, '-uc', {child!r}], stdout=subprocess.PIPE)\n"
        "child.stdout.readline(); print(child.pid, flush=True); os._exit(0)"
    )
    done = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, check=True, env=dict(os.environ))
    until = time.monotonic() + 5
    while (running := Path(f"/proc/{done.stdout.strip()}").exists()) and time.monotonic() < until:
        time.sleep(0.01)
    assert not running


def test_its_log_is_read_in_the_encoding_that_it_is_written_in(child_of, caplog, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "cp1252")
    with caplog.at_level(logging.INFO, "nnseg"):
        child, _ = child_of("import sys; print('µm', file=sys.stderr)")
        assert child.wait(20) == 0
    assert [record.getMessage() for record in caplog.records] == ["µm"]
