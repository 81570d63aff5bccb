import hashlib
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from nnseg.core.errors import RunError
from nnseg.core.geometry import Box, Grid
from nnseg.demo.anatomy import Ellipsoid
from nnseg.demo.dataset import _write_nifti, write_phantoms
from nnseg.demo.scanner import LABELS, Phantom, _box, _points, _render, draw_phantom


@pytest.fixture(scope="module")
def phantoms() -> list[Phantom]:
    return [draw_phantom(index) for index in range(8)]


def _pieces(phantom: Phantom, tissue: str) -> list[Ellipsoid]:
    return [piece for piece in phantom.pieces if piece.tissue == tissue]


def _world(phantom: Phantom) -> np.ndarray:
    return _points(phantom.grid, Box.whole(phantom.grid.shape))


def _digests(folder: Path) -> dict[str, str]:
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {str(file.relative_to(folder)): hashlib.blake2b(file.read_bytes()).hexdigest() for file in files}


# Anatomy


def test_a_ball_of_radius_two_ends_two_mm_from_its_centre_and_holds_32_pi_over_3_cubic_mm():
    ball = Ellipsoid(tissue="lesion", centre=(5.0, 0.0, 0.0), axes=(2.0, 2.0, 2.0), turn=(10.0, 20.0, 30.0))
    assert ball.level(np.array([[5.0, 7.0, 8.0], [0, 0, 0], [0, 0, 0]])) == pytest.approx([0, 1, 2.25])
    assert ball.volume_ml == pytest.approx(32 * np.pi / 3 / 1000)


def test_a_turned_ellipsoid_points_where_it_was_turned_to():
    cigar = Ellipsoid(tissue="lesion", centre=(0.0, 0.0, 0.0), axes=(6.0, 1.0, 1.0), turn=(0.0, 0.0, 90.0))
    assert cigar.level(np.array([[0.0], [6.0], [0.0]])) == pytest.approx([1])
    assert cigar.reach((0.0, 1.0, 0.0)) == pytest.approx(6)
    assert cigar.reach((1.0, 0.0, 0.0)) == pytest.approx(1)


def test_surface_points_lie_on_the_surface():
    piece = Ellipsoid(tissue="lesion", centre=(1.0, -2.0, 3.0), axes=(2.0, 3.0, 7.0), turn=(40.0, -20.0, 70.0))
    assert piece.level(piece.surface(50)) == pytest.approx(np.ones(50))


def test_lesions_touch_neither_each_other_nor_the_nuclei(phantoms):
    for phantom in phantoms:
        apart = [*_pieces(phantom, "nuclei"), *_pieces(phantom, "lesion"), *_pieces(phantom, "ventricle")]
        for lesion in _pieces(phantom, "lesion"):
            assert not any(lesion.touches(other) for other in apart if other is not lesion)


# Scanner


def test_a_voxel_half_inside_a_piece_shows_half_its_signal():
    plate = Ellipsoid(tissue="lesion", centre=(0.0, 0.0, -500.0), axes=(1e5, 1e5, 500.0), signal=(1.0, 3.0))  # all below z = 0
    signal, labels = _render((plate,), Grid(shape=(5, 3, 3), spacing=(2.0, 1.0, 1.0), origin=(-1.0, -1.0, -4.2)))
    air = 0.01
    assert signal[0, :, 1, 1] == pytest.approx(
        [1, 1, (2 * 1 + air) / 3, air, air]
    )  # voxel 2 reaches from -1.2 to 0.8, 2 of 3 points in
    assert signal[1, 2, 1, 1] == pytest.approx((2 * 3 + air) / 3)
    assert labels[:, 1, 1].tolist() == [2, 2, 2, 0, 0]


def test_a_box_holds_the_whole_piece(phantoms):
    grid = phantoms[3].grid
    everywhere = _points(grid, Box.whole(grid.shape))
    for piece in phantoms[3].pieces:
        inside = piece.level(everywhere) < 1
        boxed = np.zeros_like(inside)
        boxed[_box(piece, grid).slices] = True
        assert not np.any(inside & ~boxed)


def test_points_are_where_the_grid_says(phantoms):
    grid = phantoms[1].grid
    box = Box(start=(2, 3, 4), stop=(6, 5, 7))
    assert _points(grid, box)[:, 3, 1, 2] == pytest.approx(grid.world((5, 4, 6)))


