"""``nnseg convert``: predictions as files that nibabel and the validator of BIDS read."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.freesurfer.mghformat import MGHImage
from standin import StandIn, StandInModel, write_scan
from typer.testing import CliRunner

import nnseg
from nnseg.cli import app
from nnseg.commands.convert import FORMS
from nnseg.core import options
from nnseg.core.dataset import Case
from nnseg.core.errors import NnsegError, RunError, ScanError
from nnseg.core.labels import Labels, Region
from nnseg.crossval.predict import PredictionJob, predict_cases
from nnseg.interop.conversion.bids import bids_name
from nnseg.interop.conversion.converted_scan import file_names
from nnseg.interop.conversion.freesurfer import aseg_numbers
from nnseg.storage.files import read_json, write_json
from nnseg.storage.predictions import RECORD, Predictions

LABELS = Labels(names=("background", "hippocampus_left", "Right Hippocampus", "cyst / other"), values=(0, 1, 2, 5))


class FourValues(StandIn):
    """Labels by the number of the voxel, so that each has some."""

    model = StandInModel()
    model.labels = LABELS

    def infer(self, scan, **more):
        prediction = super().infer(scan, **more)
        values = np.array(LABELS.values, np.uint8)[np.arange(scan.image[0].size) % 4]
        labels = values.reshape(scan.grid.shape)
        return replace(prediction, label_map=replace(prediction.label_map, labels=labels))


@pytest.fixture(scope="module")
def predictions(tmp_path_factory):
    """Two scans and a broken one, predicted."""
    place = tmp_path_factory.mktemp("convert")
    names = ("sub-01_ses-2_T1w", "b")
    cases = [Case(name=name, images=(write_scan(place / "scans" / f"{name}.nii.gz", 3),)) for name in names]
    (place / "scans" / "broken.nii.gz").write_bytes(b"no image")
    broken = Case(name="broken", images=(place / "scans" / "broken.nii.gz",))
    predict_cases(PredictionJob(cases=(*cases, broken), out=place / "out", key="k"), FourValues())
    record = read_json(place / "out" / RECORD, Predictions)
    write_json(place / "out" / RECORD, record.model_copy(update={"labels": LABELS}))
    return place / "out"


def voxels(path):
    return np.asarray(nib.load(path).dataobj)


def test_label_maps_keep_values_and_place_in_mgz_with_their_colour_table(predictions, tmp_path):
    said = CliRunner().invoke(app, ["convert", str(predictions), str(tmp_path / "new"), "--to", "mgz,nrrd", "--workers", "1"])
    assert said.exit_code == 1  # the broken scan
    assert "2 of 3 cases as mgz, nrrd" in said.output
    made = nib.load(tmp_path / "new" / "b.mgz")
    assert isinstance(made, MGHImage)
    assert np.array_equal(made.dataobj, voxels(predictions / "b.nii.gz"))
    assert made.affine == pytest.approx(nib.load(predictions / "b.nii.gz").affine, abs=1e-4)
    rows = [line.split() for line in (tmp_path / "new" / "mgz.ctab").read_text().splitlines()]
    assert [row[:2] for row in rows] == [
        ["0", "Unknown"],
        ["1", "hippocampus_left"],
        ["2", "Right-Hippocampus"],
        ["5", "cyst-/-other"],
    ]
    assert all(len(row) == 6 for row in rows)
    record = json.loads((tmp_path / "new" / "converted.json").read_text())
    assert record["converted"] == {"b": ["b.mgz", "b.nrrd"], "sub-01_ses-2_T1w": ["sub-01_ses-2_T1w.mgz", "sub-01_ses-2_T1w.nrrd"]}


def test_a_mask_is_written_for_each_chosen_label(predictions, tmp_path):
    made = nnseg.convert(predictions, tmp_path / "new", to="masks", labels=["cyst / other", "hippocampus_left"])
    assert made.converted["b"] == ("b/hippocampus_left.nii.gz", "b/cyst___other.nii.gz")
    whole = voxels(predictions / "b.nii.gz")
    assert np.array_equal(voxels(tmp_path / "new" / "b" / "cyst___other.nii.gz"), whole == 5)
    left = tmp_path / "new" / "b" / ".nnseg-00000000-1-00000000.half.nii.gz"  # by a process that was killed
    left.touch()
    again = nnseg.convert(predictions, tmp_path / "new", to="nii.gz", labels="Right Hippocampus")
    assert again.labels == ("Right Hippocampus",)
    assert np.array_equal(voxels(tmp_path / "new" / "b.nii.gz"), np.where(whole == 2, 2, 0))
    assert not list((tmp_path / "new" / "b").iterdir())  # files of the earlier conversion are gone


def test_a_record_does_not_choose_files_elsewhere_that_are_removed(predictions, tmp_path):
    new, victim = tmp_path / "new", tmp_path / "victim.txt"
    made = nnseg.convert(predictions, new, to="masks")
    victim.write_text("mine")
    (new / "link").symlink_to(tmp_path)
    names = (str(victim), "../victim.txt", "link/victim.txt")
    write_json(new / "converted.json", made.model_copy(update={"shared": names}))
    nnseg.convert(predictions, new, to="masks")
    assert victim.read_text() == "mine"


def test_aseg_has_freesurfers_numbers(predictions, tmp_path):
    nnseg.convert(predictions, tmp_path / "new", to="aseg")
    whole, made = voxels(predictions / "b.nii.gz"), voxels(tmp_path / "new" / "b_aseg.mgz")
    assert {int(v): int(made[whole == v][0]) for v in (0, 1, 2, 5)} == {0: 0, 1: 17, 2: 53, 5: 30001}
    assert "\n53     Right-Hippocampus" in (tmp_path / "new" / "aseg.ctab").read_text()


@pytest.mark.parametrize(
    ("name", "number"),
    [("Left-Thalamus-Proper", 10), ("accumbens_right", 58), ("brainstem", 16), ("White Matter left", 2), ("3rd-Ventricle", 14)],
)
def test_other_spellings_are_the_same_structure_of_aseg(name, number):
    assert aseg_numbers(Labels(names=("background", name), values=(0, 1))) == {name: number}


def test_labels_that_aseg_does_not_have_are_refused():
    with pytest.raises(ScanError, match=r"none of the labels liver is in FreeSurfer's aseg"):
        aseg_numbers(Labels(names=("background", "liver"), values=(0, 1)))


def test_regions_keep_the_labels_they_consist_of():
    regions = (Region(name="whole", values=(1, 2), paint=1), Region(name="core", values=(2,), paint=2))
    labels = Labels(names=("background", "edema", "core part"), values=(0, 1, 2), regions=regions)
    assert labels.only(["core"]).foreground_values == {"core": (2,)}
    assert labels.only(["core"]).values == (0, 2)
    assert labels.only(["whole"]).values == (0, 1, 2)


def test_names_of_files_are_distinct_whatever_the_labels():
    labels = Labels(names=("background", "A/B", "a_b", "con"), values=(0, 1, 2, 3))
    assert file_names(labels) == {"A/B": "A_B", "a_b": "a_b_2", "con": "con_3"}


def test_derivatives_of_bids_are_named_by_entities_and_valid(predictions, tmp_path):
    nnseg.convert(predictions, tmp_path / "new", to="bids", labels="hippocampus_left,Right Hippocampus")
    place = tmp_path / "new" / "sub-01" / "ses-2" / "anat"
    assert (place / "sub-01_ses-2_dseg.tsv").read_text().splitlines()[:2] == ["index\tname\tcolor", "1\thippocampus_left\t#e69f00"]
    assert set(np.unique(voxels(place / "sub-01_ses-2_dseg.nii.gz"))) == {0, 1, 2}
    assert (tmp_path / "new" / "sub-b" / "anat" / "sub-b_dseg.nii.gz").is_file()
    assert json.loads((tmp_path / "new" / "dataset_description.json").read_text())["DatasetType"] == "derivative"


@pytest.mark.slow
def test_the_official_validator_of_bids_has_no_error(predictions, tmp_path):
    validator = shutil.which("bids-validator-deno", path=str(Path(sys.executable).parent)) or shutil.which("bids-validator-deno")
    if validator is None:
        pytest.skip("bids-validator-deno is not installed")
    nnseg.convert(predictions, tmp_path / "new", to="bids")
    done = subprocess.run([validator, "--json", str(tmp_path / "new")], capture_output=True, text=True, timeout=200, check=False)
    issues = json.loads(done.stdout)["issues"]["issues"]
    assert [issue for issue in issues if issue["severity"] == "error"] == []


def test_names_of_cases_become_subjects():
    assert [bids_name(name) for name in ("sub-01_acq-hi.res_T1w", "liver_012", "patient-7_x")] == [
        "sub-01_acq-hires",
        "sub-liver012",
        "sub-patient7x",
    ]


def test_what_cannot_be_converted_is_named(predictions, tmp_path):
    with pytest.raises(ScanError, match='"mgzz" is none of masks, aseg'):
        nnseg.convert(predictions, tmp_path / "new", to="mgzz")
    with pytest.raises(NnsegError, match='no label "hippocampus left"; did you mean hippocampus_left'):
        nnseg.convert(predictions, tmp_path / "new", to="mgz", labels=["hippocampus left"])
    with pytest.raises(RunError, match="bids is a dataset in a folder of its own"):
        nnseg.convert(predictions, tmp_path / "new", to=["bids", "mgz"])
    with pytest.raises(RunError, match="holds the predictions"):
        nnseg.convert(predictions, predictions, to="mgz")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match=r"did not make"):
        nnseg.convert(predictions, tmp_path / "mine", to="mgz")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_the_names_in_the_help_are_those_that_are_written():
    assert set(FORMS) == set(options.FORMS)
