import base64
import io
import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from nnseg.core.geometry import Grid
from nnseg.core.labels import Labels, Region
from nnseg.reporting.case_images import CaseImages
from nnseg.reporting.pictures import PREDICTION, REFERENCE, draw_view, montage_png
from nnseg.reporting.slices import find_views

LABELS = Labels(names=("background", "a"), values=(0, 1))


def cube() -> CaseImages:
    """A box of label 1 that is widest at z = 12; the prediction misses its last column."""
    shape = (20, 30, 40)
    reference = np.zeros(shape, np.uint8)
    reference[8:14, 10:20, 10:20] = 1
    reference[12, 8:22, 10:20] = 1
    prediction = reference.copy()
    prediction[:, :, 19] = 0
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return CaseImages(
        name="c1", caption="best", image=image[None], grid=Grid(shape=shape, spacing=(2.0, 1.0, 1.0)), reference=reference,
        prediction=prediction, labels=LABELS,
    )  # fmt: skip


def flat() -> CaseImages:
    volume = cube()
    return replace(
        volume,
        image=volume.image[:, 12:13],
        grid=Grid(shape=(1, 30, 40)),
        reference=volume.reference[12:13],
        prediction=volume.prediction[12:13],
    )


def test_a_volume_is_shown_in_three_planes_at_the_slice_with_most_reference():
    axial, coronal, sagittal = find_views(cube())
    assert axial.title == "axial, z = 12"
    assert (coronal.plane, sagittal.plane) == ("coronal", "sagittal")
    assert axial.area == 14 * 10
    assert coronal.area == 6 * 10 * 2.0


def test_a_2d_image_is_shown_once_and_without_a_plane():
    (view,) = find_views(flat())
    assert view.title == ""


def test_pixels_are_square_whatever_the_spacing():
    _, coronal, _ = find_views(cube())  # trimmed to z 0..20 by x 2..28 (8 voxels around 10..20): 20 * 2 mm by 26 mm
    height, width = coronal.grey.shape
    assert height / width == pytest.approx(40 / 26, abs=0.01)


def test_outlines_enclose_exactly_the_mask():
    (view,) = find_views(flat())
    ((label, points),) = view.reference
    per_voxel = view.grey.shape[1] / 26  # trimmed to x 2..28
    assert label == "a"
    assert points[:, 0].min() == pytest.approx((10 - 2) * per_voxel, abs=1)
    assert points[:, 0].max() == pytest.approx((20 - 2) * per_voxel, abs=1)
    ((_, predicted),) = view.prediction
    assert predicted[:, 0].max() == pytest.approx((19 - 2) * per_voxel, abs=1)


def test_the_head_is_up_in_coronal_and_sagittal_slices():
    example = cube()
    image = np.broadcast_to(np.arange(20.0)[:, None, None], example.image.shape)  # brighter towards the head
    for view in find_views(replace(example, image=image))[1:]:
        assert view.grey[0].mean() > view.grey[-1].mean()


def test_an_empty_reference_shows_the_prediction_and_nothing_at_all_shows_the_middle():
    example = cube()
    empty = np.zeros_like(example.reference)
    only_predicted = find_views(replace(example, reference=empty))[0]
    assert only_predicted.reference == ()
    assert only_predicted.title == "axial, z = 12"
    nothing = find_views(replace(example, reference=empty, prediction=empty))
    assert [v.title for v in nothing] == ["axial, z = 10", "coronal, y = 15", "sagittal, x = 20"]


def test_regions_have_outlines_of_their_own():
    regions = (Region(name="whole", values=(1, 2), paint=1), Region(name="core", values=(2,), paint=2))
    labels = Labels(names=("background", "rim", "core"), values=(0, 1, 2), regions=regions)
    example = flat()
    nested = example.reference.copy()
    nested[0, 12:16, 12:16] = 2
    (view,) = find_views(replace(example, reference=nested, labels=labels))
    assert [name for name, _ in view.reference] == ["whole", "core"]


def test_a_constant_image_can_be_drawn():
    example = flat()
    (view,) = find_views(replace(example, image=np.zeros_like(example.image)))
    assert view.grey.max() == 0


def test_the_svg_holds_the_slice_and_named_outlines():
    (view,) = find_views(flat())
    svg = ElementTree.fromstring(draw_view(view, 'a "quoted" <name>', {}, sides=True))
    assert svg.get("aria-label") == 'a "quoted" <name>'
    url = svg.find("image").get("href")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1])))), view.grey)
    assert [g.get("class") for g in svg.findall("g")] == ["reference", "prediction"]
    assert svg.find("g/path/title").text == "a, reference"


def test_a_single_label_has_a_colour_for_each_side_and_several_have_one_each_as_in_the_viewer():
    (view,) = find_views(flat())
    one, several = (
        ElementTree.fromstring(draw_view(view, "", colours, sides=True))
        for colours in ({"a": "#e69f00"}, {"a": "#e69f00", "b": "#56b4e9"})
    )
    assert [path.get("stroke") for path in one.findall("g/path")] == [None, None]  # by the style of the side
    assert {path.get("stroke") for path in several.findall("g/path")} == {"#e69f00"}


def test_svg_paths_walk_along_the_outline():
    (view,) = find_views(flat())
    svg = ElementTree.fromstring(draw_view(view, "", {}, sides=True))
    numbers = [int(n) for n in re.findall(r"-?\d+", svg.find("g/path").get("d"))]
    walked = np.cumsum(np.array(numbers).reshape(-1, 2), axis=0) / 10
    assert walked == pytest.approx(view.reference[0][1], abs=0.06)


def test_the_montage_shows_both_outlines_in_colour():
    sheet = np.asarray(Image.open(io.BytesIO(montage_png([cube(), cube(), cube()], height=200)))).astype(int)
    for colour in (REFERENCE, PREDICTION):
        rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert (np.abs(sheet - rgb).sum(axis=2) < 30).sum() > 100


def test_a_montage_of_2d_and_3d_examples_has_a_common_plane():
    assert Image.open(io.BytesIO(montage_png([flat(), cube()], height=100))).height > 100
