"""``nnseg package``: the folder that it writes, and its entry points, run within the limits of each platform on real scans."""

import json
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from container import can_emulate, instructions
from serving.small_models import model_of
from warm import nnseg

from nnseg.core.labels import Labels
from nnseg.interop.containers.requirements import pinned_requirements
from nnseg.network.bundle import save_model

TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of one channel with random weights."""
    path = tmp_path_factory.mktemp("model") / "model.nnseg"
    save_model(model_of(labels=Labels(names=("background", "front", "back"), values=(0, 1, 2))), path)
    return path


def package(folder: Path, platform: str, model: Path, *options: object) -> Path:
    nnseg("package", folder, "--model", model, "--for", platform, *options)
    return folder


def test_requirements_are_what_is_installed_and_enough(tmp_path: Path):
    lines = dict(line.split("==") for line in pinned_requirements())
    assert lines["torch"] == torch.__version__.partition("+")[0]
    assert lines["simpleitk"] == version("SimpleITK")
    assert {"numpy", "pydantic-core", "sympy", "referencing"} & {*lines} >= {"numpy", "pydantic-core", "sympy"}
    assert not {"pytest", "matplotlib", "sphinx", "nnseg"} & {*lines}
    assert not [name for name in lines if name.startswith("nvidia")]


def test_a_folder_has_all_that_an_image_needs_and_is_made_anew(model: Path, tmp_path: Path):
    folder = package(tmp_path / "out", "grand-challenge", model, "--output", "images/lesions")
    assert sorted(p.name for p in folder.iterdir()) == ["Dockerfile", "README.md", "app", "container.json", "requirements.txt"]
    steps = instructions(folder / "Dockerfile")
    assert [rest for kind, rest in steps if kind == "LABEL"] == ["org.grand-challenge.api-method=$API_METHOD"]
    assert ("ARG", "API_METHOD=invoke") in steps
    assert [rest for kind, rest in steps if kind == "USER"] == ["1000:1000"]
    (entry,) = [json.loads(rest) for kind, rest in steps if kind == "ENTRYPOINT"]
    assert entry == ["python", "-m", "nnseg.serving.grand_challenge", "--output=images/lesions"]
    assert not [file for file in (folder / "app").rglob("*") if file.suffix == ".pyc"]
    command = [
        sys.executable,
        "-S",
        "-c",
        "import importlib.metadata as m; print(m.version('nnseg'), m.distribution('nnseg').locate_file(''))",
    ]
    said = subprocess.run(command, cwd="/", env={"PYTHONPATH": str(folder / "app")}, capture_output=True, text=True, check=True)
    assert said.stdout.split() == [version("nnseg"), str(folder / "app")]
    (folder / "app" / "stale.py").write_text("")
    (folder / "mine.txt").write_text("mine")
    package(folder, "flare", model, "--prepare", "mask:skip,normalize")
    assert "--quiet --prepare=mask:skip,normalize\n" in (folder / "predict.sh").read_text()
    assert sorted(p.name for p in folder.iterdir()) == [
        "Dockerfile", "README.md", "app", "container.json", "mine.txt", "predict.sh", "requirements.txt",
    ]  # fmt: skip
    assert not (folder / "app" / "stale.py").exists()


def test_a_folder_of_others_and_sockets_that_do_not_fit_are_refused(model: Path, tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    said = nnseg("package", tmp_path / "mine", "--model", model, "--for", "docker", check=2)
    assert "has files that nnseg package did not make" in said.stderr
    said = nnseg("package", tmp_path / "new", "--model", model, "--for", "docker", "--output", "images/a", check=2)
    assert "sockets of grand-challenge" in said.stderr
    said = nnseg("package", tmp_path / "new", "--model", model, "--for", "grand-challenge", "--inputs", "t1,t2", check=2)
    assert "names 2 sockets" in said.stderr
    said = nnseg("package", tmp_path / "new", "--model", model, "--for", "grand-challenge", "--output", "images/../x", check=2)
    assert "is no name of a socket" in said.stderr


def run_entry(
    folder: Path, output: Path, target: str, inputs: list[Path], source: str, *given: str, words: tuple[str, ...] = ()
) -> dict:
    """What the entry point of a folder did within the limits of a container."""
    if not can_emulate():
        pytest.skip("needs root, unshare and overlays to run an entry point within the limits of a container")
    output.mkdir()
    for place in inputs:
        for path in (place, *place.rglob("*")):
            path.chmod(0o755)
    packages = next(path for path in map(Path, sys.path) if (path / "torch").is_dir())
    mounts = [f"{output}:{target}", *(f"{place}:{source}" for place in inputs)]
    command = [
        "unshare",
        "--mount",
        "--net",
        sys.executable,
        TESTS / "container_entry.py",
        folder,
        packages,
        *mounts,
        *given,
        "--",
        *words,
    ]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    user, touched, shared = found["limits"].splitlines()
    assert (user, int(shared)) == ("1000", 65536)
    assert "Read-only file system" in touched
    assert found["code"] in (0, -15), done.stderr[-3000:]
    return found


def check(label_map: Path, scan: sitk.Image) -> None:
    """A label map of these values lies on the scan's grid."""
    found = sitk.ReadImage(str(label_map))
    assert {*np.unique(sitk.GetArrayFromImage(found))} <= {0, 1, 2}
    assert found.GetPixelIDTypeAsString() == "8-bit unsigned integer"
    assert found.GetSize() == scan.GetSize()
    assert np.allclose([*found.GetOrigin(), *found.GetDirection()], [*scan.GetOrigin(), *scan.GetDirection()], atol=1e-3)


