"""Patches from cases: copies must be exact, turned ones must agree with SciPy and with themselves."""

from types import SimpleNamespace

import blosc2
import numpy as np
import pytest
import torch
from scipy import ndimage

from nnseg.core.plan import Augmentation
from nnseg.training.augmentation.pose import Pose, draw_displacements, rotation
from nnseg.training.augmentation.warp import LABELS_AT_ONCE, cut, warp

CPU = torch.device("cpu")


def case_of(image, labels=None):
    labels = np.zeros(image.shape[1:], np.int16) if labels is None else labels.astype(np.int16)
    return SimpleNamespace(name="a", image=image.astype(np.float32), labels=labels, locations={}, annotated=None)


def pose(start, matrix=None, mirrored=(), **changes):
    return Pose(start=np.array(start), matrix=matrix, mirrored=mirrored, **changes)


def bend(patch, share=0.05, *, in_plane=False, seed=0):
    settings = Augmentation(elastic_probability=1.0, elastic=(share, share))
    return draw_displacements(np.random.default_rng(seed), settings, np.array(patch), in_plane=in_plane)


def cut_patch(case, where, patch):
    image, labels = torch.zeros(case.image.shape[0], *patch), torch.zeros(patch, dtype=torch.int64)
    cut(case, where, image, labels)
    return image.numpy(), labels.numpy()


def warp_patch(case, where, patch):
    image, labels = warp(case, where, patch, CPU)
    return image.numpy(), labels.numpy()


def by_scipy(volume, where, patch):
    """The same patch from SciPy's linear interpolation with zeros outside."""
    turn = where.matrix * np.where(np.isin(range(3), where.mirrored), -1, 1)
    half = (np.array(patch) - 1) / 2
    offset = where.start + half - turn @ half
    return ndimage.affine_transform(volume, turn, offset, output_shape=patch, order=1, mode="grid-constant")


@pytest.fixture
def scan():
    return case_of(
        np.random.default_rng(0).standard_normal((2, 14, 17, 15)), np.random.default_rng(1).integers(-1, 4, (14, 17, 15))
    )


def blobs(shape, count, seed=0):
    """A label map of ``count`` labels (the background among them) with smooth borders."""
    fields = np.random.default_rng(seed).standard_normal((count, *shape))
    return np.argmax([ndimage.gaussian_filter(f, 2.5) for f in fields], axis=0)


def test_an_unturned_patch_is_the_slice_itself(scan):
    image, labels = cut_patch(scan, pose((2, 3, 4)), (8, 9, 10))
    assert np.array_equal(image, scan.image[:, 2:10, 3:12, 4:14])
    assert np.array_equal(labels, scan.labels[2:10, 3:12, 4:14])


def test_a_patch_larger_than_the_case_has_zeros_and_background_around_it(scan):
    image, labels = cut_patch(scan, pose((-3, 0, -1)), (20, 17, 16))
    assert np.array_equal(image, np.pad(scan.image, [(0, 0), (3, 3), (0, 0), (1, 0)]))
    assert np.array_equal(labels, np.pad(scan.labels, [(3, 3), (0, 0), (1, 0)]))


def test_mirroring_flips_image_and_labels_together_padding_included(scan):
    plain = cut_patch(scan, pose((-3, 2, 4)), (20, 9, 10))
    image, labels = cut_patch(scan, pose((-3, 2, 4), mirrored=(0, 2)), (20, 9, 10))
    assert np.array_equal(image, plain[0][:, ::-1, :, ::-1])
    assert np.array_equal(labels, plain[1][::-1, :, ::-1])


@pytest.mark.parametrize("mirrored", [(), (1,), (0, 2)])
@pytest.mark.parametrize("start", [(2, 3, 4), (-3, -1, 0)])
def test_a_turn_by_nothing_is_the_slice_itself(scan, start, mirrored):
    almost = np.eye(3) + 1e-9  # not exactly in plane, so that all three axes are interpolated
    for turn in (np.eye(3), almost):
        image, labels = warp_patch(scan, pose(start, turn, mirrored), (14, 11, 12))
        expected = cut_patch(scan, pose(start, None, mirrored), (14, 11, 12))
        assert image == pytest.approx(expected[0], abs=1e-4)
        assert np.array_equal(labels, expected[1])


