"""DICOM: a complete series is a volume in its place; an incomplete one is refused with what is missing."""

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_series import TILT, UPRIGHT, write_series, write_slice

from nnseg.core.errors import ScanError
from nnseg.core.image import LabelMap
from nnseg.storage.datasets.content import content_hash
from nnseg.storage.datasets.find_scans import find_scans
from nnseg.storage.images.dicom import read_series
from nnseg.storage.images.read import read_label_map, read_scan
from nnseg.storage.images.write import label_suffix, write_label_map


def test_series_is_a_volume_in_spatial_order_and_in_its_place(tmp_path):
    voxels = write_series(tmp_path)
    scan = read_scan([tmp_path])
    assert np.array_equal(scan.image[0], voxels)
    assert scan.grid.spacing == (3.0, 0.7, 0.5)
    assert scan.grid.origin == (10, 20, 30)
    assert scan.grid.world((4, 3, 5)) == pytest.approx((10 + 5 * 0.5, 20 + 3 * 0.7, 30 + 4 * 3))
    assert [f.name for f in scan.source.files] == ["05.dcm", "04.dcm", "03.dcm", "02.dcm", "01.dcm"]


def test_oblique_series_agrees_with_itk(tmp_path):
    normal = np.cross(TILT[:3], TILT[3:])
    write_series(tmp_path, step=normal * 2.5, orientation=TILT)
    itk = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path)))
    grid = read_scan([tmp_path]).source.grid
    assert grid.spacing[::-1] == pytest.approx(itk.GetSpacing(), abs=1e-5)
    assert grid.origin == pytest.approx(itk.GetOrigin(), abs=1e-5)
    assert np.asarray(grid.direction)[::-1].T.ravel() == pytest.approx(itk.GetDirection(), abs=1e-6)


def test_slices_are_given_in_any_order(tmp_path):
    voxels = write_series(tmp_path)
    files = sorted(tmp_path.iterdir())
    assert np.array_equal(read_scan([files[2], files[0], files[4], files[1], files[3]]).image[0], voxels)


def test_each_slice_is_rescaled_by_its_own_slope(tmp_path):
    for i, slope in enumerate((0.5, 2.0, 0.25)):
        write_slice(tmp_path / f"{i}.dcm", np.full((4, 6), 10), position=(0, 0, i), RescaleSlope=slope, RescaleIntercept=-1)
    assert read_scan([tmp_path]).image[0, :, 0, 0].tolist() == [4.0, 19.0, 1.5]


def test_missing_slice_is_refused_with_its_position(tmp_path):
    write_series(tmp_path)
    (tmp_path / "03.dcm").unlink()
    with pytest.raises(ScanError, match=r"missing.*33.00 to 39.00 mm; expected a slice every 3 mm"):
        read_scan([tmp_path])


def test_slices_a_tenth_of_a_step_beside_their_place_are_taken_as_even_and_others_are_not(tmp_path):
    heights = {"rounding": (0, 3, 6, 9.015), "varying": (0, 7.07, 14, 21.07, 28), "uneven": (0, 3, 6.5, 9), "gap": (0, 7, 21)}
    for name, places in heights.items():
        for i, height in enumerate(places):
            write_slice(tmp_path / name / f"{i}.dcm", np.eye(4), position=(0, 0, height))
    assert read_scan([tmp_path / "rounding"]).notes == ()
    varying = read_scan([tmp_path / "varying"])
    assert varying.grid.spacing[0] == 7.0
    (note,) = varying.notes
    assert "lie up to 0.07 mm beside even steps of 7 mm" in note
    for name in ("uneven", "gap"):
        with pytest.raises(ScanError, match="missing or unevenly spaced"):
            read_scan([tmp_path / name])


@pytest.mark.parametrize("missing", range(1, 11))
def test_no_missing_slice_is_taken_for_rounding(tmp_path, missing):
    for i in range(12):
        if i != missing:
            write_slice(tmp_path / f"{i:02d}.dcm", np.eye(4), position=(0, 0, 7 * i + 0.07 * (i % 2)))
    with pytest.raises(ScanError, match="missing or unevenly spaced"):
        read_scan([tmp_path])


def test_doubled_slice_is_refused_with_both_names(tmp_path):
    write_series(tmp_path)
    write_slice(tmp_path / "copy.dcm", np.zeros((4, 6)), position=(10, 20, 36))
    with pytest.raises(ScanError, match=r"03.dcm and copy.dcm are both at 36.00 mm"):
        read_scan([tmp_path])


