"""Files of the corpus in `malicious` are refused by name, in little time and memory, and cost no other file."""

import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from malicious import CORPUS, Malicious, bomb, dicom, nested, nifti, packed
from PIL import Image
from plan_examples import small_plan

import nnseg
from nnseg.core.errors import ScanError
from nnseg.core.labels import Labels
from nnseg.network.build import build_unet
from nnseg.network.bundle import Member, Model, save_model
from nnseg.storage.datasets.content import content_hash
from nnseg.storage.datasets.tree import walk
from nnseg.storage.images.read import read_scan

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is measured by Linux's /proc")

MOST_SECONDS, MOST_MB = 2.0, 500
"""Of computing, and of memory, that a malicious file may cost."""

HANG_SECONDS = 100

SLOW = (
    *("some_keys.toml", "recipe_keys.toml", "folds_final.json", "folds.json", "labels.json", "deflated.dcm", "packed.dcm.gz"),
    *("tuples.pth", "memo.pth", "entries.pth", "entries.case", "elements.dcm", "pages.tif", "bytes.json", "depth.nnseg"),
)
"""Those that take a second to make or to refuse."""


def read_in_child(folder: Path, corpus: list[Malicious]) -> dict[str, dict]:
    """What came of each file, read one after another in one process."""
    (folder / "warm").mkdir()
    voxels = np.arange(720).reshape(8, 9, 10).astype(np.uint8)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), folder / "warm" / "a.nii.gz")
    sitk.WriteImage(sitk.GetImageFromArray(voxels), str(folder / "warm" / "a.nrrd"), useCompression=True)
    tifffile.imwrite(folder / "warm" / "a.tif", voxels, compression="zlib", photometric="minisblack")
    Image.fromarray(voxels[0]).save(folder / "warm" / "a.png")
    for one in corpus:
        one.write(folder / one.name)
    home = str(Path(nnseg.__file__).parents[1])
    command = [sys.executable, str(Path(__file__).with_name("malicious.py")), str(folder), str(HANG_SECONDS)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": home}, check=True)
    return {row["name"]: row for row in map(json.loads, done.stdout.splitlines())}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """What came of a file; those of `SLOW` are read in a process of their own."""

    @cache
    def read(slow):
        return read_in_child(tmp_path_factory.mktemp("malicious"), [one for one in CORPUS if (one.name in SLOW) == slow])

    return lambda one: read(one.name in SLOW)[one.name]


@pytest.mark.parametrize(
    "one", [pytest.param(one, id=one.name, marks=[pytest.mark.slow] if one.name in SLOW else []) for one in CORPUS]
)
def test_a_malicious_file_is_refused_by_name_in_little_time_and_memory(outcome, one):
    row = outcome(one)
    assert (row["kind"], one.words in row["message"]) == ("nnseg", True), row
    assert one.name.partition(".")[0] in row["message"]
    assert row["seconds"] < MOST_SECONDS, row
    assert row["mb"] < MOST_MB, row


def test_the_corpus_is_large_and_names_are_different():
    names = [one.name for one in CORPUS]
    assert len(set(names)) == len(names) >= 100
    assert set(SLOW) <= set(names)


BAD_SCANS = {
    "bomb.nii.gz": (lambda: bomb(4000, before=nifti((8, 8, 8)), form="gzip"), "unpacks to more"),
    "claim.nii.gz": (lambda: packed(nifti((8, 8, 2**14), follows=bytes(100))), "needs|unpacks"),
    "huge.nii": (lambda: nifti((2**40, 1, 1), version=2), "1099511627776 x 1 x 1|1 x 1 x 1099511627776"),
    "spacing.nii.gz": (lambda: packed(nifti((8, 8, 8), follows=bytes(1024), spacing=10_000)), "10000 x 10000 x 10000 mm"),
    "nested.dcm": (lambda: dicom(extra=nested(20_000, lengths=False)), "nested 65 deep or more"),
}
"""Scans to predict beside good ones: what is in them, and words of the reason why they fail."""


def write_model(path: Path, spacing: float) -> None:
    plan = small_plan(Labels(names=("background", "a"), values=(0, 1)))
    plan = plan.model_copy(update={"preprocessing": plan.preprocessing.model_copy(update={"spacing": (spacing,) * 3})})
    weights = build_unet(plan.network, channels=1, heads=2).state_dict()
    save_model(Model(members=(Member(plan=plan, fold=0, weights=weights),)), path)


def write_bad_scans(folder: Path) -> None:
    for name, (content, _) in BAD_SCANS.items():
        place = folder / name if not name.endswith(".dcm") else folder / "series" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content())
    os.mkfifo(folder / "pipe.nii.gz")
    (folder / "zero.nii").symlink_to("/dev/zero")
    for a, b in (("x", "y"), ("y", "z"), ("z", "x")):
        (folder / "ring" / a).mkdir(parents=True)
        (folder / "ring" / a / b).symlink_to(folder / "ring" / b)


