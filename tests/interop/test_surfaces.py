"""Surfaces of labels: where the voxels are, closed, as large as they are, and read by trimesh."""

import csv

import numpy as np
import pytest

from nnseg.core.errors import ScanError
from nnseg.core.geometry import Grid, as_matrix
from nnseg.core.image import LabelMap, Source
from nnseg.core.labels import Labels
from nnseg.interop.conversion.converted_scan import ConvertedScan
from nnseg.interop.conversion.surfaces import make_surface, write_surfaces
from nnseg.storage.predictions import ScanRecord

trimesh = pytest.importorskip("trimesh", reason="surfaces need trimesh")

TURN = as_matrix(np.linalg.qr(np.random.default_rng(3).standard_normal((3, 3)))[0])
GRID = Grid(shape=(30, 40, 50), spacing=(2.0, 1.0, 0.8), origin=(-20.0, 30.0, 500.0), direction=TURN)
CENTRE, RADIUS = (14.0, 20.0, 26.0), 12.0


def ball(grid=GRID, centre=CENTRE):
    index = np.moveaxis(np.indices(grid.shape), 0, -1) - np.asarray(centre)
    return np.linalg.norm(index * grid.spacing, axis=-1) <= RADIUS


def labelled(grid=GRID):
    labels = Labels(names=("background", "left/ball", "absent"), values=(0, 3, 4))
    label_map = LabelMap(labels=3 * ball().astype(np.uint8), grid=grid.reoriented(grid.canonical()))
    scan = ConvertedScan(
        name="a", label_map=label_map, source=Source(files=(), grid=grid), labels=labels, record=ScanRecord(status="done")
    )
    scan.__dict__["stored"] = label_map.labels  # in stored order
    return scan


def test_a_ball_is_a_closed_surface_in_its_place_and_of_its_size():
    surface = make_surface(ball(), GRID)
    assert surface.mesh.is_watertight
    assert surface.mesh.center_mass == pytest.approx(GRID.world(CENTRE), abs=0.1)
    assert surface.enclosed_ml == pytest.approx(4 / 3 * np.pi * RADIUS**3 / 1000, rel=0.02)
    assert surface.mesh.volume > 0  # normals point outwards
    distances = np.linalg.norm(surface.mesh.vertices - GRID.world(CENTRE), axis=1)
    assert distances.std() < np.linalg.norm(surface.mesh.vertices.std(axis=0)) / 20
    assert np.median(np.abs(distances - RADIUS)) < 0.5


def test_smoothing_brings_vertices_nearer_to_the_true_surface_and_says_how_far_it_moved_them(monkeypatch):
    smooth = make_surface(ball(), GRID)
    monkeypatch.setattr("nnseg.interop.conversion.surfaces.ITERATIONS", 0)
    rough = make_surface(ball(), GRID)
    assert rough.moved.max() == 0
    off_smooth, off_rough = (np.linalg.norm(s.mesh.vertices - GRID.world(CENTRE), axis=1) - RADIUS for s in (smooth, rough))
    assert off_smooth.std() < off_rough.std()
    assert np.linalg.norm(smooth.mesh.vertices - rough.mesh.vertices, axis=1) == pytest.approx(smooth.moved)


def test_a_mask_at_the_border_of_the_grid_is_closed_too():
    assert make_surface(np.ones((3, 4, 5), bool), Grid(shape=(3, 4, 5))).mesh.is_watertight


@pytest.mark.parametrize("suffix", [".stl", ".ply"])
def test_files_hold_the_surface_of_each_label_that_is_there_and_a_table(tmp_path, suffix):
    files = write_surfaces(labelled(), tmp_path, suffix=suffix)
    assert [file.relative_to(tmp_path).as_posix() for file in files] == [f"a/left_ball{suffix}", "a_surfaces.csv"]
    read = trimesh.load_mesh(files[0])
    assert read.is_watertight
    assert read.center_mass == pytest.approx(GRID.world(CENTRE), abs=0.1)
    (row,) = csv.DictReader(files[1].read_text().splitlines())
    assert row["label"] == "left/ball"
    assert float(row["ml_surface"]) == pytest.approx(read.volume / 1000, rel=1e-3)
    assert float(row["ml_voxels"]) == pytest.approx(ball().sum() * 1.6e-3, abs=1e-3)
    assert 0 < float(row["moved_mean_mm"]) < float(row["moved_95_percent_mm"]) <= float(row["moved_most_mm"]) < 2


def test_a_scene_names_labels_and_is_in_metres_with_up_along_y(tmp_path):
    file, _ = write_surfaces(labelled(), tmp_path, suffix=".glb")
    scene = trimesh.load_scene(file)
    assert set(scene.geometry) == {"left/ball"}
    left, back, up = np.asarray(GRID.world(CENTRE)) / 1000
    assert scene.to_geometry().center_mass == pytest.approx((left, up, -back), abs=1e-4)


def test_a_single_slice_has_no_surface(tmp_path):
    flat = Grid(shape=(1, 4, 4))
    label_map = LabelMap(labels=np.ones(flat.shape, np.uint8), grid=flat)
    labels = Labels(names=("background", "cell"), values=(0, 1))
    scan = ConvertedScan(
        name="a", label_map=label_map, source=Source(files=(), grid=flat), labels=labels, record=ScanRecord(status="done")
    )
    with pytest.raises(ScanError, match="a is a single slice"):
        write_surfaces(scan, tmp_path, suffix=".stl")
