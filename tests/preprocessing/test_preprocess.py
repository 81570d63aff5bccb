from itertools import permutations
from pathlib import Path

import nibabel
import numpy as np
import pytest
from skimage.transform import resize

from nnseg.core.errors import ModelError, ScanError
from nnseg.core.geometry import Box, Grid
from nnseg.core.image import LabelMap, Scan, Source
from nnseg.core.labels import Labels, Region
from nnseg.core.plan import Normalization
from nnseg.preprocessing.preprocess import preprocess, restore

ALL_AXES = list(permutations(range(3)))


def scan_of(image: np.ndarray, spacing=(1.0, 1.0, 1.0)) -> Scan:
    grid = Grid(shape=image.shape[1:], spacing=spacing, origin=(3.0, -4.0, 5.0))
    return Scan(image=image, grid=grid, source=Source(files=(Path("scan.nii.gz"),), grid=grid))


def labels_on(scan: Scan, labels: np.ndarray) -> LabelMap:
    return LabelMap(labels=labels, grid=scan.grid)


def noise_in_zeros(shape=(9, 11, 13), channels=1) -> np.ndarray:
    """Noise in the box (2..7, 1..9, 4..12) of an otherwise empty volume."""
    image = np.zeros((channels, *shape), np.float32)
    image[:, 2:7, 1:9, 4:12] = np.random.default_rng(1).uniform(1, 9, (channels, 5, 8, 8))
    return image


def one_hot(indices: np.ndarray, heads: int) -> np.ndarray:
    return (indices == np.arange(heads)[:, None, None, None]).astype(np.float32)


def ball(shape, spacing, radius) -> np.ndarray:
    """A ball of label 1 about the middle of a volume, radius in mm."""
    squares = [((np.arange(n) - (n - 1) / 2) * s) ** 2 for n, s in zip(shape, spacing, strict=True)]
    return (squares[0][:, None, None] + squares[1][:, None] + squares[2] <= radius**2).astype(np.uint8)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.sum(a & b) / (a.sum() + b.sum())


def test_case_is_cropped_turned_normalized_and_encoded(small_plan):
    plan = small_plan(axes=(2, 0, 1), labels=Labels(names=("a", "b", "c"), values=(0, 10, 20), ignore=255))
    image = noise_in_zeros()
    stored = np.random.default_rng(2).choice([0, 10, 20, 255], image.shape[1:]).astype(np.uint8)
    case = preprocess(scan_of(image), labels_on(scan_of(image), stored), plan, name="a case")
    kept = image[0, 2:7, 1:9, 4:12].transpose(2, 0, 1)
    assert case.name == "a case"
    assert case.image.dtype == np.float32
    np.testing.assert_allclose(case.image[0], (kept - kept.mean()) / kept.std(), atol=1e-5)
    indices = np.select([stored == 10, stored == 20, stored == 255], [1, 2, -1], 0)
    assert case.labels.dtype == np.int16
    assert np.array_equal(case.labels, indices[2:7, 1:9, 4:12].transpose(2, 0, 1))
    assert case.placement.crop == Box(start=(2, 1, 4), stop=(7, 9, 12))
    assert case.placement.shape == case.image.shape[1:] == (8, 5, 8)


def test_arrays_are_contiguous_and_the_scan_is_left_alone(small_plan):
    image = noise_in_zeros()
    before = image.copy()
    scan = scan_of(image)
    case = preprocess(scan, labels_on(scan, (image[0] > 5).astype(np.uint8)), small_plan(axes=(1, 2, 0)))
    assert case.image.flags.c_contiguous
    assert case.labels.flags.c_contiguous
    assert case.image.flags.writeable
    assert np.array_equal(image, before)


def test_resampling_follows_normalization(small_plan):
    plan = small_plan(spacing=(0.8, 1.25, 2.0), normalization=(Normalization(scheme="ct", mean=4.0, std=2.0, low=2.0, high=8.0),))
    image = np.random.default_rng(3).uniform(0.5, 9, (1, 8, 10, 12)).astype(np.float32)
    case = preprocess(scan_of(image, spacing=(1.0, 1.0, 1.5)), None, plan)
    scaled = (np.clip(image[0].astype(float), 2, 8) - 4) / 2
    expected = resize(scaled, (10, 8, 9), 3, mode="edge", clip=True, anti_aliasing=False)
    assert case.labels is None
    assert case.placement.spacing == (0.8, 1.25, 2.0)
    np.testing.assert_allclose(case.image[0], expected, atol=1e-5)


