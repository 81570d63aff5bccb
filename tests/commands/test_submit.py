"""``nnseg submit``: archives of real scans for each preset, looked at with other libraries; and when there is none."""

import gzip
import json
import shutil
import zipfile
from io import BytesIO
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from PIL import Image
from serving.small_models import model_of
from warm import nnseg

from nnseg.core.labels import Labels
from nnseg.network.bundle import save_model

RULES = """
based_on = "grand-challenge"
[names]
case = 'ball_(?P<number>\\d+)'
file = "results/{number}.mha"
[pixels]
values = [0, 7]
rewrite = { ball = 7 }
[listing]
file = "results/list.json"
entry = { case = "{case}", scan = "{scan}" }
"""


def test_an_archive_is_made_and_made_again_and_nothing_of_others_is_overwritten(ball_run: Path, ball_dataset: Path, tmp_path: Path):
    scans, rules, out = tmp_path / "scans", tmp_path / "rules.toml", tmp_path / "out"
    scans.mkdir()
    for number in ("00", "01"):
        shutil.copy(ball_dataset / "imagesTr" / f"ball_{number}.nii.gz", scans)
    rules.write_text(RULES)
    command = ("submit", scans, out, "--model", ball_run, "--challenge", rules, "--device", "cpu")
    said = nnseg(*command)
    assert "ball: written as 7" in said.stdout
    with zipfile.ZipFile(out / "submission.zip") as archive:
        assert archive.namelist() == ["results/00.mha", "results/01.mha", "results/list.json"]
        assert [one["scan"] for one in json.loads(archive.read("results/list.json"))] == ["ball_00.nii.gz", "ball_01.nii.gz"]
    found, scan = (sitk.ReadImage(str(file)) for file in (out / "files/results/00.mha", scans / "ball_00.nii.gz"))
    assert {*np.unique(sitk.GetArrayFromImage(found))} <= {0, 7}
    assert (found.GetSize(), found.GetPixelIDTypeAsString()) == (scan.GetSize(), "8-bit unsigned integer")
    assert np.allclose([*found.GetOrigin(), *found.GetDirection()], [*scan.GetOrigin(), *scan.GetDirection()], atol=1e-5)

    before = (out / "submission.zip").read_bytes()
    nnseg(*command)
    assert (out / "submission.zip").read_bytes() == before

    rules.write_text(RULES.replace("[0, 7]", "[0, 1]"))
    said = nnseg(*command, check=1)
    assert 'label "ball" is written as 7; expected one of 0, 1' in said.stdout
    assert not (out / "submission.zip").exists()

    (tmp_path / "mine" / "files").mkdir(parents=True)
    (tmp_path / "mine" / "files" / "notes.txt").write_text("mine")
    said = nnseg(*command[:2], tmp_path / "mine", *command[3:], check=2)
    assert "was not made by nnseg submit" in said.stderr
    assert (tmp_path / "mine" / "files" / "notes.txt").read_text() == "mine"


def test_a_scan_that_fails_leaves_no_archive(ball_run: Path, ball_dataset: Path, tmp_path: Path):
    scans = tmp_path / "scans"
    scans.mkdir()
    shutil.copy(ball_dataset / "imagesTr" / "ball_00.nii.gz", scans)
    (scans / "ball_01.nii.gz").write_bytes((scans / "ball_00.nii.gz").read_bytes()[:500])
    command = ("submit", scans, tmp_path / "out", "--model", ball_run, "--challenge", "grand-challenge", "--json")
    whole = json.loads(nnseg(*command, check=1).stdout)
    assert whole["result"]["archive"] is None
    assert [finding["case"] for finding in whole["findings"]] == ["ball_01"]
    assert not (tmp_path / "out" / "submission.zip").exists()


def labels_of(*values: int) -> Labels:
    return Labels(names=("background", *(f"label {value}" for value in values)), values=(0, *values))


def read_nifti(content: bytes) -> nib.Nifti1Image:
    return nib.Nifti1Image.from_bytes(gzip.decompress(content))


