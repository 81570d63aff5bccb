"""What references say of held-out predictions."""

from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from nnseg.core.dataset import Case
from nnseg.core.geometry import Grid
from nnseg.core.image import LabelMap, Scan, Source
from nnseg.core.labels import Labels, Region
from nnseg.core.reliability import BINS, RELIABILITY_TEMPERATURES
from nnseg.core.trust import TEMPERATURES, Agreement, Confidence, Trust, logit
from nnseg.crossval.evidence import CalibratingPredictor, cross_entropies, reliability, sample_truth
from nnseg.crossval.trust import fit_temperature
from nnseg.evaluation.calibration import calibration
from nnseg.inference.prediction import DrawnVoxels
from nnseg.storage.images.write import write_label_map

LABELS = Labels(names=("background", "a"), values=(0, 3))


def test_a_probability_of_ninety_percent_that_is_right_seven_times_in_ten_is_too_sure():
    shares = np.tile([[0.1, 0.9]], (1000, 1)).astype(np.float32)
    truth = np.where(np.arange(1000) < 700, 3, 0).reshape(10, 10, 10)
    sample = DrawnVoxels(voxels=np.argwhere(truth >= 0), probabilities=shares, weights=np.ones(1000))
    found = cross_entropies(sample_truth(sample, LabelMap(labels=truth, grid=Grid(shape=(10, 10, 10))), LABELS))
    temperature = fit_temperature([found] * 4)
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
    sample = DrawnVoxels(voxels=np.argwhere(truth >= 0), probabilities=shares.astype(np.float32), weights=np.ones(20_000))
    found = cross_entropies(sample_truth(sample, LabelMap(labels=truth, grid=Grid(shape=(20, 20, 50))), labels))
    assert fit_temperature([found] * 4) == pytest.approx(over, rel=0.05)


def test_surprise_by_hand():
    truth = np.array([[[0, 3, 9]]])
    labels = Labels(names=("background", "a"), values=(0, 3), ignore=9)
    shares = np.array([[0.8, 0.2], [0.5, 0.5], [1.0, 0.0]], np.float32)
    sample = DrawnVoxels(voxels=np.argwhere(truth >= 0), probabilities=shares, weights=np.array([3.0, 1.0, 100.0]))
    found = cross_entropies(sample_truth(sample, LabelMap(labels=truth, grid=Grid(shape=(1, 1, 3))), labels))
    assert found[TEMPERATURES.index(1.0)] == pytest.approx((3 * -np.log(0.8) - np.log(0.5)) / 4)
    assert len(found) == len(TEMPERATURES)


def voxels(truth: np.ndarray, shares: np.ndarray, labels: Labels, weights: np.ndarray | None = None):
    """Evidence of one voxel after another."""
    places = np.stack([np.zeros_like(truth), np.zeros_like(truth), np.arange(len(truth))], 1)
    weights = np.ones(len(truth)) if weights is None else weights
    sample = DrawnVoxels(voxels=places, probabilities=shares.astype(np.float32), weights=weights)
    return sample_truth(sample, LabelMap(labels=truth[None, None], grid=Grid(shape=(1, 1, len(truth)))), labels)


def test_reliability_by_hand():
    shares = np.array([[0.3, 0.7], [0.3, 0.7], [0.95, 0.05]])
    found = reliability(voxels(np.array([3, 0, 0]), shares, LABELS, np.array([1.0, 1.0, 8.0])))
    at = RELIABILITY_TEMPERATURES.index(1.0)
    assert found.sums[at, 10] == pytest.approx([0.2, 0.2 * 0.7 - 0.1, 0.1], rel=1e-3)  # 10/15 < 0.7 <= 11/15
    assert found.sums[at, 14] == pytest.approx([0.8, -0.8 * 0.05, 0.8], rel=1e-3)
    assert found.sums[at, :, 0].sum() == pytest.approx(1, rel=1e-3)
    assert found.brier[at] == pytest.approx(0.1 * 0.3**2 + 0.1 * 0.7**2 + 0.8 * 0.05**2, rel=1e-3)


def test_each_region_is_a_decision_of_its_own():
    regions = (Region(name="all", values=(1, 2), paint=1), Region(name="core", values=(2,), paint=2))
    labels = Labels(names=("background", "edge", "core"), values=(0, 1, 2), regions=regions)
    found = reliability(voxels(np.array([1]), np.array([[0.9, 0.78]]), labels))
    at = RELIABILITY_TEMPERATURES.index(1.0)
    assert found.sums[at, 13] == pytest.approx([0.5, 0.5 * (0.9 - 1), 0.5], rel=1e-3)
    assert found.sums[at, 11] == pytest.approx([0.5, 0.5 * 0.78, 0.0], rel=1e-3)
    assert found.brier[at] == pytest.approx((0.1**2 + 0.78**2) / 2, rel=1e-3)


