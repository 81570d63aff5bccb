"""Files of submissions from label maps and probabilities, read again by other libraries; and what the check finds in bad ones."""

import json
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from PIL import Image

from nnseg.core.labels import Labels
from nnseg.interop.challenges.archive import write_archive
from nnseg.interop.challenges.cases import SubmittedCase
from nnseg.interop.challenges.check import check_files
from nnseg.interop.challenges.files import write_files
from nnseg.interop.challenges.naming import name_files
from nnseg.interop.challenges.rules import Challenge, load_challenge

HEART = Labels(names=("background", "RV", "myocardium", "LV"), values=(0, 1, 2, 3))
AFFINE = np.array([[0.0, -2.0, 0.0, 10.0], [1.5, 0.0, 0.0, -20.0], [0.0, 0.0, 3.0, 5.0], [0.0, 0.0, 0.0, 1.0]])
"""Of scans whose axes x, y, z lead to anterior, left and superior (RAS)."""
VALUES = np.random.default_rng(0).integers(0, 4, (5, 6, 7))


def nifti_case(folder: Path, name: str, values: np.ndarray = VALUES) -> SubmittedCase:
    """A scan and its label map (x, y, z) as NIfTI."""
    (folder / "label_maps").mkdir(parents=True, exist_ok=True)
    scan, label_map = folder / f"{name}.nii.gz", folder / "label_maps" / f"{name}.nii.gz"
    nib.save(nib.Nifti1Image(values.astype(np.int16) * 10, AFFINE), scan)
    nib.save(nib.Nifti1Image(values.astype(np.uint8), AFFINE), label_map)
    return SubmittedCase(name=name, images=(scan,), label_map=label_map)


def written(cases: list[SubmittedCase], challenge: Challenge, folder: Path, labels: Labels = HEART) -> dict[str, str]:
    paths = name_files([case.name for case in cases], challenge.names)
    write_files(cases, paths, challenge, labels, folder)
    return paths


def rules(tmp_path: Path, text: str, based_on: str = "acdc") -> Challenge:
    file = tmp_path / "mine.toml"
    file.write_text(f'based_on = "{based_on}"\n{text}\n')
    return load_challenge(file)


@pytest.fixture
def pair(tmp_path: Path) -> list[SubmittedCase]:
    return [nifti_case(tmp_path, f"patient101_frame{frame}") for frame in ("01", "12")]


