"""The way from scans to scores where the system has only what Windows has; nnseg was not run on Windows itself."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SYSTEM = Path(__file__).with_name("without_linux")
HOME = SYSTEM.parents[1]


def on_windows(*command: object, check: int = 0) -> subprocess.CompletedProcess[str]:
    """Run Python where nnseg sees no more of the system than on Windows."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(SYSTEM), str(HOME))), "PYTHONIOENCODING": "cp1252"}
    words = [sys.executable, *map(str, command)]
    done = subprocess.run(words, capture_output=True, encoding="cp1252", check=False, env=environment, timeout=600)
    assert done.returncode == check, done.stderr + done.stdout
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_nnseg_sees_no_more_of_the_system_than_windows_has() -> None:
    program = (
        "import nnseg.system.stop as stop, nnseg.system.process as process, nnseg.system.isolation as isolation\n"
        "assert [n.name for n in stop.SIGNALS] == ['SIGINT', 'SIGTERM'] and stop.REPEATING_SIGNAL is None\n"
        "assert process.STACK_SIGNAL is None and not process.PARENT_DEATH_SIGNAL and isolation.START_METHOD == 'spawn'\n"
        "import os, signal, sys; assert hasattr(os, 'fork') and hasattr(signal, 'SIGKILL') and sys.platform == 'linux'"
    )
    on_windows("-c", program)


def test_a_text_file_has_the_bytes_that_its_hash_is_of(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from nnseg.storage.files import file_hash, text_hash, write_text\n"
        "path, text = Path(sys.argv[1]), 'x,Ł\\n1,2\\n'; write_text(path, text)\n"
        "assert file_hash(path) == text_hash(text), path.read_bytes()"
    )
    on_windows("-c", program, tmp_path / "table.csv")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="open files are known from Linux's /proc")
def test_a_dataset_is_read_planned_trained_on_predicted_and_scored(ball_dataset: Path, tiny_recipe: Path, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    on_windows("-m", "nnseg", "check", ball_dataset)
    options = ("--recipe", tiny_recipe, "--folds", "0,1", "--device", "cpu", "--workers", 2)
    on_windows("-m", "nnseg", "run", ball_dataset, run, *options)
    scores = json.loads((run / "scores.json").read_text())
    assert len(scores["cases"]) == 3
    on_windows("-m", "nnseg", "run", ball_dataset, run, *options)
    on_windows("-m", "nnseg", "predict", ball_dataset / "imagesTr", out, "--model", run, "--device", "cpu", "--uncertainty")
    assert len(list(out.glob("ball_0?.nii.gz"))) == 6
    on_windows("-m", "nnseg", "evaluate", out, ball_dataset / "labelsTr", "--out", tmp_path / "scores.json")
    assert len(json.loads((tmp_path / "scores.json").read_text())["cases"]) == 6
    on_windows("-m", "nnseg", "verify", run)
