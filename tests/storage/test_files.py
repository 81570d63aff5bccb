"""Tests of files that are read strictly and written as a whole."""

import errno
import os
import re
from pathlib import Path

import pytest

from nnseg.core.errors import RunError, WriteError
from nnseg.core.schedule import Epoch
from nnseg.storage.files import read_json, write_aside, write_json, write_text

EPOCH = Epoch(number=1, step=5, steps=10, loss=0.5, learning_rate=0.1, dice={"a": None, "b": 0.5}, seconds=1.0, total_seconds=2.0)


def test_damaged_json_is_named_with_what_to_do(tmp_path: Path) -> None:
    write_json(tmp_path / "epoch.json", EPOCH)
    assert read_json(tmp_path / "epoch.json", Epoch) == EPOCH
    (tmp_path / "epoch.json").write_bytes((tmp_path / "epoch.json").read_bytes()[:30])
    with pytest.raises(RunError, match=r"epoch\.json is damaged.*delete it"):
        read_json(tmp_path / "epoch.json", Epoch)
    with pytest.raises(RunError, match="missing"):
        read_json(tmp_path / "none.json", Epoch)


def test_json_that_cannot_be_read_is_named_with_the_cause(tmp_path: Path) -> None:
    (tmp_path / "epoch.json").mkdir()
    with pytest.raises(RunError, match=r"cannot read .*epoch\.json: Is a directory"):
        read_json(tmp_path / "epoch.json", Epoch)


def test_a_file_that_could_not_be_finished_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "plan.toml"
    write_text(path, "old")
    with pytest.raises(ValueError, match="no"), write_aside(path) as aside:
        aside.write_text("half")
        raise ValueError("no")
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_is_named_with_the_space_that_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "model"
    with pytest.raises(WriteError) as refused, write_aside(path) as aside:
        aside.write_bytes(bytes(3_000_000))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    found = re.search(r"\(([\d.]+) MB are free, more than ([\d.]+) MB are needed\); free some space", str(refused.value))
    assert found
    assert float(found[2]) - float(found[1]) == pytest.approx(3.0, abs=0.1)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "")
    with pytest.raises(RunError, match="cannot write"):
        write_text(tmp_path / "file" / "plan.toml", "text")


def test_a_link_put_in_the_place_of_a_file_while_it_is_written_changes_nothing_elsewhere(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("private")
    victim.chmod(0o600)
    with pytest.raises(WriteError, match="symbolic links"), write_aside(tmp_path / "out" / "a.txt") as aside:
        aside.symlink_to(victim)
    assert (victim.read_text(), victim.stat().st_mode & 0o777) == ("private", 0o600)
    assert list((tmp_path / "out").iterdir()) == []
