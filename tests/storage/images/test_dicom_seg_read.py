"""DICOM-SEG as label maps: voxels and places as highdicom reads them; names, values, colours and overlaps of segments."""

from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from dicom_corpus import (
    AXIAL,
    DESCENDING,
    OBLIQUE,
    TILTED,
    Volume,
    frame_item,
    item,
    ramp,
    write_classic,
    write_enhanced,
    write_mosaic,
)
from dicom_series import write_slice
from pydicom.data import get_testdata_file
from pydicom.sr.codedict import codes

from nnseg.core.colours import colour_of
from nnseg.core.errors import ScanError
from nnseg.core.label_files import LabelFiles
from nnseg.core.labels import Labels
from nnseg.storage.datasets.read import read_dataset
from nnseg.storage.images.dicom_label_files import find_label_file, is_dicom_seg
from nnseg.storage.images.dicom_seg import write_dicom_seg
from nnseg.storage.images.dicom_seg_read import read_dicom_seg
from nnseg.storage.images.raw import ReadOptions
from nnseg.storage.images.read import read_label_map, read_scan

LABELS = Labels(names=("background", "liver", "tumor", "spleen"), values=(0, 1, 500, -3))


def _series(folder: Path, *, steps=AXIAL, slices=6) -> list[pydicom.Dataset]:
    files = write_classic(
        folder, Volume(voxels=ramp(slices), steps=steps), FrameOfReferenceUID="1.2.7", PatientID="", PatientName=""
    )
    for tag in ("PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime", "AccessionNumber"):
        for file in files:
            ds = pydicom.dcmread(file)
            setattr(ds, tag, "")
            ds.save_as(file)
    return [pydicom.dcmread(file) for file in files]


def _by_highdicom(path: Path, series, pixels: np.ndarray, kind="BINARY", segments=("liver", "tumor"), **options) -> Path:
    described = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=codes.SCT.AnatomicalStructure,
            segmented_property_type=codes.SCT.Kidney,
            algorithm_type="MANUAL",
            display_color=hd.color.CIELabColor.from_rgb(*colour_of(number)),
        )
        for number, name in enumerate(segments, 1)
    ]
    seg = hd.seg.Segmentation(
        source_images=series,
        pixel_array=pixels,
        segmentation_type=kind,
        segment_descriptions=described,
        series_instance_uid="1.2.4",
        series_number=2,
        sop_instance_uid="1.2.5",
        instance_number=1,
        manufacturer="a",
        manufacturer_model_name="b",
        software_versions="1",
        device_serial_number="1",
        **options,
    )
    seg.save_as(path)
    return path


def _masks(slices=6, seed=0) -> np.ndarray:
    """(Z, Y, X) numbers of two segments; the first and the last slice are empty, and one within."""
    numbers = np.random.default_rng(seed).integers(0, 3, (slices, 4, 6)).astype(np.uint8)
    numbers[[0, 3, slices - 1]] = 0
    return numbers


def _assert_as_highdicom(path: Path, numbers=None) -> None:
    """Every voxel of highdicom's volume is the same segment at the same place; all others are 0.

    Args:
        numbers: of segments by their values, where they differ.
    """
    raw, seg = read_dicom_seg(path), hd.seg.segread(path)
    volume = seg.get_volume(combine_segments=True, skip_overlap_checks=True)
    index = np.stack(np.meshgrid(*map(np.arange, volume.spatial_shape), indexing="ij"), -1)
    world = index @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    places = (world - raw.grid.origin) @ np.linalg.inv(raw.grid.steps)
    assert np.abs(places - np.rint(places)).max() < 1e-3
    found = raw.voxels[0][tuple(np.moveaxis(np.rint(places).astype(int), -1, 0))]
    for value, number in (numbers or {1: 1, 2: 2}).items():
        assert np.array_equal(found == value, volume.array == number)
    assert raw.voxels[0].astype(bool).sum() == volume.array.astype(bool).sum() > 0


