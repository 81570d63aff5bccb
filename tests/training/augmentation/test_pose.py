"""Where patches lie and how they turn, against matrices and counts worked out by hand."""

import numpy as np
import pytest

from nnseg.core.plan import Augmentation
from nnseg.training.augmentation.pose import (
    draw_displacements,
    draw_matrix,
    draw_mirrored,
    draw_pose,
    draw_quarter_turns,
    draw_start,
    rotation,
)


def starts(shape, patch, around=None, count=300):
    rng = np.random.default_rng(0)
    centre = None if around is None else np.array(around)
    return np.array([draw_start(rng, np.array(shape), np.array(patch), centre) for _ in range(count)])


def turns(augmentation, *, in_plane=False, count=2000):
    rng = np.random.default_rng(0)
    return [draw_matrix(rng, augmentation, in_plane=in_plane) for _ in range(count)]


def test_random_starts_cover_every_place_inside_the_case_and_none_beyond():
    drawn = starts((10, 9, 8), (8, 9, 4))
    assert [sorted(set(drawn[:, a].tolist())) for a in range(3)] == [[0, 1, 2], [0], [0, 1, 2, 3, 4]]


def test_random_starts_are_equally_likely():
    drawn = starts((13, 4, 4), (4, 4, 4), count=5000)[:, 0]
    assert np.bincount(drawn, minlength=10) / 5000 == pytest.approx(np.full(10, 0.1), abs=0.02)


def test_a_case_smaller_than_the_patch_lies_in_its_middle():
    assert set(map(tuple, starts((3, 4, 20), (8, 8, 20)).tolist())) == {(-2, -2, 0)}


@pytest.mark.parametrize(
    ("around", "start"),
    [((10, 10, 10), (6, 6, 6)), ((0, 1, 3), (0, 0, 0)), ((19, 18, 17), (12, 12, 12)), ((19, 10, 0), (12, 6, 0))],
)
def test_a_patch_around_a_voxel_is_centred_on_it_but_kept_inside_both_borders(around, start):
    assert starts((20, 20, 20), (8, 8, 8), around, 1).tolist() == [list(start)]


def test_a_quarter_turn_about_z_takes_y_to_x():
    assert rotation([np.pi / 2, 0, 0]) @ [5.0, 1.0, 0.0] == pytest.approx([5.0, 0.0, -1.0])
    assert rotation([np.pi / 2, 0, 0]) @ [5.0, 0.0, 1.0] == pytest.approx([5.0, 1.0, 0.0])


def test_x_turns_first_and_z_last():
    z, y, x = (rotation(np.eye(3)[a] * 0.4) for a in range(3))
    assert rotation([0.4, 0.4, 0.4]) == pytest.approx(z @ y @ x)


def test_rotations_keep_lengths_and_handedness():
    matrix = rotation([0.3, -0.7, 1.1])
    assert matrix @ matrix.T == pytest.approx(np.eye(3))
    assert np.linalg.det(matrix) == pytest.approx(1.0)


def test_turns_happen_as_often_as_the_plan_says():
    drawn = turns(Augmentation(rotation_probability=0.2, scaling_probability=0.2))
    assert np.mean([t is not None for t in drawn]) == pytest.approx(1 - 0.8 * 0.8, abs=0.03)


def test_zooms_alone_are_isotropic_and_fill_their_range():
    drawn = turns(Augmentation(rotation_probability=0, scaling_probability=1, scaling=(0.7, 1.4)))
    zooms = np.array([t[0, 0] for t in drawn])
    assert all(np.array_equal(t, np.eye(3) * t[0, 0]) for t in drawn)
    assert (zooms.min(), zooms.max(), zooms.mean()) == pytest.approx((0.7, 1.4, 1.05), abs=0.01)


def test_angles_alone_are_independent_and_fill_their_range():
    drawn = np.array(turns(Augmentation(rotation_probability=1, scaling_probability=0, rotation_degrees=30)))
    # R = Rz Ry Rx has the first row (cos y cos x, cos y sin x, sin y) and the last column (sin y, cos y sin z, cos y cos z).
    about_y = np.rad2deg(np.arcsin(drawn[:, 0, 2]))
    about_x = np.rad2deg(np.arctan2(drawn[:, 0, 1], drawn[:, 0, 0]))
    about_z = np.rad2deg(np.arctan2(drawn[:, 1, 2], drawn[:, 2, 2]))
    for angles in (about_x, about_y, about_z):
        assert (angles.min(), angles.max()) == pytest.approx((-30, 30), abs=0.2)
        assert angles.std() == pytest.approx(60 / 12**0.5, rel=0.05)  # of a uniform distribution
    assert np.corrcoef([about_x, about_y, about_z]) == pytest.approx(np.eye(3), abs=0.06)


