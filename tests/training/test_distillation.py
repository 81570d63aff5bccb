"""Training on probabilities of other networks: the loss, and patches in which they stay on the image."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from flat import NESTED, THREE, plan_for
from patch_examples import CPU, STILL, plan_of

from nnseg.core.errors import PlanError
from nnseg.core.labels import Labels, Region
from nnseg.core.plan import Extra
from nnseg.storage.case_levels import LEVELS, ImageWithLevels
from nnseg.training.learner import _split
from nnseg.training.loss_terms import LossTarget
from nnseg.training.losses import distillation_loss, make_loss
from nnseg.training.patches import Patches

LEGENDS = pytest.mark.parametrize("legend", [THREE, NESTED], ids=["labels", "regions"])


def target(labels, legend=THREE):
    return LossTarget(labels=labels, members=torch.from_numpy(legend.members()), regions=bool(legend.regions))


def drawn(legend, *, seed=0, space=(4, 6), dtype=torch.float64):
    """Logits, labels, and probabilities of the foreground."""
    generator = torch.Generator().manual_seed(seed)
    logits, others = (torch.randn(2, len(legend.heads), *space, generator=generator, dtype=dtype) for _ in range(2))
    labels = torch.randint(0, 3, (2, *space), generator=generator)
    return logits, labels, probabilities_of(others, legend)


def probabilities_of(logits, legend):
    return logits.sigmoid() if legend.regions else logits.softmax(1)[:, 1:]


def test_the_divergence_of_two_voxels_by_hand():
    """The network says (1/4, 3/4) and (1/2, 1/2), the others (1/2, 1/2) and (0, 1)."""
    logits = torch.tensor([[[0.0, 0.0], [math.log(3), 0.0]]])
    given = torch.tensor([[[0.5, 1.0]]])
    first = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    where = LossTarget(labels=torch.tensor([[0, 1]]), members=torch.eye(2, dtype=torch.bool))
    assert distillation_loss(logits, given, where).item() == pytest.approx((first + math.log(2)) / 2, abs=1e-6)


def test_the_divergence_of_regions_by_hand():
    """Sigmoids 1/2 and 3/4 of one voxel; the others say 1/4 and 1."""
    logits = torch.tensor([[[0.0], [math.log(3)]]])
    whole = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    found = distillation_loss(logits, torch.tensor([[[0.25], [1.0]]]), target(torch.tensor([[1]]), NESTED))
    assert found.item() == pytest.approx((whole + math.log(4 / 3)) / 2, abs=1e-6)


@LEGENDS
def test_equal_probabilities_have_no_divergence(legend):
    logits, labels, _ = drawn(legend)
    found = distillation_loss(logits, probabilities_of(logits, legend), target(labels, legend))
    assert found.item() == pytest.approx(0, abs=1e-12)


@LEGENDS
def test_its_gradient_equals_finite_differences_and_that_of_the_cross_entropy(legend):
    logits, labels, given = drawn(legend)
    labels[0, 0] = -1
    given[0, 0, 1] = 0
    where = target(labels, legend)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: distillation_loss(z, given, where), logits)
    distillation_loss(logits, given, where).backward()
    divergence, logits.grad = logits.grad, None
    if legend.regions:
        entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, given, reduction="none").mean(1)
    else:
        entropy = torch.nn.functional.cross_entropy(logits, torch.cat([1 - given.sum(1, keepdim=True), given], 1), reduction="none")
    entropy[labels >= 0].mean().backward()
    torch.testing.assert_close(divergence, logits.grad)


@LEGENDS
def test_ignored_voxels_do_not_count(legend):
    logits, labels, given = drawn(legend)
    labels[:, 2:] = -1
    before = distillation_loss(logits, given, target(labels, legend))
    given[:, :, 2:] = 0.3
    assert torch.equal(distillation_loss(logits, given, target(labels, legend)), before)
    assert distillation_loss(logits, given, target(torch.full_like(labels, -1), legend)).item() == 0


def test_probabilities_above_1_by_rounding_are_1():
    logits, labels, given = drawn(NESTED, dtype=torch.float32)
    given[:] = 1
    exact = distillation_loss(logits, given, target(labels, NESTED))
    assert distillation_loss(logits, given * (1 + 2e-7), target(labels, NESTED)).item() == pytest.approx(exact.item(), rel=1e-5)


@LEGENDS
def test_a_plan_mixes_both_losses_at_each_stage(legend):
    logits, labels, given = drawn(legend, space=(8, 8), dtype=torch.float32)
    stages = [logits, logits[:, :, ::2, ::2] + 1]
    with_references = make_loss(plan_for(labels=legend))(stages, labels)
    mixed = make_loss(plan_for(labels=legend, distillation=0.25))(stages, labels, None, given)
    divergences = [
        distillation_loss(z, given[(..., *where)], target(labels[(..., *where)], legend))
        for z, where in zip(stages, [(slice(None),) * 2, (slice(1, None, 2),) * 2], strict=True)
    ]
    expected = 0.75 * with_references + 0.25 * (2 / 3 * divergences[0] + 1 / 3 * divergences[1])
    assert mixed.item() == pytest.approx(expected.item(), rel=1e-5)


def distilling(patch=(8, 8, 8), *, labels=None, augmentation=STILL, **training):
    plan = plan_of(patch, augmentation=augmentation, distillation=0.5, **training)
    return plan if labels is None else plan.model_copy(update={"labels": labels})


def case_with_levels(shape=(24, 24, 24), foreground=3, seed=0):
    """The image is the probability of the first label; the others are drawn."""
    levels = np.random.default_rng(seed).integers(0, LEVELS // 4, (foreground, *shape)).astype(np.uint8)
    image = levels[:1].astype(np.float32) / LEVELS
    labels = np.zeros(shape, np.int16)
    return SimpleNamespace(name="a", image=ImageWithLevels(image, levels), labels=labels, locations={}, annotated=None, known=None)


@pytest.mark.parametrize("patch", [(8, 10, 12), (10, 12)])
def test_probabilities_stay_on_the_image_under_every_change_of_place(patch):
    moving = {"rotation_probability": 0.5, "scaling_probability": 0.5, "elastic_probability": 0.5}
    moving |= {"mirror_axes": tuple(range(len(patch)))}
    patches = Patches([case_with_levels()], distilling(patch, augmentation=STILL | moving), fold=0, device=CPU)
    found = [patches.batch(step) for step in range(20)]
    assert all(batch.image.shape == (2, 1, *patch) and batch.probabilities.shape == (2, 3, *patch) for batch in found)
    for batch in found:
        torch.testing.assert_close(batch.probabilities[:, :1], batch.image, atol=1e-6, rtol=0)
    assert max(float(batch.probabilities[:, 1].max()) for batch in found) > 0.1


def test_images_and_labels_are_those_of_a_plan_without_distillation():
    case = case_with_levels()
    alone = SimpleNamespace(**{**vars(case), "image": np.asarray(case.image[:])[:1]})
    wild = {"rotation_probability": 0.5, "noise_probability": 0.5, "mirror_axes": (0, 1, 2)}
    for step in range(5):
        both = Patches([case], distilling(augmentation=STILL | wild), fold=0, device=CPU).batch(step)
        one = Patches([alone], plan_of(augmentation=STILL | wild), fold=0, device=CPU).batch(step)
        assert torch.equal(both.image, one.image)
        assert torch.equal(both.labels, one.labels)
        assert one.probabilities is None


def test_changes_of_intensity_leave_probabilities():
    noisy = STILL | {"noise_probability": 1.0, "noise": (0.5, 0.5)}
    loud, plain = (Patches([case_with_levels()], distilling(augmentation=a), fold=0, device=CPU).batch(0) for a in (noisy, STILL))
    assert torch.equal(loud.probabilities, plain.probabilities)
    assert not torch.equal(loud.image, plain.image)


def test_outside_of_a_case_is_background():
    patches = Patches([case_with_levels((4, 24, 24))], distilling(), fold=0, device=CPU)
    assert not patches.batch(0).probabilities[:, :, [0, 1, 6, 7]].any()


SIDES = Labels(names=("background", "left", "right", "spine"), values=(0, 1, 2, 3))
SIDED = Labels(
    names=SIDES.names,
    values=SIDES.values,
    regions=tuple(Region(name=n, values=v, paint=v[0]) for n, v in {"right": (2,), "left": (1,), "all": (3, 1, 2)}.items()),
)


@pytest.mark.parametrize("legend", [SIDES, SIDED], ids=["labels", "regions"])
@pytest.mark.parametrize("patch", [(4, 6, 8), (6, 8)])
def test_left_stays_left_where_patches_are_mirrored(legend, patch):
    shape = (4, 6, 8)
    levels = np.zeros((3, *shape), np.uint8)
    left, right = (0, 1) if legend is SIDES else (1, 0)
    levels[left, ..., 4:], levels[right, ..., :4] = 200, 100
    levels[2] = 50
    image = np.where(levels[[left]] > 0, 1.0, -1.0).astype(np.float32)
    case = SimpleNamespace(
        name="a", image=ImageWithLevels(image, levels), labels=np.zeros(shape, np.int16), locations={}, annotated=None, known=None
    )
    sided = STILL | {"swapped_labels": ((1, 2),), "swap_axis": len(patch) - 1, "mirror_axes": (len(patch) - 1,)}
    patches = Patches([case], distilling(patch, labels=legend, augmentation=sided, batch_size=4), fold=0, device=CPU)
    found = torch.cat([patches.batch(step).probabilities for step in range(5)])
    assert not found[:, left, ..., :4].any()
    assert not found[:, right, ..., 4:].any()
    assert sorted({round(float(v) * LEVELS) for v in found[:, left, ..., 4:].flatten()}) == [100, 200]  # mirrored, and not
    assert {round(float(v) * LEVELS) for v in found[:, 2].flatten()} == {50}


def test_probabilities_move_with_a_transform_of_batchgenerators():
    """The transform turns nothing here: what matters is that whole levels come through."""
    extra = (Extra(name="GaussianNoiseTransform", settings={"noise_variance": (0.1, 0.1)}),)
    with_extra, plain = (
        Patches([case_with_levels()], distilling(augmentation=STILL | more), fold=0, device=CPU).batch(0)
        for more in ({"extra": extra}, {})
    )
    torch.testing.assert_close(with_extra.probabilities, plain.probabilities, atol=1e-6, rtol=0)
    assert not torch.equal(with_extra.image, plain.image)


def test_parts_of_a_batch_keep_their_probabilities():
    batch = Patches([case_with_levels()], distilling(batch_size=3), fold=0, device=CPU).batch(0)
    assert torch.equal(torch.cat([part.probabilities for part in _split(batch, 2)]), batch.probabilities)
    assert [part.probabilities for part in _split(replace(batch, probabilities=None), 2)] == [None, None]


def test_cases_without_probabilities_are_refused():
    case = case_with_levels()
    case.image = np.asarray(case.image[:])[:1]
    with pytest.raises(PlanError, match=r"training\.distillation needs probabilities of other networks beside the cases"):
        Patches([case], distilling(), fold=0, device=CPU)