@pytest.mark.parametrize("steps", [AXIAL, OBLIQUE, DESCENDING])
@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_voxels_lie_where_highdicom_reads_them(tmp_path, steps, kind):
    _assert_as_highdicom(_by_highdicom(tmp_path / "s.dcm", _series(tmp_path / "in", steps=steps), _masks(), kind))


@pytest.mark.parametrize(
    ("kind", "syntax"),
    [
        ("LABELMAP", pydicom.uid.RLELossless),
        ("BINARY", pydicom.uid.ImplicitVRLittleEndian),
        ("LABELMAP", pydicom.uid.JPEGLSLossless),
    ],
)
def test_compressed_and_implicit_objects_are_read(tmp_path, kind, syntax):
    _assert_as_highdicom(_by_highdicom(tmp_path / "s.dcm", _series(tmp_path / "in"), _masks(), kind, transfer_syntax_uid=syntax))


def test_frames_that_begin_within_a_byte_are_read(tmp_path):
    volume = Volume(voxels=ramp(5, rows=3, columns=7))
    write_classic(tmp_path / "in", volume)
    scan = read_scan(tmp_path / "in")
    labels = np.random.default_rng(0).choice([0, 1, 500], scan.grid.shape)
    write_dicom_seg(labels, tmp_path / "seg.dcm", like=scan.source, labels=LABELS)
    assert np.array_equal(read_dicom_seg(tmp_path / "seg.dcm").voxels[0], labels)
    _assert_as_highdicom(tmp_path / "seg.dcm", {1: 1, 500: 2})


def test_real_segmentation_of_a_liver_is_read_as_highdicom_reads_it(tmp_path):
    ds = pydicom.dcmread(get_testdata_file("liver_1frame.dcm"))
    with pytest.raises(ScanError, match="has 1 frames and 3 functional groups"):
        read_dicom_seg(Path(ds.filename))
    del ds.PerFrameFunctionalGroupsSequence[1:]  # the file was cut to its first frame
    ds.NumberOfFrames = 1
    ds.save_as(tmp_path / "liver.dcm")
    raw = read_dicom_seg(tmp_path / "liver.dcm")
    assert raw.grid.spacing == (1, 0.810547, 0.810547)
    assert [(s.name, s.value, s.colour) for s in raw.segments] == [("Liver", 1, (221, 130, 101))]
    _assert_as_highdicom(tmp_path / "liver.dcm")


def test_slices_ascend_and_empty_ones_within_are_filled(tmp_path):
    numbers = _masks()
    raw = read_dicom_seg(_by_highdicom(tmp_path / "s.dcm", _series(tmp_path / "in"), numbers))
    assert raw.grid.shape == (4, 4, 6)
    assert raw.grid.spacing == (3, 0.7, 0.5)
    assert raw.grid.origin == (-10, 20, 33)
    assert np.array_equal(raw.voxels[0], numbers[1:5])
    assert raw.files == (tmp_path / "s.dcm",)


@pytest.mark.parametrize(("kept", "shape"), [((2,), 1), ((1, 4), 4), ((0, 2, 4), 5)])
def test_spacing_is_that_of_the_slices_where_most_are_empty(tmp_path, kept, shape):
    numbers = np.zeros((6, 4, 6), np.uint8)
    numbers[list(kept)] = 1
    raw = read_dicom_seg(_by_highdicom(tmp_path / "s.dcm", _series(tmp_path / "in"), numbers))
    assert (raw.grid.shape[0], raw.grid.spacing[0]) == (shape, 3)
    assert raw.grid.origin[2] == 30 + 3 * kept[0]
    assert [bool(plane.any()) for plane in raw.voxels[0]] == [z in kept for z in range(kept[0], kept[-1] + 1)]


def test_without_its_spacing_slices_are_as_far_apart_as_the_closest_frames(tmp_path):
    numbers = np.zeros((6, 4, 6), np.uint8)
    numbers[[0, 1, 4]] = 1
    path = _edited(_by_highdicom(tmp_path / "s.dcm", _series(tmp_path / "in"), numbers), _without_spacing)
    raw = read_dicom_seg(path)
    assert (raw.grid.shape[0], raw.grid.spacing[0]) == (5, 3)


