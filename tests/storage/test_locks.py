"""One process works in a folder at a time; the others learn which. Also on disks without locks, and on network disks."""

import errno
import fcntl
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from nnseg.core.errors import RunError, ScanError
from nnseg.storage.files import read_json, write_json
from nnseg.storage.locks import locked
from nnseg.system import stale
from nnseg.system.isolation import outcome_of

HOLD = (
    "import os, sys; from pathlib import Path; from nnseg.storage import locks\n"
    "def no_locks(*_): raise OSError({number}, 'no locks')\n"
    "if {number}: import fcntl; fcntl.flock = no_locks\n"
    "lock = locks.locked(Path(sys.argv[1]), busy=''); lock.__enter__()\n"
    "print('held', flush=True); sys.stdin.read(); os._exit(1)"
)


def held(folder: Path, number: int = 0) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD.format(number=number), str(folder)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


@pytest.mark.parametrize("number", [0, errno.ENOLCK, errno.EOPNOTSUPP])
def test_who_holds_the_lock_is_said_until_it_has_died(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    if number:

        def no_locks(*_: object) -> None:
            raise OSError(number, "no locks")

        monkeypatch.setattr(fcntl, "flock", no_locks)
    with held(tmp_path, number) as holder:
        with pytest.raises(RunError) as refused, locked(tmp_path, busy="{} is in use"):
            pass
        said = f"{tmp_path} is in use (process {holder.pid} on {platform.node()}, since 20"
        assert str(refused.value).startswith(said)
        assert ("delete" in str(refused.value)) == bool(number)
        holder.kill()
    with locked(tmp_path, busy="{} is in use"):
        assert f"process {os.getpid()} on" in (tmp_path / ".lock").read_text()


def test_what_a_network_disk_has_moved_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stale, "DELAYS", (0.0, 0.0))
    write_json(tmp_path / "numbers.json", [1, 2])
    failures = [OSError(errno.ESTALE, "Stale file handle")] * 2

    def read(path: Path) -> bytes:
        if failures:
            raise failures.pop()
        return b"[1, 2]"

    monkeypatch.setattr(Path, "read_bytes", read)
    assert read_json(tmp_path / "numbers.json", list[int]) == [1, 2]


@pytest.mark.parametrize(("number", "calls"), [(errno.ESTALE, 3), (errno.EIO, 1)])
def test_a_case_on_a_network_disk_is_read_again(monkeypatch: pytest.MonkeyPatch, number: int, calls: int) -> None:
    monkeypatch.setattr(stale, "DELAYS", (0.0, 0.0))
    called = []

    def read(name: str) -> None:
        called.append(name)
        try:
            raise OSError(number, os.strerror(number))
        except OSError as error:
            raise ScanError(f"{name} cannot be read") from error

    assert outcome_of(read, "scan").reason == "scan cannot be read"
    assert len(called) == calls


def test_of_a_lock_that_names_its_owner_in_a_terabyte_the_beginning_is_read(tmp_path):
    with locked(tmp_path, busy="{} is busy"):
        (tmp_path / ".lock").write_text("process 1 on here, ")
        os.truncate(tmp_path / ".lock", 2**40)
        with pytest.raises(RunError, match="busy \\(process 1 on here"), locked(tmp_path, busy="{} is busy"):
            pass