@pytest.mark.parametrize("mirrored", [(), (0,), (1, 2)])
@pytest.mark.parametrize(
    "turn",
    [
        rotation([0.3, -0.4, 0.5]) * 1.3,
        rotation([-0.2, 0.1, 0.3]) * 0.7,
        rotation([0.9, 0, 0]) * (1, 1.2, 1.2),
        np.eye(3) * 1.4,
    ],
)
@pytest.mark.parametrize(("start", "patch"), [((3, 4, 2), (8, 9, 10)), ((-3, -2, 0), (20, 20, 12))])
def test_scipy_interpolates_the_same_image(scan, turn, start, patch, mirrored):
    where = pose(start, turn, mirrored)
    image, _ = warp_patch(scan, where, patch)
    expected = np.stack([by_scipy(channel, where, patch) for channel in scan.image])
    assert image == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("count", [3, 2 * LABELS_AT_ONCE + 3])
@pytest.mark.parametrize("turn", [rotation([0.3, -0.4, 0.5]) * 1.1, rotation([0.5, 0, 0]) * (1, 0.8, 0.8)])
def test_labels_are_the_arg_max_of_scipys_interpolated_indicators(turn, count):
    label_map = blobs((20, 22, 24), count)
    where = pose((4, 5, 6), turn)
    _, labels = warp_patch(case_of(np.zeros((1, *label_map.shape)), label_map), where, (12, 12, 12))
    shares = np.stack([by_scipy((label_map == k).astype(float), where, (12, 12, 12)) for k in range(count)])
    shares[0] += 1 - shares.sum(0)  # outside the case is background
    first, second = np.sort(shares, axis=0)[[-1, -2]]
    clear = first - second > 1e-4
    assert clear.mean() > 0.99
    assert np.array_equal(labels[clear], shares.argmax(0)[clear])


def test_ignored_voxels_turn_like_a_label():
    label_map = np.where(np.arange(20) < 10, -1, 2) * np.ones((20, 20, 20), int)
    _, labels = warp_patch(case_of(np.zeros((1, 20, 20, 20)), label_map), pose((5, 5, 5), rotation([np.pi, 0, 0])), (10, 10, 10))
    assert np.array_equal(labels, np.where(np.arange(10) < 5, 2, -1) * np.ones((10, 10, 10), int))


def test_labels_follow_the_image_through_a_turn():
    inside = np.linalg.norm(np.indices((30, 30, 30)) - np.array([13, 18, 15])[:, None, None, None], axis=0) < 7
    phantom = ndimage.binary_dilation(inside) * 1
    where = pose((3, 4, 3), rotation([0.5, 0.3, -0.4]) * 1.2, (1,))
    image, labels = warp_patch(case_of(phantom[None], phantom), where, (24, 22, 24))
    sure = np.abs(image[0] - 0.5) > 1e-4
    assert 500 < labels.sum() < phantom.sum()
    assert np.array_equal(labels[sure], np.round(image[0])[sure])


def test_a_zoom_of_two_halves_an_object_about_the_centre():
    phantom = np.zeros((32, 32, 32))
    phantom[8:24, 10:22, 12:20] = 1
    _, labels = warp_patch(case_of(phantom[None], phantom), pose((0, 0, 0), np.eye(3) * 2), (32, 32, 32))
    extent = [np.flatnonzero(labels.any(axis=tuple({0, 1, 2} - {a}))) for a in range(3)]
    assert [(e[0], e[-1] + 1) for e in extent] == [(12, 20), (13, 19), (14, 18)]


def test_in_plane_turns_do_not_mix_slices():
    image = np.zeros((1, 5, 20, 20))
    image[0, 2] = 1e6
    where = pose((0, 2, 2), rotation([0.4, 0, 0]) * (1, 1.3, 1.3), (0,))
    turned, _ = warp_patch(case_of(image), where, (5, 16, 16))
    assert where.in_plane
    assert not turned[0, [0, 1, 3, 4]].any()
    assert turned[0, 2].any()


def test_compressed_and_read_only_cases_give_the_same_patches(scan):
    frozen = case_of(scan.image.copy(), scan.labels.copy())
    frozen.image.flags.writeable = frozen.labels.flags.writeable = False
    packed = SimpleNamespace(image=blosc2.asarray(scan.image), labels=blosc2.asarray(scan.labels))
    where = pose((1, 2, 3), rotation([0.3, 0.2, 0.1]))
    for other in (frozen, packed):
        for take, place in ((cut_patch, pose((1, 2, 3))), (warp_patch, where)):
            for mine, theirs in zip(take(scan, place, (9, 9, 9)), take(other, place, (9, 9, 9)), strict=True):
                assert np.array_equal(mine, theirs)


