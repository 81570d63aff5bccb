"""nnseg where it may do less than usual: containers, clusters, other clocks. The label maps are the same everywhere."""

import ctypes
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from warm import fold_options, hashes, nnseg

from nnseg.core.errors import WriteError
from nnseg.inference import volumes
from nnseg.system.parallel import map_items

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits and namespaces of Linux")

NEW_MOUNTS, NEW_NETWORK, NEW_USER = 0x00020000, 0x40000000, 0x10000000
"""Flags of unshare(2)."""
CANNOT = 77
"""Exit code of a process that may not make its environment."""


def _unshare(flag: int) -> None:
    if ctypes.CDLL(None, use_errno=True).unshare(flag):
        os._exit(CANNOT)


def _mount(*arguments: str) -> None:
    if subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode:
        os._exit(CANNOT)


def _own_mounts() -> None:
    _unshare(NEW_MOUNTS)
    _mount("--make-rprivate", "/")


def _without_a_home() -> None:
    for name in ("HOME", "XDG_CACHE_HOME", "USER", "LOGNAME"):
        os.environ.pop(name, None)


def _without_network() -> None:
    _unshare(NEW_NETWORK)


def _with_little_shared_memory() -> None:
    _own_mounts()
    _mount("-t", "tmpfs", "-o", "size=64m", "tmpfs", "/dev/shm")


def _with_256_open_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))


def _with_64_processes() -> None:
    group = Path("/sys/fs/cgroup/pids") / f"nnseg_{os.getpid()}"
    try:
        group.mkdir()
        (group / "pids.max").write_text("64")
        (group / "cgroup.procs").write_text(str(os.getpid()))
    except OSError:
        os._exit(CANNOT)


def _as_another_user() -> None:
    """Neither root nor with a right that files do not give."""
    _unshare(NEW_USER)
    assert os.getuid() not in (0,)


def _on_a_read_only_disk(data: Path) -> None:
    _own_mounts()
    _mount("--bind", str(data), str(data))
    _mount("-o", "remount,bind,ro", str(data))


def _at_another_time() -> None:
    """In another time zone, with a clock that jumps by a day forth and two back each time it is read."""
    os.environ["TZ"] = "Pacific/Kiritimati"
    time.tzset()
    now, count = time.time, iter(range(10**9))
    time.time = lambda: now() + 86400 * (1 if next(count) % 2 else -2)


def _everything_at_once(data: Path) -> None:
    _on_a_read_only_disk(data)
    _mount("-t", "tmpfs", "-o", "size=64m", "tmpfs", "/dev/shm")
    for limit in (_without_a_home, _without_network, _with_256_open_files, _with_64_processes, _at_another_time, _as_another_user):
        limit()


ENVIRONMENTS = {
    limit.__name__.strip("_").replace("_", " "): limit
    for limit in (
        _without_a_home,
        _without_network,
        _with_little_shared_memory,
        _with_256_open_files,
        _with_64_processes,
        _as_another_user,
        _at_another_time,
    )
}


@pytest.fixture(scope="module")
def data(ball_dataset: Path, ball_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset, and a run with a model of it."""
    data = tmp_path_factory.mktemp("environment") / "data"
    shutil.copytree(ball_dataset, data / "balls")
    shutil.copytree(ball_run, data / "run")
    return data


@pytest.fixture(scope="module")
def usual(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Hashes of the label maps that are predicted in an environment without limits."""
    return _predict(data, tmp_path_factory.mktemp("usual") / "out")


def _inside(environment: Callable[[], None] | None, *arguments: object) -> None:
    """Run nnseg in an environment."""
    ended = nnseg(*arguments, inside=environment, check=None)
    if ended.returncode == CANNOT:
        pytest.skip("this machine does not let a process make that environment for itself")
    assert ended.returncode == 0, ended.stderr


def _predict(data: Path, out: Path, environment: Callable[[], None] | None = None) -> dict[str, str]:
    """Hashes of the label maps that are predicted in an environment; nothing is written beside scans and model."""
    before = hashes(data)
    _inside(environment, "predict", data / "balls" / "imagesTr", out, "--model", data / "run", "--device", "cpu")
    assert hashes(data) == before
    found = {path: digest for path, digest in hashes(out).items() if path.endswith(".nii.gz")}
    assert len(found) == 6
    return found


def test_predictions_are_the_same_in_a_strict_container(data: Path, usual: dict[str, str], tmp_path: Path) -> None:
    assert _predict(data, tmp_path / "out", partial(_everything_at_once, data)) == usual


@pytest.mark.slow
@pytest.mark.parametrize("name", [*ENVIRONMENTS, "on a read only disk"])
def test_predictions_are_the_same(name: str, data: Path, usual: dict[str, str], tmp_path: Path) -> None:
    assert _predict(data, tmp_path / "out", ENVIRONMENTS.get(name) or partial(_on_a_read_only_disk, data)) == usual


@pytest.mark.slow
def test_a_run_in_a_strict_container_gives_the_same_model(data: Path, tiny_recipe: Path, tmp_path: Path) -> None:
    _inside(partial(_everything_at_once, data), "run", data / "balls", tmp_path / "run", *fold_options(tiny_recipe))
    for name in ("fold_0/model.nnseg", "plan.toml", "scores.json"):
        assert (tmp_path / "run" / name).read_bytes() == (data / "run" / name).read_bytes()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", place], capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let the tests mount a small file system")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_disk_that_is_full_is_named_and_the_same_command_goes_on(data: Path, usual: dict[str, str], small_disk: Path) -> None:
    arguments = ("predict", data / "balls" / "imagesTr", small_disk / "out", "--model", data / "run", "--device", "cpu")
    filling = small_disk / "filling"
    filling.write_bytes(bytes(2**22 - 3 * 4096))
    ended = nnseg(*arguments, check=None)
    assert ended.returncode not in (0, None)
    assert "No space left on device" in ended.stderr.strip().splitlines()[-1]
    assert "Traceback" not in ended.stderr
    filling.unlink()
    assert _predict(data, small_disk / "out") == usual
    assert not [path for path in small_disk.rglob(".*") if path.name != ".lock"]


def test_probabilities_for_which_the_disk_has_no_room_are_an_error(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system would end a process, here a child, that writes a mapped file to a full disk."""
    monkeypatch.setattr(volumes, "IN_MEMORY_BYTES", 0)

    def fill(megabytes: int) -> None:
        volumes.empty_array((megabytes, 250_000), "float32", small_disk)[:] = 1

    assert [outcome.reason for outcome in map_items(fill, [2], workers=1)] == [None]
    with pytest.raises(WriteError, match=r"cannot keep results in .*: No space left on device \(8\.0 MB are needed\)"):
        list(map_items(fill, [8], workers=1))


@pytest.mark.slow
def test_a_run_that_would_fill_the_disk_does_not_begin(data: Path, small_disk: Path, tiny_recipe: Path) -> None:
    (small_disk / "filling").write_bytes(bytes(2**22 - 200_000))
    ended = nnseg("run", data / "balls", small_disk / "run", *fold_options(tiny_recipe), check=None)
    assert ended.returncode == 2
    assert re.search(r"the run needs .* of disk and .* are free; ", ended.stderr.splitlines()[-1])
    (small_disk / "filling").unlink()
    nnseg("run", data / "balls", small_disk / "run", *fold_options(tiny_recipe))
    assert (small_disk / "run/fold_0/model.nnseg").read_bytes() == (data / "run/fold_0/model.nnseg").read_bytes()
