import subprocess
import sys
from pathlib import Path

import pytest

from nnseg.storage.files import write_aside, write_text
from nnseg.storage.overwrite import check_overwrite
from nnseg.storage.temporary import TEMPORARY, sweep, temporary_beside

OF_OTHERS = (".hidden", ".lock", ".nnseg", ".tmp7U3QvL", "plan.toml")
DYING = """
import os, sys
from pathlib import Path
from nnseg.storage.files import write_aside
with write_aside(Path(sys.argv[1])) as aside:
    aside.touch()
    os.kill(os.getpid(), 9)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in OF_OTHERS:
        (tmp_path / name).touch()
    return tmp_path


def _die_writing(path: Path) -> Path:
    subprocess.run([sys.executable, "-c", DYING, str(path)], check=False)
    (left,) = [file for file in path.parent.iterdir() if TEMPORARY.fullmatch(file.name)]
    return left


def _names(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(path.name for path in folder.iterdir()))


def test_what_a_killed_process_left_beside_an_output_is_removed_by_the_next_command(folder: Path) -> None:
    _die_writing(folder / "scores.json")
    check_overwrite(folder / "scores.json", "scores", force=False)
    assert _names(folder) == OF_OTHERS


def test_what_a_living_process_or_another_machine_writes_is_left(folder: Path) -> None:
    left = _die_writing(folder / "scores.json")
    other = folder / left.name.replace(left.name[7:15], "0" * 8)
    left.rename(other)
    with write_aside(folder / "model.nnseg") as aside:
        aside.touch()
        check_overwrite(folder / "scores.json", "scores", force=False)
        assert set(_names(folder)) == {*OF_OTHERS, aside.name, other.name}


def test_in_a_locked_folder_all_temporary_files_are_removed_and_nothing_else(folder: Path) -> None:
    temporary_beside(folder / "plan.toml").touch()
    _die_writing(folder / "below" / "x.json")
    sweep(folder)
    assert _names(folder) == tuple(sorted((*OF_OTHERS, "below"))) and not list((folder / "below").iterdir())


@pytest.mark.parametrize("letter", ["x", "\U0001f9e0"])
def test_temporary_names_of_the_longest_names_are_not_too_long(tmp_path: Path, letter: str) -> None:
    path = tmp_path / (letter * (255 // len(letter.encode())))
    write_text(path, "text")
    assert path.read_text() == "text" and len(temporary_beside(path).name.encode()) <= 255
