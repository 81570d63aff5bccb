import itertools
import math
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from flat import NESTED, THREE, plan_for

from nnseg.core.labels import Labels, Region
from nnseg.core.plan import LossName, Network
from nnseg.network.build import build_unet
from nnseg.training.loss_terms import LossTarget, overlap_sums
from nnseg.training.losses import LOSSES, downsample, focal_tversky_loss, make_loss, stage_weights

LEGENDS = pytest.mark.parametrize("legend", [THREE, NESTED], ids=["labels", "regions"])


def target(labels, legend=THREE, **how):
    return LossTarget(labels=labels, members=torch.from_numpy(legend.members()), regions=bool(legend.regions), **how)


def drawn(heads=3, *, seed=0, space=(4, 3, 5), dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, heads, *space, generator=generator, dtype=dtype)
    return logits, torch.randint(0, 3, (2, *space), generator=generator)


def test_two_voxels_by_hand():
    """Softmax (1/4, 3/4) and (1/2, 1/2), reference 1 and 0: both 3/4, predicted 5/4, reference 1."""
    logits = torch.tensor([[[0.0, 0.0], [math.log(3), 0.0]]])
    where = LossTarget(labels=torch.tensor([[1, 0]]), members=torch.eye(2, dtype=torch.bool))
    ce = (math.log(4 / 3) + math.log(2)) / 2
    dice, iou = 1 - 1.5 / 2.25, 1 - 0.75 / 1.5
    tversky = 1 - 0.75 / (0.75 + 0.3 * 0.5 + 0.7 * 0.25)
    focal = ((1 / 4) ** 2 * math.log(4 / 3) + (1 / 2) ** 2 * math.log(2)) / 2
    topk = math.log(2)
    background, label = 1 / 2, 1 / 2 * 1 / 2 + 1 / 4 * 1 / 2  # largest error first, times what it adds to the Jaccard loss
    lovasz = (background + label) / 2
    expected = {
        "ce": ce,
        "dice": dice,
        "iou": iou,
        "tversky": tversky,
        "focal": focal,
        "topk": topk,
        "lovasz": lovasz,
        "focal_tversky": tversky**0.75,
        "dice_ce": dice + ce,
        "iou_ce": iou + ce,
        "tversky_ce": tversky + ce,
        "dice_focal": dice + focal,
        "dice_topk": dice + topk,
        "lovasz_ce": lovasz + ce,
    }
    assert {name: LOSSES[name](logits, where).item() for name in LOSSES} == pytest.approx(expected, abs=2e-5)


