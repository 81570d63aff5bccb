"""The n-th batch: reproducible, centred where it should be, and a plain slice when nothing is random but its place."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from patch_examples import CPU, STILL, WILD, case_of, plan_of
from pydantic import ValidationError

from nnseg.core.errors import DatasetError
from nnseg.core.labels import Region
from nnseg.training.context import Ranks
from nnseg.training.patches import Patches


def batches(cases, plan, count, *, fold=0):
    patches = Patches(cases, plan, fold=fold, device=CPU)
    return [patches.batch(step) for step in range(count)]


def first_voxels(drawn, shape):
    return [np.array(np.unravel_index(int(image.flatten()[0]), shape)) for batch in drawn for image in batch.image]


def same(one, other):
    return torch.equal(one.image, other.image) and torch.equal(one.labels, other.labels) and one.names == other.names


@pytest.fixture
def cases():
    return [case_of(f"case {i}", voxels={1: [(5, 5, 5), (6, 5, 5)], 2: [(10 + i, 9, 9)]}, channels=2) for i in range(3)]


def test_a_batch_depends_on_seed_fold_and_step_alone(cases):
    plan = plan_of(augmentation=WILD | {"mirror_axes": (0, 1, 2)}, channels=2)
    forwards = batches(cases, plan, 6)
    np.random.default_rng(3)
    torch.manual_seed(3)
    other = Patches(cases, plan, fold=0, device=CPU)
    assert all(same(other.batch(step), forwards[step]) for step in (5, 0, 3, 3))


def test_the_global_generators_are_left_alone(cases):
    torch.manual_seed(0)
    before, numbers = torch.get_rng_state(), np.random.get_state()[1].tolist()
    batches(cases, plan_of(augmentation=WILD, channels=2), 5)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.random.get_state()[1].tolist() == numbers


def test_a_patch_does_not_depend_on_the_size_of_its_batch(cases):
    small, large = (plan_of(augmentation=WILD, channels=2, batch_size=n) for n in (2, 5))
    for few, many in zip(batches(cases, small, 10), batches(cases, large, 10), strict=True):
        assert torch.equal(few.image, many.image[:2])
        assert torch.equal(few.labels, many.labels[:2])
        assert few.names == many.names[:2]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_ranks_draw_the_patches_of_one_process_between_them(cases, size):
    plan = plan_of(augmentation=WILD, channels=2, batch_size=5)
    shares = [Patches(cases, plan, fold=0, device=CPU, ranks=Ranks(rank=r, size=size)) for r in range(size)]
    for step, whole in enumerate(batches(cases, plan, 4)):
        parts = [share.batch(step) for share in shares]
        assert torch.equal(torch.cat([p.image for p in parts]), whole.image)
        assert torch.equal(torch.cat([p.labels for p in parts]), whole.labels)
        assert sum((p.names for p in parts), ()) == whole.names


def test_steps_folds_and_seeds_give_different_patches(cases):
    plan = plan_of(channels=2)
    first, second = batches(cases, plan, 2)
    assert not torch.equal(first.image, second.image)
    assert not torch.equal(first.image[0], first.image[1])
    assert not same(first, batches(cases, plan, 1, fold=1)[0])
    assert not same(first, batches(cases, plan_of(channels=2, seed=-1), 1)[0])


def test_a_still_patch_is_a_slice_of_its_case(cases):
    for batch in batches(cases, plan_of(channels=2), 20):
        for image, labels, name in zip(batch.image, batch.labels, batch.names, strict=True):
            case = next(c for c in cases if c.name == name)
            z, y, x = np.unravel_index(int(image[0, 0, 0, 0]), case.labels.shape)
            box = (slice(z, z + 8), slice(y, y + 8), slice(x, x + 8))
            assert np.array_equal(image.numpy(), case.image[(slice(None), *box)])
            assert np.array_equal(labels.numpy(), case.labels[box])


def test_tensors_have_the_types_and_shapes_training_wants(cases):
    batch = batches(cases, plan_of((4, 6, 8), channels=2, batch_size=3), 1)[0]
    assert (batch.image.dtype, batch.image.shape) == (torch.float32, (3, 2, 4, 6, 8))
    assert (batch.labels.dtype, batch.labels.shape, len(batch.names)) == (torch.int64, (3, 4, 6, 8), 3)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
@pytest.mark.parametrize("share", [0.0, 0.33, 1.0])
def test_the_foreground_share_holds_for_every_batch_size(batch_size, share):
    # The labelled voxel can be in the patch's middle only if it was aimed at, or by a chance of 1 in 57 * 1 * 1.
    case = case_of(shape=(64, 8, 8), voxels={1: [(30, 4, 4)]})
    drawn = batches([case], plan_of(batch_size=batch_size, foreground_share=share), 1000 // batch_size)
    centred = np.mean([int(labels[4, 4, 4]) == 1 for batch in drawn for labels in batch.labels])
    assert centred == pytest.approx(share + (1 - share) / 57, abs=0.04)


def test_a_foreground_patch_is_clamped_to_both_borders():
    case = case_of(voxels={1: [(0, 0, 0), (19, 17, 15)]})
    corners = first_voxels(batches([case], plan_of(foreground_share=1.0), 30), case.labels.shape)
    assert {tuple(c) for c in corners} == {(0, 0, 0), (12, 10, 8)}


def test_every_label_gets_its_share_however_few_cases_and_voxels_have_it():
    common = [case_of(f"case {i}", voxels={1: [(z, 4, 4) for z in range(4, 16)]}) for i in range(9)]
    rare = case_of("rare", voxels={1: [(4, 4, 4)], 3: [(15, 12, 11)]})
    drawn = batches([*common, rare], plan_of(foreground_share=1.0), 500)
    centres = np.array([int(labels[4, 4, 4]) for batch in drawn for labels in batch.labels])
    assert np.mean(centres == 3) == pytest.approx(0.5, abs=0.05)
    assert np.mean(centres == 1) == pytest.approx(0.5, abs=0.05)


def test_regions_share_foreground_patches_equally():
    regions = (Region(name="whole", values=(1, 2), paint=1), Region(name="core", values=(2,), paint=2))
    case = case_of(voxels={1: [(5, 5, 5), (5, 6, 5), (5, 5, 6)], 2: [(12, 10, 9)]})
    drawn = batches([case], plan_of(regions=regions, foreground_share=1.0), 500)
    centres = np.array([int(labels[4, 4, 4]) for batch in drawn for labels in batch.labels])
    assert np.mean(centres == 2) == pytest.approx(0.5 + 0.5 / 4, abs=0.05)  # the core, and a quarter of the whole
    assert np.mean(centres == 1) == pytest.approx(0.5 * 3 / 4, abs=0.05)


def test_cases_without_labels_are_seen_too():
    cases = [case_of("full", voxels={1: [(9, 9, 9)]}), case_of("empty")]
    names = [n for batch in batches(cases, plan_of(foreground_share=0.5), 500) for n in batch.names]
    assert names.count("empty") / len(names) == pytest.approx(0.25, abs=0.05)
    assert len(batches([cases[1]], plan_of(foreground_share=1.0), 1)) == 1


@pytest.mark.parametrize(("share", "expected"), [(0.25, 0.25), (0.05, 0.05), (0.0, 0.0), (0.6, 0.6), (None, 0.6 * 0.8)])
def test_cases_without_labels_are_drawn_at_the_plans_rate(share, expected):
    cases = [case_of("full", voxels={1: [(9, 9, 9)]}), *(case_of(f"empty {i}") for i in range(4))]
    drawn = batches(cases, plan_of(foreground_share=0.4, empty_share=share), 500)
    names = [name for batch in drawn for name in batch.names]
    assert np.mean([name != "full" for name in names]) == pytest.approx(expected, abs=0.05)
    centred = np.mean([int(labels[4, 4, 4]) == 1 for batch in drawn for labels in batch.labels])
    assert centred == pytest.approx(0.4, abs=0.05)


@pytest.mark.parametrize("share", [0.0, 0.25, None])
def test_a_rate_of_empty_cases_changes_nothing_where_all_or_none_are_empty(cases, share):
    for some in (cases, [case_of("empty", channels=2)]):
        plain, at_a_rate = (batches(some, plan_of(channels=2, empty_share=one), 6) for one in (None, share))
        assert all(same(one, other) for one, other in zip(plain, at_a_rate, strict=True))


def test_more_than_all_patches_cannot_be_of_one_kind_or_the_other():
    assert plan_of(foreground_share=1.0, empty_share=0.0).training.empty_share == 0.0
    with pytest.raises(ValidationError, match="must not be above 1 together"):
        plan_of(foreground_share=0.5, empty_share=0.6)


def test_other_patches_lie_around_annotated_voxels_where_some_are_ignored():
    case = case_of()
    case.labels[:] = -1
    case.annotated = np.array([(10, 9, 8)], np.int32)
    case.labels[10, 9, 8] = 0
    assert all((b.labels[:, 4, 4, 4] == 0).all() and (b.labels == -1).any() for b in batches([case], plan_of(), 10))


def test_a_case_smaller_than_the_patch_keeps_all_its_voxels():
    case = case_of(shape=(5, 20, 6), voxels={1: [(0, 0, 0), (4, 19, 5)]})
    for batch in batches([case], plan_of((8, 8, 8)), 20):
        assert not batch.image[:, :, [0, 6, 7]].any()
        assert not batch.image[..., [0, 7]].any()
        assert (batch.image[:, 0, 1:6, :, 1:7] > 0).sum() >= 2 * 5 * 8 * 6 - 2  # the case's first voxel has the value 0


def test_a_case_much_smaller_than_the_patch_is_not_turned_out_of_it():
    case = case_of(shape=(3, 2, 1), voxels={1: [(1, 1, 0)]})
    case.image += 1
    wild = {"rotation_probability": 1.0, "scaling_probability": 1.0, "rotation_degrees": 180.0}
    assert all(
        batch.image.flatten(1).any(1).all() for batch in batches([case], plan_of((16, 16, 16), augmentation=STILL | wild), 40)
    )


def test_a_2d_patch_is_a_slice():
    case = case_of(voxels={2: [(7, 9, 8)]})
    plan = plan_of((8, 6), foreground_share=0.5)
    drawn = batches([case], plan, 40)
    assert (drawn[0].image.shape, drawn[0].labels.shape) == ((2, 1, 8, 6), (2, 8, 6))
    for batch in drawn:
        for image, labels in zip(batch.image, batch.labels, strict=True):
            z, y, x = np.unravel_index(int(image[0, 0, 0]), case.labels.shape)
            assert np.array_equal(image[0].numpy(), case.image[0, z, y : y + 8, x : x + 6])
            assert np.array_equal(labels.numpy(), case.labels[z, y : y + 8, x : x + 6])
    slices = [c[0] for c in first_voxels(drawn, case.labels.shape)]
    assert slices.count(7) / len(slices) > 0.3
    assert len(set(slices)) > 10


def test_2d_patches_turn_within_their_slice():
    case = case_of(shape=(6, 16, 16))
    case.image[:] = np.arange(1, 7).reshape(1, 6, 1, 1)
    drawn = batches([case], plan_of((8, 8), augmentation=STILL | {"rotation_probability": 1.0, "mirror_axes": (0, 1)}), 30)
    assert all(
        len(set(image.round(decimals=3).flatten().tolist()) - {0.0}) == 1
        for batch in drawn
        for image in batch.image[:, :, 3:5, 3:5]
    )


@pytest.mark.parametrize("patch", [(8, 8, 8), (8, 8)])
def test_labels_stay_on_the_image_under_every_change_of_place(patch):
    case = case_of(shape=(24, 24, 24))
    case.labels[6:18, 8:18, 6:15] = 1
    case.locations = {1: np.argwhere(case.labels == 1)}
    case.image[0] = case.labels
    moving = {"rotation_probability": 0.5, "scaling_probability": 0.5, "mirror_axes": tuple(range(len(patch)))}
    for batch in batches([case], plan_of(patch, augmentation=STILL | moving, foreground_share=0.5), 40):
        sure = (batch.image[:, 0] - 0.5).abs() > 1e-3
        assert torch.equal(batch.labels[sure], batch.image[:, 0].round().long()[sure])


@pytest.mark.parametrize("patch", [(24, 18, 16), (18, 16)])
def test_batches_are_equal_on_one_and_two_threads(patch):
    rng = np.random.default_rng(0)
    case = SimpleNamespace(
        name="a",
        image=rng.standard_normal((1, 30, 31, 29), np.float32),
        labels=rng.integers(0, 4, (30, 31, 29)),
        locations={},
        annotated=None,
        known=None,
    )
    plan = plan_of(patch, augmentation=WILD)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = batches([case], plan, 8)
        torch.set_num_threads(2)
        assert all(same(a, b) for a, b in zip(alone, batches([case], plan, 8), strict=True))
    finally:
        torch.set_num_threads(threads)


class Recorded:
    """An array that keeps the boxes it was sliced with."""

    def __init__(self, array):
        self.array, self.shape, self.boxes = array, array.shape, []

    def __getitem__(self, box):
        self.boxes.append(box[-3:])
        return self.array[box]


def recorded(shape):
    case = case_of(shape=shape)
    case.image, case.labels = Recorded(case.image), Recorded(case.labels)
    return case


@pytest.mark.parametrize("shape", [(40, 40, 40), (5, 40, 40)])
def test_of_a_patch_that_is_not_turned_only_its_own_voxels_are_read(shape):
    case = recorded(shape)
    batches([case], plan_of(augmentation=STILL | {"mirror_axes": (0, 1, 2)}, batch_size=1), 10)
    assert len(case.image.boxes) == len(case.labels.boxes) == 10
    for box in case.image.boxes + case.labels.boxes:
        assert [s.stop - s.start for s in box] == [min(8, n) for n in shape]


def test_of_a_turned_patch_no_more_is_read_than_the_box_around_it():
    case = recorded((80, 80, 80))
    turning = STILL | {"rotation_probability": 1.0, "rotation_degrees": 180.0}
    batches([case], plan_of(augmentation=turning, batch_size=1), 30)
    edges = [s.stop - s.start for box in case.image.boxes for s in box]
    assert max(edges) > 9
    assert max(edges) <= 7 * 3**0.5 + 2  # the patch's diagonal, and the voxels on either side of its ends


def test_labels_annotated_in_each_patchs_case_are_told():
    cases = [case_of("all"), case_of("b only", known=(2,)), case_of("none else", known=())]
    rows = {"all": [True] * 4, "b only": [True, False, True, False], "none else": [True, False, False, False]}
    drawn = batches(cases, plan_of(batch_size=3), 10)
    assert {name for batch in drawn for name in batch.names} == set(rows)
    assert all(batch.known.tolist() == [rows[name] for name in batch.names] for batch in drawn)


def test_nothing_is_told_of_labels_where_all_were_annotated(cases):
    assert batches(cases, plan_of(channels=2), 1)[0].known is None


def test_masked_channels_stay_zero_where_the_scan_is():
    case = case_of()
    case.image[:] = 0
    noisy = STILL | {"noise_probability": 1.0, "noise": (0.1, 0.1)}
    assert not batches([case], plan_of(augmentation=noisy, masked=True), 1)[0].image.any()
    assert batches([case], plan_of(augmentation=noisy), 1)[0].image.all()


def test_a_fold_without_cases_is_refused():
    with pytest.raises(DatasetError, match="fold 2 of dataset phantoms has no cases"):
        Patches([], plan_of(), fold=2, device=CPU)


@pytest.mark.gpu
def test_the_gpu_shows_the_same_patches_up_to_rounding_when_nothing_is_noisy(cases):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    plan = plan_of(augmentation=WILD | {"noise_probability": 0.0}, channels=2)
    for step, batch in enumerate(batches(cases, plan, 10)):
        there = Patches(cases, plan, fold=0, device=torch.device("cuda")).batch(step)
        assert there.image.cpu().numpy() == pytest.approx(batch.image.numpy(), rel=1e-3, abs=0.5)
        assert (there.labels.cpu() == batch.labels).float().mean() > 0.99
