"""The steps of the Dockerfile run, and its entry point works as another user, without a network, on a read-only system."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ball_dataset import write_balls
from container import can_emulate, instructions

DOCKERFILE = Path(__file__).resolve().parents[1] / "Dockerfile"


def test_one_file_makes_images_for_cpus_and_gpus_whose_user_is_not_root() -> None:
    steps = instructions(DOCKERFILE)
    assert ("ARG", "DEVICE=cpu") in steps
    *_, user = (rest for kind, rest in steps if kind == "USER")
    assert user.split(":")[0] != "0"
    assert [rest for kind, rest in steps if kind == "ENTRYPOINT"] == ['["nnseg"]']
    assert not [kind for kind, rest in steps if kind == "ADD" or "curl" in rest or "wget" in rest]


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_its_steps_run_and_its_entry_point_works_offline_on_a_read_only_system(tmp_path: Path, tiny_recipe: Path) -> None:
    if not can_emulate():
        pytest.skip("needs root, unshare and overlays to run the steps of a Dockerfile without an engine")
    write_balls(tmp_path / "balls", cases=6)
    shutil.copy(tiny_recipe, tmp_path / "tiny.toml")
    for path in (tmp_path, *tmp_path.rglob("*")):
        os.chown(path, 1000, 1000)
    commands = (
        "--version",
        "run balls run --recipe tiny.toml --no-probe --folds 0 --workers 1",
        "predict balls/imagesTr out --model run/model.nnseg",
        "figure run --out figures",
    )
    program = ["unshare", "--mount", sys.executable, str(Path(__file__).with_name("container.py"))]
    options = [str(DOCKERFILE), str(tmp_path), "CPU_INDEX="]  # torch from where pip finds it here
    words = " -- ".join(("", *commands)).split()
    done = subprocess.run([*program, *options, *words], capture_output=True, text=True, check=False, timeout=2800)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 6
    assert (tmp_path / "run" / "report.html").stat().st_uid == 1000