@pytest.fixture
def scans(shared_data: Path) -> list[Path]:
    return sorted((shared_data / "Task04_Hippocampus" / "imagesTr").glob("hippocampus_*.nii.gz"))


def socket(folder: Path, slug: str = "mri") -> Path:
    """The folder of an image in a case of grand-challenge.org."""
    (folder / "images" / slug).mkdir(parents=True)
    about = {"slug": slug, "kind": "Image", "super_kind": "Image", "relative_path": f"images/{slug}"}
    note = {"slug": "age", "kind": "Integer", "super_kind": "Value", "relative_path": "age.json"}
    (folder / "inputs.json").write_text(json.dumps([{"socket": note, "value": 70}, {"socket": about, "value": None}]))
    return folder / "images" / slug


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_invoke_api_answers_for_mha_nifti_and_dicom(model: Path, scans: list[Path], shared_data: Path, tmp_path: Path):
    folder = package(tmp_path / "container", "grand-challenge", model)
    inputs = [tmp_path / name for name in ("mha", "nifti", "dicom")]
    images = [sitk.ReadImage(str(scans[0])), sitk.ReadImage(str(scans[1]))]
    sitk.WriteImage(images[0], socket(inputs[0]) / "0a1b.mha")
    shutil.copy(scans[1], socket(inputs[1]))
    series = shared_data / "dicom_brain" / "hippocampus_crop"
    shutil.copytree(series, socket(inputs[2]), dirs_exist_ok=True)
    found = run_entry(folder, tmp_path / "output", "/output", inputs, "/input", "MODE=serve")
    assert found["statuses"] == [200, 201, 201, 201]
    assert found["labels"] == {"org.grand-challenge.api-method": "invoke"}
    slices = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(series))
    check(tmp_path / "output" / "images" / "segmentation" / "output.mha", sitk.ReadImage(slices))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_case_is_predicted_once_with_a_model_that_was_uploaded(model: Path, scans: list[Path], tmp_path: Path):
    folder = package(tmp_path / "container", "grand-challenge", model, "--output", "images/hippocampus")
    sitk.WriteImage(image := sitk.ReadImage(str(scans[0])), socket(tmp_path / "input") / "0a1b.mha")
    run_entry(folder, tmp_path / "output", "/output", [tmp_path / "input"], "/input", "API_METHOD=exec")
    check(tmp_path / "output" / "images" / "hippocampus" / "output.mha", image)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_flare_finds_label_maps_alone(model: Path, scans: list[Path], tmp_path: Path):
    folder = package(tmp_path / "container", "flare", model)
    (tmp_path / "input").mkdir()
    shutil.copy(scans[0], tmp_path / "input" / "FLARE22Ts_0001_0000.nii.gz")
    run_entry(folder, tmp_path / "output", "/workspace/outputs", [tmp_path / "input"], "/workspace/inputs")
    assert [file.name for file in (tmp_path / "output").iterdir()] == ["FLARE22Ts_0001.nii.gz"]
    check(tmp_path / "output" / "FLARE22Ts_0001.nii.gz", sitk.ReadImage(str(scans[0])))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("platform", "words"), [("docker", ()), ("apptainer", ("/input", "/output"))])
def test_a_folder_of_scans_is_predicted(
    platform: str, words: tuple[str, ...], model: Path, scans: list[Path], shared_data: Path, tmp_path: Path
):
    folder = package(tmp_path / "container", platform, model)
    shutil.copytree(shared_data / "dicom_brain" / "hippocampus_crop", tmp_path / "input" / "series")
    shutil.copy(scans[0], tmp_path / "input" / "one.nii.gz")
    run_entry(folder, tmp_path / "output", "/output", [tmp_path / "input"], "/input", words=words)
    check(tmp_path / "output" / "one.nii.gz", sitk.ReadImage(str(scans[0])))
    assert len([*(tmp_path / "output").glob("*.nii.gz")]) == 2
    assert len([*(tmp_path / "output").glob("*.dcm")]) == 1


def test_the_readme_names_sockets_and_files(model: Path, tmp_path: Path):
    text = (package(tmp_path / "out", "grand-challenge", model, "--inputs", "t1-mri") / "README.md").read_text()
    assert "`t1-mri`" in text
    assert "/output/images/segmentation/output.mha" in text
    assert re.search(r"docker build -t \S+ \.", text)