def test_one_slice_without_spacing_is_as_thick_as_it_says_or_refused(tmp_path):
    numbers = np.zeros((6, 4, 6), np.uint8)
    numbers[2] = 1
    path = _edited(_by_highdicom(tmp_path / "s.dcm", _series(tmp_path / "in"), numbers), _without_spacing)
    raw = read_dicom_seg(path)
    assert raw.grid.spacing[0] == 5
    assert raw.notes == ("it holds one slice, whose thickness counts as the distance of slices",)

    def thin(ds):
        del ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness

    with pytest.raises(ScanError, match="does not say how thick its slice is"):
        read_dicom_seg(_edited(path, thin))


def test_overlapping_segments_become_layers(tmp_path):
    masks = np.random.default_rng(0).integers(0, 2, (6, 4, 6, 3)).astype(np.uint8)
    masks[..., 2] &= 1 - masks[..., 0]  # of the first and the third none overlap
    path = _by_highdicom(tmp_path / "s.dcm", _series(tmp_path / "in"), masks, segments=("whole", "core", "rest"))
    raw = read_dicom_seg(path)
    assert [(s.name, s.value, s.channel, s.colour) for s in raw.segments] == [
        ("whole", 1, 0, colour_of(1)),
        ("core", 2, 1, colour_of(2)),
        ("rest", 3, 0, colour_of(3)),
    ]
    for segment in raw.segments:
        assert np.array_equal(raw.voxels[segment.channel] == segment.value, masks[..., segment.value - 1])


@pytest.mark.parametrize(("kind", "note"), [("PROBABILITY", "are probabilities"), ("OCCUPANCY", "are shares of voxels")])
def test_fractions_above_one_half_count_and_it_is_said(tmp_path, kind, note):
    shares = np.random.default_rng(0).random((6, 4, 6, 1)) * 0.8
    shares[0, 0, 0], shares[5, 0, 0] = 0.9, 0.9
    path = _by_highdicom(
        tmp_path / "s.dcm",
        _series(tmp_path / "in"),
        shares,
        "FRACTIONAL",
        segments=("liver",),
        fractional_type=kind,
        max_fractional_value=100,
    )
    raw = read_dicom_seg(path)
    assert np.array_equal(raw.voxels[0], np.rint(shares[..., 0] * 100) > 50)
    assert note in raw.notes[0]


KINDS = {
    "classic": lambda f, v: write_classic(f / "in", v),
    "enhanced": lambda f, v: write_enhanced(f / "in.dcm", [frame_item(v, k) for k in (3, 1, 0, 2)]),
    "mosaic": lambda f, v: write_mosaic(f / "in.dcm", v),
}


@pytest.mark.parametrize(
    ("kind", "steps"),
    [(kind, steps) for kind in KINDS for steps in (AXIAL, OBLIQUE, DESCENDING, TILTED) if kind != "mosaic" or steps is not TILTED],
)
def test_written_label_maps_come_back_on_the_scans_grid_with_their_own_values(tmp_path, kind, steps):
    volume = Volume(voxels=ramp(4), steps=steps)
    KINDS[kind](tmp_path, volume)
    scan = read_scan(tmp_path / ("in" if kind == "classic" else "in.dcm"), repair=True)
    values = np.array([0, 0, 1, 500, -3])[ramp(4) % 5]
    values[0] = values[3] = 0
    index = np.stack(np.meshgrid(*map(np.arange, scan.source.grid.shape), indexing="ij"), -1)
    world = index @ scan.source.grid.steps + scan.source.grid.origin
    place = np.rint((world - volume.start) @ np.linalg.inv(volume.steps)).astype(int)
    stored = values[tuple(np.moveaxis(place, -1, 0))]
    write_dicom_seg(stored, tmp_path / "seg.dcm", like=scan.source, labels=LABELS)
    raw = read_dicom_seg(tmp_path / "seg.dcm")
    Volume(voxels=values, steps=steps).assert_holds(raw.voxels[0], raw.grid)
    assert [(s.name, s.value, s.colour) for s in raw.segments] == [
        ("liver", 1, colour_of(0)),
        ("tumor", 500, colour_of(1)),
        ("spleen", -3, colour_of(2)),
    ]


