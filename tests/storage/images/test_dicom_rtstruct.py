"""RT Structure Set: contours enclose exactly the voxels of the label map, name their images, and come back as they were."""

from datetime import datetime
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_series import TILT, write_series, write_slice
from dicom_validity import missing_attributes
from matplotlib.path import Path as Polygon
from scipy import ndimage
from skimage.draw import polygon2mask

from nnseg.core.colours import colour_of
from nnseg.core.errors import ScanError
from nnseg.core.image import LabelMap, Scan
from nnseg.core.labels import Labels, Region
from nnseg.storage.images.dicom_rtstruct import outlines, write_rtstruct
from nnseg.storage.images.dicom_rtstruct_read import filled
from nnseg.storage.images.dicom_seg import write_dicom_seg
from nnseg.storage.images.read import read_label_map, read_scan
from nnseg.storage.images.write import to_stored_order

LABELS = Labels(names=("background", "kidney_left", "Ödem 浮腫", "absent"), values=(0, 205, 4, 7))
NOON = datetime(2024, 2, 3, 12, 30)
REAL = Path(__file__).parents[4] / "shared" / "data" / "dicom_brain"


def blobs(shape, seed=0, least=0.0):
    """A mask with islands in holes, holes in islands, and voxels that touch at corners."""
    noise = np.random.default_rng(seed).standard_normal(shape)
    return ndimage.gaussian_filter(noise, [0.5] * len(shape)) > least


def inside(points_YX, shape):
    """The voxels whose centres lie in a polygon by the even-odd rule, by matplotlib."""
    centres = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, 2)
    return Polygon(points_YX).contains_points(centres).reshape(shape)


def one_series(folder: Path, **options) -> Scan:
    write_series(folder, slices=4, **({"step": np.cross(TILT[:3], TILT[3:]) * 2.5, "orientation": TILT} | options))
    return read_scan(folder)


def drawn(scan: Scan) -> LabelMap:
    labels = np.where(blobs(scan.grid.shape), 205, np.where(blobs(scan.grid.shape, 1), 4, 0))
    return LabelMap(labels=labels, grid=scan.grid)


def written(scan: Scan, path: Path, label_map: LabelMap, labels: Labels = LABELS) -> pydicom.Dataset:
    write_rtstruct(to_stored_order(label_map, scan.source), path, like=scan.source, labels=labels, when=NOON)
    return pydicom.dcmread(path)


@pytest.mark.parametrize("seed", range(4))
def test_outlines_enclose_the_centres_of_exactly_the_voxels_in_the_mask(seed):
    mask = blobs((30, 40), seed, least=-0.2)
    rings = [*outlines(mask)]
    assert np.array_equal(np.logical_xor.reduce([inside(ring, mask.shape) for ring in rings]), mask)
    islands = ndimage.label(mask)[1]  # that touch at corners are apart
    assert len(rings) == islands


def test_a_hole_is_joined_to_the_contour_around_it_and_straight_lines_have_no_points_between():
    mask = np.zeros((9, 12), bool)
    mask[1:8, 1:11] = True
    mask[3:6, 4:7] = False
    (ring,) = outlines(mask)
    assert len(ring) == 8 + 8 + 2 + 2  # the channel, bent in its middle
    assert np.array_equal(inside(ring, mask.shape), mask)