def test_in_plane_turns_leave_the_slice_axis_alone():
    drawn = np.array(turns(Augmentation(rotation_probability=1, scaling_probability=1, rotation_degrees=180), in_plane=True))
    assert np.array_equal(drawn[:, 0], np.tile([1.0, 0, 0], (len(drawn), 1)))
    assert np.array_equal(drawn[:, :, 0], np.tile([1.0, 0, 0], (len(drawn), 1)))
    assert np.sqrt(np.linalg.det(drawn)).max() == pytest.approx(1.4, abs=0.01)


@pytest.mark.parametrize(("axes", "dimensions", "expected"), [((0, 2), 3, {0, 2}), ((0, 1), 2, {1, 2}), ((), 3, set())])
def test_each_mirror_axis_is_flipped_half_of_the_time(axes, dimensions, expected):
    rng = np.random.default_rng(0)
    drawn = [draw_mirrored(rng, Augmentation(mirror_axes=axes), dimensions=dimensions) for _ in range(1000)]
    assert {a for one in drawn for a in one} == expected
    assert all(np.mean([a in one for one in drawn]) == pytest.approx(0.5, abs=0.05) for a in expected)


def bends(count=200, *, in_plane=False, patch=(20, 30, 40), probability=1.0, **settings):
    rng, augmentation = np.random.default_rng(0), Augmentation(elastic_probability=probability, **settings)
    return [draw_displacements(rng, augmentation, np.array(patch), in_plane=in_plane) for _ in range(count)]


@pytest.mark.parametrize("in_plane", [False, True])
def test_the_largest_displacement_is_a_share_of_each_edge(in_plane):
    drawn = np.array(bends(elastic=(0.02, 0.05), in_plane=in_plane))
    largest = np.abs(drawn).max((2, 3, 4)) / (20, 30, 40)
    moving = largest[:, 1:] if in_plane else largest
    assert np.allclose(moving, moving[:, :1])  # the same share along all axes
    assert (moving.min(), moving.max()) == pytest.approx((0.02, 0.05), abs=0.001)
    assert drawn.shape[2:] == ((1, 9, 11) if in_plane else (6, 9, 11))  # a knot every 4 voxels at least
    assert not in_plane or not drawn[:, 0].any()


def test_bent_patches_do_not_fold():
    for bend in bends(50, elastic=(0.05, 0.05)):
        for axis, edge in enumerate((20, 30, 40)):
            spread = (edge - 1) / (bend.shape[axis + 1] - 1)  # voxels between knots
            assert np.diff(bend[axis], axis=axis).min() / spread > -1


def test_bends_and_quarter_turns_happen_as_often_as_the_plan_says_and_draw_nothing_if_never():
    assert np.mean([b is not None for b in bends(1000, probability=0.3, patch=(4, 8, 8))]) == pytest.approx(0.3, abs=0.05)
    settings = Augmentation(quarter_turn_probability=0.75, quarter_turn_axes=(0, 1))
    rng = np.random.default_rng(0)
    drawn = np.array([draw_quarter_turns(rng, settings, dimensions=2) for _ in range(4000)])
    assert np.bincount(drawn[:, 0]) / 4000 == pytest.approx(np.full(4, 0.25), abs=0.04)
    assert set(map(tuple, drawn[:, 1:].tolist())) == {(1, 2)}
    rng, other = np.random.default_rng(0), np.random.default_rng(0)
    assert draw_displacements(rng, Augmentation(), np.array((8, 8, 8)), in_plane=False) is None
    assert draw_quarter_turns(rng, Augmentation(), dimensions=3) == (0, 1, 2)
    assert rng.random() == other.random()


def test_quarter_turns_choose_any_two_of_the_axes():
    settings, rng = Augmentation(quarter_turn_probability=1.0, quarter_turn_axes=(2, 0, 1)), np.random.default_rng(0)
    assert {draw_quarter_turns(rng, settings, dimensions=3)[1:] for _ in range(100)} == {(0, 1), (0, 2), (1, 2)}


def test_a_bent_pose_has_a_turn_to_go_with():
    settings = Augmentation(elastic_probability=1.0, rotation_probability=0.0, scaling_probability=0.0)
    size = np.array((8, 8, 8))
    pose = draw_pose(np.random.default_rng(0), settings, case=size, patch=size, dimensions=3, around=None)
    assert np.array_equal(pose.matrix, np.eye(3))
    assert not pose.in_plane
    flat = draw_pose(np.random.default_rng(0), settings, case=size, patch=np.array((1, 8, 8)), dimensions=2, around=None)
    assert flat.in_plane