def test_tilted_gantry_is_refused_to_train_with(tmp_path):
    write_series(tmp_path, step=(0, 0.5, 3))
    with pytest.raises(ScanError, match=r"sheared axes \(cosine 0.164.*tilted gantry"):
        read_scan([tmp_path])


def test_localiser_beside_a_series_is_passed_over(tmp_path):
    voxels = write_series(tmp_path)
    for i in range(3):
        turned = np.roll(UPRIGHT, i)
        image_type = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
        write_slice(
            tmp_path / f"scout{i}.dcm", np.eye(9), position=(i, 0, 0), orientation=turned, series="1.9", ImageType=image_type
        )
    assert np.array_equal(read_scan([tmp_path]).image[0], voxels)
    assert [c.images for c in find_scans(tmp_path, channels=1).cases] == [(tmp_path,)]


def test_localiser_with_the_series_own_uid_is_passed_over(tmp_path):
    voxels = write_series(tmp_path)
    write_slice(tmp_path / "scout.dcm", np.eye(4, 6), position=(0, 0, 0), orientation=[0, 1, 0, 0, 0, -1])
    assert np.array_equal(read_scan([tmp_path]).image[0], voxels)


def test_two_series_in_one_folder_are_two_scans(tmp_path):
    voxels = write_series(tmp_path, name="a{}.dcm", number=3)
    write_series(tmp_path, name="b{}.dcm", series="1.2.4", number=11, slices=3)
    with pytest.raises(ScanError, match=r"holds 2 series: 3 .*5 slices.*11 .*3 slices"):
        read_scan([tmp_path])
    cases = find_scans(tmp_path, channels=1).cases
    assert [(c.name, len(c.images)) for c in cases] == [(f"{tmp_path.name}_series11", 3), (f"{tmp_path.name}_series3", 5)]
    assert np.array_equal(read_scan(cases[1].images).image[0], voxels)


def test_files_need_no_suffix_and_other_files_do_not_disturb(tmp_path):
    voxels = write_series(tmp_path / "patient" / "mr", name="IM{}")
    (tmp_path / "patient" / "mr" / "notes.txt").write_text("hello")
    (tmp_path / "patient" / "mr" / "._IM1").write_bytes(b"junk of a Mac")
    (case,) = find_scans(tmp_path, channels=1).cases
    assert case.name == "patient_mr"
    assert np.array_equal(read_scan(case.images).image[0], voxels)


def test_folder_without_readable_slices_is_refused(tmp_path):
    with pytest.raises(ScanError, match="no DICOM file"):
        read_scan([tmp_path])
    (tmp_path / "a.dcm").write_bytes(bytes(128) + b"DICM" + b"\x01" * 50)
    with pytest.raises(ScanError, match=r"a.dcm: cannot be read as DICOM"):
        read_scan([tmp_path])
    assert [c.name for c in find_scans(tmp_path, channels=1).cases] == [tmp_path.name]  # so that predicting names it, and goes on


def test_slices_without_position_are_refused(tmp_path):
    write_series(tmp_path)
    ds = pydicom.dcmread(tmp_path / "02.dcm")
    del ds.ImagePositionPatient
    ds.save_as(tmp_path / "02.dcm")
    with pytest.raises(ScanError, match="without ImagePositionPatient"):
        read_scan([tmp_path])


def test_label_map_of_a_series_lies_on_its_grid(tmp_path):
    normal = np.cross(TILT[:3], TILT[3:])
    write_series(tmp_path / "series", step=normal * 2.5, orientation=TILT)
    scan = read_scan([tmp_path / "series"])
    out = tmp_path / f"labels{label_suffix(scan.source)}"
    written = LabelMap(labels=np.arange(scan.image[0].size).reshape(scan.grid.shape), grid=scan.grid)
    write_label_map(written, out, like=scan.source)
    read = read_label_map(out)
    assert out.name == "labels.nii.gz"
    assert np.array_equal(read.labels, written.labels)
    assert read.grid.matches(scan.grid, 1e-4)


def test_content_hash_of_a_series_changes_with_its_slices(tmp_path):
    write_series(tmp_path)
    before = content_hash([tmp_path])
    assert content_hash([tmp_path]) == before
    write_slice(tmp_path / "01.dcm", np.zeros((4, 6)), position=(10, 20, 42))
    assert content_hash([tmp_path]) != before


