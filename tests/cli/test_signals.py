"""Signals end a command at once, with its processes, and its last line tells what ended it."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

START = "import os, sys, time; from pathlib import Path; pids = Path(sys.argv.pop(1))\n"
SLOW_READERS = (
    "from nnseg.planning import measure_folder\n"
    "def look(case, **_):\n"
    "    (pids / str(os.getpid())).touch()\n"
    "    time.sleep(100)\n"
    "measure_folder.look_and_measure = look\n"
)
SLOW_PROBE = (
    "from nnseg.system import process\n"
    "child = f'import os, time; from pathlib import Path; Path({str(pids)!r}, str(os.getpid())).touch(); time.sleep(100)'\n"
    "process.own_process = lambda *_: [sys.executable, '-c', 'from nnseg.system.process import bind_to_parent; import os; '\n"
    "    'bind_to_parent(os.getppid()); ' + child]\n"
)
COMMAND = "from nnseg.cli import main; sys.argv[0] = 'nnseg'; main()"


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    for name in ("images", "labels"):
        (folder / name).mkdir()
    labels = np.zeros((8, 16, 16), np.uint8)
    labels[2:6, 4:12, 4:12] = 1
    for case in range(4):
        for name, voxels in (("images", labels * 3.0 + case), ("labels", labels)):
            sitk.WriteImage(sitk.GetImageFromArray(voxels), folder / name / f"case{case}.nii.gz")
    return folder


@pytest.mark.parametrize(
    ("program", "arguments", "number"),
    [
        (SLOW_READERS, ("check", "SCANS"), signal.SIGTERM),
        (SLOW_PROBE, ("plan", "SCANS", "RUN"), signal.SIGHUP),
    ],
)
def test_a_signal_ends_a_command_with_its_processes(
    scans: Path, tmp_path: Path, program: str, arguments: tuple[str, ...], number: signal.Signals
) -> None:
    pids = tmp_path / "pids"
    pids.mkdir()
    named = {"SCANS": str(scans), "RUN": str(tmp_path / "run")}
    command = [sys.executable, "-c", START + program + COMMAND, str(pids), *(named.get(a, a) for a in arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True) as parent:
        _wait(lambda: any(pids.iterdir()))
        time.sleep(0.1)
        parent.send_signal(number)
        _, error = parent.communicate(timeout=60)
    _wait(lambda: not any(Path(f"/proc/{pid.name}").exists() for pid in pids.iterdir()))
    assert parent.returncode == 128 + number, error
    assert error.splitlines()[-1].startswith(f"nnseg: interrupted by {number.name}; the same command continues")
    assert "Traceback" not in error
    assert not (tmp_path / "run" / ".probe").exists()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_signal_at_any_moment_ends_a_command(scans: Path) -> None:
    command, moments, interrupted = [sys.executable, "-m", "nnseg", "check", str(scans)], random.Random(0), 0
    start = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    duration = time.monotonic() - start
    for number in [signal.SIGHUP, signal.SIGTERM, signal.SIGINT] * 8:
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            time.sleep(moments.uniform(0.1, 1.0) * duration)
            process.send_signal(number)
            _, error = process.communicate(timeout=60)
        assert process.returncode in (0, 128 + number) or "nnseg: " not in error, error  # else it was not yet loaded
        assert "Exception ignored" not in error
        if process.returncode == 128 + number:
            assert error.splitlines()[-1].startswith(f"nnseg: interrupted by {number.name}")
            interrupted += 1
    assert interrupted  # how many are, a busy machine decides


def test_an_ignored_signal_stays_ignored(tmp_path: Path) -> None:
    program = (
        "import os, signal; from nnseg.system.stop import StopRequest, interrupting_signals\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "with interrupting_signals(), StopRequest() as stop:\n    signal.raise_signal(signal.SIGHUP)\n    print(repr(stop.source))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=dict(os.environ))
    assert done.stdout.strip() == "''"


def _wait(condition) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)