def test_lesion_label_volume_equals_the_ellipsoids_volume(phantoms):
    for phantom in phantoms:
        drawn = sum(lesion.volume_ml for lesion in _pieces(phantom, "lesion"))
        labelled = np.sum(phantom.labels == LABELS["lesion"]) * phantom.grid.voxel_ml
        surface_ml = sum(np.prod(lesion.axes) ** (2 / 3) for lesion in _pieces(phantom, "lesion")) * 4 * np.pi / 1000
        assert labelled == pytest.approx(drawn, abs=0.35 * surface_ml)  # a tenth of a slice, all round


def test_partial_volumes_add_up_to_the_ellipsoids_volume(phantoms):
    for phantom in phantoms[:4]:
        for lesion in _pieces(phantom, "lesion"):
            white = Ellipsoid(tissue="lesion", centre=lesion.centre, axes=lesion.axes, turn=lesion.turn, signal=(1.01, 0.01))
            signal, _ = _render((white,), phantom.grid)
            assert np.sum(signal[0] - 0.01) * phantom.grid.voxel_ml == pytest.approx(lesion.volume_ml, rel=0.05)


def test_labels_lie_inside_the_brain(phantoms):
    for phantom in phantoms:
        brain = _pieces(phantom, "grey")[0]
        assert np.all(brain.level(_world(phantom))[phantom.labels > 0] < 1)


def test_the_pair_of_nuclei_lies_left_and_right_in_every_case(phantoms):
    for phantom in phantoms:
        x = _world(phantom)[0][phantom.labels == LABELS["nuclei"]]
        assert np.sum(x > 0) > 60
        assert np.sum(x < 0) > 60
        assert np.all(np.abs(x) > 3)


def test_lesions_number_from_none_to_five_and_vary_in_size(phantoms):
    counts = [len(_pieces(phantom, "lesion")) for phantom in phantoms]
    assert (min(counts), max(counts)) == (0, 5)
    volumes = [lesion.volume_ml for phantom in phantoms for lesion in _pieces(phantom, "lesion")]
    assert max(volumes) > 4 * min(volumes)
    for phantom, count in zip(phantoms, counts, strict=True):
        assert np.any(phantom.labels == LABELS["lesion"]) == (count > 0)


def test_spacing_is_anisotropic_and_differs_from_case_to_case(phantoms):
    spacings = [sorted(phantom.grid.spacing) for phantom in phantoms]
    assert all(1.0 <= a == b <= 1.4 and 2.0 <= c <= 3.5 for a, b, c in spacings)
    assert len({tuple(spacing) for spacing in spacings}) == len(phantoms)


def test_directions_are_oblique_and_axes_come_in_several_orders(phantoms):
    for phantom in phantoms:
        direction = np.array(phantom.grid.direction)
        assert direction @ direction.T == pytest.approx(np.eye(3), abs=1e-12)
        assert np.sum(np.max(np.abs(direction), axis=1) < 0.9999) >= 2
    assert len({phantom.grid.canonical().axes for phantom in phantoms}) >= 3
    assert len({phantom.grid.canonical().flips for phantom in phantoms}) >= 4


def test_channels_show_different_contrasts(phantoms):
    phantom = phantoms[3]
    t1, flair = (np.median(channel[phantom.labels == 2]) / np.median(channel[phantom.labels == 1]) for channel in phantom.image)
    assert t1 < 0.95
    assert flair > 1.15


def test_signal_is_never_negative_and_fits_its_type(phantoms):
    for phantom in phantoms:
        assert phantom.image.min() >= 0
        assert 100 < phantom.image.max() < 10_000


def test_a_case_is_the_same_whenever_it_is_drawn_and_differs_by_seed(phantoms):
    again = draw_phantom(5)
    assert np.array_equal(again.image, phantoms[5].image)
    assert again.grid == phantoms[5].grid
    assert draw_phantom(5, seed=1).grid != again.grid


# Written


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    return write_phantoms(tmp_path_factory.mktemp("data") / "phantoms", cases=3, seed=4)


def test_the_folder_is_an_nnunet_raw_dataset(written):
    description = json.loads((written / "dataset.json").read_text())
    assert description["channel_names"] == {"0": "T1", "1": "FLAIR"}
    assert description["labels"] == {"background": 0, "nuclei": 1, "lesion": 2}
    assert (description["numTraining"], description["file_ending"]) == (3, ".nii.gz")
    assert sorted(file.name for file in (written / "imagesTr").iterdir()) == [
        f"phantom_{case:03}_{channel:04}.nii.gz" for case in range(3) for channel in range(2)
    ]
    assert sorted(file.name for file in (written / "labelsTr").iterdir()) == [f"phantom_{case:03}.nii.gz" for case in range(3)]


