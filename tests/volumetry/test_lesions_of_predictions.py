"""Lesions of label maps, and what became of them between two visits."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from nnseg.core.errors import DatasetError, ScanError
from nnseg.core.geometry import Grid
from nnseg.core.image import LabelMap, Scan, Source
from nnseg.core.labels import Labels
from nnseg.core.registration import Registration
from nnseg.volumetry.alignment import _in_world, align_visits
from nnseg.volumetry.find_lesions import find_lesions
from nnseg.volumetry.lesion_changes import match_lesions
from nnseg.volumetry.lesions import Lesion, LesionMap, check_labels, sum_of_largest

LABELS = Labels(names=("background", "lesion", "node"), values=(0, 1, 2))
GRID = Grid(shape=(4, 20, 20), spacing=(5.0, 1.0, 1.0))


def lesion_map(*boxes: tuple[slice, slice, slice], grid: Grid = GRID, **how) -> LesionMap:
    """Lesions that fill boxes."""
    labels = np.zeros(grid.shape, np.uint8)
    for box in boxes:
        labels[box] = 1
    return find_lesions(LabelMap(labels=labels, grid=grid), LABELS, "lesion", **how)


def box(z: slice, y: slice, x: slice) -> tuple[slice, slice, slice]:
    return z, y, x


def lesion(number: int, in_slice: float, label: str = "lesion") -> Lesion:
    return Lesion(label=label, number=number, ml=1, longest=in_slice, in_slice=in_slice, perpendicular=1, centre=(0, 0, 0))


SMALL, LARGE = box(slice(0, 1), slice(2, 4), slice(2, 4)), box(slice(1, 3), slice(10, 14), slice(10, 16))


def test_lesions_are_numbered_from_the_largest_with_their_volume_and_place():
    first, second = lesion_map(SMALL, LARGE).lesions
    assert [(one.label, one.number, one.ml) for one in (first, second)] == [("lesion", 1, 0.24), ("lesion", 2, 0.02)]
    assert (first.centre, second.centre) == ((12.5, 11.5, 7.5), (2.5, 2.5, 0.0))
    # 4 rows of 6 voxels: from the middle of one side to that of the other, 6 and 3 mm apart; and 10 mm along z
    assert (first.in_slice, first.longest) == (pytest.approx(np.hypot(6, 3)), pytest.approx(np.sqrt(100 + 25 + 9)))
    assert first.product == pytest.approx(first.in_slice * first.perpendicular)


def test_lesions_that_touch_are_apart_where_objects_are_numbered():
    both = (SMALL, box(slice(0, 1), slice(2, 4), slice(4, 7)))
    assert len(lesion_map(*both).lesions) == 1
    numbers = np.zeros(GRID.shape, np.uint16)
    numbers[both[0]], numbers[both[1]] = 700, 3
    found = lesion_map(*both, objects=LabelMap(labels=numbers, grid=GRID))
    assert [one.ml for one in found.lesions] == [0.03, 0.02]
    assert (found.numbers[0, 2, 5], found.numbers[0, 2, 2]) == (1, 2)


def test_slices_of_the_acquisition_are_found_in_the_canonical_grid():
    stored = Grid(shape=(6, 6, 6), direction=((1, 0, 0), (0, 0, 1), (0, 1, 0)))  # sagittal slices, all spacings alike
    turn = stored.canonical()
    labels = np.zeros((6, 6, 6), np.uint8)
    labels[1:5, 2, 2] = 1  # across four stored slices
    label_map = LabelMap(labels=turn.apply(labels), grid=stored.reoriented(turn), source=Source(files=(), grid=stored))
    (found,) = find_lesions(label_map, LABELS, "lesion").lesions
    assert (found.longest, found.in_slice) == (4, 1)


def test_a_label_without_lesions_has_none():
    assert lesion_map().lesions == ()


def test_the_sum_takes_five_lesions_and_two_of_a_label():
    found = [lesion(i, 10.0 + i) for i in range(1, 4)]
    assert sum_of_largest(found) == 13 + 12
    more = [lesion(1, 5.0, label) for label in ("a", "b", "c", "d")]
    assert sum_of_largest(found + more) == 13 + 12 + 3 * 5
    assert sum_of_largest([]) == 0


def test_an_unknown_label_is_refused_with_the_nearest():
    check_labels(("node",), LABELS)
    with pytest.raises(DatasetError, match='no label "lesoin" to be measured; give lesion'):
        check_labels(("lesoin",), LABELS)


def kinds(before: LesionMap, after: LesionMap, **how) -> list[tuple]:
    return sorted(
        (one.kind, [a.number for a in one.before], [b.number for b in one.after])
        for one in match_lesions("lesion", before, after, **how)
    )


def test_new_vanished_grown_and_shrunken_lesions_are_told_apart():
    grown = box(slice(0, 1), slice(2, 5), slice(2, 4))
    shrunken = box(slice(1, 3), slice(10, 13), slice(10, 16))
    gone, new = box(slice(3, 4), slice(0, 1), slice(0, 1)), box(slice(3, 4), slice(18, 19), slice(0, 1))
    found = list(match_lesions("lesion", lesion_map(SMALL, LARGE, gone), lesion_map(grown, shrunken, new)))
    by_kind = {one.kind: one for one in found}
    assert len(found) == len(by_kind) == 4
    assert (by_kind["grown"].ml, by_kind["grown"].percent) == ((0.02, 0.03), pytest.approx(50))
    assert (by_kind["shrunken"].ml, by_kind["shrunken"].percent) == ((0.24, 0.18), pytest.approx(-25))
    assert (by_kind["vanished"].ml, by_kind["vanished"].percent) == ((0.005, 0), -100)
    assert (by_kind["new"].ml, by_kind["new"].percent, by_kind["new"].in_slice) == ((0, 0.005), None, (0, 1))


def test_lesions_that_merge_or_split_are_one_change():
    left, right = box(slice(0, 1), slice(2, 4), slice(2, 6)), box(slice(0, 1), slice(2, 4), slice(8, 11))
    whole = box(slice(0, 1), slice(2, 4), slice(2, 11))
    apart, one = lesion_map(left, right), lesion_map(whole)
    assert kinds(apart, one) == [("merged", [1, 2], [1])]
    assert kinds(one, apart) == [("split", [1], [1, 2])]
    (change,) = match_lesions("lesion", apart, one)
    assert (change.ml, change.percent) == ((pytest.approx(0.07), 0.09), pytest.approx(100 * (18 / 14 - 1)))
    others = lesion_map(box(slice(0, 1), slice(2, 4), slice(2, 3)), box(slice(0, 1), slice(2, 4), slice(5, 11)))
    assert kinds(apart, others) == [("merged and split", [1, 2], [1, 2])]


def test_lesions_that_hardly_overlap_are_not_the_same():
    row, next_to_it = (box(slice(0, 1), slice(2, 3), slice(first, first + 11)) for first in (0, 10))
    assert kinds(lesion_map(row), lesion_map(next_to_it)) == [("new", [], [1]), ("vanished", [1], [])]


def test_a_lesion_outside_of_the_other_scan_has_neither_vanished_nor_come():
    half = Grid(shape=(2, 20, 20), spacing=GRID.spacing)
    whole, part = lesion_map(SMALL, box(slice(3, 4), slice(2, 4), slice(2, 4))), lesion_map(SMALL, grid=half)
    assert kinds(whole, part) == [("out of view", [2], []), ("unchanged", [1], [1])]
    assert kinds(part, whole) == [("out of view", [], [2]), ("unchanged", [1], [1])]


@pytest.mark.parametrize("turned", [False, True])
def test_scans_of_other_voxels_are_matched_where_their_files_place_them(turned):
    fine = Grid(shape=(20, 40, 40), spacing=(1.0, 0.5, 0.5), origin=(-0.25, -0.25, -2.0))
    tiny = lesion_map(box(slice(6, 8), slice(21, 22), slice(21, 22)), grid=fine)
    coarse = lesion_map(LARGE)
    ends = (coarse, tiny) if turned else (tiny, coarse)
    assert kinds(*ends) == [("shrunken" if turned else "grown", [1], [1])]


def test_tissue_that_moved_is_followed():
    moved = box(slice(1, 3), slice(10, 14), slice(2, 8))
    motion = np.eye(4)
    motion[0, 3] = -8.0
    assert kinds(lesion_map(LARGE), lesion_map(moved)) == [("new", [], [1]), ("vanished", [1], [])]
    assert kinds(lesion_map(LARGE), lesion_map(moved), motion=motion) == [("unchanged", [1], [1])]
    assert kinds(lesion_map(moved), lesion_map(LARGE), motion=np.linalg.inv(motion)) == [("unchanged", [1], [1])]


def test_a_registration_along_oblique_axes_is_a_motion_in_the_world():
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    grid = Grid(shape=(5, 6, 7), spacing=(3, 2, 1), origin=(10, -20, 30), direction=tuple(map(tuple, turn.tolist())))
    found = Registration(
        channel=1, matrix=((1, 0, 0), (0, 0, -1), (0, 1, 0)), translation=(1, 2, 3), centre=(6, 5, 3), rotation=90, before=0,
        after=1, contrast=9,
    )  # fmt: skip
    scan = Scan(image=np.zeros((1, 5, 6, 7), np.float32), grid=grid, source=Source(files=(), grid=grid))
    motion = _in_world(found, scan)
    # a voxel 2, 1 and 4 voxels along the axes: 6, 2, 4 mm, from the centre 0, -3, 1; turned 0, -1, -3; with the translation
    wanted = np.array([6 + 0 + 1, 5 - 1 + 2, 3 - 3 + 3])
    np.testing.assert_allclose(motion @ [*grid.world((2, 1, 4)), 1], [*(wanted @ turn + grid.origin), 1], atol=1e-9)


def test_scans_that_cannot_be_aligned_are_refused():
    grid = Grid(shape=(1, 9, 9))
    picture = Scan(image=np.zeros((1, 1, 9, 9), np.float32), grid=grid, source=Source(files=(), grid=grid, is_2d=True))
    with pytest.raises(ScanError, match="pictures are not aligned"):
        align_visits(picture, picture)
    with pytest.raises(ScanError, match="a scan cannot be read"):
        align_visits(None, picture)


@pytest.mark.slow
def test_a_rigid_motion_between_visits_is_found():
    noise = np.random.default_rng(0)
    head = ndimage.gaussian_filter(noise.normal(size=(48, 48, 48)), 3) * 40
    inside = ((np.indices(head.shape) - 24) ** 2).sum(0) < 18**2
    image = np.where(inside, 100 + 40 * head, 0).astype(np.float32)
    grid = Grid(shape=image.shape, spacing=(2.0, 2.0, 2.0), origin=(-50, -40, -30))
    scan = Scan(image=image[None], grid=grid, source=Source(files=(), grid=grid))
    angle = np.radians(6)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    shift = np.array([2.0, -3.0, 1.5])  # voxels; the later scan at p shows what the earlier one has at turn (p - 24) + 24 + shift
    moved = ndimage.affine_transform(image, turn, 24 - turn @ [24, 24, 24] + shift, order=1)
    motion, distance = align_visits(scan, replace(scan, image=moved[None]))
    for place in ([24, 24, 24], [14, 30, 20], [30, 12, 34]):
        there = turn.T @ (np.array(place) - 24 - shift) + 24
        assert np.linalg.norm((motion @ [*grid.world(place), 1])[:3] - grid.world(there)) < 0.5
    assert distance == pytest.approx(2 * np.linalg.norm(shift), rel=0.1)
