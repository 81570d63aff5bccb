"""Preprocessing of a run: what cannot be written ends it, and is no bad case."""

import errno
import os
from pathlib import Path

import pytest
from warm import nnseg

from nnseg.commands.preprocess import preprocess_run
from nnseg.core.errors import WriteError
from nnseg.storage import files
from nnseg.storage.run import Run


@pytest.mark.parametrize("workers", [0, 2])
def test_a_disk_that_fills_up_ends_preprocessing_and_the_same_command_goes_on(
    ball_dataset: Path, tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    nnseg("plan", ball_dataset, tmp_path / "run", "--recipe", tiny_recipe, "--no-probe", "--device", "cpu")
    run, flush = Run(tmp_path / "run"), files._flush

    def full(path: Path, **settings: int) -> None:
        if "ball_03" in path.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(path, **settings)

    with monkeypatch.context() as disk:
        disk.setattr(files, "_flush", full)
        with pytest.raises(WriteError, match=r"ball_03\.case: No space left on device .* MB are needed.*repeat the command"):
            preprocess_run(run, workers=workers)
    assert not list(run.path.rglob("*ball_03*"))
    assert preprocess_run(run, workers=workers) == ()
    assert len(list(run.path.rglob("*.case"))) == 6