def test_another_reader_finds_voxels_and_grid_as_drawn(written):
    phantom = draw_phantom(2, seed=4)
    image = SimpleITK.ReadImage(str(written / "imagesTr" / "phantom_002_0001.nii.gz"))
    assert np.array_equal(SimpleITK.GetArrayFromImage(image), phantom.image[1])
    assert image.GetSpacing()[::-1] == pytest.approx(phantom.grid.spacing, rel=1e-6)
    index = [3, 5, 7]
    assert image.TransformIndexToPhysicalPoint(index[::-1]) == pytest.approx(phantom.grid.world((3, 5, 7)), abs=1e-4)


def test_channels_and_label_map_share_one_grid(written):
    for case in range(3):
        names = [f"imagesTr/phantom_{case:03}_0000", f"imagesTr/phantom_{case:03}_0001", f"labelsTr/phantom_{case:03}"]
        volumes = [nibabel.load(written / f"{name}.nii.gz") for name in names]
        assert len({volume.shape for volume in volumes}) == 1
        assert all(np.array_equal(volume.affine, volumes[0].affine) for volume in volumes)
        assert [volume.get_data_dtype() for volume in volumes] == [np.int16, np.int16, np.uint8]


def test_same_seed_gives_the_same_bytes(written, tmp_path):
    assert _digests(write_phantoms(tmp_path / "again", cases=3, seed=4)) == _digests(written)


def test_voxels_of_seed_0_are_those_of_release_1(tmp_path):
    """A change of these numbers changes the demonstration data: give it a new release and say so in the changelog."""
    phantom = draw_phantom(0)
    voxels = hashlib.blake2b(phantom.image.tobytes() + phantom.labels.tobytes(), digest_size=8).hexdigest()
    assert (phantom.image.shape, voxels) == ((2, 35, 64, 52), "e2b590492200f89e")


def test_a_complete_dataset_is_left_alone(tmp_path):
    folder = write_phantoms(tmp_path, cases=2)
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*.nii.gz")}
    write_phantoms(tmp_path, cases=2)
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*.nii.gz")} == before


def test_a_half_written_dataset_is_completed(tmp_path):
    whole = _digests(write_phantoms(tmp_path, cases=2))
    (tmp_path / "dataset.json").unlink()
    (tmp_path / "labelsTr" / "phantom_001.nii.gz").unlink()
    (tmp_path / "imagesTr" / "phantom_000_0000.nii.gz").write_bytes(b"of another seed")
    assert _digests(write_phantoms(tmp_path, cases=2)) == whole


def test_a_file_lost_from_a_complete_dataset_is_written_again(tmp_path):
    whole = _digests(write_phantoms(tmp_path, cases=2))
    (tmp_path / "imagesTr" / "phantom_001_0001.nii.gz").unlink()
    assert _digests(write_phantoms(tmp_path, cases=2)) == whole


def test_another_dataset_is_not_written_into(written, tmp_path):
    before = _digests(written)
    with pytest.raises(RunError, match=r"dataset\.json is not part of this dataset of phantoms; name another"):
        write_phantoms(written, cases=3, seed=5)
    assert _digests(written) == before
    (tmp_path / "imagesTr").mkdir()
    (tmp_path / "imagesTr" / "mine.nii.gz").touch()
    with pytest.raises(RunError, match=r"mine\.nii\.gz is not part of this dataset of phantoms"):
        write_phantoms(tmp_path, cases=2)


def test_a_file_in_place_of_the_folder_is_one_error_line(tmp_path):
    (tmp_path / "taken").touch()
    with pytest.raises(RunError, match="taken is a file; name another folder"):
        write_phantoms(tmp_path / "taken", cases=2)


def test_equal_volumes_written_at_different_times_have_equal_bytes(tmp_path, monkeypatch):
    grid = Grid(shape=(2, 3, 4))
    for name, now in (("a.nii.gz", 1e9), ("b.nii.gz", 1.5e9)):
        monkeypatch.setattr("time.time", lambda now=now: now)
        _write_nifti(np.ones(grid.shape, np.uint8), grid, tmp_path / name)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
