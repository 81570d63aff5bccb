"""A run on images whose label maps number objects, from the folder to tables of objects."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from warm import nnseg

from nnseg.storage.predictions import read_predictions
from nnseg.storage.run import Run

pytestmark = pytest.mark.slow

SIDE, STEP = 64, 11


def write_cells(folder: Path, images: int = 12) -> Path:
    """Images of discs of radius 6 at distances of 11 pixels, so that neighbours touch, with a number for each."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for image in range(images):
        labels = np.zeros((SIDE, SIDE), np.uint16)
        for number, place in enumerate(random.permutation(25)[: 12 + image % 4], 1):
            far = (rows - 9 - STEP * (place // 5)) ** 2 + (columns - 9 - STEP * (place % 5)) ** 2
            labels[(far < 36) & (labels == 0)] = number
        grey = np.clip(60 + 100 * (labels > 0) + random.normal(0, 10, labels.shape), 0, 255).astype(np.uint8)
        Image.fromarray(grey).save(folder / "images" / f"cells_{image:02d}.png")
        Image.fromarray(labels).save(folder / "labels" / f"cells_{image:02d}.png")
    return folder


def test_touching_cells_are_told_apart_from_the_folder_to_the_table(tmp_path):
    data, place, out = write_cells(tmp_path / "cells"), tmp_path / "run", tmp_path / "out"
    nnseg("run", data, place, "--folds", "0", "--steps", "100", "--no-probe")
    run = Run(place)
    (plan,) = (folder.plan for folder in run.plans)
    assert (plan.labels.borders, plan.preprocessing.border) == ({"object border": "object"}, 2.0)
    assert run.objects.rules.keys() == {"object"}
    scores = run.require_scores()
    assert {"ap_50", "mean_ap", "object_f1", "count_error", "dice"} <= set(scores.metrics)
    assert scores.averages.pooled["ap_50"].mean > 0.8  # of components, which touch, it would be near 0
    assert scores.averages.pooled["dice"].mean > 0.9
    assert "an object begins where" in run.report_file.read_text()
    nnseg("predict", data / "images", out, "--model", run.model_file)
    records = read_predictions(out)
    for name, record in records.items():
        assert record.more.keys() == {f"{name}_objects.png", f"{name}_objects.csv"}
        numbers, label_map = (np.asarray(Image.open(out / f"{name}{end}.png")) for end in ("_objects", ""))
        rows = list(csv.DictReader((out / f"{name}_objects.csv").read_text().splitlines()))
        assert np.array_equal(numbers > 0, label_map == 1) or run.objects.rules["object"].smallest_mm3
        assert record.objects == {"object": numbers.max()} == {"object": len(rows)}
        assert [int(row["voxels"]) for row in rows] == np.bincount(numbers.ravel())[1:].tolist()
    nnseg("evaluate", out, data / "labels", "--out", tmp_path / "scores.json")
    again = json.loads((tmp_path / "scores.json").read_text())
    assert again["averages"]["pooled"]["ap_50"]["mean"] > 0.8
    nnseg("report", out)
    table = list(csv.DictReader((out / "volumes.csv").read_text().splitlines()))
    assert [int(row["objects"]) for row in table] == [records[row["case"]].objects["object"] for row in table]
