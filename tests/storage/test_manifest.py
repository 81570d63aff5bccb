"""The manifest of a run's folder: what was written, through kills and renames; and what has become of it."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from nnseg.core.errors import RunError
from nnseg.storage.files import MANIFEST, write_aside, write_text
from nnseg.storage.manifest import check_files, renew_manifest
from nnseg.storage.run import Run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a lock, a manifest and four files."""
    (tmp_path / ".lock").touch()
    renew_manifest(tmp_path)
    for name in ("a.json", "deep/est/b.json", "plan.toml", "c.json"):
        write_text(tmp_path / name, f"this is {name}")
    return tmp_path


def states(folder: Path) -> dict[str, str]:
    return {file.path.relative_to(folder).as_posix(): file.state for file in check_files(folder) if file.state != "intact"}


def test_what_became_of_each_file_is_found(folder: Path) -> None:
    assert states(folder) == {}
    for renew in (False, True):
        (folder / "a.json").write_text("this is b.json")
        (folder / "deep" / "est" / "b.json").unlink(missing_ok=True)
        (folder / "plan.toml").write_text("edited")
        (folder / "other").write_text("x")
        assert states(folder) == {"a.json": "damaged", "plan.toml": "edited", "other": "foreign"} | (
            {} if renew else {"deep/est/b.json": "missing"}
        )
        renew_manifest(folder)


def test_a_renamed_file_is_intact_and_known_by_its_new_name(folder: Path) -> None:
    (folder / "deep").rename(folder / "replaced_1_deep")
    write_text(folder / "a.json", "new")
    assert states(folder) == {"deep/est/b.json": "missing"}
    renew_manifest(folder)
    assert states(folder) == {}
    (folder / "replaced_1_deep" / "est" / "b.json").write_text("x")
    assert states(folder) == {"replaced_1_deep/est/b.json": "damaged"}


def test_a_file_that_was_kept_as_the_previous_one_is_known(folder: Path) -> None:
    (folder / "a.json").replace(folder / "a_before.json")
    write_text(folder / "a.json", "new")
    renew_manifest(folder)
    assert states(folder) == {}
    (folder / "a_before.json").write_text("x")
    assert states(folder) == {"a_before.json": "damaged"}


def test_a_process_killed_before_the_rename_leaves_the_old_file_intact(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Path, "replace", die)
        write_text(folder / "a.json", "never seen")
    assert states(folder) == {}
    renew_manifest(folder)
    assert states(folder) == {}
    assert len((folder / "manifest.jsonl").read_text().splitlines()) == 4


def test_a_line_that_is_cut_costs_no_other(folder: Path) -> None:
    manifest = folder / "manifest.jsonl"
    manifest.write_bytes(manifest.read_bytes()[:-20])
    assert states(folder) == {"c.json": "foreign"}


def test_a_folder_without_a_manifest_gets_none_by_writing(tmp_path: Path) -> None:
    with write_aside(tmp_path / "x" / "a.json") as aside:
        aside.write_text("a")
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["a.json"]


def test_a_run_has_a_manifest_as_soon_as_it_is_locked(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    with run.locked():
        run.update_record(command="nnseg")
    assert [json.loads(line)["path"] for line in (run.path / "manifest.jsonl").read_text().splitlines()] == ["run.json"]
    assert states(run.path) == {}


def test_a_folder_that_was_made_for_a_run_in_vain_is_removed(tmp_path: Path) -> None:
    run = Run(tmp_path / "runs" / "run")
    with pytest.raises(RunError, match="refused"), run.locked():
        run.update_record(command="nnseg")
        raise RunError("refused")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RunError, match="refused"), run.locked():
        write_text(run.path / "fingerprint.json", "{}")
        raise RunError("refused")
    assert (run.path / "fingerprint.json").exists()
    (tmp_path / "mine").mkdir()
    with pytest.raises(RunError, match="refused"), Run(tmp_path / "mine").locked():
        raise RunError("refused")
    assert (tmp_path / "mine").is_dir()


def test_the_files_of_a_run_of_an_earlier_version_are_taken_as_they_are(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / "run.json").write_text("{}")
    with Run(tmp_path).locked():
        pass
    assert states(tmp_path) == {}
    (tmp_path / "run.json").write_text("[]")
    assert states(tmp_path) == {"run.json": "damaged"}


def test_a_pipe_in_the_manifests_place_is_refused(folder: Path) -> None:
    (folder / "manifest.jsonl").unlink()
    os.mkfifo(folder / "manifest.jsonl")
    with pytest.raises(RunError, match="is a pipe"):
        list(check_files(folder))


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_manifest_or_lock_that_leads_elsewhere_changes_nothing_there(folder: Path, link: Callable[[Path, Path], None]) -> None:
    """A run may come from anybody: a link in the place of its manifest would let the names of its files be written anywhere."""
    outside = folder.parent / f"{folder.name}_profile"
    outside.write_text("export A=1\n")
    for name in ("manifest.jsonl", ".lock"):
        (folder / name).unlink()
        link(outside, folder / name)
    write_text(folder / "c.json", "made again")
    (folder / "run.json").write_text("{}")
    with Run(folder).locked():
        write_text(folder / "d.json", "new")
    assert outside.read_text() == "export A=1\n"
    assert (folder / "manifest.jsonl").lstat().st_nlink == 1
    assert "d.json" in (folder / "manifest.jsonl").read_text()


def test_a_manifest_of_very_many_lines_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNSEG_LIMITS", "manifest_lines=10")
    (tmp_path / MANIFEST).write_text('{"path": "a", "bytes": 1, "hash": "h"}\n' * 11)
    with pytest.raises(RunError, match="has 11 lines; expected at most 10; delete it, and nnseg run makes it anew"):
        list(check_files(tmp_path))
