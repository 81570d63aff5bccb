"""The scans to annotate next, by a folder of predictions."""

import json
from pathlib import Path

import numpy as np
from warm import nnseg

from nnseg.core.scan_ranges import ScanFacts
from nnseg.core.thumbnail import pack, standardize
from nnseg.core.trust import Agreement, Confidence
from nnseg.storage.files import write_json
from nnseg.storage.predictions import RECORD, Predictions, ScanRecord


def record(quality: float, seed: int, *, foreign: bool = False) -> ScanRecord:
    blocks = standardize(np.random.default_rng(seed).normal(size=(8, 8, 8)))
    facts = ScanFacts(spacing=(1, 1, 1), size_mm=(8, 8, 8), intensities=((0, 1, 2, 3, 4),), thumbnails=(pack(blocks),))
    agreement = Agreement(labels={"ball": quality}, foreground=quality, voxels={"ball": 9})
    confidence = Confidence(
        quality=quality, expected_dice={"ball": quality}, flagged=None, foreign=foreign, unlike=(), agreement=agreement, facts=facts
    )
    return ScanRecord(status="done", confidence=confidence, images=(Path(f"/scans/{seed}.nii.gz"),))


def test_scans_that_are_likely_wrong_and_differ_are_listed_in_order(tmp_path):
    cases = {"twin": record(0.52, 1), "worst": record(0.5, 1, foreign=True), "other": record(0.8, 2), "good": record(0.95, 3)}
    write_json(tmp_path / RECORD, Predictions(cases=cases))
    found = json.loads(nnseg("rank", tmp_path, "--count", 3, "--json").stdout)["result"]
    assert found["scans"] == 4
    assert [one["case"] for one in found["ranking"]] == ["worst", "other", "good"]
    assert found["ranking"][0] == {"case": "worst", "expected_dice": 0.5, "foreign": True, "images": ["/scans/1.nii.gz"]}
    lines = nnseg("rank", tmp_path, "-n", 1).stdout.splitlines()
    assert lines[1].split() == ["1", "worst", "0.500", "foreign", "1.nii.gz"]
    assert lines[-1] == "1 scan of 4 to annotate next, in this order"


def test_predictions_without_certainty_are_refused(tmp_path):
    write_json(tmp_path / RECORD, Predictions(cases={"a": ScanRecord(status="done")}))
    (tmp_path / "a.nii.gz").touch()
    said = nnseg("rank", tmp_path, check=2).stderr
    assert "has no predictions with an expected Dice; make them with nnseg predict --uncertainty" in said
