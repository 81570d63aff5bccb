import json
import os
import sys
from pathlib import Path

import pytest
from ball_dataset import write_balls

from nnseg.core.dataset import AS_FOUND
from nnseg.core.errors import RunError, ScanError
from nnseg.storage.datasets import content
from nnseg.storage.datasets.layouts import find_layout
from nnseg.storage.files import file_hash
from nnseg.storage.images.read import read_scan
from nnseg.storage.run import Run
from nnseg.system import regular
from nnseg.system.regular import files_below, folders_below, open_regular, resolved


@pytest.fixture
def ring(tmp_path: Path) -> Path:
    """A link to itself."""
    path = tmp_path / "ring"
    path.symlink_to("ring")
    return path


def test_links_are_followed_and_a_ring_is_as_it_is(tmp_path: Path, ring: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "a" / ".." / "b")
    assert resolved(tmp_path / "link") == tmp_path / "b" and resolved(ring) == ring


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file that cannot be read, which Linux has in /proc")
@pytest.mark.parametrize("size", [-1, 10, 100_000])
def test_an_error_of_reading_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(regular, "_kernel_disks", frozenset)  # else it would not be opened
    (tmp_path / "a.bin").symlink_to("/proc/self/mem")
    with open_regular(tmp_path / "a.bin") as file, pytest.raises(OSError, match=f"Input/output error: '{tmp_path}/a.bin'"):
        file.read(size)


def test_a_ring_in_the_place_of_a_run_or_a_scan_is_no_bug(tmp_path: Path, ring: Path) -> None:
    balls = write_balls(tmp_path / "balls", cases=2)
    (balls / "imagesTr" / "ball_00.nii.gz").unlink()
    (balls / "imagesTr" / "ball_00.nii.gz").symlink_to("ball_00.nii.gz")
    found = find_layout(balls, AS_FOUND)
    assert [case.name for case in found.cases] == ["ball_01"] and "ball_00" in found.findings[0].message
    with pytest.raises(RunError, match="File exists"), Run(ring).locked(balls):
        pass


def test_a_file_of_many_names_is_read_once_for_the_digest_of_a_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    monkeypatch.setattr(content, "file_hash", lambda path: read.append(path) or file_hash(path))
    (tmp_path / "a.nii").write_bytes(b"a")
    names = [tmp_path / "a.nii", *(tmp_path / f"{number}.nii" for number in range(3))]
    for number, name in enumerate(names[1:]):
        name.symlink_to("a.nii") if number else name.hardlink_to(names[0])
    assert content.content_hash(names) != content.content_hash(names[:1])
    assert len(read) == 2


def test_files_of_a_case_that_take_too_much_memory_together_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = write_balls(tmp_path, cases=1) / "imagesTr" / "ball_00.nii.gz"
    monkeypatch.setattr("nnseg.storage.images.raw.allowed_ram_gb", lambda: 1e-4)
    assert read_scan([scan] * 2).image.shape == (2, 12, 20, 16)
    with pytest.raises(ScanError, match=r"is the first of 3 files, which take 0\.0 GB of memory and more"):
        read_scan([scan] * 3)


def test_very_many_files_of_a_case_are_refused_before_one_is_read(tmp_path: Path) -> None:
    about = json.loads((write_balls(tmp_path, cases=1) / "dataset.json").read_text())
    scan = tmp_path / about["training"][0]["image"]
    with pytest.raises(ScanError, match="is the first of 1,001 files; expected at most 1,000"):
        read_scan([scan] * 1001)


def test_a_pipe_that_gets_the_name_before_a_file_is_opened_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "a.json")
    monkeypatch.setattr(regular, "check_regular", lambda path: None)  # it was a file when it was looked at
    with pytest.raises(OSError, match="is a pipe, not a regular file"):
        open_regular(tmp_path / "a.json")


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="there is no /proc")
def test_a_file_of_the_kernel_is_no_regular_file(tmp_path: Path) -> None:
    (tmp_path / "a.nii").symlink_to("/proc/version")
    with pytest.raises(ScanError, match="is a file of the system's kernel, not a regular file"):
        read_scan(tmp_path / "a.nii")


def test_a_path_that_no_system_has_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="is no path"):
        open_regular(tmp_path / "a\0b")


def test_files_are_found_below_more_folders_than_python_can_recurse_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    for _ in range(1200):
        os.mkdir("a")  # noqa: PTH102 (a whole path would be too long for the system in the end)
        os.chdir("a")
    Path("deep.txt").touch()
    try:
        assert [len(path.relative_to(tmp_path).parts) for path in files_below(tmp_path)] == [1201]
        assert sum(1 for _ in folders_below(tmp_path)) == 1201
        assert list(files_below(tmp_path / "nowhere")) == []
    finally:
        Path("deep.txt").unlink()
        for _ in range(1200):  # nor can pytest remove them
            os.chdir("..")
            os.rmdir("a")  # noqa: PTH106
