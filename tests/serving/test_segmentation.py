"""What a model returns for a scan: in the kind of image that went in, with volumes, and shown and saved."""

import base64
import io
import re
import sys
from dataclasses import FrozenInstanceError, replace

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image
from small_models import LABELS, array_of, itk_image, model_of

from nnseg.core.errors import NnsegError, ScanError
from nnseg.core.labels import Labels, Region
from nnseg.core.scan_ranges import PERCENTILES, ScanRanges, ValueRange
from nnseg.core.trust import LabelTrust, Trust
from nnseg.serving.segmenter import Segmenter

SPACING = (1.5, 2.0, 1.0)


@pytest.fixture(scope="module")
def model():
    return Segmenter(model_of(), device="cpu")


@pytest.fixture(scope="module")
def found(model):
    return model.predict(array_of(14, 19, 23), spacing=SPACING, orientation="SPL", probabilities=True, uncertainty=True)


def test_volumes_are_voxels_times_their_size(found):
    voxel = 1.5 * 2.0 * 1.0 / 1000
    expected = {name: voxel * np.count_nonzero(found.label_map == value) for name, value in (("front", 3), ("back", 700))}
    assert found.volumes == pytest.approx(expected)
    assert (found.unit, found.labels) == ("ml", {"background": 0, "front": 3, "back": 700})
    assert all(found.volumes.values())


def test_numpy_takes_the_label_map(found):
    assert np.array_equal(np.asarray(found), found.label_map)
    assert np.asarray(found, dtype=np.int64).dtype == np.int64
    with pytest.raises(FrozenInstanceError):
        found.unit = "l"


def test_probabilities_and_uncertainty_are_of_the_kind_of_the_scan(model, found):
    assert found.probabilities.shape == (3, 14, 19, 23)
    assert np.allclose(found.probabilities.sum(axis=0), 1, atol=1e-5)
    assert np.array_equal(np.array(LABELS.values)[found.probabilities.argmax(axis=0)], found.label_map)
    assert found.uncertainty.shape == (14, 19, 23)
    of_itk = model.predict(itk_image(array_of(14, 19, 23)), probabilities=True, uncertainty=True)
    assert np.allclose(sitk.GetArrayFromImage(of_itk.probabilities), np.moveaxis(found.probabilities, 0, -1))
    assert np.array_equal(sitk.GetArrayFromImage(of_itk.uncertainty), found.uncertainty)
    assert of_itk.uncertainty.GetSpacing() == of_itk.label_map.GetSpacing() == (1.0, 2.0, 1.5)
    image = nib.Nifti1Image(array_of(14, 19, 23).T, np.diag([-1.0, -2.0, 1.5, 1]))
    of_nibabel = model.predict(image, probabilities=True, uncertainty=True)
    assert np.allclose(np.asarray(of_nibabel.probabilities.dataobj), found.probabilities.T)
    assert np.array_equal(np.asarray(of_nibabel.uncertainty.dataobj), found.uncertainty.T)
    assert model.predict(image).probabilities is None


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16, torch.int16])
def test_tensors_give_tensors(model, kind):
    tensor = torch.from_numpy(array_of(14, 19, 23)).to(kind)
    if kind.is_floating_point:
        tensor.requires_grad_()
    found = model.predict(tensor, spacing=SPACING, orientation="SPL", probabilities=True)
    expected = model.predict(tensor.detach().float().numpy(), spacing=SPACING, orientation="SPL")
    assert isinstance(found.label_map, torch.Tensor)
    assert found.label_map.dtype == torch.int32  # 700 needs uint16, which tensors cannot be computed with
    assert found.label_map.eq(700).sum() > 0
    assert np.array_equal(found.label_map.numpy(), expected.label_map)
    assert (found.probabilities.shape, found.probabilities.requires_grad) == ((3, 14, 19, 23), False)


def test_channels_may_be_a_list_of_tensors():
    model, array = Segmenter(model_of(channels=("T1", "T2")), device="cpu"), array_of(2, 14, 19, 23)
    found = model.predict([torch.from_numpy(one) for one in array], spacing=SPACING)
    assert torch.equal(found.label_map, model.predict(torch.from_numpy(array), spacing=SPACING).label_map)