def test_label_maps_are_read_from_a_file_and_from_a_folder_with_one_and_by_name(tmp_path):
    write_classic(tmp_path / "in", Volume(voxels=ramp(4)))
    scan = read_scan(tmp_path / "in")
    labels = np.where(scan.image[0] > 40, 500, 0)
    write_dicom_seg(labels, tmp_path / "in" / "seg.dcm", like=scan.source, labels=LABELS)
    for place in (tmp_path / "in" / "seg.dcm", tmp_path / "in"):
        label_map = read_label_map(place, like=scan.source)
        assert np.array_equal(label_map.labels, labels)
        assert label_map.grid.matches(scan.grid)
    renamed = LabelFiles(paths=(place,), coding="segments", values={"liver": 7, "tumor": 8, "spleen": 9})
    assert np.array_equal(read_label_map(renamed, like=scan.source).labels, np.where(labels, 8, 0))
    assert np.array_equal(read_scan(tmp_path / "in").image, scan.image)  # the segmentation is no slice


@pytest.mark.parametrize(("image", "labels"), [("images/{}", "labels/{}.dcm"), ("{}/CT", "{}/SEG/1.dcm")])
def test_segmentations_are_the_label_maps_of_a_dataset_with_their_names_and_values(tmp_path, image, labels):
    for i, name in enumerate(("a", "b")):
        write_classic(tmp_path / image.format(name), Volume(voxels=ramp(4, start=i)))
        scan = read_scan(tmp_path / image.format(name))
        path = tmp_path / labels.format(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_dicom_seg(np.where(scan.image[0] > 40, 500, 1), path, like=scan.source, labels=LABELS)
    dataset = read_dataset(tmp_path)
    assert [case.name for case in dataset.cases] == ["a", "b"]
    assert dict(zip(dataset.labels.names[1:], dataset.labels.values[1:], strict=True)) == {"liver": 1, "spleen": -3, "tumor": 500}
    label_map = read_label_map(dataset.cases[0].labels)
    assert np.array_equal(label_map.labels, np.where(ramp(4) > 40, 500, 1))


def test_a_label_map_of_a_part_of_the_slices_is_put_into_its_place(tmp_path):
    series, numbers = _series(tmp_path / "in"), _masks()
    path = _by_highdicom(tmp_path / "s.dcm", series, numbers)
    label_map = read_label_map(path, like=read_scan(tmp_path / "in").source)
    assert np.array_equal(label_map.labels, numbers)


def test_pictures_without_a_place_get_a_label_map_back(tmp_path):
    write_slice(tmp_path / "in.dcm", np.zeros((4, 6), int), position=(0, 0, 0))
    ds = pydicom.dcmread(tmp_path / "in.dcm")
    del ds.ImagePositionPatient, ds.ImageOrientationPatient
    ds.save_as(tmp_path / "in.dcm")
    scan = read_scan(tmp_path / "in.dcm")
    labels = np.full(scan.source.grid.shape, 500)
    write_dicom_seg(labels, tmp_path / "seg.dcm", like=scan.source, labels=LABELS)
    raw = read_dicom_seg(tmp_path / "seg.dcm")
    assert not raw.has_geometry
    assert np.array_equal(raw.voxels[0], labels)


def test_the_header_alone_gives_grid_and_segments(tmp_path):
    path = _by_highdicom(tmp_path / "s.dcm", _series(tmp_path / "in"), _masks())
    raw, whole = read_dicom_seg(path, ReadOptions(only_header=True)), read_dicom_seg(path)
    assert (raw.grid, raw.segments, raw.voxels.shape) == (whole.grid, whole.segments, whole.voxels.shape)


def test_segments_of_one_name_are_told_apart_by_their_side(tmp_path):
    def sides(ds):
        for segment, side in zip(ds.SegmentSequence, ("Left", "Right"), strict=True):
            segment.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [item(CodeMeaning=side)]

    path = _by_highdicom(tmp_path / "s.dcm", _series(tmp_path / "in"), _masks(), segments=("Kidney", "Kidney"))
    assert [s.name for s in read_dicom_seg(_edited(path, sides)).segments] == ["Left Kidney", "Right Kidney"]


def _edited(path: Path, edit) -> Path:
    ds = pydicom.dcmread(path)
    edit(ds)
    ds.save_as(path)
    return path


def _without_spacing(ds) -> None:
    del ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices


def _turned(ds) -> None:
    shared = ds.SharedFunctionalGroupsSequence[0]
    for i, frame in enumerate(ds.PerFrameFunctionalGroupsSequence):
        frame.PlaneOrientationSequence = [item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0] if i else [0, 1, 0, 0, 0, -1])]
    del shared.PlaneOrientationSequence


