"""A run on scans with and without lesions, from the folder to a list of lesions found with a threshold."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from warm import nnseg

from nnseg.core.detection import FALSE_POSITIVES
from nnseg.storage.predictions import read_predictions
from nnseg.storage.run import Run

pytestmark = pytest.mark.slow


def write_spots(folder: Path, images: int = 16) -> Path:
    """Pictures of noise with up to three spots, of which some are faint; a quarter has none."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:48, :48]
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for image in range(images):
        labels, signal = np.zeros((48, 48), np.uint8), np.zeros((48, 48))
        for place in random.permutation(9)[: image % 4]:
            spot = (rows - 10 - 14 * (place // 3)) ** 2 + (columns - 10 - 14 * (place % 3)) ** 2 < 12
            labels[spot], signal[spot] = 1, random.uniform(15, 70)
        grey = np.clip(90 + signal + random.normal(0, 15, labels.shape), 0, 255).astype(np.uint8)
        Image.fromarray(grey).save(folder / "images" / f"scan_{image:02d}.png")
        Image.fromarray(labels).save(folder / "labels" / f"scan_{image:02d}.png")
    (folder / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "spot": 1}, "instances": ["spot"]}))
    return folder


def test_lesions_are_detected_from_the_folder_to_the_list(tmp_path):
    data, place, out = write_spots(tmp_path / "spots"), tmp_path / "run", tmp_path / "out"
    nnseg("run", data, place, "--folds", "0,1", "--steps", "80", "--no-probe")
    run = Run(place)
    found = run.require_scores().detection["spot"]
    assert (found.scans, [point.false_positives for point in found.froc]) == (len(run.require_scores().cases), [*FALSE_POSITIVES])
    by_threshold = {point.threshold: point for point in found.points}
    assert by_threshold[0.9].sensitivity > 0.5
    assert by_threshold[None].sensitivity == by_threshold[0.5].sensitivity  # of two labels the most probable has half
    assert run.objects.thresholds == {"spot": None}
    assert "Objects detected one by one" in run.report_file.read_text()
    assert "sensitivity for objects" in nnseg("evaluate", place).stdout
    edited = json.loads((place / "objects.json").read_text()) | {"thresholds": {"spot": 0.1}}
    (place / "objects.json").write_text(json.dumps(edited))
    counts = {}
    for name, options in {"edited": (), "low": ("--threshold", "0.02"), "high": ("--threshold", "spot=0.9")}.items():
        nnseg("predict", data / "images", out / name, "--model", place, *options)
        records = read_predictions(out / name)
        counts[name] = sum(record.objects["spot"] for record in records.values())
        for case, record in records.items():
            rows = list(csv.DictReader((out / name / f"{case}_objects.csv").read_text().splitlines()))
            assert [row["label"] for row in rows] == ["spot"] * record.objects["spot"]
            mask = np.asarray(Image.open(out / name / f"{case}.png")) == 1
            assert sum(int(row["voxels"]) for row in rows) == mask.sum()
            assert all(0 < float(row["score"]) <= 1 for row in rows)
    assert counts["low"] != counts["high"]
    wrong = nnseg("predict", data / "images", out / "none", "--model", place, "--threshold", "tumour=0.1", check=None)
    assert wrong.returncode == 2
    assert "there is no threshold for tumour; the model finds spot" in wrong.stderr
