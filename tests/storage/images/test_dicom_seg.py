"""DICOM-SEG: read back by pydicom and highdicom, every voxel is where it was, and the series is named."""

from datetime import datetime
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_series import TILT, write_series

from nnseg.core.errors import ScanError
from nnseg.core.image import LabelMap, Scan
from nnseg.core.labels import Labels, Region
from nnseg.storage.images.dicom_seg import label_segments, write_dicom_seg
from nnseg.storage.images.read import read_scan
from nnseg.storage.images.write import to_stored_order

LABELS = Labels(names=("background", "kidney_left", "tumor", "Ödem 浮腫", "absent"), values=(0, 205, 4, 1001, 7))
NOON = datetime(2024, 2, 3, 12, 30)


def _made(folder: Path, *, slices=5, **options) -> Scan:
    write_series(folder, slices=slices, **({"step": np.cross(TILT[:3], TILT[3:]) * 2.5, "orientation": TILT} | options))
    return read_scan(folder, repair=True)


def _drawn(scan: Scan) -> LabelMap:
    labels = np.random.default_rng(0).choice([0, 0, 205, 4, 1001], scan.grid.shape)
    labels[0] = 0
    return LabelMap(labels=labels, grid=scan.grid)


def _written(scan: Scan, path: Path, label_map: LabelMap | None = None, **options) -> pydicom.Dataset:
    labels_ZYX = to_stored_order(label_map or _drawn(scan), scan.source)
    write_dicom_seg(labels_ZYX, path, like=scan.source, **({"labels": LABELS} | options))
    return pydicom.dcmread(path)


def _voxels(ds: pydicom.Dataset, scan: Scan) -> np.ndarray:
    """Label values in stored order, put where each frame's own position says, by plain pydicom."""
    values = {"kidney_left": 205, "tumor": 4, "Ödem 浮腫": 1001}
    shared = ds.SharedFunctionalGroupsSequence[0]
    assert [float(v) for v in shared.PlaneOrientationSequence[0].ImageOrientationPatient] == pytest.approx(
        np.asarray(scan.source.grid.direction)[[2, 1]].ravel(), abs=1e-6
    )
    assert [float(v) for v in shared.PixelMeasuresSequence[0].PixelSpacing] == pytest.approx(scan.source.grid.spacing[1:], abs=1e-5)
    found = np.zeros(scan.source.grid.shape, int)
    for frame, pixels in zip(ds.PerFrameFunctionalGroupsSequence, ds.pixel_array.reshape(-1, ds.Rows, ds.Columns), strict=True):
        number = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        position = [float(v) for v in frame.PlanePositionSequence[0].ImagePositionPatient]
        distances = [np.linalg.norm(np.subtract(scan.source.grid.world((z, 0, 0)), position)) for z in range(len(found))]
        assert min(distances) < 1e-3
        found[int(np.argmin(distances))][pixels > 0] = values[ds.SegmentSequence[number - 1].SegmentLabel]
    return found


@pytest.mark.parametrize(
    "options",
    [{}, {"step": (0, 0, 3), "orientation": [1, 0, 0, 0, 1, 0]}, {"step": (0, 0, -3), "orientation": [0, 1, 0, 0, 0, -1]}],
)
def test_every_voxel_is_where_it_was(tmp_path, options):
    if "orientation" in options and options["orientation"][1]:
        options = options | {"step": (3, 0, 0)}  # sagittal
    scan = _made(tmp_path / "in", **options)
    label_map = _drawn(scan)
    ds = _written(scan, tmp_path / "seg.dcm", label_map)
    assert np.array_equal(_voxels(ds, scan), to_stored_order(label_map, scan.source))


def test_slices_of_a_tilted_gantry_are_each_in_their_own_place(tmp_path):
    scan = _made(tmp_path / "in", step=(0, 0.7, 3), orientation=[1, 0, 0, 0, 1, 0])
    label_map = LabelMap(labels=np.full(scan.grid.shape, 4), grid=scan.grid)
    ds = _written(scan, tmp_path / "seg.dcm", label_map)
    assert (_voxels(ds, scan) == 4).all()


def test_highdicom_reads_the_same_voxels_and_place(tmp_path):
    scan = _made(tmp_path / "in")
    label_map = _drawn(scan)
    _written(scan, tmp_path / "seg.dcm", label_map)
    seg = hd.seg.segread(tmp_path / "seg.dcm")
    volume = seg.get_volume(combine_segments=True, rescale_fractional=False)
    index = np.stack(np.meshgrid(*map(np.arange, volume.spatial_shape), indexing="ij"), -1)
    world = index @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    grid = scan.source.grid
    z, y, x = np.moveaxis(np.rint((world - grid.origin) @ np.linalg.inv(grid.direction) / grid.spacing).astype(int), -1, 0)
    found = np.zeros(grid.shape, int)
    found[z, y, x] = np.array([0, 205, 4, 1001, 7])[volume.array]
    assert np.array_equal(found, to_stored_order(label_map, scan.source))


def test_source_images_are_named_frame_by_frame(tmp_path):
    scan = _made(tmp_path / "in")
    ds = _written(scan, tmp_path / "seg.dcm")
    slices = [pydicom.dcmread(f) for f in scan.source.files]
    assert ds.StudyInstanceUID == slices[0].StudyInstanceUID
    (series,) = ds.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == "1.2.3"
    assert {i.ReferencedSOPInstanceUID for i in series.ReferencedInstanceSequence} == {s.SOPInstanceUID for s in slices}
    for frame in ds.PerFrameFunctionalGroupsSequence:
        (source,) = frame.DerivationImageSequence[0].SourceImageSequence
        (slice_,) = (s for s in slices if s.SOPInstanceUID == source.ReferencedSOPInstanceUID)
        assert frame.PlanePositionSequence[0].ImagePositionPatient == slice_.ImagePositionPatient