def _uneven(ds) -> None:
    _without_spacing(ds)
    ds.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient[2] += 0.7


def _aside(ds) -> None:
    ds.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence[0].ImagePositionPatient[0] += 1


def _twice(ds) -> None:
    first, second = (ds.PerFrameFunctionalGroupsSequence[i].PlanePositionSequence for i in (0, 1))
    second[0].ImagePositionPatient = first[0].ImagePositionPatient


def _tiles(ds) -> None:
    ds.TotalPixelMatrixRows = ds.TotalPixelMatrixColumns = 9


def _no_place(ds) -> None:
    del ds.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence


def _no_pixel_size(ds) -> None:
    del ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence


def _cut(ds) -> None:
    ds.PixelData = ds.PixelData[:2]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_turned, "has frames in different directions"),
        (_uneven, "has slices at uneven distances, from 0.7 to 6 mm"),
        (_aside, "has frame 2 1 mm beside its place"),
        (_twice, "has several frames of liver in one place"),
        (_tiles, "is a segmentation of a whole slide image"),
        (_no_place, "has frames without ImagePositionPatient"),
        (_no_pixel_size, "has no PixelSpacing"),
        (_cut, "cannot be read"),
    ],
)
def test_what_is_no_even_stack_is_refused_by_name(tmp_path, edit, message):
    path = _by_highdicom(tmp_path / "s.dcm", _series(tmp_path / "in"), _masks())
    with pytest.raises(ScanError, match=message):
        read_dicom_seg(_edited(path, edit))


def test_other_dicom_files_are_no_label_maps(tmp_path):
    series = tmp_path / "in"
    write_classic(series, Volume(voxels=ramp(2)))
    with pytest.raises(ScanError, match="holds DICOM images, no segmentation"):
        read_label_map(series)
    plan = pydicom.dcmread(series / "001.dcm")
    plan.SOPClassUID = plan.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.481.5"
    plan.save_as(tmp_path / "rt.dcm")
    assert not is_dicom_seg(tmp_path / "rt.dcm")
    with pytest.raises(ScanError, match=r"is DICOM RT Plan, no segmentation; .*; convert it to DICOM-SEG or NIfTI"):
        read_label_map(tmp_path / "rt.dcm")


def test_several_segmentations_in_a_folder_are_named_and_one_is_no_scan(tmp_path):
    scan = _by_highdicom(tmp_path / "a.dcm", _series(tmp_path / "in"), _masks())
    (tmp_path / "b.dcm").write_bytes(scan.read_bytes())
    with pytest.raises(ScanError, match=r"holds 2 DICOM label maps: a\.dcm, b\.dcm"):
        find_label_file(tmp_path)
    with pytest.raises(ScanError, match="Segmentation"):
        read_scan(scan)
    assert is_dicom_seg(scan)
    assert not is_dicom_seg(tmp_path / "in")
