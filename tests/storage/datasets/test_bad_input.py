"""Bad input, from the first day: each damage is found, named with its file, and costs no other case."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from nnseg.core.dataset import Finding
from nnseg.core.errors import DatasetError
from nnseg.storage.datasets.read import read_dataset
from nnseg.storage.datasets.read_case import read_case
from nnseg.storage.images.read import read_scan
from nnseg.system.parallel import map_items

CASES = ("good_1", "good_2", "worse")
IMAGE, LABEL = Path("imagesTr/worse_0000.nii.gz"), Path("labelsTr/worse.nii.gz")


def save(path: Path, voxels: np.ndarray) -> None:
    nib.save(nib.Nifti1Image(voxels, np.diag([1.0, 1.0, 2.0, 1.0])), path)


def image_of(shape=(6, 7, 5)) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def corrupted(value: float) -> np.ndarray:
    image = image_of()
    image[1, 2, 3] = image[0, 0, 4] = value
    return image


def label_map(extra: int = 0) -> np.ndarray:
    voxels = np.zeros((6, 7, 5), np.uint8)
    voxels[2:4, 2:4, 2:4] = 1
    voxels[0, 0, :3] = extra
    return voxels


@pytest.fixture
def dataset_folder(tmp_path: Path) -> Path:
    """Three small cases in nnU-Net's raw layout, all in order."""
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir()
    for case in CASES:
        save(tmp_path / "imagesTr" / f"{case}_0000.nii.gz", image_of())
        save(tmp_path / "labelsTr" / f"{case}.nii.gz", label_map())
    (tmp_path / "dataset.json").write_text(
        '{"channel_names": {"0": "MRI"}, "labels": {"background": 0, "organ": 1}, "numTraining": 3, "file_ending": ".nii.gz"}'
    )
    return tmp_path


def look_through(folder: Path) -> tuple[list[str], list[Finding]]:
    """Names of usable cases and all findings, as ``nnseg check`` gathers them."""
    dataset = read_dataset(folder)
    usable, findings = [], list(dataset.findings)

    def read(case):
        return read_case(case, channels=len(dataset.channels), labels=dataset.labels)

    for outcome in map_items(read, dataset.cases):
        if outcome.result is None:
            findings.append(Finding(level="error", message=outcome.reason or "", case=outcome.item.name))
        else:
            usable.append(outcome.item.name)
            findings += outcome.result.findings
    return usable, findings


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def corrupt(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-6] ^= 0xFF  # in the checksum
    path.write_bytes(data)


DAMAGES: dict[str, tuple[Callable[[Path], object], Path, str]] = {
    "missing label": (lambda f: (f / LABEL).unlink(), IMAGE, "has no label map; expected worse in labelsTr/"),
    "extra label": (lambda f: (f / IMAGE).unlink(), LABEL, "has no image; expected worse in imagesTr/"),
    "differing shapes": (lambda f: save(f / IMAGE, image_of((6, 7, 8))), LABEL, "shape (5, 7, 6) (z, y, x), but its image"),
    "undeclared label value": (
        lambda f: save(f / LABEL, label_map(7)),
        LABEL,
        "the value 7 (3 voxels); expected the declared 0, 1",
    ),
    "interpolated label": (lambda f: save(f / LABEL, label_map() * np.float32(0.37)), LABEL, "8 voxels that are no whole numbers"),
    "truncated gzip image": (lambda f: truncate(f / IMAGE), IMAGE, "gzip stream ends early"),
    "truncated gzip label": (lambda f: truncate(f / LABEL), LABEL, "gzip stream ends early"),
    "wrong checksum": (lambda f: corrupt(f / IMAGE), IMAGE, "gzip stream is damaged"),
    "NaN": (lambda f: save(f / IMAGE, corrupted(np.nan)), IMAGE, "has 2 NaN voxels, the first at (z, y, x) = (3, 2, 1)"),
    "Inf": (lambda f: save(f / IMAGE, corrupted(np.inf)), IMAGE, "has 2 Inf voxels, the first at (z, y, x) = (3, 2, 1)"),
    "NaN label": (lambda f: save(f / LABEL, corrupted(np.nan)), LABEL, "are no whole numbers"),
    "zero-byte image": (lambda f: (f / IMAGE).write_bytes(b""), IMAGE, "is empty (zero bytes)"),
    "zero-byte label": (lambda f: (f / LABEL).write_bytes(b""), LABEL, "is empty (zero bytes)"),
    "non-image": (lambda f: (f / IMAGE).write_text("hello"), IMAGE, "is not a NIfTI file"),
    "constant image": (lambda f: save(f / IMAGE, np.ones((6, 7, 5), np.float32)), IMAGE, "channel 0 is constant"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_with_its_file_and_costs_no_other_case(dataset_folder, damage):
    apply, file, words = DAMAGES[damage]
    assert look_through(dataset_folder) == (list(CASES), [])
    apply(dataset_folder)
    usable, findings = look_through(dataset_folder)
    assert usable == ["good_1", "good_2"]
    errors = [f for f in findings if f.level == "error"]
    assert [f.case for f in errors] == ["worse"]
    text = str(errors[0])
    assert str(dataset_folder / file) in text
    assert words in text
    assert "; expected " in text
    assert text.count(";") >= 2  # what was found; expected what; what to do
    assert "\n" not in text


def test_extra_image_is_named_and_costs_no_case(dataset_folder):
    save(dataset_folder / "imagesTr" / "more_0000.nii.gz", image_of())
    usable, findings = look_through(dataset_folder)
    assert usable == list(CASES)
    assert [(f.level, f.case) for f in findings if f.level != "note"] == [("error", "more")]
    assert "more_0000.nii.gz has no label map" in str(findings[0])


def test_all_damages_are_found_in_one_pass(dataset_folder):
    for i, (apply, _, _) in enumerate(DAMAGES.values()):
        for folder, end in (("imagesTr", "_0000"), ("labelsTr", "")):
            (dataset_folder / folder / f"worse{end}.nii.gz").unlink(missing_ok=True)
            save(dataset_folder / folder / f"worse{end}.nii.gz", image_of() if folder == "imagesTr" else label_map())
        apply(dataset_folder)
        for file in (IMAGE, LABEL):
            if (dataset_folder / file).exists():
                (dataset_folder / file).rename(dataset_folder / str(file).replace("worse", f"worse{i:02d}"))
    usable, findings = look_through(dataset_folder)
    assert usable == ["good_1", "good_2"]
    assert sorted(f.case for f in findings if f.level == "error") == [f"worse{i:02d}" for i in range(len(DAMAGES))]


def test_empty_folders_are_refused_with_what_was_found(dataset_folder):
    for file in (dataset_folder / "imagesTr").iterdir():
        file.rename(file.with_suffix(".xyz"))
    with pytest.raises(DatasetError, match=r"imagesTr: holds no image; found .xyz \(3\); expected files with one of .nii.gz"):
        read_dataset(dataset_folder)


def test_empty_folder_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"found no folders and files: no file at all; expected dataset.json, or images/"):
        read_dataset(tmp_path)


def test_missing_folder_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="nowhere: there is no such folder"):
        read_dataset(tmp_path / "nowhere")


