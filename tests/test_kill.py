"""A run that is killed, at any moment, and started again ends with the same result."""

import random
import time
from pathlib import Path

import pytest
from warm import fold_options, hashes, nnseg, started


def _command(dataset: Path, run: Path, recipe: Path) -> list[object]:
    return ["run", dataset, run, *fold_options(recipe), "--checkpoint", "0.001s"]


def _results(run: Path) -> dict[str, str]:
    """Hashes of everything that the work leaves, times and dates apart."""
    kept = ("plan.toml", "fold_0/model.nnseg", "scores.json")
    return {path: digest for path, digest in hashes(run).items() if path in kept or path.endswith(".nii.gz")}


@pytest.mark.parametrize("kills", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_a_killed_run_resumes_to_the_same_result(ball_dataset: Path, tiny_recipe: Path, tmp_path: Path, kills: int) -> None:
    recipe = tmp_path / "longer.toml"
    recipe.write_text(tiny_recipe.read_text().replace("steps = 12", "steps = 60", 1))
    nnseg("--help")  # the first process takes longer to start
    start = time.monotonic()
    nnseg(*_command(ball_dataset, tmp_path / "calm", recipe))
    duration = time.monotonic() - start

    moments, killed = random.Random(0), 0
    for _ in range(kills):
        child = started(*_command(ball_dataset, tmp_path / "rough", recipe))
        child.join(moments.uniform(0.1, 0.6) * duration)
        killed += child.is_alive()
        child.kill()
        child.join()
    assert killed
    nnseg(*_command(ball_dataset, tmp_path / "rough", recipe))

    assert _results(tmp_path / "rough") == _results(tmp_path / "calm")
    assert [p.name for p in (tmp_path / "rough").rglob(".*")] == [".lock"]
