"""`benchmarks/gpu.py` on a CPU: every row computes with small sizes, finds what is wrong, and keeps no other from being tried."""

import json
import os
import subprocess
import sys
import time
import zipfile
from argparse import Namespace
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from balls import ball, plan_of
from torch import nn

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))

import gpu  # noqa: E402
import gpu_checks  # noqa: E402
import gpu_convolutions  # noqa: E402
from gpu_measures import MEASUREMENTS  # noqa: E402
from gpu_setting import NotHereError, Setting, reduced  # noqa: E402

from nnseg.core.dataset import Fold  # noqa: E402
from nnseg.core.image import PreprocessedCase  # noqa: E402
from nnseg.storage.cases import CaseStore  # noqa: E402
from nnseg.storage.files import write_json  # noqa: E402

CPU = torch.device("cpu")
ROWS = {**gpu_checks.CHECKS, **MEASUREMENTS}
ON_CUDA = [name for name in ROWS if "Triton" in name or "captured" in name]
SLOW = ["network compiled, gradients", "two processes on one device"]


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(folder=tmp_path, device=CPU, small=True)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the cases and plans of a few balls, as ``--prepare`` leaves it."""
    folder = tmp_path_factory.mktemp("gpu")
    store, names = CaseStore(folder / "cases"), [f"ball {i}" for i in range(4)]
    for number, name in enumerate(names):
        case = ball(name, number)
        store.write(PreprocessedCase(name=name, image=case.image, labels=case.labels, placement=case.placement), "key")
    write_json(folder / "folds.json", (Fold(training=tuple(names[:3]), held_out=tuple(names[3:])),))
    for recipe in ("nnunet", "auto"):
        (folder / f"{recipe}.json").write_text(plan_of().model_dump_json())
    return folder


def test_each_row_has_a_limit_of_time() -> None:
    assert list(gpu.ROWS) == list(ROWS)


# --- convolutions


def test_sums_of_products_are_the_convolution_and_its_gradients() -> None:
    torch.manual_seed(0)
    image, weight = torch.randn(2, 3, 11, 4, 5, requires_grad=True), torch.randn(4, 3, 3, 3, 3, requires_grad=True)
    upstream = torch.randn(2, 4, 11, 4, 5)
    output = F.conv3d(image, weight, padding=1)
    output.backward(upstream)
    found = torch.cat([gpu_convolutions.convolved(image, weight, a, b) for a, b in ((0, 8), (8, 11))], 2)
    assert torch.allclose(found, output, atol=1e-4)
    assert torch.allclose(gpu_convolutions.weight_gradient(image, upstream).float(), weight.grad, atol=1e-3)


def test_a_convolution_that_forgets_a_voxel_of_its_kernel_is_found(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    right = F.conv3d

    def wrong(image, weight, **given):
        keep = torch.ones_like(weight)
        keep[..., 2, 2, 2] = 0
        return right(image, weight * keep, **given)

    assert gpu_convolutions.convolutions(setting).passed
    monkeypatch.setattr(F, "conv3d", wrong)
    found = gpu_convolutions.convolutions(setting)
    assert not found.passed
    assert "gradient of weights" in found.text and "gradient of image" in found.text and "output" in found.text


def test_a_convolution_that_gives_no_numbers_is_found(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    right = F.conv3d
    monkeypatch.setattr(F, "conv3d", lambda *given, **named: right(*given, **named) * float("nan"))
    assert not gpu_convolutions.convolutions(setting).passed


# --- the other checks


def test_gradients_of_another_network_are_found(setting: Setting) -> None:
    def scaled(network: nn.Module) -> nn.Module:
        with torch.no_grad():
            next(network.parameters()).mul_(-1)
        return network

    assert gpu_checks.channels_last(setting).passed
    assert not gpu_checks._compared(setting, scaled).passed


def test_a_step_that_is_not_split_is_found(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpu_checks.too_little_memory(setting).passed
    monkeypatch.setattr(gpu_checks, "_limited", lambda *_: nullcontext())
    assert not gpu_checks.too_little_memory(setting).passed


@pytest.mark.parametrize("name", ON_CUDA)
def test_what_needs_cuda_says_so(name: str, setting: Setting) -> None:
    with pytest.raises(NotHereError, match="CUDA"):
        ROWS[name](setting)


@pytest.mark.parametrize("name", [name for name in ROWS if name not in SLOW and name not in ON_CUDA])
def test_a_row_computes_on_a_cpu(name: str, prepared: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        found = ROWS[name](Setting(folder=prepared, device=CPU, small=True))
    assert found.passed is not False, found.text
    assert found.text
    json.dumps(found.numbers)


def test_a_row_without_prepared_cases_says_so(setting: Setting) -> None:
    with pytest.raises(NotHereError, match="--prepare"):
        ROWS["training on Hippocampus"](setting)


def test_a_reduced_plan_is_valid() -> None:
    plan = reduced(plan_of())
    assert type(plan).model_validate(plan.model_dump()) == plan


# --- processes

STAND_IN = """
import json, os, sys, time
print(json.dumps({"outcome": "measured", "text": "", "numbers": {"torch": "torch 9"}}), flush=True)
for line in sys.stdin:
    name = json.loads(line)["name"]
    if name == "hangs":
        time.sleep(600)
    if name == "dies":
        os._exit(3)
    if name == "is killed":
        os.kill(os.getpid(), 9)
    outcome = "failed" if name == "fails" else "passed"
    print(json.dumps({"outcome": outcome, "text": f"{name} | {os.getpid()}", "numbers": {}}), flush=True)
