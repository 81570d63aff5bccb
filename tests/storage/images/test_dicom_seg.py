"""DICOM-SEG: whatever the headers of the series, the object is valid, every voxel is where it was, and the series is named."""

import logging
import warnings
from datetime import datetime
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_corpus import START, Volume, frame_item, item, ramp, write_enhanced, write_mosaic
from dicom_series import TILT, UPRIGHT, write_series, write_slice
from dicom_validity import faults

from nnseg.core.colours import colour_of
from nnseg.core.errors import ScanError
from nnseg.core.geometry import Grid
from nnseg.core.image import LabelMap, Scan, Source
from nnseg.core.labels import Labels, Region
from nnseg.storage.images.cielab import from_cielab
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
    return _checked(path)


def _checked(path: Path) -> pydicom.Dataset:
    """The object, valid and readable by highdicom."""
    ds = pydicom.dcmread(path)
    assert faults(ds) == []
    assert hd.seg.segread(path).number_of_segments == len(ds.SegmentSequence)
    return ds


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
    assert from_cielab(ds.SegmentSequence[1].RecommendedDisplayCIELabValue) == colour_of(1)
    algorithm = ds.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
    assert algorithm.AlgorithmName == "nnseg"
    assert algorithm.AlgorithmVersion == ds.SoftwareVersions
    assert ds.SeriesInstanceUID != "1.2.3"
    assert ds.Modality == "SEG"


def test_patients_and_studies_fields_are_the_series_own(tmp_path):
    fields = {"PatientID": "007", "PatientName": "Müller^Jörg", "PatientSex": "M", "StudyDate": "20200102", "AccessionNumber": "9"}
    ds = _written(_made(tmp_path / "in", SpecificCharacterSet="ISO_IR 100", **fields), tmp_path / "seg.dcm")
    assert {field: str(ds[field].value) for field in fields} == fields


LEFT_OUT = object()


@pytest.mark.parametrize(
    ("tags", "written"),
    [
        ({"PatientSex": "U"}, {"PatientSex": ""}),
        ({"PatientSex": "female", "PatientAge": "63"}, {"PatientSex": "", "PatientAge": LEFT_OUT}),
        ({"PatientAge": "063Y", "PatientWeight": "71.5"}, {"PatientAge": "063Y", "PatientWeight": 71.5}),
        ({"PatientBirthDate": "1950.01.02", "StudyTime": "10:11:12"}, {"PatientBirthDate": "19500102", "StudyTime": "101112"}),
        ({"StudyDate": "yesterday", "StudyTime": "noon"}, {"StudyDate": "", "StudyTime": ""}),
        ({"StudyDate": "20240230", "PatientWeight": ""}, {"StudyDate": "", "PatientWeight": LEFT_OUT}),
        ({"PatientID": "x" * 70, "AccessionNumber": "9" * 20}, {"PatientID": "x" * 70, "AccessionNumber": "9" * 20}),
        ({"FrameOfReferenceUID": "1.2.7", "SliceThickness": None}, {"FrameOfReferenceUID": "1.2.7"}),
        ({"LossyImageCompression": "01"}, {"LossyImageCompression": "00"}),
        (
            {"LossyImageCompression": "01", "LossyImageCompressionRatio": 9, "LossyImageCompressionMethod": "ISO_10918_1"},
            {"LossyImageCompression": "01", "LossyImageCompressionRatio": 9},
        ),
        ({"SeriesNumber": None, "StudyID": None}, {"SeriesNumber": 1000, "StudyID": ""}),
        ({"PatientIdentityRemoved": "MAYBE"}, {"PatientIdentityRemoved": LEFT_OUT}),
        ({"PatientIdentityRemoved": "YES"}, {"PatientIdentityRemoved": LEFT_OUT}),
        ({"PatientIdentityRemoved": "YES", "DeidentificationMethod": "a"}, {"PatientIdentityRemoved": "YES"}),
        ({"ClinicalTrialProtocolID": "a"}, {"ClinicalTrialProtocolID": LEFT_OUT}),
        (
            {"ClinicalTrialSponsorName": "a", "ClinicalTrialProtocolID": "b", "ClinicalTrialSubjectID": "c"},
            {"ClinicalTrialSubjectID": "c", "ClinicalTrialSiteID": ""},
        ),
    ],
)
@pytest.mark.filterwarnings("ignore")  # pydicom warns of what it writes here
def test_odd_headers_become_what_the_standard_allows_and_identity_stays(tmp_path, tags, written):
    scan = _made(tmp_path / "in", **tags)
    ds = _written(scan, tmp_path / "seg.dcm")
    assert {key: ds.get(key, LEFT_OUT) for key in written} == written
    assert np.array_equal(_voxels(ds, scan), to_stored_order(_drawn(scan), scan.source))


