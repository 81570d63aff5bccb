"""Objects of held-out cases, detected by thresholds of the probabilities that were kept."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nnseg.core.labels import Labels
from nnseg.crossval.lesions import measure_detection
from nnseg.evaluation.pairs import FilePair
from nnseg.storage.predictions import ScanRecord

LABELS = Labels(names=("background", "lesion"), values=(0, 1), ignore=7)


def held_out(folder: Path, name: str, *, lesion: bool, sure: int, false_alarm: int = 0, ignored: bool = False):
    """A picture of which the reference has a lesion or not, where the probability is as given, as is that of another place."""
    reference, level = np.zeros((12, 20), np.uint8), np.zeros((12, 20), np.uint8)
    reference[2:6, 2:6], level[2:6, 2:6] = int(lesion), sure
    level[8:10, 14:17] = false_alarm
    if ignored:
        reference[7:, 12:] = 7
    for what, pixels in {"": (level > 127).astype(np.uint8), "_1_level": level, "_reference": reference}.items():
        Image.fromarray(pixels).save(folder / f"{name}{what}.png")
    record = ScanRecord(status="done", file=f"{name}.png", hash="0", more={f"{name}_1_level.png": "1"})
    return FilePair(name=name, prediction=folder / f"{name}.png", reference=folder / f"{name}_reference.png"), record


def measure(cases, **settings):
    return measure_detection(
        [pair for pair, _ in cases], {pair.name: record for pair, record in cases}, LABELS, ["lesion"], **settings
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_a_lower_threshold_finds_more_and_more_that_are_none(tmp_path, workers):
    cases = [
        held_out(tmp_path, "a", lesion=True, sure=250),
        held_out(tmp_path, "b", lesion=True, sure=90, false_alarm=40),
        held_out(tmp_path, "c", lesion=False, sure=0, false_alarm=60),
        held_out(tmp_path, "d", lesion=False, sure=0),
    ]
    found = measure(cases, workers=workers)["lesion"]
    assert (found.scans, found.scans_without, found.objects) == (4, 2, 2)
    rows = {p.threshold: (p.sensitivity, p.false_positives, p.specificity, p.ap_10) for p in found.points}
    assert rows[None] == rows[0.5] == (0.5, 0.0, 1.0, pytest.approx(51 / 101))
    assert rows[0.3] == (1.0, 0.0, 1.0, 1.0)
    assert rows[0.15] == (1.0, 0.5, 0.5, 1.0)
    first = found.froc[0]
    assert (first.false_positives, first.sensitivity, first.threshold) == (0.125, 1.0, 0.3)


def test_objects_in_ignored_voxels_are_not_counted(tmp_path):
    found = measure([held_out(tmp_path, "a", lesion=True, sure=250, false_alarm=250, ignored=True)])["lesion"]
    assert found.points[0].false_positives == 0.0


def test_cases_without_probabilities_or_annotation_are_left_out(tmp_path, caplog):
    a, b, c, d = (held_out(tmp_path, name, lesion=True, sure=250) for name in "abcd")
    b = (b[0], b[1].model_copy(update={"more": {}}))
    c = (FilePair(name="c", prediction=c[0].prediction, reference=c[0].reference, annotated=()), c[1])
    (tmp_path / "d_1_level.png").write_bytes(b"no picture")
    assert measure([a, b, c, d])["lesion"].scans == 1
    assert "case d: its objects are not detected one by one" in caplog.text
    assert measure([b]) == {}