def write_scan(path: Path, shape=(10, 11, 12)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), path)


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nnseg", *map(str, arguments)]
    home = str(Path(nnseg.__file__).parents[1])
    return subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": home}, check=False, timeout=3 * HANG_SECONDS
    )


@pytest.mark.slow
def test_predict_writes_the_good_scans_beside_malicious_ones(tmp_path):
    write_model(tmp_path / "m.nnseg", 1.0)
    write_scan(tmp_path / "scans" / "good.nii.gz")
    write_bad_scans(tmp_path / "scans")
    done = run("predict", tmp_path / "scans", tmp_path / "out", "--model", tmp_path / "m.nnseg", "--device", "cpu")
    cases = json.loads((tmp_path / "out" / "predictions.json").read_text())["cases"]
    assert (tmp_path / "out" / "good.nii.gz").is_file(), done.stderr
    assert done.returncode == 1
    assert cases["good"]["status"] == "done"
    for name, (_, words) in BAD_SCANS.items():
        case = "series" if name.endswith(".dcm") else name.partition(".")[0]
        assert re.search(words, cases[case]["reason"]), (case, cases[case]["reason"])
        assert cases[case]["peak_gb"] < cases["good"]["peak_gb"] + MOST_MB / 1000
    for words in ("a regular file (pipe.nii.gz)", "a regular file (zero.nii)", "looked into before"):
        assert words in done.stdout


@pytest.mark.slow
def test_a_plan_of_tiny_voxels_is_refused_for_every_scan_with_its_need_of_memory(tmp_path):
    write_model(tmp_path / "m.nnseg", 1e-6)
    write_scan(tmp_path / "scans" / "good.nii.gz")
    done = run("predict", tmp_path / "scans", tmp_path / "out", "--model", tmp_path / "m.nnseg", "--device", "cpu")
    assert done.returncode == 2
    assert re.search(r"a scan of 12 x 11 x 10 voxels needs \d+\.\d\d GB of RAM", done.stderr), done.stderr


@pytest.mark.slow
def test_check_names_malicious_cases_and_counts_the_others(tmp_path):
    names = ["good_1", "good_2", "good_3", "good_4", *(name.partition(".")[0] for name in BAD_SCANS if not name.endswith(".dcm"))]
    entries = []
    for name in names:
        image = next((bad for bad in BAD_SCANS if bad.startswith(f"{name}.")), f"{name}.nii.gz")
        write_scan(tmp_path / "images" / image, (8, 8, 8))
        if image in BAD_SCANS:
            (tmp_path / "images" / image).write_bytes(BAD_SCANS[image][0]())
        labels = np.zeros((8, 8, 8), np.uint8)
        labels[2:5, 2:5, 2:5] = 1
        (tmp_path / "labels").mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(labels, np.eye(4)), tmp_path / "labels" / f"{name}.nii.gz")
        entries.append({"image": f"./images/{image}", "label": f"./labels/{name}.nii.gz"})
    entries.append({"image": "/dev/zero", "label": "./labels/good_1.nii.gz"})
    about = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "a"}, "training": entries}
    (tmp_path / "dataset.json").write_text(json.dumps(about))
    done = run("check", tmp_path, "--json")
    assert done.returncode == 1, done.stdout + done.stderr
    for words in ("bomb.nii.gz: unpacks to more", "huge.nii: has 544 bytes", "/dev/zero"):
        assert words in done.stdout, (words, done.stdout)
    assert not any(f"case good_{i}" in done.stdout for i in range(1, 5))


def test_a_file_larger_than_memory_is_not_hashed(tmp_path):
    (tmp_path / "a.nii.gz").touch()
    os.truncate(tmp_path / "a.nii.gz", 10**12)
    with pytest.raises(ScanError, match=r"a\.nii\.gz: has 1,000,000,000,000 bytes, more than this machine has memory"):
        content_hash([tmp_path / "a.nii.gz"])


def test_of_a_terabyte_behind_the_voxels_of_a_file_nothing_is_read(tmp_path):
    (tmp_path / "a.nii").write_bytes(nifti((8, 8, 8), follows=bytes(range(256)) * 4))
    os.truncate(tmp_path / "a.nii", 2**43)
    assert read_scan(tmp_path / "a.nii").image.shape == (1, 8, 8, 8)


def test_folders_of_endless_depth_are_looked_into_down_to_a_limit(tmp_path):
    write_scan(tmp_path / "a.nii.gz")
    tmp_path.joinpath(*["d"] * 150).mkdir(parents=True)
    tree = walk(tmp_path)
    assert [item.stem for item in tree.items] == ["a"]
    assert [one.reason for one in tree.passed] == ["lies below 101 folders, and is not looked into"]
