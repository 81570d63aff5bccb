"""Left stays left in training patches: labels are renamed where a flip crosses the midline."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from patch_examples import STILL, plan_of

from nnseg.core.labels import Labels
from nnseg.training.augmentation.pose import Pose, swap_known, swap_labels
from nnseg.training.patches import Patches

CPU = torch.device("cpu")
SIDES = Labels(names=("background", "left", "right", "spine"), values=(0, 1, 2, 3))


def sided(patch=(4, 6, 8), **changes):
    settings = STILL | {"swapped_labels": ((1, 2),), "swap_axis": len(patch) - 1, "mirror_axes": tuple(range(len(patch)))}
    return plan_of(patch, augmentation=settings | changes, batch_size=4).model_copy(update={"labels": SIDES})


def poses(*mirrored):
    return [Pose(start=np.zeros(3, np.int64), mirrored=m) for m in mirrored]


def halves(shape=(4, 6, 8)):
    """Bright on the left, which is where x is high; labels say so."""
    labels = np.ones(shape, np.int16)
    labels[..., : shape[2] // 2] = 2
    image = np.where(labels == 1, 1.0, -1.0).astype(np.float32)[None]
    return SimpleNamespace(name="a", image=image, labels=labels, locations={}, annotated=None, known=None)


def test_only_patches_flipped_along_the_axis_are_renamed():
    labels = torch.tensor([[-1, 0, 1, 2, 3]] * 3).view(3, 1, 1, 5)
    swap_labels(labels, poses((), (0, 1), (1, 2)), sided())
    assert labels.view(3, 5).tolist() == [[-1, 0, 1, 2, 3], [-1, 0, 1, 2, 3], [-1, 0, 2, 1, 3]]


def test_the_axis_of_a_2d_plan_is_that_of_its_slices():
    labels = torch.tensor([1, 2]).view(2, 1, 1, 1)
    swap_labels(labels, poses((1,), (2,)), sided((6, 8)))
    assert labels.flatten().tolist() == [1, 1]


def test_a_previous_answer_is_renamed_as_floats():
    shown = torch.tensor([1.0, 2.0]).view(1, 1, 1, 2)
    swap_labels(shown, poses((2,)), sided())
    assert shown.flatten().tolist() == [2.0, 1.0]


def test_what_was_annotated_on_the_left_is_then_known_on_the_right():
    known = torch.tensor([[True, True, False, True]] * 2)
    assert swap_known(known, poses((2,), ()), sided()).tolist() == [[True, False, True, True], [True, True, False, True]]


@pytest.mark.parametrize("patch", [(4, 6, 8), (6, 8)])
def test_left_is_where_x_is_high_in_every_patch(patch):
    patches = Patches([halves()], sided(patch), fold=0, device=CPU)
    drawn = [patches.batch(step) for step in range(5)]
    labels = torch.cat([batch.labels for batch in drawn])
    assert (labels[..., 4:] == 1).all()
    assert (labels[..., :4] == 2).all()
    assert len({float(image[..., -1].mean()) for batch in drawn for image in batch.image}) == 2  # half of them were flipped


def test_without_pairs_labels_follow_the_voxels():
    plan = sided(swapped_labels=(), swap_axis=None)
    batch = Patches([halves()], plan, fold=0, device=CPU).batch(0)
    assert torch.equal(batch.labels == 1, batch.image[:, 0] > 0)


def test_turned_patches_are_renamed_too():
    plan = sided(rotation_probability=1.0, rotation_degrees=5.0)
    labels = torch.cat([Patches([halves()], plan, fold=0, device=CPU).batch(step).labels for step in range(5)])
    assert (labels[:, 1:3, 2:4, 6] == 1).all()
    assert (labels[:, 1:3, 2:4, 1] == 2).all()