def test_segments_are_coded_numbered_and_say_who_made_them(tmp_path):
    ds = _written(_made(tmp_path / "in"), tmp_path / "seg.dcm")
    assert ds.SOPClassUID == "1.2.840.10008.5.1.4.1.1.66.4"
    assert ds.SegmentationType == "BINARY"
    assert [s.SegmentNumber for s in ds.SegmentSequence] == [1, 2, 3, 4]
    assert [s.SegmentLabel for s in ds.SegmentSequence] == ["kidney_left", "tumor", "Ödem 浮腫", "absent"]
    assert {s.SegmentAlgorithmType for s in ds.SegmentSequence} == {"AUTOMATIC"}
    kidney = ds.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0]
    assert (kidney.CodeValue, kidney.CodingSchemeDesignator) == ("64033007", "SCT")
    assert kidney.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"
    algorithm = ds.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
    assert algorithm.AlgorithmName == "nnseg"
    assert algorithm.AlgorithmVersion == ds.SoftwareVersions
    assert ds.SeriesInstanceUID != "1.2.3"
    assert ds.Modality == "SEG"


def test_patients_and_studies_fields_are_the_series_own(tmp_path):
    fields = {"PatientID": "007", "PatientName": "Müller^Jörg", "PatientSex": "M", "StudyDate": "20200102", "AccessionNumber": "9"}
    ds = _written(_made(tmp_path / "in", SpecificCharacterSet="ISO_IR 100", **fields), tmp_path / "seg.dcm")
    assert {field: str(ds[field].value) for field in fields} == fields


def test_a_sex_that_the_standard_does_not_know_is_left_out(tmp_path):
    assert _written(_made(tmp_path / "in", PatientSex="U"), tmp_path / "seg.dcm").PatientSex == ""


def test_the_same_input_at_the_same_time_gives_the_same_bytes_and_another_gives_another_uid(tmp_path):
    scan = _made(tmp_path / "in")
    one, other = (_written(scan, tmp_path / f"{n}.dcm", when=NOON) for n in "ab")
    assert (tmp_path / "a.dcm").read_bytes() == (tmp_path / "b.dcm").read_bytes()
    assert (one.ContentDate, str(one.ContentTime)[:4]) == ("20240203", "1230")
    empty = LabelMap(labels=np.zeros(scan.grid.shape, int), grid=scan.grid)
    assert _written(scan, tmp_path / "c.dcm", empty, when=NOON).SOPInstanceUID != other.SOPInstanceUID


def test_a_label_map_of_nothing_is_written_too(tmp_path):
    scan = _made(tmp_path / "in")
    ds = _written(scan, tmp_path / "seg.dcm", LabelMap(labels=np.zeros(scan.grid.shape, int), grid=scan.grid))
    assert not ds.pixel_array.any()


def test_further_channels_are_named_too(tmp_path):
    _made(tmp_path / "t1")
    _made(tmp_path / "t2", series="1.2.9")
    scan = read_scan([tmp_path / "t1", tmp_path / "t2"])
    ds = _written(scan, tmp_path / "seg.dcm")
    assert {s.SeriesInstanceUID for s in ds.ReferencedSeriesSequence} == {"1.2.3", "1.2.9"}
    assert np.array_equal(_voxels(ds, scan), to_stored_order(_drawn(scan), scan.source))


def test_a_series_of_one_slice_works(tmp_path):
    scan = _made(tmp_path / "in", slices=1)
    label_map = LabelMap(labels=np.full(scan.grid.shape, 4), grid=scan.grid)
    assert _written(scan, tmp_path / "seg.dcm", label_map).pixel_array.all()


def test_regions_show_the_labels_that_they_paint():
    regions = (Region(name="whole", values=(1, 2, 3), paint=2), Region(name="core", values=(1, 3), paint=1))
    labels = Labels(names=("background", "necrosis", "edema", "enhancing"), values=(0, 1, 2, 3), regions=regions)
    assert label_segments(labels) == {"edema": 2, "necrosis": 1}
    beyond = Labels(names=("background", "a"), values=(0, 1), regions=(Region(name="all", values=(1,), paint=9),))
    assert label_segments(beyond) == {"all": 9}


def test_values_that_are_no_labels_are_refused(tmp_path):
    scan = _made(tmp_path / "in")
    with pytest.raises(ScanError, match=r"the label map contains \[8\], which are no labels"):
        _written(scan, tmp_path / "seg.dcm", LabelMap(labels=np.full(scan.grid.shape, 8), grid=scan.grid))
    assert not (tmp_path / "seg.dcm").exists()


@pytest.mark.parametrize("name", ["t1", "hippocampus_crop"])
def test_real_series_get_their_labels_back_in_place(shared_data, tmp_path, name):
    scan = read_scan(shared_data / "dicom_brain" / name)
    label_map = _drawn(scan)
    ds = _written(scan, tmp_path / "seg.dcm", label_map)
    assert np.array_equal(_voxels(ds, scan), to_stored_order(label_map, scan.source))
    itk = sitk.ReadImage(str(tmp_path / "seg.dcm"), sitk.sitkUInt8)
    assert itk.GetSize() == (ds.Columns, ds.Rows, ds.NumberOfFrames)