@pytest.mark.parametrize("missing", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"])
def test_missing_uids_are_made_or_taken_from_the_files_meta_information(tmp_path, missing):
    scan = _made(tmp_path / "in", **{missing: ""})
    ds = _written(scan, tmp_path / "seg.dcm")
    assert len(ds.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 5
    assert np.array_equal(_voxels(ds, scan), to_stored_order(_drawn(scan), scan.source))


def test_slice_thickness_is_the_series_own_or_else_the_spacing(tmp_path):
    for thickness, written in ((5, 5), (None, 3), (0, 3)):
        scan = _made(tmp_path / f"{thickness}", step=(0, 0, 3), orientation=UPRIGHT, SliceThickness=thickness)
        measures = _written(scan, tmp_path / "seg.dcm").SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        assert (measures.SliceThickness, measures.SpacingBetweenSlices) == (written, 3)


def test_orientations_that_differ_by_rounding_are_written_once(tmp_path):
    for i in range(4):
        orientation = np.add(UPRIGHT, [0, i * 1e-7, 0, -i * 1e-7, 0, 0])
        write_slice(tmp_path / "in" / f"{i}.dcm", np.full((4, 6), i), position=(0, 0, 2 * i), orientation=orientation)
    scan = read_scan(tmp_path / "in")
    ds = _written(scan, tmp_path / "seg.dcm")
    assert np.array_equal(_voxels(ds, scan), to_stored_order(_drawn(scan), scan.source))


def _enhanced(path: Path, slices, *, own_measures=False, **tags) -> None:
    """Frames of 4 x 6 pixels at these numbers of slices, 3 mm apart."""
    volume = Volume(voxels=ramp(max(slices) + 1))
    measures = {"PixelMeasuresSequence": [item(PixelSpacing=[0.7, 0.5])]} if own_measures else {}
    write_enhanced(path, [frame_item(volume, k, **measures) for k in slices], spacing=None if own_measures else (0.7, 0.5), **tags)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
@pytest.mark.parametrize("options", [{}, {"own_measures": True}, {"FrameOfReferenceUID": ""}])
def test_frames_of_enhanced_objects_are_named_by_number_in_any_order(tmp_path, order, options):
    _enhanced(tmp_path / "in.dcm", order, **options)
    ds = _segmentation(_source(tmp_path / "in.dcm", slices=4), tmp_path / "seg.dcm")
    assert _frames_behind(ds) == {k: order.index(k) + 1 for k in order}


def test_a_part_of_an_enhanced_object_names_only_its_own_frames(tmp_path):
    _enhanced(tmp_path / "in.dcm", (0, 1, 30, 31, 32))
    ds = _segmentation(_source(tmp_path / "in.dcm", slices=2), tmp_path / "seg.dcm")
    assert _frames_behind(ds) == {0: 1, 1: 2}


def test_frames_of_several_times_at_one_place_are_named_as_a_whole(tmp_path):
    _enhanced(tmp_path / "in.dcm", (0, 0, 1, 1))
    ds = _segmentation(_source(tmp_path / "in.dcm", slices=2), tmp_path / "seg.dcm")
    assert _frames_behind(ds) == {0: None, 1: None}


def test_the_slices_of_a_mosaic_get_positions_of_their_own_and_name_the_mosaic(tmp_path):
    write_mosaic(tmp_path / "in.dcm", Volume(voxels=ramp(7)))
    scan = read_scan(tmp_path / "in.dcm")
    label_map = LabelMap(labels=np.full(scan.grid.shape, 4), grid=scan.grid)
    ds = _written(scan, tmp_path / "seg.dcm", label_map)
    assert np.array_equal(_voxels(ds, scan), to_stored_order(label_map, scan.source))
    assert _frames_behind(ds) == dict.fromkeys(range(7))
    assert len(ds.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 1


def test_images_without_a_place_get_an_object_without_one(tmp_path):
    write_slice(tmp_path / "in.dcm", np.zeros((4, 6), int), position=(0, 0, 0))
    ds = pydicom.dcmread(tmp_path / "in.dcm")
    del ds.ImagePositionPatient, ds.ImageOrientationPatient
    ds.save_as(tmp_path / "in.dcm")
    source = Source(files=(tmp_path / "in.dcm",), grid=Grid(shape=(1, 4, 6), spacing=(1, 0.7, 0.5)))
    ds = _segmentation(source, tmp_path / "seg.dcm")
    assert "FrameOfReferenceUID" not in ds
    assert ds["PatientOrientation"].is_empty  # required, if it is not known without a value
    assert not ds.SharedFunctionalGroupsSequence[0]
    assert "PlanePositionSequence" not in ds.PerFrameFunctionalGroupsSequence[0]


def test_channels_of_another_study_are_named_by_their_study(tmp_path):
    _made(tmp_path / "t1")
    _made(tmp_path / "t2", series="1.2.9", StudyInstanceUID="1.9")
    ds = _written(read_scan([tmp_path / "t1", tmp_path / "t2"]), tmp_path / "seg.dcm")
    assert [s.SeriesInstanceUID for s in ds.ReferencedSeriesSequence] == ["1.2.3"]
    (other,) = ds.StudiesContainingOtherReferencedInstancesSequence
    assert (other.StudyInstanceUID, other.ReferencedSeriesSequence[0].SeriesInstanceUID) == ("1.9", "1.2.9")


def _source(path: Path, *, slices: int) -> Source:
    """A volume of 4 x 6 pixels every 3 mm that was read from a file."""
    return Source(files=(path,), grid=Grid(shape=(slices, 4, 6), spacing=(3, 0.7, 0.5), origin=tuple(START)))


def _segmentation(source: Source, path: Path) -> pydicom.Dataset:
    write_dicom_seg(np.full(source.grid.shape, 4), path, like=source, labels=LABELS)
    ds = _checked(path)
    assert ds.pixel_array.all()
    return ds


def _frames_behind(ds: pydicom.Dataset) -> dict[int, int | None]:
    """The number of the source frame of each slice."""
    found = {}
    for frame in ds.PerFrameFunctionalGroupsSequence:
        (image,) = frame.DerivationImageSequence[0].SourceImageSequence
        z = (float(frame.PlanePositionSequence[0].ImagePositionPatient[2]) - START[2]) / 3
        found[round(z)] = image.get("ReferencedFrameNumber")
    return found


def test_the_same_input_at_the_same_time_gives_the_same_bytes_and_another_gives_another_uid(tmp_path):
    scan = _made(tmp_path / "in")
    one, other = (_written(scan, tmp_path / f"{n}.dcm", when=NOON) for n in "ab")
    assert (tmp_path / "a.dcm").read_bytes() == (tmp_path / "b.dcm").read_bytes()
    assert (one.ContentDate, str(one.ContentTime)[:4]) == ("20240203", "1230")
    empty = LabelMap(labels=np.zeros(scan.grid.shape, int), grid=scan.grid)
    assert _written(scan, tmp_path / "c.dcm", empty, when=NOON).SOPInstanceUID != other.SOPInstanceUID


@pytest.mark.filterwarnings("ignore")  # pydicom warns of what it writes into the series
def test_odd_headers_leave_no_line_in_the_log(tmp_path, caplog):
    scan = _made(tmp_path / "in", PatientSex="female", StudyDate="yesterday", PatientAge="63")
    caplog.clear()
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings():
        warnings.simplefilter("error")
        write_dicom_seg(to_stored_order(_drawn(scan), scan.source), tmp_path / "seg.dcm", like=scan.source, labels=LABELS)
    assert caplog.text == ""


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