def test_overlapping_regions_by_hand():
    """Voxels 2 (in both regions) and 0 (in none); sigmoids 1/2 and 1/4 for whole, 3/4 and 1/2 for core."""
    logits = torch.tensor([[[0.0, -math.log(3)], [math.log(3), 0.0]]])
    where = target(torch.tensor([[2, 0]]), NESTED)
    dice = 1 - (2 * 0.5 / 1.75 + 2 * 0.75 / 2.25) / 2
    bce = (math.log(2) + math.log(4 / 3) + math.log(4 / 3) + math.log(2)) / 4
    # Errors: 1/2 where whole is, 1/4 where it is not; 1/4 where core is, 1/2 where it is not, which alone halves its IoU.
    lovasz = (1 / 2 + (1 / 2 * 1 / 2 + 1 / 4 * 1 / 2)) / 2
    assert LOSSES["dice"](logits, where).item() == pytest.approx(dice, abs=1e-5)
    assert LOSSES["ce"](logits, where).item() == pytest.approx(bce, abs=1e-6)
    assert LOSSES["topk"](logits, where).item() == pytest.approx(math.log(2), abs=1e-6)
    assert LOSSES["lovasz"](logits, where).item() == pytest.approx(lovasz, abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
@LEGENDS
@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("plain", [True, False])
def test_gradients_equal_finite_differences(name, legend, batch, plain):
    logits, labels = drawn(len(legend.heads), space=(2, 3))
    labels[0, 0, 0] = -1
    labels[1] %= 2
    settings = {
        "weights": torch.linspace(0.5, 1.5, len(legend.heads)),
        "smoothing": 0.2,
        "known": torch.tensor([[True, True, True], [True, True, False]]),
    }
    where = target(labels, legend, batch=batch, **({} if plain else settings))
    assert torch.autograd.gradcheck(lambda z: LOSSES[name](z, where), logits.requires_grad_())


@pytest.mark.parametrize("name", LOSSES)
@LEGENDS
def test_a_perfect_prediction_costs_nothing_and_a_wrong_one_much(name, legend):
    _, labels = drawn()
    inside = torch.from_numpy(legend.members())[:, labels].transpose(0, 1)
    logits = torch.where(inside, 50.0, -50.0)
    assert LOSSES[name](logits, target(labels, legend)).item() == pytest.approx(0, abs=1e-5)
    assert LOSSES[name](-logits, target(labels, legend)).item() > 0.9


@pytest.mark.parametrize("name", LOSSES)
@LEGENDS
def test_ignored_voxels_count_as_little_as_if_cut_out(name, legend):
    logits, labels = drawn(len(legend.heads))
    ignoring = labels.clone()
    ignoring[:, :, 1:] = -1
    cut = LOSSES[name](logits[:, :, :, :1], target(labels[:, :, :1], legend))
    assert LOSSES[name](logits, target(ignoring, legend)).item() == pytest.approx(cut.item(), abs=1e-9)


@pytest.mark.parametrize("name", LOSSES)
@LEGENDS
def test_where_nothing_is_annotated_there_is_nothing_to_learn(name, legend):
    logits, labels = drawn(len(legend.heads))
    loss = LOSSES[name](logits.requires_grad_(), target(torch.full_like(labels, -1), legend))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.item() == pytest.approx(0, abs=1e-9)
    assert not gradient.any()


def test_overlaps_above_one_by_rounding_do_no_harm():
    """The two sums are taken in different orders: what is in both may come out as more than what is in one."""
    logits, labels = drawn()
    evidence = overlap_sums(logits, target(labels))
    rounded = evidence.reference.clone().requires_grad_()
    loss = focal_tversky_loss(replace(evidence, both=rounded, predicted=evidence.reference * (1 - 1e-6)))
    (gradient,) = torch.autograd.grad(loss, rounded)
    assert loss.item() == 0
    assert gradient.isfinite().all()


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


@pytest.mark.parametrize("batch", [False, True])
def test_monai_agrees_on_regions(batch):
    losses = pytest.importorskip("monai.losses")
    logits, labels = drawn(2)
    inside = torch.from_numpy(NESTED.members())[:, labels].transpose(0, 1).double()
    smooth, half = {"smooth_nr": 1e-5, "smooth_dr": 1e-5}, {"smooth_nr": 5e-6, "smooth_dr": 5e-6}
    sigmoid = {"sigmoid": True, "batch": batch}
    theirs = {
        "dice": losses.DiceLoss(**sigmoid, **smooth),
        "iou": losses.DiceLoss(jaccard=True, **sigmoid, **smooth),
        "tversky": losses.TverskyLoss(alpha=0.3, beta=0.7, **sigmoid, **half),
        "focal": losses.FocalLoss(gamma=2),
        "dice_focal": losses.DiceFocalLoss(gamma=2, **sigmoid, **smooth),
        "ce": torch.nn.BCEWithLogitsLoss(),
    }
    theirs["dice_ce"] = lambda *given: theirs["dice"](*given) + theirs["ce"](*given)
    for name, other in theirs.items():
        expected = other(logits, inside).item()
        assert LOSSES[name](logits, target(labels, NESTED, batch=batch)).item() == pytest.approx(expected, abs=1e-7), name


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


def test_there_is_a_loss_for_every_name_a_plan_may_give():
    assert set(LOSSES) == set(get_args(LossName))


@pytest.mark.parametrize("weights", [(), (1.0, 2.0, 6.0)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_torch_agrees_on_cross_entropy(weights, smoothing):
    logits, labels = drawn(space=(8, 8))
    labels[0, :3] = -1
    expected = torch.nn.functional.cross_entropy(
        logits,
        labels,
        weight=torch.tensor(weights, dtype=torch.float64) if weights else None,
        label_smoothing=smoothing,
        ignore_index=-1,
    )
    loss = make_loss(plan_for("ce", class_weights=weights, label_smoothing=smoothing))
    assert loss(logits, labels).item() == pytest.approx(expected.item(), abs=1e-7)


def test_regions_are_smoothed_towards_one_half_and_weighted_by_head():
    logits, labels = drawn(2, space=(8, 8))
    inside = torch.from_numpy(NESTED.members())[:, labels].transpose(0, 1).double()
    smooth = inside * 0.9 + 0.05
    whole, core = torch.nn.functional.binary_cross_entropy_with_logits(logits, smooth, reduction="none").mean((0, 2, 3)).tolist()
    loss = make_loss(plan_for("ce", labels=NESTED, class_weights=(1, 3), label_smoothing=0.1))
    assert loss(logits, labels).item() == pytest.approx((whole + 3 * core) / 4, abs=1e-7)


@pytest.mark.parametrize("name", ["dice", "iou", "tversky", "focal_tversky"])
@pytest.mark.parametrize("batch_dice", [False, True])
def test_overlaps_are_weighted_means_over_heads_whatever_the_background_weighs(name, batch_dice):
    logits, labels = drawn(space=(8, 8))

    def loss(*weights):
        return make_loss(plan_for(name, class_weights=weights, batch_dice=batch_dice))(logits, labels).item()

    first, second = loss(0, 1, 0), loss(0, 0, 1)
    assert loss(0, 1, 3) == pytest.approx((first + 3 * second) / 4, abs=1e-6)
    assert loss(7, 1, 3) == pytest.approx(loss(0, 1, 3), abs=1e-6)
    assert loss(2, 2, 2) == pytest.approx(make_loss(plan_for(name, batch_dice=batch_dice))(logits, labels).item(), abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
@LEGENDS
def test_equal_class_weights_change_nothing_however_large(name, legend):
    logits, labels = drawn(len(legend.heads), space=(8, 8))
    weighted = make_loss(plan_for(name, labels=legend, class_weights=(5.0,) * len(legend.heads)))(logits, labels).item()
    assert weighted == pytest.approx(make_loss(plan_for(name, labels=legend))(logits, labels).item(), abs=1e-9)


def test_voxels_of_weighted_labels_by_hand():
    """Softmax (1/4, 3/4) and (1/2, 1/2), reference 1 and 0, weights 3/2 and 1/2."""
    logits = torch.tensor([[[0.0, 0.0], [math.log(3), 0.0]]])
    where = LossTarget(labels=torch.tensor([[1, 0]]), members=torch.eye(2, dtype=torch.bool), weights=torch.tensor([0.5, 1.5]))
    focal = (1.5 * (1 / 4) ** 2 * math.log(4 / 3) + 0.5 * (1 / 2) ** 2 * math.log(2)) / 2
    lovasz = (0.5 * 1 / 2 + 1.5 * 3 / 8) / 2
    assert LOSSES["focal"](logits, where).item() == pytest.approx(focal, abs=1e-6)
    assert LOSSES["lovasz"](logits, where).item() == pytest.approx(lovasz, abs=1e-6)
    assert LOSSES["topk"](logits, where).item() == pytest.approx(1.5 * math.log(4 / 3), abs=1e-6)


def test_the_worst_tenth_of_each_samples_annotated_voxels_counts():
    """Errors log(1 + e^z): 20 annotated voxels in the first sample, of which 2 count, and 11 in the second, of which also 2."""
    margins = torch.arange(50, dtype=torch.float64).view(2, 25) / 10
    logits = torch.stack([torch.zeros_like(margins), margins], dim=1)
    labels = torch.zeros(2, 25, dtype=torch.int64)
    labels[0, 20:], labels[1, 11:] = -1, -1
    where = LossTarget(labels=labels, members=torch.eye(2, dtype=torch.bool))
    expected = np.mean([math.log1p(math.exp(z)) for z in (1.8, 1.9, 3.4, 3.5)])
    assert LOSSES["topk"](logits, where).item() == pytest.approx(expected, abs=1e-9)


@LEGENDS
def test_lovasz_is_one_minus_iou_where_predictions_are_certain(legend):
    """An extension of a function of sets has that function's values at the corners."""
    _, labels = drawn()
    _, predicted = drawn(seed=1)
    labels[0][labels[0] == 2] = 1
    predicted[0][predicted[0] == 2] = 0
    members = torch.from_numpy(legend.members())
    inside, guess = (members[:, x].transpose(0, 1).flatten(2) for x in (labels, predicted))
    lost = 1 - (inside & guess).sum(2) / (inside | guess).sum(2).clamp(min=1)
    expected = lost[inside.any(2)].mean() if legend is THREE else torch.where((inside | guess).any(2), lost, 0).mean()
    logits = torch.where(guess, 50.0, -50.0).view(2, -1, 4, 3, 5).double()
    assert LOSSES["lovasz"](logits, target(labels, legend)).item() == pytest.approx(expected.item(), abs=1e-6)


def test_lovasz_by_its_definition():
    """The sum, over nested sets of voxels got wrong, of their Jaccard losses times the steps between sorted errors."""
    logits, labels = drawn(seed=2)
    probabilities = logits.softmax(1)
    losses = []
    for sample, k in itertools.product(range(2), range(3)):
        inside = (labels[sample] == k).flatten().numpy()
        errors = np.abs(inside - probabilities[sample, k].flatten().numpy())
        order = np.argsort(-errors)
        steps = -np.diff([*errors[order], 0.0])
        wrong = (set(order[: n + 1]) for n in range(len(order)))
        reference = set(np.flatnonzero(inside))
        losses.append(sum(s * (1 - len(reference - w) / len(reference | w)) for s, w in zip(steps, wrong, strict=True)))
    assert LOSSES["lovasz"](logits, target(labels)).item() == pytest.approx(np.mean(losses), abs=1e-7)


def test_an_absent_region_is_charged_its_largest_error_and_an_absent_label_nothing():
    logits = torch.tensor([[[-1.0, 0.0, -2.0], [-3.0, -4.0, -5.0]]])
    none = torch.zeros(1, 3, dtype=torch.int64)
    expected = (1 / 2 + 1 / (1 + math.exp(3))) / 2
    assert LOSSES["lovasz"](logits, target(none, NESTED)).item() == pytest.approx(expected, abs=1e-6)
    two = Labels(names=("background", "a"), values=(0, 1))
    errors = sorted((1 / (1 + math.exp(z)) for z in (2.0, 4.0, 3.0)), reverse=True)
    assert LOSSES["lovasz"](logits, target(none, two)).item() == pytest.approx(sum(errors) / 3, abs=1e-6)


def test_background_stands_for_what_was_not_annotated_by_hand():
    """Softmax (1/2, 1/4, 1/4) everywhere; label 2 was not annotated: 3/4 for background, 1/4 for label 1."""
    logits = torch.tensor([math.log(2), 0.0, 0.0]).view(1, 3, 1).expand(1, 3, 4)
    where = target(torch.tensor([[0, 0, 1, -1]]), known=torch.tensor([[True, True, False]]))
    ce = (2 * math.log(4 / 3) + math.log(4)) / 3
    dice = 1 - 2 * 0.25 / (0.75 + 1)
    assert LOSSES["dice_ce"](logits, where).item() == pytest.approx(dice + ce, abs=1e-5)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("background", [False, True])
def test_labels_nobody_annotated_are_as_if_the_network_had_one_head_for_them_and_background(name, batch, background):
    logits, labels = drawn()
    labels[0, 0] = -1
    merged = torch.stack([logits[:, [0, 2]].logsumexp(1), logits[:, 1]], dim=1)
    two = Labels(names=("background", "a"), values=(0, 1))
    expected = LOSSES[name](merged, target(labels.where(labels != 2, 0), two, batch=batch))
    known = torch.tensor([[background, True, False]]).expand(2, 3)
    assert LOSSES[name](logits, target(labels, batch=batch, known=known)).item() == pytest.approx(expected.item(), abs=1e-9)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("batch", [False, True])
def test_regions_with_a_label_nobody_annotated_do_not_count(name, batch):
    """Label 1 is part of the whole, but not of the core."""
    logits, labels = drawn(2)
    labels = labels.where(labels != 1, 0)
    core = NESTED.model_copy(update={"regions": NESTED.regions[1:]})
    expected = LOSSES[name](logits[:, 1:], target(labels, core, batch=batch)).item()
    known = torch.tensor([[False, False, True]]).expand(2, 3)
    assert LOSSES[name](logits, target(labels, NESTED, batch=batch, known=known)).item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("background", [False, True])
def test_a_region_that_covers_background_does_not_count_where_background_may_be_something_else(name, background):
    outside = NESTED.model_copy(update={"regions": (Region(name="outside", values=(0, 1), paint=1), NESTED.regions[1])})
    logits, labels = drawn(2)
    partly, fully = (torch.tensor([[background, True, other]]).expand(2, 3) for other in (False, True))
    assert LOSSES[name](logits, target(labels, outside, known=partly)).item() == 0
    expected = LOSSES[name](logits, target(labels, outside)).item()
    assert LOSSES[name](logits, target(labels, outside, known=fully)).item() == pytest.approx(expected)


def test_means_and_sums_are_over_samples_that_know_the_label():
    logits, labels = drawn(2)
    labels = labels.where(labels != 1, 2)
    known = torch.tensor([[True, True, True], [True, False, True]])

    def dice(samples, head, batch):
        one = NESTED.model_copy(update={"regions": NESTED.regions[head : head + 1]})
        return LOSSES["dice"](logits[samples, head : head + 1], target(labels[samples], one, batch=batch)).item()

    by_sample = (dice([0], 0, False) + 2 * dice([0, 1], 1, False)) / 3
    as_one = (dice([0], 0, True) + dice([0, 1], 1, True)) / 2
    found = [LOSSES["dice"](logits, target(labels, NESTED, batch=b, known=known)).item() for b in (False, True)]
    assert found == pytest.approx([by_sample, as_one], abs=1e-9)


@pytest.mark.parametrize("name", LOSSES)
@LEGENDS
@pytest.mark.parametrize("batch", [False, True])
def test_all_labels_known_is_the_same_as_no_word_about_them(name, legend, batch):
    logits, labels = drawn(len(legend.heads))
    everything = target(labels, legend, batch=batch, known=torch.ones(2, 3, dtype=torch.bool))
    expected = LOSSES[name](logits, target(labels, legend, batch=batch)).item()
    assert LOSSES[name](logits, everything).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", LOSSES)
@LEGENDS
@pytest.mark.parametrize("known", [None, (True, True, False), (True, False, False)])
@pytest.mark.parametrize("batch", [False, True])
def test_losses_of_certain_networks_are_finite(name, legend, known, batch):
    """Half the samples are ignored, and label 2 is nowhere."""
    generator = torch.Generator().manual_seed(0)
    logits = (200.0 * torch.randint(0, 2, (2, len(legend.heads), 4, 5), generator=generator) - 100).requires_grad_()
    labels = torch.randint(0, 2, (2, 4, 5), generator=generator)
    labels[1] = -1
    weights = torch.linspace(0, 2, len(legend.heads))
    known = known and torch.tensor([known, known])
    loss = LOSSES[name](logits, target(labels, legend, known=known, batch=batch, weights=weights, smoothing=0.1))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.isfinite()
    assert gradient.isfinite().all()
    assert not gradient[1].any()


def test_a_loss_of_ones_own_is_supervised_at_all_stages_and_ignores_what_nobody_looked_for():
    logits, labels = drawn(space=(8, 8), dtype=torch.float32)
    half, _ = drawn(space=(4, 4), seed=1, dtype=torch.float16)
    seen = []

    def own(logits, labels):
        seen.append((logits.dtype, labels.dtype, labels))
        return logits.mean() + (labels < 0).sum()

    loss = make_loss(plan_for("dice", class_weights=(1, 2, 3)), loss=own)
    assert loss([logits, half], labels.short()).item() == pytest.approx((2 * logits.mean() + half.float().mean()).item() / 3)
    assert [s[:2] for s in seen] == [(torch.float32, torch.int64)] * 2
    loss(logits, labels, torch.tensor([[True, True, True], [True, False, True]]))
    assert torch.equal(seen[-1][2][0], labels[0])
    assert torch.equal(seen[-1][2][1], labels[1].where(labels[1] != 0, -1))


@pytest.mark.parametrize(("stages", "weights"), [(1, [1]), (2, [1]), (3, [2 / 3, 1 / 3]), (4, [2 / 3, 1 / 3, 0])])
def test_networks_of_every_depth_are_supervised(stages, weights):
    strides = ((1, 1), *[(2, 2)] * (stages - 1))
    shape = Network(
        kind="plain",
        features=(4,) * stages,
        strides=strides,
        kernels=((3, 3),) * stages,
        blocks=(1,) * stages,
        decoder_blocks=(1,) * (stages - 1),
    )
    torch.manual_seed(0)
    network = build_unet(shape, channels=1, heads=3)
    network.deep_supervision = True
    _, labels = drawn(space=(16, 16))
    outputs = network(torch.randn(2, 1, 16, 16))
    grids = [labels[:, s // 2 :: s, s // 2 :: s] for s in (1, 2, 4)[: len(outputs)]]
    expected = sum(w * LOSSES["dice_ce"](z, target(y)) for w, z, y in zip(weights, outputs, grids, strict=True))
    assert make_loss(plan_for())(outputs, labels).item() == pytest.approx(expected.item(), abs=1e-6)