def test_image_order_of_the_plan_is_used(small_plan):
    image = np.random.default_rng(3).uniform(1, 9, (1, 8, 8, 8)).astype(np.float32)
    plan = small_plan(spacing=(0.8, 0.8, 0.8), image_order=1, normalization=(Normalization(scheme="none"),))
    expected = resize(image[0].astype(float), (10, 10, 10), 1, mode="edge", anti_aliasing=False)
    np.testing.assert_allclose(preprocess(scan_of(image), None, plan).image[0], expected, atol=1e-5)


def test_slices_of_a_much_coarser_axis_are_not_blended(small_plan):
    ramp = np.broadcast_to(np.arange(1, 5, dtype=np.float32)[:, None, None], (1, 4, 6, 6)).copy()
    plan = small_plan(spacing=(2.5, 0.5, 0.5), normalization=(Normalization(scheme="none"),))
    case = preprocess(scan_of(ramp, spacing=(5.0, 1.0, 1.0)), None, plan)
    assert case.image.shape == (1, 8, 12, 12)
    assert case.image[0, :, 5, 5].tolist() == pytest.approx([1, 1, 2, 2, 3, 3, 4, 4])


def test_a_2d_plan_leaves_number_and_distance_of_slices_alone(small_plan):
    plan = small_plan(2, axes=(1, 0, 2), spacing=(0.5, 2.0))
    image = np.random.default_rng(4).uniform(1, 2, (1, 6, 7, 8)).astype(np.float32)
    case = preprocess(scan_of(image, spacing=(1.0, 3.0, 1.0)), None, plan)
    assert case.image.shape == (1, 7, 12, 4)
    assert case.placement.spacing == (3.0, 0.5, 2.0)


def test_slices_of_a_2d_plan_do_not_see_one_another(small_plan):
    plan = small_plan(2, spacing=(0.7, 0.7), normalization=(Normalization(scheme="none"),))
    image = np.random.default_rng(5).uniform(1, 2, (1, 5, 8, 8)).astype(np.float32)
    other = image.copy()
    other[0, 2] *= 3
    before, after = (preprocess(scan_of(i), None, plan).image for i in (image, other))
    assert np.flatnonzero((before != after).any(axis=(0, 2, 3))).tolist() == [2]


def test_a_2d_image_is_one_slice(small_plan):
    image = np.random.default_rng(5).uniform(1, 2, (1, 1, 8, 10)).astype(np.float32)
    plan = small_plan(2, spacing=(2.0, 2.0))
    case = preprocess(scan_of(image), None, plan)
    assert case.image.shape == (1, 1, 4, 5)
    assert restore(np.ones((3, 1, 4, 5), np.float32), case.placement, plan).shape == (3, 1, 8, 10)


@pytest.mark.parametrize("axes", ALL_AXES)
@pytest.mark.parametrize("dimensions", [2, 3])
def test_restore_undoes_preprocess_exactly_where_nothing_is_resampled(small_plan, dimensions, axes):
    spacing = (2.0, 1.0, 0.5)
    target = tuple(spacing[a] for a in axes)[3 - dimensions :]
    plan = small_plan(dimensions, axes=axes, spacing=target)
    image = noise_in_zeros()
    labels = (np.random.default_rng(6).integers(0, 3, image.shape[1:]) * (image[0] > 0)).astype(np.uint8)
    scan = scan_of(image, spacing)
    case = preprocess(scan, labels_on(scan, labels), plan)
    restored = restore(one_hot(case.labels, 3), case.placement, plan)
    assert restored.dtype == np.float32
    assert np.array_equal(restored, one_hot(labels, 3))


@pytest.mark.parametrize("axes", ALL_AXES)
@pytest.mark.parametrize(
    ("dimensions", "spacing", "target"),
    [
        (3, (1.0, 1.0, 1.0), (0.8, 1.3, 1.1)),
        (3, (4.0, 1.0, 1.0), (1.2, 1.2, 1.2)),  # coarse slices, resampled on their own
        (2, (2.0, 1.0, 1.0), (0.8, 1.3)),
    ],
)
def test_restore_undoes_preprocess_nearly_where_it_is_resampled(small_plan, dimensions, spacing, target, axes):
    shape = tuple(round(56 / s) for s in spacing)
    labels = ball(shape, spacing, 20.0)
    image = np.zeros((1, *shape), np.float32)
    image[0, 1:-1, 2:-1, 3:] = 1.0 + labels[1:-1, 2:-1, 3:]
    scan, plan = scan_of(image, spacing), small_plan(dimensions, axes=axes, spacing=target)
    case = preprocess(scan, labels_on(scan, labels), plan)
    probabilities = restore(one_hot(case.labels, 3), case.placement, plan)
    assert dice(plan.labels.decide(probabilities) == 1, labels == 1) >= 0.98


