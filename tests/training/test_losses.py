import math

import pytest
import torch

from nnseg.core.labels import Labels, Region
from nnseg.core.plan import Inference, Network, Normalization, Plan, Preprocessing, Training
from nnseg.training.losses import LOSSES, Target, downsample, make_loss, stage_weights

THREE = Labels(names=("background", "a", "b"), values=(0, 1, 2))
NESTED = Labels(
    names=("background", "oedema", "core"),
    values=(0, 1, 2),
    regions=(Region(name="whole", values=(1, 2), paint=1), Region(name="core", values=(2,), paint=2)),
)


def target(labels, legend=THREE, *, batch=False):
    return Target(labels=labels, members=torch.from_numpy(legend.members()), regions=bool(legend.regions), batch=batch)


def drawn(heads=3, *, seed=0, space=(4, 3, 5), dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, heads, *space, generator=generator, dtype=dtype)
    return logits, torch.randint(0, 3, (2, *space), generator=generator)


def plan_for(loss="dice_ce", *, labels=THREE, batch_dice=False):
    return Plan(
        name="2d",
        dataset="d",
        recipe="r",
        channels=("x",),
        patch=(8, 8),
        labels=labels,
        preprocessing=Preprocessing(axes=(0, 1, 2), spacing=(1, 1), normalization=(Normalization(scheme="zscore"),)),
        network=Network(kind="plain", features=(4,), strides=((1, 1),), kernels=((3, 3),), blocks=(1,), decoder_blocks=()),
        training=Training(batch_size=2, loss=loss, batch_dice=batch_dice),
        inference=Inference(),
    )


def test_two_voxels_by_hand():
    """Softmax (1/4, 3/4) and (1/2, 1/2), reference 1 and 0: both 3/4, predicted 5/4, reference 1."""
    logits = torch.tensor([[[0.0, 0.0], [math.log(3), 0.0]]])
    where = Target(labels=torch.tensor([[1, 0]]), members=torch.eye(2, dtype=torch.bool))
    ce = (math.log(4 / 3) + math.log(2)) / 2
    dice, iou = 1 - 1.5 / 2.25, 1 - 0.75 / 1.5
    tversky = 1 - 0.75 / (0.75 + 0.3 * 0.5 + 0.7 * 0.25)
    focal = ((1 / 4) ** 2 * math.log(4 / 3) + (1 / 2) ** 2 * math.log(2)) / 2
    expected = {
        "ce": ce,
        "dice": dice,
        "iou": iou,
        "tversky": tversky,
        "focal": focal,
        "dice_ce": dice + ce,
        "iou_ce": iou + ce,
        "tversky_ce": tversky + ce,
        "dice_focal": dice + focal,
    }
    assert {name: LOSSES[name](logits, where).item() for name in LOSSES} == pytest.approx(expected, abs=2e-5)


