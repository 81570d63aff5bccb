"""NRRD: detached headers, units of space, names and colours of labels."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnseg.core.colours import colour_of
from nnseg.core.errors import ScanError
from nnseg.core.image import LabelMap
from nnseg.core.labels import Labels
from nnseg.storage.datasets.content import content_hash
from nnseg.storage.images.itk import read_itk
from nnseg.storage.images.nrrd import nrrd_files
from nnseg.storage.images.read import read_header, read_label_map, read_scan
from nnseg.storage.images.write import write_label_files

VOXELS = np.arange(60, dtype=np.int16).reshape(3, 4, 5)


def image() -> sitk.Image:
    made = sitk.GetImageFromArray(VOXELS)
    made.SetSpacing((0.5, 0.7, 3))
    made.SetOrigin((10, -20, 30))
    made.SetDirection((0, 0, 1, -1, 0, 0, 0, -1, 0))
    return made


def with_line(path: Path, line: str) -> Path:
    """A file with one more line in its header."""
    sitk.WriteImage(image(), str(path))
    content = path.read_bytes()
    end = content.index(b"\n\n")
    path.write_bytes(content[:end] + b"\n" + line.encode() + content[end:])
    return path


def test_a_detached_header_is_read_with_its_voxels_and_its_label_map_is_one_file(tmp_path):
    path = tmp_path / "a.nhdr"
    sitk.WriteImage(image(), str(path))
    scan, itk = read_scan(path), sitk.ReadImage(str(path))
    assert np.array_equal(scan.source.grid.canonical().inverse().apply(scan.image)[0], VOXELS)
    assert scan.source.grid.spacing[::-1] == pytest.approx(itk.GetSpacing())
    assert scan.source.grid.origin == pytest.approx(itk.GetOrigin())
    assert read_header(path).grid == scan.grid
    label_map = LabelMap(labels=scan.image[0].astype(int), grid=scan.grid)
    (file,) = write_label_files(label_map, tmp_path / "out", "a", like=scan.source, labels=None)
    assert file.name == "a.nrrd"
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(file))), VOXELS)
    before = content_hash([path])
    (tmp_path / "a.raw").write_bytes(bytes(120))
    assert content_hash([path]) != before
    (tmp_path / "a.raw").unlink()
    with pytest.raises(ScanError, match="cannot be read"):
        read_scan(path)


@pytest.mark.parametrize(
    ("line", "files"),
    [
        ("data file: b.raw.gz", ["b.raw.gz"]),
        ("datafile: b c.raw", ["b c.raw"]),
        ("data file: slice_%03d.raw 1 5 2", ["slice_001.raw", "slice_003.raw", "slice_005.raw"]),
        ("data file: LIST\nx.raw\ny.raw", ["x.raw", "y.raw"]),
        ("data file: LIST 2\nx.raw", ["x.raw"]),
        ("encoding: raw", []),
    ],
)
def test_files_of_a_header_are_found_however_it_names_them(tmp_path, line, files):
    (tmp_path / "a.nhdr").write_text(f"NRRD0004\n# made\ntype: short\n{line}\n")
    assert [path.name for path in nrrd_files(tmp_path / "a.nhdr")] == files


def test_slices_in_files_of_their_own_are_read_in_order(tmp_path):
    for number, plane in enumerate(VOXELS):
        (tmp_path / f"s{number}.raw").write_bytes(plane.tobytes())
    head = "NRRD0004\ntype: short\ndimension: 3\nsizes: 5 4 3\nspacings: 1 2 3\nendian: little\nencoding: raw\n"
    (tmp_path / "a.nhdr").write_text(head + 'units: "um" "um" "um"\ndata file: s%d.raw 0 2 1\n')
    scan = read_scan(tmp_path / "a.nhdr")
    assert np.array_equal(scan.image[0], VOXELS)
    assert (scan.grid.spacing, scan.source.length_unit) == ((0.003, 0.002, 0.001), "um")


@pytest.mark.parametrize("unit", ["um", "microns"])
def test_the_unit_of_space_is_heeded_and_stays_in_the_label_maps_header(tmp_path, unit):
    path = with_line(tmp_path / "a.nrrd", f'space units: "{unit}" "{unit}" "{unit}"')
    scan = read_scan(path)
    assert scan.source.grid.spacing == pytest.approx((0.003, 0.0007, 0.0005))
    assert scan.source.grid.origin == pytest.approx((0.01, -0.02, 0.03))
    assert scan.source.length_unit == "um"
    label_map = LabelMap(labels=scan.image[0].astype(int), grid=scan.grid)
    (file,) = write_label_files(label_map, tmp_path / "out", "a", like=scan.source, labels=None)
    again = read_label_map(file)
    assert again.grid.matches(scan.grid, 1e-6)
    assert np.array_equal(again.labels, label_map.labels)
    assert sitk.ReadImage(str(file)).GetSpacing() == pytest.approx(
        (0.5, 0.7, 3)
    )  # programs that heed no unit show both in one place


def test_units_that_differ_are_refused_and_mm_change_nothing(tmp_path):
    with pytest.raises(ScanError, match="has lengths in mm and um"):
        read_scan(with_line(tmp_path / "a.nrrd", 'space units: "mm" "mm" "um"'))
    assert read_scan(with_line(tmp_path / "b.nrrd", 'space units: "mm" "mm" "mm"')).source.grid.spacing == (3, 0.7, 0.5)


def test_names_and_colours_of_labels_are_in_the_header_as_slicer_writes_them(tmp_path):
    sitk.WriteImage(image(), str(tmp_path / "a.nrrd"))
    scan = read_scan(tmp_path / "a.nrrd")
    labels = Labels(names=("background", "liver", "spleen"), values=(0, 3, 7))
    label_map = LabelMap(labels=np.where(scan.image[0] > 30, 7, 3), grid=scan.grid)
    (file,) = write_label_files(label_map, tmp_path / "out", "a", like=scan.source, labels=labels)
    written = sitk.ReadImage(str(file))
    named = {written.GetMetaData(f"Segment{n}_Name"): written.GetMetaData(f"Segment{n}_LabelValue") for n in (0, 1)}
    assert named == {"liver": "3", "spleen": "7"}
    assert written.GetMetaData("Segment0_Color") == "0.901961 0.623529 0"  # #e69f00, that of the label in reports
    assert [segment.colour for segment in read_itk(file).segments] == [colour_of(0), colour_of(1)]
    assert np.array_equal(read_label_map(file).labels, label_map.labels)
