"""What references say of held-out predictions."""

from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest

from nnseg.core.dataset import Case
from nnseg.core.geometry import Grid
from nnseg.core.image import LabelMap, Scan, Source
from nnseg.core.labels import Labels, Region
from nnseg.core.trust import TEMPERATURES, Agreement, Confidence, Trust, logit
from nnseg.inference.uncertainty import Sample
from nnseg.storage.images import write_label_map
from nnseg.verbs.trust import temperature_of
from nnseg.verbs.witness import Witness, surprises

LABELS = Labels(names=("background", "a"), values=(0, 3))


def test_a_probability_of_ninety_percent_that_is_right_seven_times_in_ten_is_too_sure():
    shares = np.tile([[0.1, 0.9]], (1000, 1)).astype(np.float32)
    truth = np.where(np.arange(1000) < 700, 3, 0).reshape(10, 10, 10)
    sample = Sample(voxels=np.argwhere(truth >= 0), probabilities=shares, weights=np.ones(1000))
    found = surprises(sample, LabelMap(labels=truth, grid=Grid(shape=(10, 10, 10))), LABELS)
    temperature = temperature_of([found] * 4)
    assert temperature == pytest.approx(logit(0.9) / logit(0.7), rel=0.02)
    assert temperature > 2.5


@pytest.mark.parametrize("over", [0.7, 1.0, 2.0])
@pytest.mark.parametrize("regions", [False, True])
def test_the_temperature_that_made_probabilities_too_sure_is_found(over, regions):
    random = np.random.default_rng(0)
    value = random.normal(0, 1.5, 20_000)
    truth = (random.random(20_000) < 1 / (1 + np.exp(-value))).astype(int).reshape(20, 20, 50)
    sure = 1 / (1 + np.exp(-value * over))
    shares = sure[:, None] if regions else np.stack([1 - sure, sure], 1)
    labels = Labels(names=("background", "a"), values=(0, 1), regions=(Region(name="r", values=(1,), paint=1),) if regions else ())
    sample = Sample(voxels=np.argwhere(truth >= 0), probabilities=shares.astype(np.float32), weights=np.ones(20_000))
    found = surprises(sample, LabelMap(labels=truth, grid=Grid(shape=(20, 20, 50))), labels)
    assert temperature_of([found] * 4) == pytest.approx(over, rel=0.05)


def test_surprise_by_hand():
    truth = np.array([[[0, 3, 9]]])
    labels = Labels(names=("background", "a"), values=(0, 3), ignore=9)
    shares = np.array([[0.8, 0.2], [0.5, 0.5], [1.0, 0.0]], np.float32)
    sample = Sample(voxels=np.argwhere(truth >= 0), probabilities=shares, weights=np.array([3.0, 1.0, 100.0]))
    found = surprises(sample, LabelMap(labels=truth, grid=Grid(shape=(1, 1, 3))), labels)
    assert found[TEMPERATURES.index(1.0)] == pytest.approx((3 * -np.log(0.8) - np.log(0.5)) / 4)
    assert len(found) == len(TEMPERATURES)


def test_where_all_is_ignored_nothing_surprises():
    labels = Labels(names=("background", "a"), values=(0, 3), ignore=9)
    sample = Sample(voxels=np.zeros((1, 3), np.int64), probabilities=np.ones((1, 2), np.float32), weights=np.ones(1))
    assert surprises(sample, LabelMap(labels=np.full((1, 1, 1), 9), grid=Grid(shape=(1, 1, 1))), labels) == ()


@dataclass(frozen=True)
class Answer:
    """As a `Prediction`."""

    confidence: Confidence
    sample: Sample | None
    uncertainty: str | None = "a map"


class Oracle:
    """As a `Predictor`, always 0.9 sure of the background."""

    model = SimpleNamespace(labels=LABELS)

    def prepare(self, scan):
        return SimpleNamespace(scan=scan)

    def answer(self, prepared, *, probabilities, uncertainty, sample, scratch):
        assert uncertainty
        voxels = np.argwhere(np.ones(prepared.scan.grid.shape))[:sample]
        shares = np.tile(np.array([[0.9, 0.1]], np.float32), (len(voxels), 1))
        found = Sample(voxels=voxels, probabilities=shares, weights=np.ones(len(voxels)))
        return Answer(Trust().confidence(Agreement(labels={"a": 0.9}, foreground=0.9, voxels={"a": 9.0})), found)


@pytest.fixture
def witnessed(tmp_path):
    """A scan, and a case with its reference, a tenth of which is the label."""
    grid = Grid(shape=(4, 5, 5))
    source = Source(files=(tmp_path / "scan.nii.gz",), grid=grid)
    truth = (np.arange(100) % 10 == 0).reshape(4, 5, 5) * 3
    write_label_map(LabelMap(labels=truth.astype(np.uint8), grid=grid), tmp_path / "labels.nii.gz", like=source)
    scan = Scan(image=np.zeros((1, 4, 5, 5), np.float32), grid=grid, source=source)
    return scan, Case(name="one", images=source.files, labels=tmp_path / "labels.nii.gz")


def test_a_witness_adds_what_the_reference_says(witnessed):
    scan, case = witnessed
    witness = Witness(predictor=Oracle(), cases=(case,))
    prediction = witness.answer(witness.prepare(scan))
    found = prediction.confidence.surprise
    assert found[TEMPERATURES.index(1.0)] == pytest.approx(-0.9 * np.log(0.9) - 0.1 * np.log(0.1), rel=1e-3)
    assert min(found) == found[TEMPERATURES.index(1.0)]
    assert prediction.uncertainty is None
    assert witness.answer(witness.prepare(scan), uncertainty=True).uncertainty == "a map"


def test_a_witness_knows_a_dicom_series_by_its_folder(witnessed):
    scan, case = witnessed
    series = replace(case, images=(scan.source.files[0].parent,))
    witness = Witness(predictor=Oracle(), cases=(series,))
    assert witness.answer(witness.prepare(scan)).confidence.surprise


def test_a_reference_that_does_not_show_every_label_is_not_asked(witnessed):
    scan, case = witnessed
    for cases in ((), (replace(case, annotated=("a",)),), (replace(case, labels=None),)):
        witness = Witness(predictor=Oracle(), cases=cases)
        assert witness.answer(witness.prepare(scan)).confidence.surprise == ()