@pytest.mark.gpu
def test_a_tensor_of_a_gpu_gives_one_there():
    model, array = Segmenter(model_of()), torch.from_numpy(array_of(14, 19, 23))
    found = model.predict(array.cuda().requires_grad_(), spacing=SPACING, uncertainty=True)
    assert (found.label_map.device.type, found.uncertainty.device.type) == ("cuda", "cuda")
    assert torch.equal(found.label_map.cpu(), model.predict(array, spacing=SPACING).label_map)
    assert np.array_equal(np.asarray(found), found.label_map.cpu().numpy())


def test_areas_of_2d_images_have_the_unit_that_is_known(tmp_path):
    model, array = Segmenter(model_of(2), device="cpu"), array_of(19, 23)
    known, unknown = model.predict(array, spacing=(0.5, 2.0)), model.predict(array)
    assert (known.unit, unknown.unit) == ("mm²", "pixels")
    assert unknown.volumes["front"] == np.count_nonzero(unknown.label_map == 3)
    assert known.volumes["front"] == np.count_nonzero(known.label_map == 3)
    shown = unknown.probabilities, model.predict(array, probabilities=True).probabilities.shape
    assert shown == (None, (3, 19, 23))
    image = model.predict(sitk.GetImageFromArray(array), probabilities=True)
    assert image.probabilities.GetNumberOfComponentsPerPixel() == 3
    assert image.probabilities.GetSize() == (23, 19)
    flat = model.predict(nib.Nifti1Image(array.T, np.eye(4)), probabilities=True)
    assert (flat.label_map.shape, flat.probabilities.shape) == ((23, 19), (23, 19, 1, 3))


def test_volumes_of_regions_are_of_the_labels_they_cover():
    made = model_of()
    labels = Labels(
        names=LABELS.names,
        values=LABELS.values,
        regions=(Region(name="all", values=(3, 700), paint=3), Region(name="back", values=(700,), paint=700)),
    )
    (member,) = made.members
    weights = {
        name: tensor[:2] if tensor.shape[:1] == (3,) and "head" in name else tensor for name, tensor in member.weights.items()
    }
    plan = member.plan.model_copy(update={"labels": labels})
    found = Segmenter(replace(made, members=(replace(member, plan=plan, weights=weights),)), device="cpu").predict(
        array_of(14, 19, 23), spacing=(10, 10, 10), probabilities=True
    )
    assert found.volumes == {"all": np.count_nonzero(found.label_map), "back": np.count_nonzero(found.label_map == 700)}
    assert found.probabilities.shape[0] == 2


def test_what_is_found_is_shown_in_a_few_lines(found):
    assert repr(found) == (
        f"Segmentation of 14 x 19 x 23 voxels\nfront {found.volumes['front']:.4g}, back {found.volumes['back']:.4g} (ml)"
    )
    assert "nothing found" in repr(replace(found, volumes={"front": 0.0, "back": 0.0}))
    many = replace(
        found,
        volumes={f"structure {i}": 1.5 for i in range(100)},
        expected_dice={f"structure {i}": 0.5 for i in range(100)},
        flagged=True,
        unlike=("spacing 5 mm along z; training scans had 1 to 1.1",) * 3,
    )
    lines = repr(many).splitlines()
    assert (len(lines), max(map(len, lines)) <= 80) == (4, True)


def test_expected_dice_is_given_where_the_model_was_calibrated(found):
    assert (found.expected_dice, found.flagged) == (None, None)  # not calibrated
    anything = tuple(ValueRange(low=-1e3, high=1e3) for _ in PERCENTILES)
    sizes = (ValueRange(low=5, high=100),) * 3
    spacing = (ValueRange(low=1, high=1.1),) * 3
    ranges = ScanRanges(scans=20, channels=("MRI",), spacing=spacing, size_mm=sizes, intensities=(anything,))
    model = Segmenter(replace(model_of(), trust=Trust(cases=20, threshold=1.0, ranges=ranges)), device="cpu")
    array = array_of(14, 19, 23)
    sure, plain = (model.predict(array, spacing=(5, 1, 1), orientation="SPL", uncertainty=asked) for asked in (True, False))
    assert set(sure.expected_dice) == {"front", "back"}
    assert sure.flagged
    assert (sure.foreign, plain.foreign, found.foreign) == (True, True, None)
    assert (plain.expected_dice, plain.flagged) == (None, None)
    assert sure.unlike == plain.unlike == ("spacing 5 mm along z; training scans had 1 to 1.1",)
    page = sure._repr_html_()
    assert "flagged" in page and "foreign scan: spacing 5 mm" in page