def test_content_hash_of_a_series_does_not_depend_on_what_is_not_read(tmp_path):
    write_series(tmp_path)
    before = content_hash([tmp_path])
    (tmp_path / "README").write_text("hello")
    write_series(tmp_path / "other")
    assert content_hash([tmp_path]) == before == content_hash(sorted(tmp_path.glob("*.dcm")))  # as it ever was for slices alone


def test_a_header_whose_number_cannot_be_read_is_one_failed_file(tmp_path):
    write_series(tmp_path, name="a{}.dcm", number=3)
    write_series(tmp_path, name="b{}.dcm", number=4, series="1.2.4")
    postprocessed = write_slice(tmp_path / "c.dcm", np.eye(4, 6), position=(0, 0, 0), series="1.2.5", NumberOfFrames="77")
    postprocessed.write_bytes(postprocessed.read_bytes().replace(b"77", b"x7"))
    cases = find_scans(tmp_path, channels=1).cases
    assert [c.name.removeprefix(tmp_path.name) for c in cases] == ["_series3", "_series4", "_unreadable"]
    with pytest.raises(ScanError, match=r'c.dcm: has the NumberOfFrames "x7"; expected a whole number'):
        read_scan(cases[-1].images)


def test_a_slice_shifted_sideways_is_refused_and_a_crumb_is_not(tmp_path):
    for name, shift in (("crumb", 0.02), ("shifted", 0.5)):
        for i in range(5):
            write_slice(tmp_path / name / f"{i}.dcm", np.eye(4), position=(shift * (i == 2), 0, 3 * i))
    assert read_scan(tmp_path / "crumb").grid.spacing == (3.0, 0.7, 0.5)
    with pytest.raises(ScanError, match=r"2.dcm lies 0.5 mm away from the line"):
        read_scan(tmp_path / "shifted")


def test_slices_with_voxels_of_different_sizes_are_refused(tmp_path):
    for name, other in (("rounded", 0.50004), ("mixed", 0.6)):
        for i in range(4):
            write_slice(
                tmp_path / name / f"{i}.dcm", np.eye(4), position=(0, 0, 3 * i), PixelSpacing=[0.7, other if i == 2 else 0.5]
            )
    assert read_scan(tmp_path / "rounded").grid.spacing == (3.0, 0.7, 0.5)
    with pytest.raises(ScanError, match=r"0.dcm has voxels of 0.7 x 0.5 mm and 2.dcm of 0.7 x 0.6 mm"):
        read_scan(tmp_path / "mixed")


def test_a_slice_that_does_not_say_its_spacing_is_refused_wherever_it_lies(tmp_path):
    write_series(tmp_path)
    ds = pydicom.dcmread(tmp_path / "02.dcm")
    del ds.PixelSpacing
    ds.save_as(tmp_path / "02.dcm")
    with pytest.raises(ScanError, match="has no spacing of its voxels"):
        read_scan(tmp_path)
    assert read_scan(tmp_path, spacing=(3.0, 0.7, 0.5)).grid.spacing == (3.0, 0.7, 0.5)


def test_real_series_agree_with_itk_and_lie_on_one_grid(shared_data):
    folder = shared_data / "dicom_brain"
    cases = find_scans(folder, channels=1).cases
    assert [c.name for c in cases] == ["flair", "hippocampus_crop", "t1", "t2"]
    scan = read_scan([folder / "t1", folder / "flair", folder / "t2"])
    assert scan.image.shape == (3, 22, 320, 280)
    files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder / "t1"))
    itk = sitk.ReadImage(files)
    assert scan.source.grid.spacing[::-1] == pytest.approx(itk.GetSpacing(), abs=1e-6)
    assert scan.source.grid.origin == itk.GetOrigin()
    volume = read_series(folder / "t1")
    assert [str(f) for f in volume.files] == list(files)
    assert np.array_equal(volume.voxels[0], sitk.GetArrayFromImage(itk))


def test_real_crop_is_one_millimetre_and_upright(shared_data):
    scan = read_scan([shared_data / "dicom_brain" / "hippocampus_crop"])
    assert scan.grid.spacing == (1, 1, 1)
    assert scan.grid == scan.source.grid
