"""Training data whose channels lie on other grids, or whose axes are sheared as of a CT with a tilted gantry."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from standin import StandIn

from nnseg.core.dataset import Case
from nnseg.core.errors import ScanError
from nnseg.core.geometry import Grid
from nnseg.core.labels import Labels
from nnseg.crossval.evidence import CalibratingPredictor
from nnseg.crossval.predict import PredictionJob, predict_cases
from nnseg.evaluation.pairs import FilePair, read_pair
from nnseg.planning.measure import measure
from nnseg.storage.datasets.read import read_dataset
from nnseg.storage.datasets.read_case import read_case
from nnseg.storage.images.read import read_labels_of, read_scan

LABELS = Labels(names=("background", "bright"), values=(0, 1))
TILTED = np.array([[-1, 0, 0, 5], [0, -1, 0.6, -7], [0, 0, 2.0, 9], [0, 0, 0, 1]])
"""Slices that move by 0.6 mm along y for each 2 mm; turned axes."""


def _save(path: Path, voxels: np.ndarray, affine: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path


def _world(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Positions (x, y, z, 3) of voxels."""
    return np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1) @ affine[:3, :3].T + affine[:3, 3]


def _ball(affine: np.ndarray, shape: tuple[int, ...], radius: float) -> np.ndarray:
    """1 within a radius in mm of the volume's middle."""
    places = _world(affine, shape)
    return (np.linalg.norm(places - places.mean((0, 1, 2)), axis=-1) < radius).astype(np.uint8)


def _case(folder: Path, affine: np.ndarray = TILTED, shape: tuple[int, int, int] = (30, 34, 18)) -> Case:
    """A bright ball, and its label map, on one grid."""
    ball = _ball(affine, shape, 9.0)
    image = _save(folder / "images" / "ball.nii.gz", ball * 100 - 50.0 + np.random.default_rng(0).random(shape), affine)
    return Case(name="ball", images=(image,), labels=_save(folder / "labels" / "ball.nii.gz", ball, affine))


@pytest.mark.parametrize("fine", [0.8, 1.25])
def test_a_channel_on_another_grid_is_resampled_onto_the_first_with_a_note(tmp_path: Path, fine: float) -> None:
    own, other = np.diag([1.0, 1, 2, 1]), np.diag([fine, fine, 2 * fine, 1])
    size = tuple(int(np.ceil(n / fine)) + 1 for n in (12, 13, 14))
    slope = (1.0, 2.0, 4.0)
    first = _save(tmp_path / "t1.nii", np.random.default_rng(0).random((12, 13, 14)), own)
    second = _save(tmp_path / "t2.nii", _world(other, size) @ slope, other)
    drawn = np.zeros((12, 13, 14), np.uint8)
    drawn[2, 3, 4] = 1
    case = Case(name="a", images=(first, second), labels=_save(tmp_path / "seg.nii", drawn, own))
    read = read_case(case, channels=2, labels=LABELS)
    np.testing.assert_allclose(read.scan.image[1], (_world(own, (12, 13, 14)) @ slope).T[:, ::-1, ::-1], atol=1e-4)
    np.testing.assert_array_equal(read.label_map.labels, drawn.T[:, ::-1, ::-1])
    (finding,) = read.findings
    assert (finding.level, finding.case, finding.code) == ("note", "a", "NS-S022")
    assert finding.message == "t2.nii: was resampled onto the grid of t1.nii"


def test_a_label_map_on_the_grid_of_another_channel_is_refused_with_what_to_name_first(tmp_path: Path) -> None:
    coarse, fine = np.diag([2.0, 2, 2, 1]), np.diag([1.0, 1, 2, 1])
    images = [_save(tmp_path / "p_adc.nii.gz", np.random.default_rng(0).random((10, 12, 8)), coarse)]
    images.append(_save(tmp_path / "p_t2w.nii.gz", np.random.default_rng(0).random((20, 24, 8)), fine))
    labels = _save(tmp_path / "p_seg.nii.gz", np.ones((20, 24, 8), np.uint8), fine)
    with pytest.raises(ScanError, match=r"p_adc.nii.gz has .*; it fits p_t2w.nii.gz: name that channel first with --channels"):
        read_case(Case(name="p", images=tuple(images), labels=labels), channels=2, labels=LABELS)
    assert read_case(Case(name="p", images=tuple(images[::-1]), labels=labels), channels=2, labels=LABELS).scan.grid.shape[1] == 24