def test_contours_lie_on_their_slices_in_the_patient_and_plain_pydicom_finds_the_voxels(tmp_path):
    scan = one_series(tmp_path / "in")
    label_map = drawn(scan)
    ds = written(scan, tmp_path / "rt.dcm", label_map)
    slices = {image.SOPInstanceUID: image for image in map(pydicom.dcmread, scan.source.files)}
    positions = [file.ImagePositionPatient for file in map(pydicom.dcmread, scan.source.files)]
    found = np.zeros(scan.source.grid.shape, int)
    for roi, value in zip(ds.ROIContourSequence, (205, 4, 7), strict=True):
        for contour in roi.get("ContourSequence", ()):
            image = slices[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
            points = np.array(contour.ContourData, float).reshape(-1, 3) - np.array(image.ImagePositionPatient, float)
            right, down = np.array(image.ImageOrientationPatient, float).reshape(2, 3)
            assert np.abs(points @ np.cross(right, down)).max() < 1e-3  # in the plane of its image
            height, width = image.PixelSpacing
            ring = np.stack([points @ down / height, points @ right / width], 1)
            found[positions.index(image.ImagePositionPatient)] += value * inside(ring, found.shape[1:])
    assert np.array_equal(found, to_stored_order(label_map, scan.source))


def test_the_object_is_complete_and_names_series_study_and_labels(tmp_path):
    scan = one_series(tmp_path / "in", FrameOfReferenceUID="1.2.3.4.5", PatientID="007")
    ds = written(scan, tmp_path / "rt.dcm", drawn(scan))
    assert missing_attributes(ds) == []
    assert (ds.PatientID, ds.StudyInstanceUID, ds.Modality) == ("007", "1.2", "RTSTRUCT")
    (frame,) = ds.ReferencedFrameOfReferenceSequence
    assert frame.FrameOfReferenceUID == "1.2.3.4.5"
    (series,) = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence
    assert series.SeriesInstanceUID == "1.2.3"
    assert len(series.ContourImageSequence) == 4
    assert [roi.ROIName for roi in ds.StructureSetROISequence] == ["kidney_left", "Ödem 浮腫", "absent"]
    assert {roi.ReferencedFrameOfReferenceUID for roi in ds.StructureSetROISequence} == {"1.2.3.4.5"}
    assert [tuple(roi.ROIDisplayColor) for roi in ds.ROIContourSequence] == [colour_of(i) for i in range(3)]
    assert "ContourSequence" not in ds.ROIContourSequence[2]
    assert ds.RTROIObservationsSequence[0].RTROIIdentificationCodeSequence[0].CodeValue == "64033007"
    first = (tmp_path / "rt.dcm").read_bytes()
    written(scan, tmp_path / "again.dcm", drawn(scan))
    assert (tmp_path / "again.dcm").read_bytes() == first


def test_reading_gives_the_label_map_back_with_values_names_and_colours(tmp_path):
    scan = one_series(tmp_path / "series")
    label_map = drawn(scan)
    written(scan, tmp_path / "rt" / "rt.dcm", label_map)
    for like in (scan.source, None):  # without the scan its series is found beside
        assert np.array_equal(read_label_map(tmp_path / "rt" / "rt.dcm", like=like).labels, label_map.labels)


def test_regions_that_overlap_are_rois_that_overlap(tmp_path):
    regions = (Region(name="whole", values=(1, 2), paint=1), Region(name="core", values=(2,), paint=2))
    labels = Labels(names=("background", "edema", "core part"), values=(0, 1, 2), regions=regions)
    scan = one_series(tmp_path / "in")
    whole = blobs(scan.grid.shape, 3, -0.3)
    label_map = LabelMap(labels=whole * (1 + blobs(scan.grid.shape, 4)), grid=scan.grid)
    ds = written(scan, tmp_path / "rt.dcm", label_map, labels)
    areas = [sum(_area(contour) for contour in roi.ContourSequence) for roi in ds.ROIContourSequence]
    voxel = float(np.prod(scan.source.grid.spacing[1:]))
    counts = [int((label_map.labels > 0).sum()), int((label_map.labels == 2).sum())]
    assert areas[0] > areas[1]
    assert areas[0] == pytest.approx(counts[0] * voxel, rel=0.5)
    with pytest.raises(ScanError, match="2 channels of different content"):
        read_label_map(tmp_path / "rt.dcm", like=scan.source)


def _area(contour) -> float:
    points = np.array(contour.ContourData, float).reshape(-1, 3)
    return float(np.linalg.norm(np.cross(points, np.roll(points, -1, axis=0)).sum(axis=0))) / 2


def edited(path: Path, **changes) -> Path:
    ds = pydicom.dcmread(path)
    contour = next(roi for roi in ds.ROIContourSequence if "ContourSequence" in roi).ContourSequence[0]
    for keyword, value in changes.items():
        setattr(contour, keyword, value(contour) if callable(value) else value)
    ds.save_as(path)
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ContourData": lambda c: [float(v) + 100 for v in c.ContourData]}, "lies on no slice of the scan"),
        ({"ContourData": lambda c: [float(v) + 1.2 * (i % 3 == 2) for i, v in enumerate(c.ContourData)]}, "lies on no slice"),
        ({"ContourData": [1.0, 2.0, 3.0]}, "a contour of 1 points; expected three and more"),
        ({"ContourData": [1.0, 2.0, 3.0, 4.0]}, "cannot be read"),
    ],
)
def test_contours_that_cannot_be_filled_are_named(tmp_path, changes, message):
    scan = one_series(tmp_path / "in")
    written(scan, tmp_path / "rt.dcm", drawn(scan))
    with pytest.raises(ScanError, match=message):
        read_label_map(edited(tmp_path / "rt.dcm", **changes), like=scan.source)


