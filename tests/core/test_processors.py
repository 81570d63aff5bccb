"""How many cores may be used, and the environment that numerical libraries are loaded in."""

import os
import subprocess
import sys

import pytest

from nnseg.core import processors
from nnseg.core.processors import default_workers, library_environment, prepare_libraries, waits_actively

VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000"}, 8),
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "10000 100000"}, 1),
        ({"cpu.max": "1600000 100000"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
    ],
)
def test_a_container_with_a_limit_of_time_has_as_many_cores_as_this_is_enough_for(tmp_path, monkeypatch, files, cores):
    monkeypatch.setattr(processors, "usable_cores", lambda: 8)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert default_workers(tmp_path) == cores


def test_threads_are_limited_where_the_container_is(monkeypatch):
    monkeypatch.setattr(processors, "usable_cores", lambda: 8)
    monkeypatch.setattr(processors, "default_workers", lambda: 2)
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert library_environment() == {"OMP_NUM_THREADS": "2"}
    monkeypatch.setattr(processors, "default_workers", lambda: 8)
    assert library_environment() == {}


def test_threads_wait_for_one_another_for_a_moment_only(monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert library_environment().items() >= {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000"}.items()


def test_threads_wait_in_python_as_on_the_command_line(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    program = "import os, sys, nnseg; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["passive", "False"]


@pytest.mark.parametrize(
    ("before", "loaded", "late"), [({}, True, True), ({}, False, False), ({"OMP_WAIT_POLICY": "active"}, True, False)]
)
def test_it_is_known_if_torch_was_loaded_too_early(monkeypatch, before, loaded, late):
    monkeypatch.setattr(processors, "_SET_LATE", set())
    for name in VARIABLES:
        monkeypatch.setenv(name, "1")  # so that it is removed at the end of the test
        monkeypatch.delenv(name)
    for name, value in before.items():
        monkeypatch.setenv(name, value)
    if not loaded:
        monkeypatch.delitem(sys.modules, "torch")
    prepare_libraries()
    assert waits_actively() is late
    assert os.environ["OMP_WAIT_POLICY"] == before.get("OMP_WAIT_POLICY", "passive")
