"""The previous segmentation in training patches: corrupted as often as said, never broken, and seen as one channel a label."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.morphology import ball

from nnseg.core.labels import Labels
from nnseg.core.plan import Augmentation, Inference, Network, Normalization, Plan, Preprocessing, Training
from nnseg.training.augmentation import cascade as room
from nnseg.training.augmentation.cascade import closed, corrupt, dilated, eroded, move_borders, opened, remove_components
from nnseg.training.context import TrainingContext
from nnseg.training.patches import Patches
from nnseg.training.validation import Validation

CPU = torch.device("cpu")
CALM = {
    f"{n}_probability": 0.0
    for n in ("rotation", "scaling", "noise", "blur", "brightness", "contrast", "low_resolution", "inverted_gamma", "gamma")
}
WILD = dict.fromkeys(CALM, 0.7)
NUMBERS = range(2000)


def generator(number):
    return np.random.default_rng([7, number])


def plan_of(patch=(8, 8, 8), *, previous="3d_lowres", augmentation=CALM, masked=False):
    ones = (1,) * len(patch)
    return Plan(
        name="3d_cascade" if previous else "3d",
        previous=previous,
        dataset="phantoms",
        recipe="test",
        channels=("T1", "T2"),
        patch=patch,
        labels=Labels(names=("background", "a", "b", "c"), values=(0, 5, 6, 7)),
        preprocessing=Preprocessing(
            axes=(0, 1, 2), spacing=(1.0,) * len(patch), normalization=(Normalization(scheme="zscore", masked=masked),) * 2
        ),
        network=Network(kind="plain", features=(8,), strides=(ones,), kernels=(ones,), blocks=(1,), decoder_blocks=()),
        training=Training(batch_size=3, augmentation=Augmentation(**augmentation)),
        inference=Inference(),
    )


def case_of(name="one", shape=(20, 18, 16), *, shown=True):
    """A case whose previous answer, where there is one, is its own labels; the scan is noise."""
    fields = np.random.default_rng(1).standard_normal((4, *shape))
    labels = np.argmax([ndimage.gaussian_filter(f, 2) for f in fields], axis=0).astype(np.int16)
    image = np.random.default_rng(2).standard_normal((2, *shape)).astype(np.float32)
    if shown:
        image = np.concatenate([image, labels[None].astype(np.float32)])
    locations = {i: np.argwhere(labels == i).astype(np.int32) for i in (1, 2, 3)}
    return SimpleNamespace(name=name, image=image, labels=labels, locations=locations, annotated=None, known=None, placement=None)


def cube(at=8, edge=8, size=24, label=1):
    indices = np.zeros((size,) * 3, np.int16)
    indices[at : at + edge, at : at + edge, at : at + edge] = label
    return indices


@pytest.fixture
def untouched(monkeypatch):
    for name in ("MORPHOLOGY_PROBABILITY", "REMOVAL_PROBABILITY"):
        monkeypatch.setattr(room, name, 0.0)


def blobs(seed, size=18):
    fields = np.random.default_rng(seed).standard_normal((size, size, size))
    return ndimage.gaussian_filter(fields, 1.5) > 0.1


@pytest.mark.parametrize("radius", [1, 2, 3])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (dilated, ndimage.binary_dilation),
        (eroded, lambda mask, element: ndimage.binary_erosion(mask, element, border_value=1)),
        (closed, lambda mask, element: ndimage.binary_erosion(ndimage.binary_dilation(mask, element), element, border_value=1)),
        (opened, lambda mask, element: ndimage.binary_dilation(ndimage.binary_erosion(mask, element, border_value=1), element)),
    ],
)
def test_borders_move_as_with_a_ball_for_structuring_element(ours, theirs, radius):
    mask = blobs(radius)
    assert np.array_equal(ours(mask, float(radius)), theirs(mask, ball(radius).astype(bool)))


@pytest.mark.parametrize("change", [dilated, eroded, closed, opened])
def test_masks_that_are_empty_or_full_stay(change):
    for mask in (np.zeros((4, 5, 6), bool), np.ones((4, 5, 6), bool)):
        assert np.array_equal(change(mask, 2.0), mask)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_every_voxel_keeps_one_known_label(seed):
    rng = generator(seed)
    before = rng.integers(0, 4, (3, 3, 3)).repeat(4, 0).repeat(4, 1).repeat(4, 2).astype(np.int16)
    kept = before.copy()
    after = corrupt(rng, before, labels=4)
    assert after.dtype == np.int16
    assert after.shape == before.shape
    assert set(np.unique(after)) <= {0, 1, 2, 3}
    assert np.array_equal(before, kept)


def test_the_box_that_a_label_is_changed_in_changes_nothing(monkeypatch):
    indices = np.where(blobs(5, 30), 1, 0).astype(np.int16)
    indices[:9] = 0
    quick = [move_borders(generator(i), indices, 2) for i in range(60)]
    monkeypatch.setattr(room, "_change_in_box", lambda mask, radius, change: change(mask, radius))
    assert all(np.array_equal(a, move_borders(generator(i), indices, 2)) for i, a in enumerate(quick))


def test_voxels_that_a_label_gains_are_taken_from_the_others(monkeypatch):
    monkeypatch.setattr(room, "OPERATORS", (dilated,))
    indices = cube(label=1)
    indices[16:20] = 2
    gains = [move_borders(generator(i), indices, 3) for i in range(60)]
    assert any(((now == 1) & (indices == 2)).any() for now in gains)
    assert all((now > 0).sum() >= (indices > 0).sum() for now in gains)


def test_voxels_that_a_label_loses_become_background(monkeypatch):
    monkeypatch.setattr(room, "OPERATORS", (eroded,))
    indices = cube(label=1) + cube(at=2, edge=5, label=2)
    lost = [move_borders(generator(i), indices, 3) for i in range(60)]
    assert all(np.isin(now[now != indices], (0,)).all() for now in lost)
    assert any((now != indices).any() for now in lost)


def test_borders_move_in_two_patches_of_five_and_then_half_of_the_labels(monkeypatch):
    monkeypatch.setattr(room, "_change_in_box", lambda mask, radius, change: ~mask)
    indices = np.arange(4, dtype=np.int16).reshape(1, 1, 4)
    seen = []
    monkeypatch.setattr(room, "_draw_labels", lambda rng, labels: seen.append(chosen(rng, labels)) or seen[-1])
    for number in NUMBERS:
        move_borders(generator(number), indices, 4)
    assert len(seen) / len(NUMBERS) == pytest.approx(0.4, abs=0.03)
    assert np.mean([len(labels) / 3 for labels in seen]) == pytest.approx(0.5, abs=0.03)


chosen = room._draw_labels


def test_operators_and_radii_are_drawn_evenly(monkeypatch):
    seen = []
    monkeypatch.setattr(room, "_change_in_box", lambda mask, radius, change: seen.append((radius, change)) or mask)
    for number in NUMBERS:
        move_borders(generator(number), cube(0, 1, 1), 2)
    radii = np.array([radius for radius, _ in seen])
    assert radii.min() >= 1
    assert radii.max() <= 8
    assert radii.mean() == pytest.approx(4.5, abs=0.3)
    shares = [np.mean([change is operator for _, change in seen]) for operator in (dilated, eroded, closed, opened)]
    assert shares == pytest.approx([0.25] * 4, abs=0.07)


def test_a_small_piece_is_lost_in_one_patch_of_ten():
    indices = cube(2, 3, 12) + cube(7, 4, 12)
    after = [remove_components(generator(number), indices, 2) for number in NUMBERS]
    left = np.array([now.sum() for now in after])
    assert np.mean(left < 27 + 64) == pytest.approx(0.2 * 0.5, abs=0.02)
    assert set(left) == {27, 64, 27 + 64}
    assert np.mean(left == 27) == pytest.approx(0.05, abs=0.02)


def test_a_piece_that_fills_much_of_the_patch_stays():
    indices = cube(0, 7, 12)  # a fifth of the patch
    assert all(np.array_equal(remove_components(generator(i), indices, 2), indices) for i in range(200))


def test_pieces_that_touch_at_a_corner_are_one():
    indices = cube(0, 3, 12) + cube(3, 3, 12)
    assert {int(remove_components(generator(i), indices, 2).sum()) for i in range(200)} == {0, 54}


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("patch", [(8, 8, 8), (8, 8)])
@pytest.mark.parametrize("turned", [0.0, 1.0])
def test_the_network_sees_the_scan_and_one_channel_a_label(patch, turned):
    plan = plan_of(patch, augmentation=CALM | {"rotation_probability": turned, "mirror_axes": (0, 1)})
    for step in range(5):
        batch = Patches([case_of()], plan, fold=0, device=CPU).batch(step)
        assert batch.image.shape == (3, 2 + 3, *patch)
        expected = [batch.labels == label for label in (1, 2, 3)]  # the previous answer is the label map here
        assert torch.equal(batch.image[:, 2:], torch.stack(expected, 1).float())


@pytest.mark.parametrize("patch", [(8, 8, 8), (8, 8)])
@pytest.mark.parametrize("masked", [False, True])
def test_the_scan_is_augmented_as_without_a_previous_answer(patch, masked):
    augmentation = WILD | {"mirror_axes": (0, 1)}
    shown, alone = (plan_of(patch, previous=p, augmentation=augmentation, masked=masked) for p in ("3d_lowres", None))
    for step in range(5):
        cascade = Patches([case_of()], shown, fold=0, device=CPU).batch(step)
        plain = Patches([case_of(shown=False)], alone, fold=0, device=CPU).batch(step)
        assert torch.equal(cascade.image[:, :2], plain.image)
        assert torch.equal(cascade.labels, plain.labels)


def test_a_corrupted_patch_depends_on_its_number_alone():
    plan = plan_of(augmentation=WILD)
    first, again = (Patches([case_of()], plan, fold=0, device=CPU) for _ in range(2))
    again.batch(0)
    batches = [first.batch(step) for step in range(6)]
    assert all(torch.equal(again.batch(step).image, batches[step].image) for step in (5, 0, 3))
    shown = torch.cat([batch.image[:, 2:] for batch in batches])
    assert torch.equal(shown, shown.round())
    assert shown.sum(1).max() == 1


def test_the_estimate_on_held_out_patches_shows_the_answer_as_it_is():
    class Copies(torch.nn.Module):
        def forward(self, image):
            return torch.cat([0.5 - image[:, 2:].sum(1, keepdim=True), image[:, 2:]], 1)

    context = TrainingContext(plan=plan_of(), fold=0, device=CPU, dtype=torch.float32)
    assert Validation([case_of()], context).estimate(Copies(), {}) == {"a": 1.0, "b": 1.0, "c": 1.0}