def test_overlapping_regions_by_hand():
    """Voxels 2 (in both regions) and 0 (in none); sigmoids 1/2 and 1/4 for whole, 3/4 and 1/2 for core."""
    logits = torch.tensor([[[0.0, -math.log(3)], [math.log(3), 0.0]]])
    where = target(torch.tensor([[2, 0]]), NESTED)
    dice = 1 - (2 * 0.5 / 1.75 + 2 * 0.75 / 2.25) / 2
    bce = (math.log(2) + math.log(4 / 3) + math.log(4 / 3) + math.log(2)) / 4
    assert LOSSES["dice"](logits, where).item() == pytest.approx(dice, abs=1e-5)
    assert LOSSES["ce"](logits, where).item() == pytest.approx(bce, abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("legend", [THREE, NESTED], ids=["labels", "regions"])
@pytest.mark.parametrize("batch", [False, True])
def test_gradients_equal_finite_differences(name, legend, batch):
    logits, labels = drawn(len(legend.heads), space=(2, 3))
    labels[0, 0, 0] = -1
    assert torch.autograd.gradcheck(lambda z: LOSSES[name](z, target(labels, legend, batch=batch)), logits.requires_grad_())


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("legend", [THREE, NESTED], ids=["labels", "regions"])
def test_a_perfect_prediction_costs_nothing_and_a_wrong_one_much(name, legend):
    _, labels = drawn()
    inside = torch.from_numpy(legend.members())[:, labels].transpose(0, 1)
    logits = torch.where(inside, 50.0, -50.0)
    assert LOSSES[name](logits, target(labels, legend)).item() == pytest.approx(0, abs=1e-5)
    assert LOSSES[name](-logits, target(labels, legend)).item() > 0.9


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("legend", [THREE, NESTED], ids=["labels", "regions"])
def test_ignored_voxels_count_as_little_as_if_cut_out(name, legend):
    logits, labels = drawn(len(legend.heads))
    ignoring = labels.clone()
    ignoring[:, :, 1:] = -1
    cut = LOSSES[name](logits[:, :, :, :1], target(labels[:, :, :1], legend))
    assert LOSSES[name](logits, target(ignoring, legend)).item() == pytest.approx(cut.item(), abs=1e-9)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("legend", [THREE, NESTED], ids=["labels", "regions"])
def test_where_nothing_is_annotated_there_is_nothing_to_learn(name, legend):
    logits, labels = drawn(len(legend.heads))
    loss = LOSSES[name](logits.requires_grad_(), target(torch.full_like(labels, -1), legend))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.item() == pytest.approx(0, abs=1e-9)
    assert not gradient.any()


def test_a_batch_of_one_is_the_same_as_one_volume_and_two_are_not():
    logits, labels = drawn()
    one = [LOSSES["dice"](logits[:1], target(labels[:1], batch=b)).item() for b in (False, True)]
    two = [LOSSES["dice"](logits, target(labels, batch=b)).item() for b in (False, True)]
    assert one[0] == pytest.approx(one[1], abs=1e-12)
    assert abs(two[0] - two[1]) > 1e-6
    side_by_side = torch.cat(list(logits), dim=-1)[None], torch.cat(list(labels), dim=-1)[None]
    assert LOSSES["dice"](side_by_side[0], target(side_by_side[1])).item() == pytest.approx(two[1], abs=1e-12)


def test_iou_is_dice_over_two_minus_dice():
    logits, labels = drawn()
    two = Labels(names=("background", "a"), values=(0, 1))
    where = target((labels > 0).long()[:1], two)
    dice, iou = (1 - LOSSES[name](logits[:1, :2], where).item() for name in ("dice", "iou"))
    assert iou == pytest.approx(dice / (2 - dice), abs=1e-12)


@pytest.mark.parametrize("batch", [False, True])
def test_monai_agrees(batch):
    losses = pytest.importorskip("monai.losses")
    logits, labels = drawn(space=(6, 5, 4))
    softmax = {"softmax": True, "to_onehot_y": True, "include_background": False, "batch": batch}
    smooth = {"smooth_nr": 1e-5, "smooth_dr": 1e-5}
    half = {"smooth_nr": 5e-6, "smooth_dr": 5e-6}
    theirs = {
        "dice": losses.DiceLoss(**softmax, **smooth),
        "iou": losses.DiceLoss(jaccard=True, **softmax, **smooth),
        "tversky": losses.TverskyLoss(alpha=0.3, beta=0.7, **softmax, **half),
        "dice_ce": losses.DiceCELoss(**softmax, **smooth),
        "focal": losses.FocalLoss(use_softmax=True, to_onehot_y=True, gamma=2),
    }
    for name, other in theirs.items():
        scale = 3 if name == "focal" else 1  # MONAI divides the focal loss by the number of heads too
        expected = scale * other(logits, labels[:, None]).item()
        assert LOSSES[name](logits, target(labels, batch=batch)).item() == pytest.approx(expected, abs=1e-6), name


def test_monai_agrees_on_regions():
    losses = pytest.importorskip("monai.losses")
    logits, labels = drawn(2)
    inside = torch.from_numpy(NESTED.members())[:, labels].transpose(0, 1).double()
    expected = losses.DiceLoss(sigmoid=True, smooth_nr=1e-5, smooth_dr=1e-5)(logits, inside)
    expected += torch.nn.functional.binary_cross_entropy_with_logits(logits, inside)
    assert LOSSES["dice_ce"](logits, target(labels, NESTED)).item() == pytest.approx(expected.item(), abs=1e-9)


def test_weights_of_deep_supervision():
    assert stage_weights(1) == [1.0]
    assert stage_weights(2) == pytest.approx([2 / 3, 1 / 3])
    assert stage_weights(3) == pytest.approx([2 / 3, 1 / 3, 0])
    assert stage_weights(5) == pytest.approx([8 / 15, 4 / 15, 2 / 15, 1 / 15, 0])


def test_a_coarser_grid_takes_labels_from_the_middle_of_its_voxels():
    labels = torch.arange(24).view(1, 4, 6)
    assert torch.equal(downsample(labels, (2, 2)), torch.tensor([[[7, 10], [19, 22]]]))
    assert torch.equal(downsample(labels, (4, 6)), labels)
    expected = torch.nn.functional.interpolate(labels[None].float(), (1, 3), mode="nearest-exact")[0].long()
    assert torch.equal(downsample(labels, (1, 3)), expected)


@pytest.mark.parametrize("name", ["dice_ce", "iou"])
def test_outputs_of_all_stages_are_weighted(name):
    logits, labels = drawn(space=(8, 8))
    half, _ = drawn(space=(4, 4), seed=1)
    unused = torch.full((2, 3, 2, 2), math.nan, dtype=torch.float64)
    loss = make_loss(plan_for(name))
    one, other = LOSSES[name](logits, target(labels)), LOSSES[name](half, target(labels[:, 1::2, 1::2]))
    assert loss(logits, labels).item() == pytest.approx(one.item())
    assert loss([logits], labels.short()).item() == pytest.approx(one.item())
    assert loss([logits, half], labels).item() == pytest.approx((2 * one + other).item() / 3)
    assert loss([logits, half, unused], labels).item() == pytest.approx((2 * one + other).item() / 3)


def test_the_plan_says_what_heads_mean_and_whether_batches_are_one_volume():
    logits, labels = drawn(2, space=(8, 8))
    loss = make_loss(plan_for("dice", labels=NESTED, batch_dice=True))
    assert loss(logits, labels).item() == pytest.approx(LOSSES["dice"](logits, target(labels, NESTED, batch=True)).item())


def test_sums_are_float32_under_autocast():
    logits, labels = drawn(space=(16, 16, 16), dtype=torch.bfloat16)
    loss = make_loss(plan_for())
    with torch.autocast("cpu", torch.bfloat16):
        half = loss(logits, labels)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(loss(logits.double(), labels).item(), abs=1e-5)
