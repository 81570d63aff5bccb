"""``nnseg profile``: time, memory and area of each scan, limits of challenges, JSON and figure."""

import json
from pathlib import Path

import pytest
from warm import nnseg


@pytest.fixture(scope="module")
def profiled(ball_run: Path, ball_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a profile of one scan."""
    out = tmp_path_factory.mktemp("profile") / "out"
    scan = ball_dataset / "imagesTr" / "ball_00.nii.gz"
    said = nnseg("profile", scan, "--model", ball_run, "--device", "cpu", "--out", out, "--challenge", "flare-cpu")
    assert "ball_00 (12 x 20 x 16): " in said.stdout
    return out


def test_the_measures_follow_from_the_curves(profiled: Path):
    (case,) = json.loads((profiled / "profile.json").read_text())["cases"]
    times, ram = case["times"], case["ram_gb"]
    assert len(times) == len(ram) == len(case["device_gb"])
    assert case["seconds"] >= times[-1] >= 0.1
    assert case["peak_ram_gb"] == max(ram) > 0.02
    whole = sum(value * (after - now) for value, now, after in zip(ram, times, [*times[1:], case["seconds"]], strict=True))
    assert case["ram_area"] == pytest.approx(whole, rel=0.1, abs=0.02)
    assert (case["peak_device_gb"], case["device_area"], case["reason"]) == (0, 0, "")


def test_a_figure_is_drawn_and_nothing_of_others_is_overwritten(profiled: Path, ball_run: Path, ball_dataset: Path, tmp_path: Path):
    assert (profiled / "profile.png").read_bytes().startswith(b"\x89PNG")
    assert (profiled / "profile.pdf").read_bytes().startswith(b"%PDF")
    (tmp_path / "profile.json").write_text('{"mine": 1}')
    scan = ball_dataset / "imagesTr" / "ball_00.nii.gz"
    said = nnseg("profile", scan, "--model", ball_run, "--out", tmp_path, check=2)
    assert "is no profile that nnseg made" in said.stderr


def test_limits_that_are_exceeded_are_found(ball_run: Path, ball_dataset: Path, tmp_path: Path):
    (tmp_path / "mine.toml").write_text('based_on = "flare-gpu"\n[limits]\ndevice = "cuda"\nseconds = 0.001\nram_gb = 0.001\n')
    scan = ball_dataset / "imagesTr" / "ball_00.nii.gz"
    command = (
        "profile",
        scan,
        "--model",
        ball_run,
        "--device",
        "cpu",
        "--out",
        tmp_path / "out",
        "--challenge",
        tmp_path / "mine.toml",
    )
    whole = json.loads(nnseg(*command, "--json", check=1).stdout)
    found = [finding["found"] for finding in whole["findings"]]
    assert found[0] == "was measured on cpu"
    assert "seconds" in found[1]
    assert "GB of RAM" in found[2]