def test_label_maps_are_written_with_type_values_and_grid(pair: list[SubmittedCase], tmp_path: Path):
    challenge = rules(tmp_path, '[pixels]\ntype = "int16"\nrewrite = { RV = 3, LV = 1 }')
    paths = written(pair, challenge, tmp_path / "files")
    image = nib.load(tmp_path / "files" / "patient101_ES.nii.gz")
    assert image.get_data_dtype() == np.int16
    assert np.array_equal(np.asarray(image.dataobj), np.array([0, 3, 2, 1])[VALUES])
    assert np.allclose(image.affine, AFFINE)
    assert check_files(tmp_path / "files", pair, paths, challenge) == ()
    write_archive(tmp_path / "files", tmp_path / "a.zip")
    write_archive(tmp_path / "files", tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == ["patient101_ED.nii.gz", "patient101_ES.nii.gz"]
        assert archive.read("patient101_ED.nii.gz") == (tmp_path / "files/patient101_ED.nii.gz").read_bytes()


def test_axes_are_turned_where_a_challenge_asks_for_it(pair: list[SubmittedCase], tmp_path: Path):
    challenge = rules(tmp_path, '[pixels]\norientation = "RPS"')
    paths = written(pair, challenge, tmp_path / "files")
    image = nib.load(tmp_path / "files" / "patient101_ED.nii.gz")
    assert "".join(nib.aff2axcodes(image.affine)) == "RPS"
    turned = nib.as_closest_canonical(nib.Nifti1Image(VALUES.astype(np.uint8), AFFINE))
    again = nib.as_closest_canonical(image)
    assert np.array_equal(np.asarray(again.dataobj), np.asarray(turned.dataobj))
    assert np.allclose(again.affine, turned.affine)
    assert check_files(tmp_path / "files", pair, paths, challenge) == ()


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("suffix", ["mha", "nrrd", "tif"])
def test_numbers_are_compressed_or_not(suffix: str, compressed: bool, tmp_path: Path):
    case = nifti_case(tmp_path, "scan")
    text = f'[names]\nfile = "{{case}}.{suffix}"\n[pixels]\ncompressed = {str(compressed).lower()}'
    challenge = rules(tmp_path, text, "grand-challenge")
    paths = written([case], challenge, tmp_path / "files")
    file = tmp_path / "files" / f"scan.{suffix}"
    if suffix == "tif":
        with tifffile.TiffFile(file) as opened:
            assert (opened.pages[0].compression != 1) == compressed
        found = tifffile.imread(file)
    else:
        stated = {"mha": b"CompressedData = True", "nrrd": b"encoding: gzip"}[suffix]
        assert (stated in file.read_bytes()) == compressed
        found = sitk.GetArrayFromImage(sitk.ReadImage(str(file)))
    assert found.dtype == np.uint8
    assert np.array_equal(found.T, VALUES)
    assert check_files(tmp_path / "files", [case], paths, challenge) == ()
    other = challenge.model_copy(update={"pixels": challenge.pixels.model_copy(update={"compressed": not compressed})})
    (finding,) = check_files(tmp_path / "files", [case], paths, other)
    assert "expected a file that is" in finding.message


def test_a_listing_names_each_case(pair: list[SubmittedCase], tmp_path: Path):
    challenge = rules(
        tmp_path, '[listing]\nfile = "all.json"\nentry = { id = "{case}", outputs = [{ name = "{file}" }], version = 1 }'
    )
    paths = written(pair, challenge, tmp_path / "files")
    first, _ = json.loads((tmp_path / "files" / "all.json").read_text())
    assert first == {"id": "patient101_frame01", "outputs": [{"name": "patient101_ED.nii.gz"}], "version": 1}
    assert check_files(tmp_path / "files", pair, paths, challenge) == ()


def slices(folder: Path, count: int = 3) -> tuple[list[SubmittedCase], np.ndarray]:
    """Pictures with their label maps and probabilities of a background and a cell; and those of the cell (slices, Y, X)."""
    cells, cases = np.random.default_rng(1).random((count, 8, 6), np.float32), []
    for number, cell in enumerate(cells):
        scan, label_map = folder / f"slice_{number:02}.png", folder / f"label_{number:02}.png"
        Image.fromarray((cell * 255).astype(np.uint8)).save(scan)
        Image.fromarray((cell > 0.5).astype(np.uint8)).save(label_map)
        file, maps = folder / f"slice_{number:02}.npz", np.stack([1 - cell, cell])[:, None].astype(np.float16)
        np.savez(file, probabilities=maps, heads=np.array(["background", "cell"]))
        cases.append(SubmittedCase(name=scan.stem, images=(scan,), label_map=label_map, probabilities=file))
    return cases, cells.astype(np.float16).astype(np.float32)


CELLS = Labels(names=("background", "cell"), values=(0, 1))


@pytest.mark.parametrize(("wanted", "of_cell"), [("foreground", True), ("cell", True), ("background", False)])
def test_slices_become_the_pages_of_one_file_of_probabilities(wanted: str, of_cell: bool, tmp_path: Path):
    cases, cells = slices(tmp_path)
    challenge = rules(tmp_path, f'[pixels]\nprobability_of = "{wanted}"', "isbi-em")
    paths = written(cases[::-1], challenge, tmp_path / "files", CELLS)
    stack = tifffile.imread(tmp_path / "files" / "test-volume.tif")
    assert (stack.dtype, stack.shape) == (np.float32, (3, 8, 6))
    assert np.allclose(stack, cells if of_cell else 1 - cells, atol=1e-3)
    assert check_files(tmp_path / "files", cases, paths, challenge) == ()
    (finding,) = check_files(tmp_path / "files", cases[:2], paths, challenge)
    assert "has pages of 3 x 8 x 6; expected 2 x 8 x 6" in finding.message


def save(path: Path, voxels: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    nib.save(nib.Nifti1Image(voxels, affine), path)


MOVED = AFFINE + np.array([[0, 0, 0, 4.0], [0] * 4, [0] * 4, [0] * 4])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: save(file, VALUES.astype(np.int16)), "holds int16; expected uint8"),
        (lambda file: save(file, (VALUES + 2).astype(np.uint8)), "holds the values 4, 5; expected 0, 1, 2, 3"),
        (
            lambda file: save(file, VALUES[:4].astype(np.uint8)),
            "has 7 x 6 x 4 voxels (z, y, x); expected 7 x 6 x 5, as the scan has",
        ),
        (lambda file: save(file, VALUES.astype(np.uint8), MOVED), "lies up to 4 mm away from the scan"),
        (lambda file: file.write_bytes(file.read_bytes()[:-30]), "cannot be read"),
        (lambda file: file.unlink(), "is missing"),
        (lambda file: file.with_name("notes.txt").write_text("mine"), "is no file of the submission"),
    ],
)
def test_a_file_that_breaks_a_rule_is_named(change, message: str, pair: list[SubmittedCase], tmp_path: Path):
    challenge = load_challenge("acdc")
    paths = written(pair, challenge, tmp_path / "files")
    change(tmp_path / "files" / "patient101_ED.nii.gz")
    (finding,) = check_files(tmp_path / "files", pair, paths, challenge)
    assert message in finding.message
    assert finding.file in ("patient101_ED.nii.gz", "notes.txt")
    assert (finding.code, finding.level) == ("NS-C001", "error")


def test_voxels_and_axes_that_a_challenge_states_are_checked(pair: list[SubmittedCase], tmp_path: Path):
    paths = written(pair, load_challenge("acdc"), tmp_path / "files")
    asked = rules(tmp_path, '[pixels]\nshape = [5, 6, 8]\norientation = "LPS"')
    messages = [finding.message for finding in check_files(tmp_path / "files", pair, paths, asked)]
    assert messages == ["has 5 x 6 x 7 voxels; expected 5 x 6 x 8", "has axes that lead to ALS; expected LPS"] * 2