def test_dataset_of_damaged_cases_only_is_refused_with_the_first_problem(dataset_folder):
    for file in (dataset_folder / "labelsTr").iterdir():
        file.rename(file.with_name("other_" + file.name))
    with pytest.raises(DatasetError, match=r"no usable case .*6 errors.*first of 6 problems: case good_1"):
        read_dataset(dataset_folder)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".mha", ".mhd", ".nrrd", ".gipl", ".png", ".bmp", ".tif", ".jpg"])
@pytest.mark.parametrize("content", ["missing", "folder", "zero", "text", "noise"])
def test_what_is_no_image_is_refused_in_one_line_for_every_format(tmp_path, suffix, content):
    path = tmp_path / f"scan{suffix}"
    if content == "folder":
        path.mkdir()
    elif content != "missing":
        junk = np.random.default_rng(0).integers(0, 256, 2000, np.uint8).tobytes()
        path.write_bytes({"zero": b"", "text": b"hello " * 90, "noise": junk}[content])
    outcome = next(map_items(lambda p: read_scan([p]), [path]))
    assert outcome.details is None  # one of our errors, with no traceback
    assert f"scan{suffix}" in outcome.reason
    assert "; expected " in outcome.reason
    assert "\n" not in outcome.reason


@pytest.mark.parametrize("name", ["../../../../x", "/abs/x", "..", "C:x", "a\\b", "a\x1b[2J", "aux", "脳" * 67, ""])
def test_a_case_whose_key_is_no_name_of_a_file_is_refused_and_costs_no_other(dataset_folder, name):
    entries = {
        case: {"images": [f"imagesTr/{case}_0000.nii.gz"], "label": f"labelsTr/{case}.nii.gz"} for case in ("good_1", "good_2")
    }
    worse = {"images": [f"{IMAGE}"], "label": f"{LABEL}"}
    content = json.loads((dataset_folder / "dataset.json").read_text())
    (dataset_folder / "dataset.json").write_text(json.dumps(content | {"dataset": entries | {name: worse}}))
    usable, findings = look_through(dataset_folder)
    if name:
        assert usable == ["good_1", "good_2"]
        (error,) = [finding for finding in findings if finding.level == "error"]
        assert "rename it" in error.message
        assert error.file == str(dataset_folder / "dataset.json")
        assert str(error).isprintable()
    else:  # without a name an entry is called as its label map
        assert usable == ["good_1", "good_2", "worse"]


def test_a_case_whose_file_has_no_name_for_every_system_costs_no_other(dataset_folder):
    name = "worse\x1b[2J"
    (dataset_folder / IMAGE).rename(dataset_folder / f"imagesTr/{name}_0000.nii.gz")
    (dataset_folder / LABEL).rename(dataset_folder / f"labelsTr/{name}.nii.gz")
    usable, findings = look_through(dataset_folder)
    assert usable == ["good_1", "good_2"]
    (error,) = [finding for finding in findings if finding.level == "error"]
    assert "control characters" in error.message
    assert Path(error.file).name == r"worse\x1b[2J_0000.nii.gz"


def test_a_listed_path_longer_than_a_name_may_be_costs_no_other_case(ball_dataset, tmp_path):
    folder = Path(shutil.copytree(ball_dataset, tmp_path / "balls"))
    content = json.loads((folder / "dataset.json").read_text())
    content["training"][1]["image"] = f"./imagesTr/{'a' * 300}.nii.gz"
    (folder / "dataset.json").write_text(json.dumps(content))
    dataset = read_dataset(folder)
    assert len(dataset.cases) == 5
    [finding] = [f for f in dataset.findings if f.level == "error"]
    assert "names a file by 318 characters" in finding.message