def same_place(content: bytes, scan: Path, values: tuple[int, ...]) -> None:
    """A label map of NIfTI is uint8, has these values and the scan's affine."""
    image, other = read_nifti(content), nib.load(scan)
    assert image.get_data_dtype() == np.uint8
    assert {*np.unique(np.asarray(image.dataobj))} <= {*values}
    assert image.shape == other.shape[:3]
    assert np.allclose(image.affine, other.affine, atol=1e-4)


def submit(scans: Path, challenge: str, model: Path, archive: str = "submission.zip") -> dict[str, bytes]:
    """The content of the archive by name."""
    out = scans.parent / "out"
    nnseg("submit", scans, out, "--model", model, "--challenge", challenge, "--device", "cpu", "--fast")
    with zipfile.ZipFile(out / archive) as opened:
        assert opened.testzip() is None
        return {name: opened.read(name) for name in opened.namelist()}


def hippocampus(shared_data: Path, folder: Path, names: dict[str, str]) -> Path:
    """Real scans under other names, in a folder."""
    scans = folder / "scans"
    files = sorted((shared_data / "Task04_Hippocampus" / "imagesTr").glob("hippocampus_*.nii.gz"))
    for file, name in zip(files, names.values(), strict=False):
        (scans / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, scans / name)
    return scans


@pytest.mark.slow
@pytest.mark.parametrize(
    ("challenge", "given", "values", "archive"),
    [
        ("decathlon", {"Task04_Hippocampus/hippocampus_900.nii.gz": "hippocampus_900.nii.gz"}, (1, 2), "submission.zip"),
        ("flare-cpu", {"FLARE22Ts_0001.nii.gz": "FLARE22Ts_0001_0000.nii.gz"}, (1, 13), "submission.zip"),
        ("flare-gpu", {"FLARE22Ts_0002.nii.gz": "FLARE22Ts_0002_0000.nii.gz"}, (1, 13), "submission.zip"),
        (
            "kits",
            {f"prediction_0021{n}.nii.gz": f"case_0021{n}/imaging.nii.gz" for n in (0, 1)},
            (1, 2),
            "predictions.zip",
        ),
    ],
)
def test_label_maps_of_nifti(challenge: str, given: dict[str, str], values, archive: str, shared_data: Path, tmp_path: Path):
    scans, model = hippocampus(shared_data, tmp_path, given), tmp_path / "model.nnseg"
    save_model(model_of(labels=labels_of(*values)), model)
    files = submit(scans, challenge, model, archive)
    assert sorted(files) == sorted(given)
    for name, scan in given.items():
        same_place(files[name], scans / scan, (0, *values))


@pytest.mark.slow
def test_grand_challenge_gets_compressed_metaimage(shared_data: Path, tmp_path: Path):
    (tmp_path / "scans").mkdir()
    for file in sorted((shared_data / "Task04_Hippocampus" / "imagesTr").glob("hippocampus_*.nii.gz"))[:2]:
        sitk.WriteImage(sitk.ReadImage(str(file)), tmp_path / "scans" / file.name.replace(".nii.gz", ".mha"))
    save_model(model_of(labels=labels_of(1, 2)), tmp_path / "model.nnseg")
    files = submit(tmp_path / "scans", "grand-challenge", tmp_path / "model.nnseg")
    assert len(files) == 2
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        assert b"CompressedData = True" in content[:1000]
        found, scan = (sitk.ReadImage(str(folder / name)) for folder in (tmp_path, tmp_path / "scans"))
        assert found.GetPixelIDTypeAsString() == "8-bit unsigned integer"
        assert (found.GetSize(), found.GetOrigin(), found.GetDirection()) == (scan.GetSize(), scan.GetOrigin(), scan.GetDirection())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("challenge", "case", "values"), [("brats", "BraTS-GLI-00001-000", (1, 2, 3)), ("brats-2021", "BraTS2021_00001", (1, 2, 4))]
)
def test_brats(challenge: str, case: str, values, shared_data: Path, tmp_path: Path):
    ends = ("t1c", "t1n", "t2f", "t2w") if challenge == "brats" else ("flair", "t1", "t1ce", "t2")
    mark = "-" if challenge == "brats" else "_"
    series = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(shared_data / "dicom_brain" / "t1"))
    scan = sitk.ReadImage(series)
    grid = sitk.Image(240, 240, 155, sitk.sitkInt16)
    grid.SetOrigin((0, -239, 0))
    (tmp_path / "scans" / case).mkdir(parents=True)
    moved = sitk.Resample(
        scan, grid, sitk.TranslationTransform(3, [a - b for a, b in zip(scan.GetOrigin(), grid.GetOrigin(), strict=True)])
    )
    for end in ends:
        sitk.WriteImage(moved, tmp_path / "scans" / case / f"{case}{mark}{end}.nii.gz")
    save_model(model_of(channels=ends, labels=labels_of(*values), spacing=8.0), tmp_path / "model.nnseg")
    files = submit(tmp_path / "scans", challenge, tmp_path / "model.nnseg")
    assert list(files) == [f"{case}.nii.gz"]
    same_place(files[f"{case}.nii.gz"], tmp_path / "scans" / case / f"{case}{mark}{ends[0]}.nii.gz", (0, *values))
    assert read_nifti(files[f"{case}.nii.gz"]).shape == (240, 240, 155)


