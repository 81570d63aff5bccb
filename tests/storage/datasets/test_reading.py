"""Options on how a folder is read: they reach every file of it, and stay with the run."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from nnseg.cli.app import app
from nnseg.cli.train import check
from nnseg.commands.measure import reading_for
from nnseg.core.dataset import AS_FOUND, Reading, describe_unused
from nnseg.core.errors import NnsegError
from nnseg.core.options import Options, parse_channels, parse_spacing
from nnseg.planning.measure_folder import measure_folder
from nnseg.storage.datasets.read import read_dataset
from nnseg.storage.datasets.read_case import read_case
from nnseg.storage.run import Run

GIVEN = Options(images="*/t1.nii", labels="*/wmh.nii", channels=("t1",), spacing=(3.0, 0.5, 0.5), layout="names")


def pictures(folder: Path) -> Path:
    random = np.random.default_rng(0)
    for i in range(3):
        for part, pixels in (("images", random.integers(0, 255, (9, 8), np.uint8)), ("labels", np.eye(9, 8, dtype=np.uint8))):
            (folder / part).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / part / f"c{i}.png")
    return folder


def test_texts_are_read_as_people_write_them():
    assert parse_spacing("3, 0.5,0.5") == (3.0, 0.5, 0.5)
    assert parse_channels("t1n, t2f") == ("t1n", "t2f")
    for parse, text in ((parse_spacing, "1,2"), (parse_spacing, "1,0,1"), (parse_channels, "a,,b"), (parse_channels, "a,A")):
        with pytest.raises(NnsegError, match=text):
            parse(text)


def test_a_given_spacing_reaches_every_case(tmp_path):
    folder = pictures(tmp_path)
    dataset = read_dataset(folder, reading=Reading(spacing=(2.0, 0.5, 0.5)))
    assert {case.spacing for case in dataset.cases} == {(2.0, 0.5, 0.5)}
    scan = read_case(dataset.cases[0], channels=1, labels=dataset.labels).scan
    assert scan.grid.spacing == (2.0, 0.5, 0.5)
    known = [measure_folder(folder, reading=Reading(spacing=spacing))[1] for spacing in (None, (2.0, 0.5, 0.5))]
    assert [fingerprint.cases[0].spacing for fingerprint in known] == [(1.0, 1.0, 1.0), (2.0, 0.5, 0.5)]
    assert known[0].cases[0].key != known[1].cases[0].key


def test_options_of_a_command_are_what_the_next_one_takes_without_any(tmp_path):
    folder = pictures(tmp_path / "data")
    run = Run(tmp_path / "run")
    assert reading_for(run, Options()) == AS_FOUND
    run.path.mkdir()
    run.dataset = read_dataset(folder, reading=Reading(labels="labels", spacing=(2.0, 0.5, 0.5)))
    again = reading_for(run, Options())
    assert again == run.dataset.reading == Reading(labels="labels", spacing=(2.0, 0.5, 0.5))
    assert reading_for(run, GIVEN) == Reading(
        images="*/t1.nii", labels="*/wmh.nii", channels=("t1",), spacing=(3.0, 0.5, 0.5), layout="names"
    )


def test_check_takes_the_options(tmp_path):
    random = np.random.default_rng(0)
    for i in range(3):
        for name in ("t1", "t2", "wmh"):
            voxels = np.eye(6, 5, dtype=np.uint8)[:, :, None] if name == "wmh" else random.normal(size=(6, 5, 4)).astype(np.float32)
            path = tmp_path / f"p{i}" / f"{name}.nii"
            path.parent.mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(np.repeat(voxels, 4, 2) if name == "wmh" else voxels, np.eye(4)), path)
    assert check  # registers the command
    done = CliRunner().invoke(app, ["check", str(tmp_path), "--labels", "*/wmh.nii", "--channels", "t2,t1", "--workers", "1"])
    assert done.exit_code == 0, done.output
    assert "3 cases, 2 channels (t2, t1), labels foreground=1" in done.output


def test_brats_with_voxels_is_read(tmp_path):
    random = np.random.default_rng(0)
    for i in range(2):
        for name in ("t1c", "t1n", "t2f", "t2w", "seg"):
            values = random.integers(0, 4, (5, 4, 3)) if name == "seg" else random.normal(size=(5, 4, 3))
            path = tmp_path / f"B-{i}" / f"B-{i}-{name}.nii.gz"
            path.parent.mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(values.astype(np.uint8 if name == "seg" else np.float32), np.eye(4)), path)
    dataset, fingerprint = measure_folder(tmp_path)
    assert dataset.channels == ("t1c", "t1n", "t2f", "t2w")
    assert dataset.labels.values == (0, 1, 2, 3)
    assert len(fingerprint.cases) == 2
    assert read_case(dataset.cases[0], channels=4, labels=dataset.labels).scan.image.shape == (4, 3, 4, 5)
    assert describe_unused(dataset.unused) == ()


def test_patterns_are_also_paths_as_a_shell_completes_them_and_lists(tmp_path, monkeypatch):
    folder = pictures(tmp_path / "data")
    for part in ("images", "labels"):
        (folder / part).rename(folder / f"{part[:2]} 1")
    monkeypatch.chdir(tmp_path)
    for images, labels in (("im 1", "la 1/"), ("data/im 1", "data/la 1/*.png"), (str(folder / "im 1"), "./data/la 1")):
        dataset = read_dataset(folder, reading=Reading(images=images, labels=labels))
        assert [case.images[0].parent.name for case in dataset.cases] == ["im 1"] * 3
        assert dataset.reading.images == "im 1"
    (folder / "two").mkdir()
    (folder / "la 1" / "c2.png").rename(folder / "two" / "c2.png")
    assert len(read_dataset(folder, reading=Reading(images="im 1", labels="la 1,data/two")).cases) == 3
    with pytest.raises(NnsegError, match='no image fits --images "elsewhere"; expected a folder below it'):
        read_dataset(folder, reading=Reading(images="elsewhere"))
