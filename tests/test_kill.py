"""A run that is killed, at any moment, and started again ends with the same result."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

KILLS = 4


def _command(dataset: Path, run: Path, recipe: Path) -> list[str]:
    options = ["--no-probe", "--recipe", recipe, "--folds", 0, "--device", "cpu", "--workers", 1, "--checkpoint", "0.001s"]
    return [sys.executable, "-m", "nnseg.cli", "run", *map(str, [dataset, run, *options])]


def _results(run: Path) -> dict[str, str]:
    """Hashes of everything that the work leaves, times and dates apart."""
    files = [
        run / "plan.toml",
        run / "fold_0" / "model.nnseg",
        run / "scores.json",
        *run.glob("fold_0/predictions/*.nii.gz"),
    ]
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_a_killed_run_resumes_to_the_same_result(ball_dataset: Path, tiny_recipe: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "longer.toml"
    recipe.write_text(tiny_recipe.read_text().replace("steps = 12", "steps = 60", 1))
    start = time.monotonic()
    subprocess.run(_command(ball_dataset, tmp_path / "calm", recipe), check=True, capture_output=True, timeout=200)
    duration = time.monotonic() - start

    moments, killed = random.Random(0), 0
    for _ in range(KILLS):
        child = subprocess.Popen(
            _command(ball_dataset, tmp_path / "rough", recipe),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            child.wait(timeout=moments.uniform(0.3, 0.9) * duration)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            killed += 1
    assert killed
    subprocess.run(_command(ball_dataset, tmp_path / "rough", recipe), check=True, capture_output=True, timeout=200)

    assert _results(tmp_path / "rough") == _results(tmp_path / "calm")
    assert [p.name for p in (tmp_path / "rough").rglob(".*")] == [".lock"]