def test_a_turn_reads_only_the_box_it_needs(scan):
    asked = []

    class Recorder:
        shape = scan.labels.shape

        def __getitem__(self, box):
            asked.append(box)
            return scan.labels[box]

    watched = SimpleNamespace(image=scan.image, labels=Recorder())
    warp(watched, pose((4, 4, 4), np.eye(3) * 1.5), (5, 5, 5), CPU)  # centre 6, reaches 3 voxels either way
    assert asked == [(slice(3, 10),) * 3]


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("axes", [(1, 2), (0, 2), (0, 1)])
def test_quarter_turns_are_numpys_and_exact(scan, times, axes):
    """After flips, with voxels outside the case, and the same with and without interpolation."""
    start, mirrored, size = (-2, 3, 4), (1,), (12, 12, 12)
    plain = cut_patch(scan, pose(start, None, mirrored), size)
    turned = cut_patch(scan, pose(start, None, mirrored, quarter_turns=(times, *axes)), size)
    assert np.array_equal(turned[0], np.rot90(plain[0], times, [a + 1 for a in axes]))
    assert np.array_equal(turned[1], np.rot90(plain[1], times, axes))
    warped = warp_patch(scan, pose(start, np.eye(3) + 1e-9, mirrored, quarter_turns=(times, *axes)), size)
    assert warped[0] == pytest.approx(turned[0], abs=1e-4)
    assert np.array_equal(warped[1], turned[1])


@pytest.mark.parametrize("in_plane", [True, False])
def test_a_bend_of_no_strength_is_none(scan, in_plane):
    size = (8, 9, 10)
    bent = warp_patch(scan, pose((2, 3, 4), np.eye(3), (2,), displacements=bend(size, 0.0, in_plane=in_plane)), size)
    plain = cut_patch(scan, pose((2, 3, 4), None, (2,)), size)
    assert bent[0] == pytest.approx(plain[0], abs=1e-4)
    assert np.array_equal(bent[1], plain[1])


@pytest.mark.parametrize(("in_plane", "turn"), [(True, rotation([0.3, 0, 0])), (False, rotation([0.2, 0.3, -0.1]) * 1.1)])
def test_scipy_bends_the_same_image(scan, in_plane, turn):
    size, start = (9, 9, 13), np.array((2, 3, 1))  # a knot every four voxels exactly
    knots = bend(size, in_plane=in_plane)
    image, _ = warp_patch(scan, pose(start, turn, displacements=knots), size)
    places = np.indices(size).reshape(3, -1)
    at = places / np.array([4.0 if not in_plane else np.inf, 4.0, 4.0])[:, None]
    moves = np.stack([ndimage.map_coordinates(k, at, order=1) for k in knots])
    half = (np.array(size)[:, None] - 1) / 2
    where = start[:, None] + half + turn @ (places - half) + moves
    expected = np.stack([ndimage.map_coordinates(c, where, order=1, mode="grid-constant") for c in scan.image])
    assert image == pytest.approx(expected.reshape(2, *size), abs=1e-4)


def test_labels_follow_the_image_through_a_bend():
    inside = np.linalg.norm(np.indices((30, 30, 30)) - np.array([13, 18, 15])[:, None, None, None], axis=0) < 7
    phantom = inside * 1
    image, labels = warp_patch(
        case_of(phantom[None], phantom), pose((3, 4, 3), np.eye(3), displacements=bend((24, 22, 24))), (24, 22, 24)
    )
    sure = np.abs(image[0] - 0.5) > 1e-4
    assert not np.array_equal(labels, phantom[3:27, 4:26, 3:27])
    assert labels.sum() == pytest.approx(phantom.sum(), rel=0.25)
    assert np.array_equal(labels[sure], np.round(image[0])[sure])


def test_a_bent_patch_is_the_same_on_any_number_of_threads(scan):
    where = pose((2, 3, 1), rotation([0.2, 0.1, 0.3]), displacements=bend((10, 12, 11)))
    threads, found = torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            found.append(warp_patch(scan, where, (10, 12, 11)))
    finally:
        torch.set_num_threads(threads)
    assert np.array_equal(found[0][0], found[1][0])
    assert np.array_equal(found[0][1], found[1][1])


def test_a_label_with_the_greatest_index_of_its_type_is_turned_like_any_other():
    case = case_of(np.zeros((1, 6, 6, 6)), np.ones((6, 6, 6)))
    case.labels = np.full((6, 6, 6), 127, np.int8)
    assert (warp_patch(case, pose((0, 0, 0), rotation((0, 0, 0))), (6, 6, 6))[1] == 127).all()