"""


def rows_of(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str, limits: dict[str, float], seconds: float = 60.0):
    (folder / "gpu_rows.py").write_text(script)
    monkeypatch.setattr(gpu, "HERE", folder)
    monkeypatch.setattr(gpu, "ROWS", limits)
    options = Namespace(folder=folder, out=None, device="cpu", threads=1, small=True, only="")
    return gpu.compute(options, time.monotonic() + seconds)


def test_a_row_that_fails_keeps_no_other_from_being_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = {"one": 30.0, "two": 30.0, "hangs": 0.5, "dies": 30.0, "is killed": 30.0, "fails": 30.0, "last": 30.0}
    rows, about = rows_of(tmp_path, monkeypatch, STAND_IN, limits)
    outcomes = {name: row["outcome"] for name, row in rows.items()}
    assert outcomes == {**dict.fromkeys(limits, "failed"), "one": "passed", "two": "passed", "last": "passed"}
    processes = {name: rows[name]["text"].partition("|")[2] for name in ("one", "two", "fails", "last")}
    assert processes["one"] == processes["two"]
    assert processes["fails"] != processes["last"]
    assert "not done after" in rows["hangs"]["text"] and "code 3" in rows["dies"]["text"] and "SIGKILL" in rows["is killed"]["text"]
    assert json.loads((tmp_path / "gpu.json").read_text())["rows"] == rows
    printed = capsys.readouterr().out.splitlines()
    assert printed == [gpu.line(name, row) for name, row in rows.items()]
    lines = list(gpu.table(rows, about))
    assert all(text.count("|") == 4 for text in lines if text.startswith("|"))
    assert "torch 9" in lines[0]


def test_a_process_that_never_starts_is_not_tried_for_every_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, _ = rows_of(tmp_path, monkeypatch, "import no_such_module", {str(n): 30.0 for n in range(5)})
    texts = [row["text"] for row in rows.values()]
    assert texts[:3] == ["its process ended with code 1"] * 3
    assert texts[3:] == ["not tried: its process ended with code 1"] * 2
    assert "no_such_module" in (tmp_path / "gpu.log").read_text()


def test_no_row_is_begun_when_the_time_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, _ = rows_of(tmp_path, monkeypatch, STAND_IN, {"one": 30.0}, seconds=1.0)
    assert rows["one"]["text"] == "no time was left"


# --- packages


def test_packages_that_are_missing_or_older_are_taken_from_wheels(tmp_path: Path) -> None:
    wheels, site = tmp_path / "wheels", tmp_path / "site"
    wheels.mkdir()
    for name, version in (("surely_missing", "1.2"), ("numpy", "0.9"), ("tomlkit", "99.0.post1")):
        with zipfile.ZipFile(wheels / f"{name}-{version}-py3-none-any.whl", "w") as file:
            file.writestr(f"{name}/__init__.py", "")
    assert gpu.unpack_missing(wheels, site) == ["surely_missing", "tomlkit"]
    assert sorted(path.name for path in site.iterdir()) == ["surely_missing", "tomlkit"]


# --- the command

READERS = ("SimpleITK", "nibabel", "pydicom", "highdicom", "tifffile", "imagecodecs", "zarr", "PIL", "typer", "jinja2")


@pytest.mark.slow
def test_the_command_runs_to_its_end_without_readers_of_images(tmp_path: Path, ball_dataset: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), str(tmp_path / "gpu")]
    subprocess.run([*command, "--prepare", str(ball_dataset), "--no-wheels"], check=True)
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({READERS!r}))")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    options = ["--device", "cpu", "--small", "--threads", "2", "--seconds", "900"]
    done = subprocess.run([*command, *options], env=environment, capture_output=True, text=True, check=False)
    rows = json.loads((tmp_path / "gpu" / "gpu.json").read_text())["rows"]
    assert list(rows) == list(gpu.ROWS)
    outcomes = {name: row["outcome"] for name, row in rows.items()}
    expected = {name: "passed" if name in gpu_checks.CHECKS else "measured" for name in rows}
    assert outcomes == {**expected, **dict.fromkeys(ON_CUDA, "not here")}, done.stdout
    assert done.returncode == 0
    assert all(gpu.line(name, row) in done.stdout for name, row in rows.items())