def test_a_channel_that_covers_too_little_stays_an_error(tmp_path: Path) -> None:
    first, second = (_save(tmp_path / f"t{n}.nii", np.random.default_rng(0).random((9, 9, n)), np.eye(4)) for n in (9, 8))
    case = Case(name="a", images=(first, second), labels=_save(tmp_path / "seg.nii", np.ones((9, 9, 9), np.uint8), np.eye(4)))
    with pytest.raises(ScanError, match=r"t8.nii: covers 89% of channel t9.nii; expected at least 95%"):
        read_case(case, channels=2, labels=LABELS)


def test_a_tilted_scan_and_its_label_map_are_resampled_to_right_angles(tmp_path: Path) -> None:
    read = read_case(_case(tmp_path), channels=1, labels=LABELS)
    assert read.scan.grid == read.label_map.grid
    assert read.scan.grid.shear < 1e-9
    bright, drawn = read.scan.image[0] > 0, read.label_map.labels == 1
    assert 2 * (bright & drawn).sum() / (bright.sum() + drawn.sum()) > 0.97
    z, y, x = np.argwhere(drawn).mean(0)
    centre = np.array(read.scan.grid.world((z, y, x))) * (-1, -1, 1)
    np.testing.assert_allclose(centre, _world(TILTED, (30, 34, 18)).mean((0, 1, 2)), atol=0.1)
    (finding,) = read.findings
    assert finding.level == "note" and "its axes are sheared (cosine 0.287); it was resampled to right angles" in finding.message


def test_a_label_map_that_is_not_on_the_tilted_grid_is_refused(tmp_path: Path) -> None:
    case = _case(tmp_path)
    shape = (30, 34, 18)
    _save(tmp_path / "labels" / "ball.nii.gz", np.ones(shape, np.uint8), np.diag([-1.0, -1, 2, 1]))
    with pytest.raises(ScanError, match=r"label map lies up to .* mm away"):
        read_case(case, channels=1, labels=LABELS)


def test_a_dataset_of_tilted_scans_is_measured_on_upright_grids(tmp_path: Path) -> None:
    _case(tmp_path)
    (case,) = measure(read_dataset(tmp_path)).cases
    assert case.spacing == pytest.approx((2.0, 1.0, 1.0))
    assert case.voxels["foreground"] == pytest.approx(4 / 3 * np.pi * 9**3 / 2, rel=0.05)


class SmallStandIn(StandIn):
    """Needs little memory."""

    def memory_gb(self, grid: Grid, *, probabilities: bool = False, uncertainty: bool = False) -> float:
        return 0.1


def test_predictions_of_held_out_tilted_scans_are_compared_on_the_scans_own_grid(tmp_path: Path) -> None:
    case = _case(tmp_path)
    record = predict_cases(PredictionJob(cases=(case,), out=tmp_path / "out", key="k"), SmallStandIn())["ball"]
    assert isinstance(case.labels, Path)
    written = tmp_path / "out" / record.file
    prediction, reference = read_pair(FilePair(name="ball", prediction=written, reference=case.labels), LABELS)
    assert prediction.grid.shear > 0.1
    both = (prediction.labels == 1) & (reference.labels == 1)
    assert 2 * both.sum() / (prediction.labels.sum() + reference.labels.sum()) > 0.97
    scan, predictor = read_scan(case.images, resample=True), CalibratingPredictor(predictor=SmallStandIn(), cases=(case,))
    for labels in (read_labels_of(written, scan), predictor.read_reference(scan)):
        assert labels and labels.grid == scan.grid