@pytest.mark.parametrize(("spacing", "target"), [((1.0, 1.0, 1.0), (0.7, 1.3, 0.9)), ((4.0, 1.0, 1.0), (3.0, 0.9, 1.1))])
def test_probabilities_still_sum_to_one_on_the_scan(small_plan, spacing, target):
    plan = small_plan(axes=(1, 2, 0), spacing=(target[1], target[2], target[0]))
    case = preprocess(scan_of(noise_in_zeros(), spacing), None, plan)
    draws = np.random.default_rng(7).exponential(size=(3, *case.placement.shape))
    restored = restore((draws / draws.sum(0)).astype(np.float32), case.placement, plan)
    np.testing.assert_allclose(restored.sum(0), 1.0, atol=1e-5)


def test_outside_the_crop_the_background_is_certain(small_plan):
    case = preprocess(scan_of(noise_in_zeros()), None, small_plan())
    probabilities = np.full((3, *case.placement.shape), 1 / 3, np.float32)
    restored = restore(probabilities, case.placement, small_plan())
    outside = np.ones(case.placement.scan.shape, bool)
    outside[case.placement.crop.slices] = False
    assert np.all(restored[0][outside] == 1)
    assert np.all(restored[1:][:, outside] == 0)
    assert np.all(restored[:, ~outside] == np.float32(1 / 3))


def test_outside_the_crop_no_region_is_seen(small_plan):
    regions = (Region(name="whole", values=(1, 2), paint=1), Region(name="core", values=(2,), paint=2))
    plan = small_plan(labels=Labels(names=("b", "a", "c"), values=(0, 1, 2), regions=regions))
    case = preprocess(scan_of(noise_in_zeros()), None, plan)
    restored = restore(np.ones((2, *case.placement.shape), np.float32), case.placement, plan)
    assert restored.sum() == 2 * np.prod(case.placement.shape)
    assert np.all(restored[(slice(None), *case.placement.crop.slices)] == 1)


def test_restore_interpolates_linearly(small_plan):
    plan = small_plan(spacing=(1.5, 1.5, 1.5))
    image = np.random.default_rng(8).uniform(1, 2, (1, 9, 12, 6)).astype(np.float32)
    placement = preprocess(scan_of(image), None, plan).placement
    probabilities = np.random.default_rng(9).uniform(size=(3, 6, 8, 4)).astype(np.float32)
    expected = [resize(p.astype(float), (9, 12, 6), 1, mode="edge", anti_aliasing=False) for p in probabilities]
    np.testing.assert_allclose(restore(probabilities, placement, plan), np.stack(expected), atol=1e-5)


def test_an_empty_scan_comes_through_whole(small_plan):
    case = preprocess(scan_of(np.zeros((1, 4, 5, 6), np.float32)), None, small_plan())
    assert case.image.shape == (1, 4, 5, 6)
    assert not case.image.any()


@pytest.mark.parametrize("scheme", ["zscore", "ct", "rescale_to_0_1"])
def test_a_missing_channel_is_zero_after_normalization(small_plan, scheme):
    plan = small_plan(
        channels=("T1", "T2"), normalization=(Normalization(scheme="zscore"), Normalization(scheme=scheme, mean=5, high=9))
    )
    scan = scan_of(noise_in_zeros(channels=2))
    whole, part = (preprocess(one, None, plan).image for one in (scan, scan.without([1])))
    assert np.array_equal(part[0], whole[0])
    assert whole[1].any()
    assert not part[1].any()
    assert scan.without([1]).without([0]).missing == (0, 1)


def test_missing_channels_are_zeros_between_those_that_there_are():
    scan = scan_of(noise_in_zeros(channels=2))
    filled = scan.with_missing((0, 2))
    assert (len(filled.image), filled.missing) == (4, (0, 2))
    assert np.array_equal(filled.image[[1, 3]], scan.image)
    assert not filled.image[[0, 2]].any()


def test_other_channel_counts_are_refused_in_words(small_plan):
    with pytest.raises(ScanError, match=r"scan.nii.gz: 2 channels, but the plan needs 1 \(MRI\)"):
        preprocess(scan_of(noise_in_zeros(channels=2)), None, small_plan())


def test_undeclared_label_values_are_refused_with_those_declared(small_plan):
    scan = scan_of(noise_in_zeros())
    labels = np.zeros(scan.grid.shape, np.uint8)
    labels[0, 0, 0] = 7
    with pytest.raises(ScanError, match=r"values \[7\], the plan declares organ=1, lesion=2"):
        preprocess(scan, labels_on(scan, labels), small_plan())


