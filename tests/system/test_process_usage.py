"""What a process uses, measured from outside, and kills for lack of memory."""

import os
import subprocess
import sys
import time

import psutil
import pytest

from nnseg.system import machine
from nnseg.system.machine import PROC, held_gb, oom_kills, process_usage

pytestmark = pytest.mark.skipif(not PROC.exists(), reason="needs /proc")

PROGRAM = """
import sys, time
sys.stdin.readline()
end = time.process_time() + 0.3
while time.process_time() < end: pass
block = bytearray(50_000_000)
open(sys.argv[1], "wb").write(block)
print("done", flush=True)
sys.stdin.readline()
"""


def test_computing_writing_and_memory_are_seen_from_outside(tmp_path):
    command = [sys.executable, "-c", PROGRAM, tmp_path / "file"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        time.sleep(0.3)
        before = process_usage(process.pid)
        process.stdin.write("\n")
        process.stdin.flush()
        process.stdout.readline()
        after = process_usage(process.pid)
        process.communicate("\n")
    assert 0.25 < after.cpu_seconds - before.cpu_seconds < 3
    assert after.io_bytes - before.io_bytes >= 50_000_000
    assert 0.04 < after.own_gb - before.own_gb < 0.08


def test_the_usage_of_a_process_that_has_ended_is_none():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert process_usage(process.pid) is None


@pytest.mark.parametrize("error", [psutil.AccessDenied(1), RuntimeError("/proc/1/io file was empty"), FileNotFoundError()])
def test_memory_is_measured_where_the_system_hides_input_and_output(monkeypatch, error):
    def refuse(process):
        raise error

    monkeypatch.setattr(psutil.Process, "io_counters", refuse)
    usage = process_usage(os.getpid())
    assert usage.io_bytes == 0
    assert usage.own_gb > 0
    assert usage.cpu_seconds > 0


def test_memory_is_measured_where_the_system_hides_mapped_files(monkeypatch):
    def refuse(process):
        raise psutil.AccessDenied(1)

    whole = held_gb()
    monkeypatch.setattr(psutil.Process, "memory_maps", refuse)
    machine._library_bytes_of.cache_clear()
    assert 0 < held_gb() < whole


def test_kills_for_lack_of_memory_are_counted_in_the_own_group_first(tmp_path):
    proc, cgroups = tmp_path / "proc", tmp_path / "cgroups"
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "cgroup").write_text("0::/job/7\n")
    (proc / "vmstat").write_text("pgfault 12\noom_kill 5\n")
    assert oom_kills(proc=proc, cgroups=cgroups) == 5
    (cgroups / "job" / "7").mkdir(parents=True)
    (cgroups / "job" / "7" / "memory.events").write_text("low 0\noom 3\noom_kill 2\n")
    assert oom_kills(proc=proc, cgroups=cgroups) == 2
    assert oom_kills(proc=tmp_path / "none", cgroups=tmp_path / "none") == 0
