"""Tests of what a machine has free and what a process holds of it."""

import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from nnseg.system.machine import free_device_gb, free_disk_gb, free_ram_gb, held_gb, keep_freed_memory, peak_ram

needs_proc = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")


@pytest.fixture
def eight_gb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=8_192_000_000))


def test_free_ram_is_what_the_tightest_group_leaves_with_its_droppable_files(tmp_path: Path, eight_gb: None) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "groups"
    (proc / "self").mkdir(parents=True)
    (proc / "self/cgroup").write_text("0::/jobs/mine\n")
    for name, limit, used in (("jobs", "5000000000", 2000000000), ("jobs/mine", "max", 10)):
        (groups / name).mkdir(parents=True)
        (groups / name / "memory.max").write_text(f"{limit}\n")
        (groups / name / "memory.current").write_text(f"{used}\n")
        (groups / name / "memory.stat").write_text("anon 5\ninactive_file 500000000\n")
    assert free_ram_gb(proc=proc, cgroups=groups) == pytest.approx(3.5)
    (groups / "jobs/memory.max").write_text("max\n")
    assert free_ram_gb(proc=proc, cgroups=groups) == pytest.approx(8.192)


def test_free_ram_knows_groups_of_the_first_version(tmp_path: Path, eight_gb: None) -> None:
    proc, group = tmp_path / "proc", tmp_path / "groups/memory"
    (proc / "self").mkdir(parents=True)
    group.mkdir(parents=True)
    (proc / "self/cgroup").write_text("5:cpu:/a\n4:memory:/not/seen/from/inside\n0::/\n")
    (group / "memory.limit_in_bytes").write_text("2000000000\n")
    (group / "memory.usage_in_bytes").write_text("1500000000\n")
    (group / "memory.stat").write_text("total_inactive_file 0\n")
    assert free_ram_gb(proc=proc, cgroups=tmp_path / "groups") == pytest.approx(0.5)


def test_free_ram_of_a_machine_without_proc_is_some(tmp_path: Path) -> None:
    assert free_ram_gb(proc=tmp_path, cgroups=tmp_path) > 0


def test_a_processor_has_no_memory_of_its_own() -> None:
    assert free_device_gb("cpu") == 0


def test_the_disk_of_a_folder_that_is_not_there_yet_is_known(tmp_path: Path) -> None:
    assert free_disk_gb(tmp_path / "a/b") == pytest.approx(free_disk_gb(tmp_path), rel=0.1)


@pytest.mark.skipif(sys.platform != "linux" or not platform.libc_ver()[0], reason="needs glibc")
def test_memory_that_is_kept_need_not_be_claimed_again() -> None:
    def faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        block = b"x" * 64_000_000
        del block
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    assert faults() > 10_000
    before = held_gb()
    with keep_freed_memory():
        faults()
        assert [faults() < 100 for _ in range(3)] == [True] * 3
        assert held_gb() > before + 0.05
    assert held_gb() < before + 0.02  # handed back
    assert faults() > 10_000


@needs_proc
def test_the_peak_is_seen_after_its_memory_is_free_again() -> None:
    before = held_gb()
    with peak_ram(every=0.01, children=False) as peak:  # other tests may have left a server of processes
        block = np.ones(100_000_000, np.uint8)
        time.sleep(0.1)
        del block
    assert peak.gb - before == pytest.approx(0.1, abs=0.03)


@needs_proc
def test_children_count_until_they_end() -> None:
    with peak_ram(every=0.01) as peak:
        subprocess.run([sys.executable, "-c", "import time; x = bytearray(80_000_000); time.sleep(0.3)"], check=True)
    with peak_ram(every=0.01, children=False) as alone:
        subprocess.run([sys.executable, "-c", "import time; x = bytearray(80_000_000); time.sleep(0.3)"], check=True)
    assert peak.gb - alone.gb > 0.06


@needs_proc
def test_mapped_files_do_not_count(tmp_path: Path) -> None:
    np.ones(60_000_000, np.uint8).tofile(tmp_path / "file")
    before = held_gb()
    mapped = np.memmap(tmp_path / "file", np.uint8, "r")
    assert int(mapped.sum()) == 60_000_000
    assert held_gb() - before < 0.03