def test_points_are_left_out_with_a_note_and_a_missing_series_is_named(tmp_path):
    scan = one_series(tmp_path / "in")
    written(scan, tmp_path / "rt.dcm", drawn(scan))
    edited(tmp_path / "rt.dcm", ContourGeometricType="POINT")
    assert any("kidney_left enclose no area" in note for note in read_label_map(tmp_path / "rt.dcm", like=scan.source).notes)
    (tmp_path / "alone").mkdir()
    alone = (tmp_path / "rt.dcm").rename(tmp_path / "alone" / "rt.dcm")
    for path in (tmp_path / "in").iterdir():
        path.unlink()
    with pytest.raises(ScanError, match=r"holds contours on the series 1\.2\.3, which is not near it"):
        read_label_map(alone)


@pytest.mark.parametrize("step", [None, 2, 1], ids=["any place", "halves", "whole numbers"])
def test_filling_takes_the_centres_inside_and_on_the_edge_as_scikit_image_does(step):
    chance = np.random.default_rng(step)
    for _ in range(20):
        points = chance.uniform(-4, 18, (int(chance.integers(3, 6)), 2))
        points = points if step is None else np.round(points * step) / step
        found, known = filled(points, (15, 12)), polygon2mask((15, 12), points)
        other = np.argwhere(found != known)
        assert found[found != known].all(), "only more voxels"
        assert all(_distance(voxel, points) < 1e-9 for voxel in other), "of which each is on an edge"


def _distance(point, ring) -> float:
    """Of a point from the nearest edge of a ring."""
    along = np.roll(ring, -1, axis=0) - ring
    lengths = np.maximum((along**2).sum(axis=1), 1e-12)
    nearest = ring + along * (((point - ring) * along).sum(axis=1) / lengths).clip(0, 1)[:, None]
    return float(np.linalg.norm(point - nearest, axis=1).min())


def test_a_contour_of_many_points_on_a_large_slice_takes_little():
    angles = np.linspace(0, 2 * np.pi, 20_000)  # points times voxels would be 5e9
    points = 256 + 200 * np.stack([np.sin(7 * angles), np.cos(5 * angles)], axis=1)
    assert 0.2 < filled(points, (512, 512)).mean() < 0.4


def test_another_frame_of_reference_than_the_scan_has_is_said_of_contours_and_segmentations(tmp_path):
    scan = one_series(tmp_path / "in", FrameOfReferenceUID="1.2.3.4.5")
    written(scan, tmp_path / "rt.dcm", drawn(scan))
    write_dicom_seg(to_stored_order(drawn(scan), scan.source), tmp_path / "seg.dcm", like=scan.source, labels=LABELS, when=NOON)
    for path in (tmp_path / "rt.dcm", tmp_path / "seg.dcm"):
        assert not any("frame of reference" in note for note in read_label_map(path, like=scan.source).notes)
        ds = pydicom.dcmread(path)
        for one in (ds, *ds.get("StructureSetROISequence", ())):
            one.FrameOfReferenceUID = one.ReferencedFrameOfReferenceUID = "9.8.7"
        ds.save_as(path)
        (note,) = (note for note in read_label_map(path, like=scan.source).notes if "frame of reference" in note)
        assert "(9.8.7) than the scan's (1.2.3.4.5)" in note


def test_a_scan_without_positions_gets_no_contours(tmp_path):
    path = write_slice(tmp_path / "one.dcm", np.ones((4, 6)), position=(0, 0, 0))
    ds = pydicom.dcmread(path)
    del ds.ImagePositionPatient, ds.ImageOrientationPatient
    ds.save_as(path)
    scan = read_scan(path)
    with pytest.raises(ScanError, match="does not say where its slices lie"):
        written(scan, tmp_path / "rt.dcm", LabelMap(labels=np.ones(scan.grid.shape, int), grid=scan.grid))


@pytest.mark.slow
@pytest.mark.parametrize("series", ["t1", "hippocampus_crop"])
def test_a_real_series_gives_the_same_label_map_back(tmp_path, series):
    if not (REAL / series).is_dir():
        pytest.skip("the real series is not here")
    scan = read_scan(REAL / series)
    smooth = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(scan.grid.shape), 3)
    label_map = LabelMap(labels=np.digitize(smooth, np.quantile(smooth, [0.6, 0.8, 0.9])), grid=scan.grid)
    labels = Labels(names=("background", "a", "b", "c"), values=(0, 1, 2, 3))
    written(scan, tmp_path / "rt.dcm", label_map, labels)
    assert np.array_equal(read_label_map(tmp_path / "rt.dcm", like=scan.source).labels, label_map.labels)
