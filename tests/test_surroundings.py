"""A run where little is allowed: read-only scans, 256 open files, small /dev/shm, few processes, no home, another folder."""

import ctypes
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import warm

CLONE_NEWNS = 0x20000
"""Source: Linux, sched.h."""


def _narrow(dataset: Path, arguments: list[str], out: Path, dtype: object) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "USER", "LOGNAME"):
        os.environ.pop(name, None)
    os.chdir("/")
    if os.geteuid() == 0 and ctypes.CDLL(None).unshare(CLONE_NEWNS) == 0:
        for mount in (
            ("--make-rprivate", "/"),
            ("-t", "tmpfs", "-o", "size=64k", "tmpfs", "/dev/shm"),
            ("--bind", str(dataset), str(dataset)),
            ("-o", "remount,bind,ro", str(dataset)),
        ):
            subprocess.run(["mount", *mount], check=True)
    else:
        for folder in (dataset, *(path for path in dataset.rglob("*") if path.is_dir())):
            folder.chmod(0o500)
    warm._main(arguments, out, dtype)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's limits")
def test_a_run_needs_little_of_the_system(ball_dataset: Path, tiny_recipe: Path, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    arguments = ["run", ball_dataset, run, "--no-probe", "--recipe", tiny_recipe, "--folds", 0, "--device", "cpu", "--workers", 8]
    before = {path: path.stat().st_mtime_ns for path in ball_dataset.rglob("*")}
    process = warm.CONTEXT.Process(target=_narrow, args=(ball_dataset, [str(a) for a in arguments], out, warm._faster_dtype()))
    process.start()
    process.join(200)
    assert process.exitcode == 0, out.with_suffix(".err").read_text()
    assert (run / "model.nnseg").exists()
    assert {path: path.stat().st_mtime_ns for path in ball_dataset.rglob("*")} == before