@pytest.mark.parametrize("temperature", RELIABILITY_TEMPERATURES)
def test_scikit_learn_agrees(temperature):
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (3000, 4))
    shares, scaled = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (logits, logits / temperature))
    truth = np.array([random.choice(4, p=p) for p in np.exp(logits / 1.5) / np.exp(logits / 1.5).sum(1, keepdims=True)])
    weights = random.uniform(0.1, 2, 3000)
    labels = Labels(names=("background", "a", "b", "c"), values=(0, 1, 2, 3))
    at = RELIABILITY_TEMPERATURES.index(temperature)
    weighted = reliability(voxels(truth, shares, labels, weights))
    theirs = brier_score_loss(truth, scaled, sample_weight=weights, scale_by_half=True)
    assert weighted.brier[at] == pytest.approx(theirs, rel=1e-3)
    sums = reliability(voxels(truth, shares, labels)).sums[at]
    sums = sums[sums[:, 0] > 0]
    accuracy, confidence = calibration_curve(scaled.argmax(1) == truth, scaled.max(1), n_bins=BINS)
    np.testing.assert_allclose(sums[:, 2] / sums[:, 0], accuracy, rtol=3e-3, atol=1e-4)
    np.testing.assert_allclose(sums[:, 1:].sum(1) / sums[:, 0], confidence, rtol=3e-3, atol=1e-4)


def test_probabilities_at_their_right_temperature_are_calibrated():
    random = np.random.default_rng(1)
    logits = random.normal(0, 2, (5, 2000, 3))
    right = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    shares = right**1.7 / (right**1.7).sum(-1, keepdims=True)
    labels = Labels(names=("background", "a", "b"), values=(0, 1, 2))
    truth = (random.random((5, 2000, 1)) > right.cumsum(-1)).sum(-1)
    found = calibration([reliability(voxels(t, s, labels)) for t, s in zip(truth, shares, strict=True)], 1.7)
    assert found.before.ece > 0.08
    assert found.after.ece < 0.025
    assert found.after.brier < found.before.brier


def test_where_all_is_ignored_there_is_no_evidence():
    labels = Labels(names=("background", "a"), values=(0, 3), ignore=9)
    sample = DrawnVoxels(voxels=np.zeros((1, 3), np.int64), probabilities=np.ones((1, 2), np.float32), weights=np.ones(1))
    assert sample_truth(sample, LabelMap(labels=np.full((1, 1, 1), 9), grid=Grid(shape=(1, 1, 1))), labels) is None


@dataclass(frozen=True)
class Answer:
    """As a `Prediction`."""

    confidence: Confidence
    sample: DrawnVoxels | None
    uncertainty: str | None = "a map"


class Oracle:
    """As a `Predictor`, always 0.9 sure of the background."""

    model = SimpleNamespace(labels=LABELS)

    def prepare(self, scan):
        return SimpleNamespace(scan=scan)

    def infer(self, prepared, *, probabilities, uncertainty, objects, sample, scratch):
        assert uncertainty
        assert not objects
        voxels = np.argwhere(np.ones(prepared.scan.grid.shape))[:sample]
        shares = np.tile(np.array([[0.9, 0.1]], np.float32), (len(voxels), 1))
        found = DrawnVoxels(voxels=voxels, probabilities=shares, weights=np.ones(len(voxels)))
        return Answer(Trust().confidence(Agreement(labels={"a": 0.9}, foreground=0.9, voxels={"a": 9.0})), found)


@pytest.fixture
def reference_case(tmp_path):
    """A scan, and a case with its reference, a tenth of which is the label."""
    grid = Grid(shape=(4, 5, 5))
    source = Source(files=(tmp_path / "scan.nii.gz",), grid=grid)
    truth = (np.arange(100) % 10 == 0).reshape(4, 5, 5) * 3
    write_label_map(LabelMap(labels=truth.astype(np.uint8), grid=grid), tmp_path / "labels.nii.gz", like=source)
    scan = Scan(image=np.zeros((1, 4, 5, 5), np.float32), grid=grid, source=source)
    return scan, Case(name="one", images=source.files, labels=tmp_path / "labels.nii.gz")


def test_a_calibrating_predictor_adds_what_the_reference_says(reference_case):
    scan, case = reference_case
    calibrating = CalibratingPredictor(predictor=Oracle(), cases=(case,))
    prediction = calibrating.infer(calibrating.prepare(scan))
    found = prediction.confidence.surprise
    assert found[TEMPERATURES.index(1.0)] == pytest.approx(-0.9 * np.log(0.9) - 0.1 * np.log(0.1), rel=1e-3)
    assert min(found) == found[TEMPERATURES.index(1.0)]
    at = RELIABILITY_TEMPERATURES.index(1.0)
    assert prediction.confidence.reliability.brier[at] == pytest.approx(0.9 * 0.01 + 0.1 * 0.81, rel=1e-3)
    assert prediction.uncertainty is None
    assert calibrating.infer(calibrating.prepare(scan), uncertainty=True).uncertainty == "a map"


def test_a_calibrating_predictor_knows_a_dicom_series_by_its_folder(reference_case):
    scan, case = reference_case
    series = replace(case, images=(scan.source.files[0].parent,))
    calibrating = CalibratingPredictor(predictor=Oracle(), cases=(series,))
    assert calibrating.infer(calibrating.prepare(scan)).confidence.surprise


def test_a_reference_that_does_not_show_every_label_is_not_asked(reference_case):
    scan, case = reference_case
    for cases in ((), (replace(case, annotated=("a",)),), (replace(case, labels=None),)):
        calibrating = CalibratingPredictor(predictor=Oracle(), cases=cases)
        assert calibrating.infer(calibrating.prepare(scan)).confidence.surprise == ()