def test_a_label_map_of_another_shape_is_refused(small_plan):
    scan = scan_of(noise_in_zeros())
    other = LabelMap(labels=np.zeros((9, 11, 12), np.uint8), grid=Grid(shape=(9, 11, 12)))
    with pytest.raises(ScanError, match=r"\(9, 11, 12\) is not the scan's \(9, 11, 13\)"):
        preprocess(scan, other, small_plan())


CASCADE = {"name": "3d_cascade", "previous": "3d_lowres"}


def test_the_previous_segmentation_becomes_the_last_channel_as_label_indices(small_plan):
    labels = Labels(names=("a", "b", "c"), values=(0, 10, 20), ignore=255)
    plan = small_plan(axes=(2, 0, 1), labels=labels, **CASCADE)
    image = noise_in_zeros()
    previous_labels = np.random.default_rng(2).choice([0, 10, 20, 255], image.shape[1:]).astype(np.uint8)
    scan = scan_of(image)
    case = preprocess(scan, None, plan, previous=labels_on(scan, previous_labels))
    assert (case.image.dtype, case.image.shape) == (np.float32, (plan.stored_channels, 8, 5, 8))
    indices = np.select([previous_labels == 10, previous_labels == 20], [1, 2], 0)
    assert np.array_equal(case.image[1], indices[2:7, 1:9, 4:12].transpose(2, 0, 1))
    alone = preprocess(scan, None, small_plan(axes=(2, 0, 1), labels=labels))
    assert np.array_equal(case.image[:1], alone.image)
    assert case.placement == alone.placement


def test_the_previous_segmentation_is_resampled_like_labels(small_plan):
    plan = small_plan(spacing=(1.3, 0.7, 0.9), **CASCADE)
    image = np.random.default_rng(3).uniform(1, 2, (1, 20, 20, 20)).astype(np.float32)
    scan = scan_of(image)
    labels = labels_on(scan, ball((20, 20, 20), (1, 1, 1), 7) + ball((20, 20, 20), (1, 1, 1), 4))
    case = preprocess(scan, labels, plan, previous=labels)
    assert np.array_equal(case.image[1], case.labels)
    assert set(np.unique(case.image[1])) == {0, 1, 2}


def test_a_previous_segmentation_is_needed_or_refused_by_plan(small_plan):
    scan = scan_of(noise_in_zeros())
    nothing = labels_on(scan, np.zeros(scan.grid.shape, np.uint8))
    with pytest.raises(ModelError, match=r"scan.nii.gz: the 3d_cascade plan needs the label map of 3d_lowres, which is missing"):
        preprocess(scan, None, small_plan(**CASCADE))
    with pytest.raises(ModelError, match="the 3d plan takes no previous label map"):
        preprocess(scan, None, small_plan(), previous=nothing)
    with pytest.raises(ScanError, match=r"the previous label map has values \[9\]"):
        preprocess(scan, None, small_plan(**CASCADE), previous=labels_on(scan, nothing.labels + 9))
    with pytest.raises(ScanError, match="the previous label map's shape"):
        preprocess(scan, None, small_plan(**CASCADE), previous=LabelMap(labels=nothing.labels[1:], grid=scan.grid))


def test_probabilities_of_another_shape_are_refused(small_plan):
    case = preprocess(scan_of(noise_in_zeros()), None, small_plan())
    with pytest.raises(ModelError, match=r"\(2, 5, 8, 8\), this scan and plan need \(3, 5, 8, 8\)"):
        restore(np.zeros((2, 5, 8, 8), np.float32), case.placement, small_plan())


def test_a_real_hippocampus_comes_back_from_another_spacing(small_plan, shared_data):
    folder = shared_data / "Task04_Hippocampus"
    file = sorted((folder / "imagesTr").glob("hippocampus_*.nii.gz"))[0]
    image, labels = (np.asarray(nibabel.load(folder / kind / file.name).dataobj).T for kind in ("imagesTr", "labelsTr"))
    scan = scan_of(np.ascontiguousarray(image[np.newaxis], np.float32))
    plan = small_plan(spacing=(0.75, 0.8, 0.9))
    case = preprocess(scan, labels_on(scan, labels.astype(np.uint8)), plan)
    decided = plan.labels.decide(restore(one_hot(case.labels, 3), case.placement, plan))
    assert min(dice(decided == v, labels == v) for v in (1, 2)) > 0.96
