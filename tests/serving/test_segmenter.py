"""A loaded model predicts arrays, ITK images and files in memory."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from small_models import LABELS, array_of, itk_image, model_of
from warm import CONTEXT

import nnseg
from nnseg.core.errors import ScanError
from nnseg.core.scan_ranges import PERCENTILES, ScanRanges, ValueRange
from nnseg.core.trust import Trust
from nnseg.network.bundle import save_model
from nnseg.serving.segmenter import Segmenter


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "m.nnseg"
    save_model(model_of(), path)
    return path


def test_arrays_itk_images_and_files_get_the_same_prediction(file, tmp_path):
    model, array = nnseg.load(file, device="cpu"), array_of(14, 19, 23)
    sitk.WriteImage(itk_image(array), str(tmp_path / "a.nii.gz"))
    labels = model.predict(array, spacing=(1.5, 2.0, 1.0)).label_map
    assert labels.shape == array.shape
    assert set(np.unique(labels)) == {0, 3, 700}
    for other in (itk_image(array), tmp_path / "a.nii.gz", str(tmp_path / "a.nii.gz"), [tmp_path / "a.nii.gz"]):
        found = model.predict(other).label_map
        assert found.GetSpacing() == pytest.approx((1.0, 2.0, 1.5))
        assert np.array_equal(sitk.GetArrayFromImage(found), labels)
    assert (model.channels, model.labels) == (("MRI",), LABELS)


def test_a_loaded_model_shows_itself_in_three_lines_of_80_columns(file):
    assert repr(nnseg.load(file, device="cpu")) == (
        "nnseg model: 1 network of 3d\nchannels: MRI\nlabels: background 0, front 3, back 700"
    )
    many = repr(Segmenter(model_of(channels=tuple(f"contrast number {n}" for n in range(9))), device="cpu")).splitlines()
    assert len(many) == 3
    assert many[1].endswith(" ...")
    assert max(map(len, many)) <= 80


def test_an_image_of_another_orientation_comes_back_in_its_own(file):
    model, array = nnseg.load(file, device="cpu"), array_of(14, 19, 23)
    expected = np.asarray(model.predict(itk_image(array)))
    turned = sitk.DICOMOrient(itk_image(array), "RSA")
    found = model.predict(turned).label_map
    assert found.GetDirection() == turned.GetDirection()
    assert found.GetOrigin() == turned.GetOrigin()
    assert np.array_equal(sitk.GetArrayFromImage(sitk.DICOMOrient(found, "LPS")), expected)


def test_2d_images_need_no_spacing_and_stay_2d():
    model, array = Segmenter(model_of(2), device="cpu"), array_of(19, 23)
    labels = model.predict(array).label_map
    assert labels.shape == (19, 23)
    assert np.array_equal(labels, model.predict(array, spacing=(1, 1)))
    assert np.array_equal(model.predict(sitk.GetImageFromArray(array)), labels)


def test_channels_come_first_in_arrays_and_as_vectors_in_itk_images():
    model, array = Segmenter(model_of(channels=("T1", "T2")), device="cpu"), array_of(2, 14, 19, 23)
    labels = model.predict(array, spacing=(1.5, 2.0, 1.0)).label_map
    assert labels.shape == (14, 19, 23)
    assert np.array_equal(model.predict(list(array), spacing=(1.5, 2.0, 1.0)), labels)
    with pytest.raises(ScanError, match="are no channels of one scan"):
        model.predict([array[0], array[1, 1:]], spacing=(1.5, 2.0, 1.0))
    vector = itk_image(np.moveaxis(array, 0, -1), vector=True)
    assert np.array_equal(model.predict(vector), labels)


@pytest.mark.parametrize(
    ("shape", "spacing", "words"),
    [
        ((4, 5, 6), None, "spacing of an array must be given"),
        ((4, 5, 6), (1, 1), "3 positive numbers"),
        ((4, 5, 6), (1, 0, 1), "3 positive numbers"),
        ((4, 5, 6), (1, float("nan"), 1), "3 positive numbers"),
        ((2, 4, 5, 6), (1, 1, 1), r"\(2, 4, 5, 6\) does not fit 1 channels"),
        ((6,), (1,), "does not fit"),
        ((0, 5, 6), (1, 1, 1), "does not fit"),
    ],
)
def test_what_is_no_scan_is_refused(file, shape, spacing, words):
    with pytest.raises(ScanError, match=words):
        nnseg.load(file, device="cpu").predict(np.ones(shape, np.float32), spacing=spacing)


def test_nan_is_refused_and_itk_images_take_no_spacing(file):
    model, array = nnseg.load(file, device="cpu"), array_of(5, 6, 7)
    with pytest.raises(ScanError, match="leave out spacing"):
        model.predict(itk_image(array), spacing=(1, 1, 1))
    array[2, 3, 4] = np.nan
    with pytest.raises(ScanError, match="NaN or Inf"):
        model.predict(array, spacing=(1, 1, 1))


def test_the_array_is_left_as_it_was(file):
    array = array_of(9, 9, 9)
    before = array.copy()
    nnseg.load(file, device="cpu").predict(array, spacing=(1, 1, 1))
    assert np.array_equal(array, before)


def _in_a_daemon(path, queue):
    torch.set_num_threads(1)
    queue.put(nnseg.load(path, device="cpu").predict(array_of(9, 9, 9), spacing=(1, 1, 1)).label_map)


def test_a_daemon_may_predict(file):
    """Celery's workers and the like may not start processes of their own."""
    queue = CONTEXT.Queue()
    process = CONTEXT.Process(target=_in_a_daemon, args=(file, queue), daemon=True)
    process.start()
    labels = queue.get(timeout=120)
    process.join(timeout=60)
    assert np.array_equal(labels, nnseg.load(file, device="cpu").predict(array_of(9, 9, 9), spacing=(1, 1, 1)))


