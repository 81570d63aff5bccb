"""The files of the objects of a prediction."""

import csv

import nibabel
import numpy as np
import pytest
from PIL import Image

from nnseg.core.geometry import Grid
from nnseg.core.image import LabelMap, Scan, Source
from nnseg.evaluation.diameters import diameter_table
from nnseg.inference.instances import mean_intensities
from nnseg.storage.images.read import read_label_map, read_scan
from nnseg.storage.images.write import to_stored_order, write_label_map, write_map
from nnseg.storage.object_files import file_beside, write_object_table
from nnseg.storage.predictions import OBJECTS, ScanRecord


def written(tmp_path, scan: Scan, objects: np.ndarray, name: str, counts: dict[str, int]) -> tuple[list[dict[str, str]], LabelMap]:
    numbered = LabelMap(labels=objects, grid=scan.grid)
    image, table = (file_beside(tmp_path / name, OBJECTS, suffix) for suffix in (None, ".csv"))
    write_label_map(numbered, image, like=scan.source)
    intensities = mean_intensities(objects, scan.image)
    scores = np.linspace(0.25, 0.75, len(intensities))
    stored = to_stored_order(numbered, scan.source)
    write_object_table(
        table,
        stored,
        like=scan.source,
        counts=counts,
        scores=scores,
        diameters=diameter_table(stored, scan.source.grid),
        intensities=intensities,
        channels=("grey",),
    )
    return list(csv.DictReader(table.read_text().splitlines())), read_label_map(image)


def test_the_table_of_a_picture_has_places_areas_and_intensities_in_pixels(tmp_path):
    pixels = np.zeros((6, 8), np.uint8)
    pixels[1:3, 2:6], pixels[4, 7] = 10, 30
    Image.fromarray(pixels).save(tmp_path / "scan.png")
    scan = read_scan(tmp_path / "scan.png")
    objects = np.select([scan.image[0] == 10, scan.image[0] == 30], [1, 2], 0).astype(np.uint16)
    rows, image = written(tmp_path, scan, objects, "scan.png", {"cell": 1, "fibre": 1})
    assert [(row["id"], row["label"], row["score"]) for row in rows] == [("1", "cell", "0.25"), ("2", "fibre", "0.75")]
    first = {name: float(value) for name, value in rows[0].items() if name != "label"}
    assert (first["voxels"], first["area_pixel2"], first["y"], first["x"], first["mean_grey"]) == (8, 8, 1.5, 3.5, 10)
    assert [first[end] for end in ("y_first", "y_last", "x_first", "x_last")] == [1, 2, 2, 5]
    assert first["diameter_pixel"] == pytest.approx(2 * (8 / np.pi) ** 0.5, rel=1e-5)
    assert (first["longest_pixel"], "in_slice_pixel" in first) == (pytest.approx(np.hypot(4, 1), rel=1e-5), False)
    assert first["product_pixel2"] == pytest.approx(first["longest_pixel"] * first["perpendicular_pixel"], rel=1e-4)
    np.testing.assert_array_equal(image.labels[0] > 0, pixels > 0)


def test_the_table_of_a_volume_counts_stored_voxels_and_mm(tmp_path):
    grid = Grid(shape=(4, 5, 6), spacing=(3.0, 2.0, 1.0), direction=((0, 0, 1), (0, -1, 0), (1, 0, 0)))
    source = Source(files=(tmp_path / "a.nii.gz",), grid=grid)
    turn = grid.canonical()
    stored = np.zeros(grid.shape, np.uint32)
    stored[1:3, 4, 0:3] = 1
    write_map(turn.apply(stored).astype(np.float32), tmp_path / "a.nii.gz", like=source)
    scan = read_scan(tmp_path / "a.nii.gz")
    (row,), image = written(tmp_path, scan, (scan.image[0] > 0).astype(np.uint32), "b.nii.gz", {"cell": 1})
    assert (float(row["volume_mm3"]), row["voxels"]) == (36.0, "6")
    assert image.labels.sum() == 6
    raw = np.asarray(nibabel.load(tmp_path / "b_objects.nii.gz").dataobj).T
    inside = np.argwhere(raw)
    assert [float(row[a]) for a in "zyx"] == inside.mean(0).tolist()
    assert [int(row[f"{a}_first"]) for a in "zyx"] == inside.min(0).tolist()
    assert [int(row[f"{a}_last"]) for a in "zyx"] == inside.max(0).tolist()
    assert float(row["diameter_mm"]) == pytest.approx((6 * 36 / np.pi) ** (1 / 3), rel=1e-5)
    # two slices of 3 mm, a row of 2 mm, three columns of 1 mm; within a slice from one end of the row to the other
    assert float(row["longest_mm"]) == pytest.approx(np.hypot(6, 2), rel=1e-5)
    assert [float(row[name]) for name in ("in_slice_mm", "perpendicular_mm", "product_mm2")] == [3, 2, 6]


def test_files_beside_a_label_map_have_its_name(tmp_path):
    names = [file_beside(tmp_path / name, OBJECTS).name for name in ("a.nii.gz", "b.bmp", "c.dcm", "d.tif")]
    assert names == ["a_objects.nii.gz", "b_objects.png", "c_objects.nii.gz", "d_objects.tif"]


def test_the_record_tells_the_file_with_numbers_from_the_others():
    more = {"a_uncertainty.nii.gz": "1", "a_objects.csv": "2", "a_objects.json": "3", "a_objects.png": "4"}
    assert ScanRecord(status="done", file="a.png", hash="0", more=more).objects_file == "a_objects.png"
    assert ScanRecord(status="done", file="a.png", hash="0").objects_file == ""


def test_a_scan_without_objects_has_an_empty_table(tmp_path):
    Image.fromarray(np.full((4, 5), 9, np.uint8)).save(tmp_path / "scan.png")
    scan = read_scan(tmp_path / "scan.png")
    assert written(tmp_path, scan, np.zeros((1, 4, 5), np.uint16), "scan.png", {"cell": 0})[0] == []