def test_a_model_with_ranges_of_its_training_scans_alone_expects_no_dice():
    same = (ValueRange(low=1, high=1.1),) * 3
    anything = tuple(ValueRange(low=-1e3, high=1e3) for _ in PERCENTILES)
    sizes = (ValueRange(low=5, high=100),) * 3
    ranges = ScanRanges(scans=20, channels=("MRI",), spacing=same, size_mm=sizes, intensities=(anything,))
    model = Segmenter(replace(model_of(), trust=Trust(ranges=ranges)), device="cpu")  # as a distilled one
    of = model.predict(array_of(14, 19, 23), spacing=(5, 1, 1), orientation="SPL", uncertainty=True)
    assert (of.expected_dice, of.flagged, of.foreign) == (None, None, True)


def test_intervals_are_in_the_unit_of_the_volumes():
    trust = Trust(cases=9, labels={"front": LabelTrust(errors=(-1.0, 1.0), volume_factors=(0.5, 2.0))})
    of = Segmenter(replace(model_of(), trust=trust), device="cpu").predict(array_of(14, 19, 23), spacing=SPACING, uncertainty=True)
    assert of.volumes["front"] > 0
    assert of.volume_intervals == {"front": pytest.approx((0.5 * of.volumes["front"], 2.0 * of.volumes["front"]))}
    low, high = of.dice_intervals["front"]
    assert low < of.expected_dice["front"] < high
    assert f"{of.expected_dice['front']:.2f} ({low:.2f} to {high:.2f})" in of._repr_html_()


def test_a_notebook_shows_a_picture_and_the_volumes_without_matplotlib(found, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    page = replace(found, volumes={"<b>front</b>": 1.25, "back": 0.0})._repr_html_()
    assert "&lt;b&gt;front" in page and "<b>front" not in page
    assert "1.25" in page
    picture = Image.open(io.BytesIO(base64.b64decode(re.search(r"base64,([^']+)'", page)[1])))
    assert (picture.mode, max(picture.size)) == ("RGB", 360)
    assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 10


def test_a_figure_has_the_names_of_the_labels(found):
    figure = found.plot()
    (legend,) = figure.legends
    assert {text.get_text() for text in legend.get_texts()} <= {"front", "back"}
    assert figure.axes[0].get_title().startswith("axial, z = ")
    assert figure.axes[0].images


def test_without_matplotlib_a_plot_says_how_to_get_it(found, monkeypatch):
    monkeypatch.setattr("nnseg.system.extras.has_extra", lambda name: False)
    with pytest.raises(NnsegError, match=r"plots need an extra: pip install \"nnseg\[figures\]\""):
        found.plot()


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_a_label_map_is_saved_on_the_grid_of_its_scan(model, tmp_path, suffix):
    image = itk_image(array_of(14, 19, 23))
    image.SetOrigin((5, 6, 7))
    for scan in (image, sitk.DICOMOrient(image, "RSA")):
        found = model.predict(scan)
        found.save(tmp_path / f"out{suffix}")
        saved = sitk.ReadImage(str(tmp_path / f"out{suffix}"))
        assert np.array_equal(sitk.GetArrayFromImage(saved), np.asarray(found))
        assert saved.GetOrigin() == pytest.approx(scan.GetOrigin())
        assert saved.GetDirection() == pytest.approx(scan.GetDirection())


def test_label_maps_are_not_saved_in_formats_that_lose_them(found, tmp_path):
    found.save(str(tmp_path / "array.nii.gz"))
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "array.nii.gz"))), found.label_map)
    for name in ("a.jpg", "a.txt", "a", "a.dcm"):
        with pytest.raises(ScanError):
            found.save(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["array.nii.gz"]
