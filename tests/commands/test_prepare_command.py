"""``nnseg prepare`` and ``predict --prepare``: the same steps, on files of the same names, with a record of each."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from serving.small_models import model_of
from warm import nnseg as command

import nnseg
from nnseg.commands.prepare import PreparedFolder
from nnseg.core.errors import NnsegError
from nnseg.demo.dataset import write_phantoms
from nnseg.network.bundle import save_model
from nnseg.storage.files import read_json


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two phantoms of two channels each."""
    return write_phantoms(tmp_path_factory.mktemp("demo"), cases=2) / "imagesTr"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.nnseg"
    save_model(model_of(channels=("T1", "FLAIR")), path)
    return path


def values(file: Path) -> np.ndarray:
    return np.asarray(nib.load(file).dataobj)


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and path.name[0] != ".")


@pytest.fixture(scope="module")
def made(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> PreparedFolder:
    return nnseg.prepare(scans, tmp_path_factory.mktemp("prepared"), steps="mask,normalize")


def test_prepared_scans_keep_names_and_places(scans: Path, made: PreparedFolder) -> None:
    names = sorted(path.name for path in scans.iterdir())
    assert files(made.folder) == [*names, "prepared.json"]
    given, prepared = (nib.load(folder / names[0]) for folder in (scans, made.folder))
    assert np.allclose(given.affine, prepared.affine)
    assert (values(made.folder / names[0]).min(), values(made.folder / names[0]).max()) == (0.0, 1.0)
    assert read_json(made.folder / "prepared.json", PreparedFolder) == made


def test_a_model_loaded_with_steps_predicts_as_on_prepared_scans(scans: Path, made: PreparedFolder, model: Path) -> None:
    case = made.scans["phantom_001"]
    plain, prepared = nnseg.load(model, device="cpu"), nnseg.load(model, device="cpu", prepare=["mask", "normalize"])
    found = prepared.predict([scans / file for file in case.files])
    assert found.preparation == case.steps
    expected = plain.predict([made.folder / file for file in case.files])
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))


@pytest.mark.slow
def test_predict_records_and_writes_its_steps(scans: Path, made: PreparedFolder, model: Path, tmp_path: Path) -> None:
    before = nnseg.predict_folder(made.folder, tmp_path / "a", model, device="cpu")
    after = nnseg.predict_folder(scans, tmp_path / "b", model, device="cpu", prepare=made.steps, save_steps=True)
    for name, record in after.scans.items():
        np.testing.assert_array_equal(values(tmp_path / "b" / record.file), values(tmp_path / "a" / before.scans[name].file))
        assert record.preparation == made.scans[name].steps
        assert "prepare" in record.seconds
        ends = [f"{name}_{channel:04d}_{step}_prepared.nii.gz" for step in ("mask", "normalize") for channel in (0, 1)]
        assert sorted(record.more) == sorted(ends)
        last = values(tmp_path / "b" / f"{name}_0001_normalize_prepared.nii.gz")
        np.testing.assert_array_equal(last, values(made.folder / f"{name}_0001.nii.gz"))
    scores = nnseg.evaluate(tmp_path / "b", tmp_path / "a", workers=1)  # in which prepared channels are no label maps
    assert {case.name for case in scores.scores.cases} == {*after.scans}
    plain = nnseg.predict_folder(scans, tmp_path / "b", model, device="cpu")
    assert not plain.kept
    assert not [*(tmp_path / "b").glob("*_prepared*")]


def test_a_scan_with_which_a_step_cannot_be_done_fails_or_goes_without(scans: Path, tmp_path: Path) -> None:
    shutil.copytree(scans, tmp_path / "scans" / "p1")
    for path in (tmp_path / "scans" / "p1").glob("phantom_001_*"):
        image = sitk.ReadImage(str(path))
        sitk.WriteImage(image - 1000, str(path))
    out = tmp_path / "out"
    found = nnseg.prepare(tmp_path / "scans", out, steps="mask,normalize", save_steps=True)
    (failed,) = found.findings
    assert (failed.code, failed.case) == ("NS-S041", "p1_phantom_001")
    done = [f"p1/phantom_000_{channel:04d}.nii.gz" for channel in (0, 1)]
    kept = [f"p1_phantom_000_{channel:04d}_{step}_prepared.nii.gz" for channel in (0, 1) for step in ("mask", "normalize")]
    assert files(out) == sorted([*done, *kept, "prepared.json"])
    said = command("prepare", tmp_path / "scans", out, "--steps", "mask:skip,normalize", "--workers", 1, "--json")
    first, second = (json.loads(said.stdout)["result"]["scans"][f"p1_phantom_00{number}"] for number in (0, 1))
    assert len(files(out)) == 5  # those of before are removed
    assert [step["status"] for step in (*first["steps"], *second["steps"])] == ["done", "done", "skipped", "done"]
    assert "NS-S042" in second["notes"][0]


def test_folders_of_others_and_of_the_scans_and_steps_without_a_name_are_refused(scans: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert "has files that nnseg prepare did not make" in command("prepare", scans, tmp_path, "--steps", "mask", check=2).stderr
    assert "is where the scans are" in command("prepare", scans, scans / "out", "--steps", "mask", check=2).stderr
    assert '--steps: "brain" is no step' in command("prepare", scans, tmp_path / "out", "--steps", "brain", check=2).stderr
    with pytest.raises(NnsegError, match="there are none"):
        nnseg.predict_folder(scans, tmp_path / "out", model, save_steps=True)


@pytest.mark.slow
def test_dicom_series_become_one_nifti_file_for_each_channel(shared_data: Path, tmp_path: Path) -> None:
    study = tmp_path / "study"
    for name in ("t1", "flair"):
        shutil.copytree(shared_data / "dicom_brain" / name, study / name)
    steps = "n4,register,mask,normalize"
    made = nnseg.prepare(study, tmp_path / "out", steps=steps, channels="t1,flair")
    (case,) = made.scans.values()
    assert (case.files, [step.status for step in case.steps]) == (("t1.nii.gz", "flair.nii.gz"), ["done"] * 4)
    (moved,) = case.steps[1].registrations
    assert (abs(moved.rotation) < 1, moved.contrast > 2) == (True, True)
    assert 900 < case.steps[2].measured["volume_ml"][0] < 1900  # of an adult
    given = nnseg.read_scan([study / "t1", study / "flair"])
    prepared = nnseg.read_scan([tmp_path / "out" / file for file in case.files])
    assert prepared.grid.agrees(given.grid, 1e-3)
    assert (prepared.image.min(), prepared.image.max()) == (0.0, 1.0)