def test_nibabel_images_get_the_same_prediction_as_the_files_they_are_saved_in(file, tmp_path):
    model = nnseg.load(file, device="cpu")
    affine = np.array([[-0.8, 0.6, 0, 5], [0.6, 0.8, 0, -7], [0, 0, 2.5, 9], [0, 0, 0, 1]])
    image = nib.Nifti1Image(array_of(14, 19, 23), affine)
    image.header["descrip"] = b"a scanner's words"
    nib.save(image, tmp_path / "a.nii")
    expected = np.asarray(model.predict(tmp_path / "a.nii"))
    for given in (image, [image], nib.Nifti1Image(image.dataobj, affine)):
        found = model.predict(given).label_map
        assert np.array_equal(np.asarray(found.dataobj).T, expected)
        assert np.array_equal(found.affine, affine)
        assert found.get_data_dtype() == np.uint16
    assert model.predict(image).label_map.header["descrip"] == b"a scanner's words"
    assert np.array_equal(np.asarray(model.predict(nib.MGHImage(image.dataobj, affine))).T, expected)


def test_channels_may_be_a_list_of_images(tmp_path):
    model, array = Segmenter(model_of(channels=("T1", "T2")), device="cpu"), array_of(2, 14, 19, 23)
    labels = model.predict(array, spacing=(1.5, 2.0, 1.0))
    sitk.WriteImage(itk_image(array[1]), str(tmp_path / "t2.mha"))
    for second in (itk_image(array[1]), tmp_path / "t2.mha"):
        assert np.array_equal(model.predict([itk_image(array[0]), second]), labels)


@pytest.mark.parametrize("scan", [3, None, {"image": 1}, [np.ones((4, 5, 6)), "a.nii"]])
def test_what_is_no_image_is_refused_by_its_type(file, scan):
    with pytest.raises(ScanError, match=r"cannot be read from an object of type .*; expected a path, an image"):
        nnseg.load(file, device="cpu").predict(scan)


def test_an_array_of_stated_orientation_gets_the_prediction_of_its_image(file):
    model = nnseg.load(file, device="cpu")
    image = nib.Nifti1Image(array_of(14, 19, 23), np.diag([1.5, 2.0, 1.0, 1]))  # RAS
    expected = np.asarray(model.predict(image))
    labels = model.predict(np.asarray(image.dataobj), spacing=(1.5, 2.0, 1.0), orientation="RAS")
    assert np.array_equal(labels, expected)
    turned = np.asarray(image.dataobj).transpose(2, 0, 1)[:, ::-1]
    labels = model.predict(turned, spacing=(1.0, 1.5, 2.0), orientation="SLA")
    assert np.array_equal(labels, expected.transpose(2, 0, 1)[:, ::-1])


def test_the_orientation_taken_for_an_array_is_said_once(file, caplog):
    model = nnseg.load(file, device="cpu")
    for _ in range(2):
        model.predict(array_of(9, 9, 9), spacing=(1, 1, 1))
    model.predict(array_of(9, 9, 9), spacing=(1, 1, 1), orientation="RAS")
    assert [record.message for record in caplog.records if "orientation" in record.message] == [
        'axes of arrays are taken to lead up, back and left (orientation="SPL"); state an orientation otherwise'
    ]


@pytest.mark.parametrize("orientation", ["RA", "RAX", "RLS", "RASS"])
def test_an_orientation_that_is_none_is_refused(file, orientation):
    with pytest.raises(ScanError, match="one letter of LR, AP and SI for each axis"):
        nnseg.load(file, device="cpu").predict(array_of(9, 9, 9), spacing=(1, 1, 1), orientation=orientation)


def test_arrays_of_complex_numbers_are_refused(file):
    with pytest.raises(ScanError, match="the array holds complex64"):
        nnseg.load(file, device="cpu").predict(array_of(9, 9, 9).astype(np.complex64), spacing=(1, 1, 1))


def test_a_scan_unlike_those_of_the_training_is_reported_without_uncertainty(caplog):
    seen = tuple(ValueRange(low=1, high=1.1) for _ in range(3))
    sizes = tuple(ValueRange(low=5, high=50) for _ in range(3))
    anything = (tuple(ValueRange(low=-100, high=100) for _ in PERCENTILES),)
    ranges = ScanRanges(scans=20, channels=("MRI",), spacing=seen, size_mm=sizes, intensities=anything)
    model = Segmenter(replace(model_of(), trust=Trust(ranges=ranges)), device="cpu")
    model.predict(array_of(9, 9, 9), spacing=(1, 1, 1), orientation="SPL")
    assert caplog.messages == []
    model.predict(array_of(3, 9, 9), spacing=(5, 1, 1), orientation="SPL")
    assert caplog.messages == [
        "the scan is unlike those of the training: spacing 5 mm along z; training scans had 1 to 1.1; check its label map"
    ]
