"""A run on scans whose channels lie apart: noticed by check, registered in training and prediction, and recorded."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage
from warm import fold_options, nnseg

from nnseg.core.registration import Registration
from nnseg.planning.measure import measure
from nnseg.storage.datasets.read import read_dataset
from nnseg.storage.files import read_json
from nnseg.storage.predictions import read_predictions
from nnseg.storage.run import Run

SHAPE, SPACING = (12, 40, 36), (3.0, 2.0, 2.0)


def write_pairs(folder: Path, *, cases: int, apart: int) -> Path:
    """Scans of a head with a ball in two channels, of which the second is shifted by 6 mm in the first cases."""
    random = np.random.default_rng(0)
    for sub in ("imagesTr", "labelsTr"):
        (folder / sub).mkdir(parents=True)
    z, y, x = (np.linspace(-1.2, 1.2, n)[(slice(None), *(None,) * (2 - i))] for i, n in enumerate(SHAPE))
    for case in range(cases):
        inside = z**2 + y**2 + x**2 < 1
        tissue = np.where(inside, 1 + (ndimage.gaussian_filter(random.normal(size=SHAPE), (1, 3, 3)) > 0), 0)
        ball = (z - random.uniform(-0.3, 0.3)) ** 2 + (y - random.uniform(-0.3, 0.3)) ** 2 + x**2 < 0.1
        first = np.array([0.0, 60.0, 100.0])[tissue] + 60 * ball
        second = np.array([0.0, 90.0, 40.0])[tissue] + 20 * ball
        if case < apart:
            second = ndimage.shift(second, (0, 3, 0), order=1)
        for name, voxels in {
            f"imagesTr/head_{case:02d}_0000": first + random.normal(0, 3, SHAPE),
            f"imagesTr/head_{case:02d}_0001": second + random.normal(0, 3, SHAPE),
            f"labelsTr/head_{case:02d}": ball.astype(np.uint8),
        }.items():
            image = sitk.GetImageFromArray(voxels.astype(np.uint8 if "labels" in name else np.float32))
            image.SetSpacing(SPACING[::-1])
            sitk.WriteImage(image, str(folder / f"{name}.nii.gz"))
    about = {"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "ball": 1}, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(about | {"numTraining": cases}))
    return folder


def test_check_names_the_cases_whose_channels_lie_apart(tmp_path):
    findings = measure(read_dataset(write_pairs(tmp_path / "heads", cases=3, apart=1)), workers=1).findings
    (found,) = (finding for finding in findings if finding.code == "NS-S039")
    assert (found.case, found.level) == ("head_00", "warning")
    assert found.message.startswith("channel 2 fits channel 1 better 6 mm away (mutual information ")


@pytest.mark.slow
def test_channels_are_registered_in_training_and_prediction_alike(tmp_path, tiny_recipe):
    data, place, out = write_pairs(tmp_path / "heads", cases=6, apart=2), tmp_path / "run", tmp_path / "out"
    nnseg("run", data, place, "--register", "rigid", *fold_options(tiny_recipe))
    run = Run(place)
    (folder,) = run.plans
    assert folder.plan.preprocessing.registration == "rigid"
    trained = read_json(folder.registrations_file, dict[str, tuple[Registration, ...]])
    assert len(trained) == 6
    moved = {name: float(np.linalg.norm(one.translation)) for name, (one,) in trained.items()}
    apart = {name: moved.pop(name) for name in ("head_00", "head_01")}
    assert list(apart.values()) == pytest.approx([6, 6], abs=0.5)
    assert max(moved.values()) < 0.5
    nnseg("predict", data / "imagesTr", out, "--model", run.model_file)
    predicted = {name: record.registrations for name, record in read_predictions(out).items()}
    assert predicted == trained
    nnseg("run", data, place, "--register", "rigid", *fold_options(tiny_recipe))  # nothing is left to do, and nothing is lost
    assert read_json(folder.registrations_file, dict[str, tuple[Registration, ...]]) == trained