@pytest.mark.slow
def test_acdc(shared_data: Path, tmp_path: Path):
    (tmp_path / "scans").mkdir()
    names = {"patient101_frame01": "patient001_ED", "patient101_frame12": "patient001_ES"}
    for name, of in names.items():
        shutil.copy(shared_data / "ACDC" / "images" / f"{of}.nii.gz", tmp_path / "scans" / f"{name}.nii.gz")
    save_model(model_of(labels=labels_of(1, 2, 3), spacing=8.0), tmp_path / "model.nnseg")
    files = submit(tmp_path / "scans", "acdc", tmp_path / "model.nnseg")
    assert list(files) == ["patient101_ED.nii.gz", "patient101_ES.nii.gz"]
    for content, scan in zip(files.values(), sorted((tmp_path / "scans").iterdir()), strict=True):
        same_place(content, scan, (0, 1, 2, 3))


@pytest.mark.slow
def test_isbi_gets_one_stack_of_probabilities(shared_data: Path, tmp_path: Path):
    (tmp_path / "scans").mkdir()
    for file in sorted((shared_data / "ISBI2012_EM" / "images").glob("*.png"))[:4]:
        shutil.copy(file, tmp_path / "scans")
    save_model(model_of(dimensions=2, labels=labels_of(255), spacing=16.0), tmp_path / "model.nnseg")
    files = submit(tmp_path / "scans", "isbi-em", tmp_path / "model.nnseg")
    assert list(files) == ["test-volume.tif"]
    with tifffile.TiffFile(BytesIO(files["test-volume.tif"])) as opened:
        assert (len(opened.pages), opened.pages[0].dtype, opened.pages[0].compression) == (4, np.float32, 1)
        stack = opened.asarray()
    assert stack.shape == (4, 512, 512)
    assert 0 <= stack.min() < stack.max() <= 1
    own = np.load(tmp_path / "out" / "label_maps" / f"{sorted((tmp_path / 'scans').iterdir())[2].stem}.npz")
    assert np.allclose(stack[2], own["probabilities"][1, 0], atol=1e-3)


@pytest.mark.slow
def test_drive_gets_white_vessels(shared_data: Path, tmp_path: Path):
    (tmp_path / "scans").mkdir()
    for file in sorted((shared_data / "DRIVE" / "images").glob("*.tif"))[:2]:
        shutil.copy(file, tmp_path / "scans")
    channels = ("red", "green", "blue")
    save_model(model_of(dimensions=2, channels=channels, labels=labels_of(1), spacing=16.0), tmp_path / "model.nnseg")
    files = submit(tmp_path / "scans", "drive", tmp_path / "model.nnseg")
    assert list(files) == ["21.png", "22.png"]
    for content in files.values():
        picture = Image.open(BytesIO(content))
        assert (picture.size, picture.mode, picture.format) == ((565, 584), "L", "PNG")
        assert {*np.unique(np.asarray(picture))} <= {0, 255}
