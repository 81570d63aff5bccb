"""Losses of logits against a reference; 0 is perfect.

A loss is a sum of terms, and a term is a function of `OverlapSums`. Terms of overlap (Dice, IoU, Tversky, Lovász) average over
samples and heads, those of voxels (cross-entropy, top-k, focal) over annotated voxels. The background has no overlap of its own
with a softmax, except in Lovász's term. A new loss is a function in `TERMS` and a name in `nnseg.core.plan.LossName`.

Class weights apply to heads in overlaps, and to voxels by their label (regions: by the head) in the other terms; label smoothing
applies to ``ce`` and ``topk``. A plan with ``training.distillation`` adds `distillation_loss`, in which neither applies.

Sources: nnU-Net (Isensee et al. 2021) for soft Dice + cross-entropy and deep supervision; others at their terms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Protocol, get_args

import torch
from torch import Tensor
from torch.nn.functional import kl_div, logsigmoid

from nnseg.core.plan import LossName, Plan
from nnseg.training.context import SINGLE_PROCESS, Ranks
from nnseg.training.loss_terms import NOTHING, LossTarget, OverlapSums, overlap_sums

SMOOTHING = 1e-5
"""Added to numerator and denominator of Dice, so that a label absent from reference and prediction counts as perfect."""

TVERSKY_FALSE_POSITIVE, TVERSKY_FALSE_NEGATIVE = 0.3, 0.7
TVERSKY_FOCUS = 0.75
"""The exponent of the focal Tversky loss, 1 / (4/3)."""

FOCUS = 2.0
"""Exponent of the focal loss."""

HARDEST = 10
"""The top-k loss counts one voxel in this many: the worst predicted ones."""


Term = Callable[[OverlapSums], Tensor]
Loss = Callable[[Tensor, LossTarget], Tensor]

OwnLoss = Callable[[Tensor, Tensor], Tensor]
"""A user's loss: of float32 logits (B, K, *space) and int64 labels (B, *space), -1 where ignored, to a scalar."""


class StagedLoss(Protocol):
    """A loss of the logits of all stages."""

    def __call__(
        self,
        outputs: Sequence[Tensor] | Tensor,
        labels: Tensor,
        known: Tensor | None = None,
        probabilities: Tensor | None = None,
    ) -> Tensor:
        """A scalar, the same on all ranks.

        Args:
            outputs: logits (B, K, *space) of the stages, finest first, or only the finest.
            labels: integers (B, *space), indices into ``plan.labels.values``, -1 where not annotated.
            known: bool (B, labels), labels that were annotated in each sample; None if all were in all.
            probabilities: (B, F, *space) by other networks, see `distillation_loss`; None where the plan has no distillation.
        """
        ...


def dice_loss(sums: OverlapSums) -> Tensor:
    """1 - soft Dice, 2 |A B| / (|A| + |B|), averaged over samples and heads.

    Source: Milletari et al. 2016, with sums of probabilities instead of their squares in the denominator, as in nnU-Net.
    """
    total = sums.predicted + sums.reference
    return 1 - sums.mean((2 * sums.both + SMOOTHING) / (total + SMOOTHING), empty=1)


def iou_loss(sums: OverlapSums) -> Tensor:
    """1 - soft intersection over union; half the smoothing keeps iou = dice / (2 - dice) exact for one sample and head.

    Source: Rahman & Wang 2016.
    """
    union = sums.predicted + sums.reference - sums.both
    return 1 - sums.mean((sums.both + SMOOTHING / 2) / (union + SMOOTHING / 2), empty=1)


def tversky_loss(sums: OverlapSums) -> Tensor:
    """1 - Tversky index, in which false negatives weigh more than false positives.

    Source: Salehi et al. 2017, TP / (TP + 0.3 FP + 0.7 FN).
    """
    return 1 - sums.mean(_tversky_index(sums), empty=1)


def focal_tversky_loss(sums: OverlapSums) -> Tensor:
    """(1 - Tversky index) ** (3/4), averaged: heads that overlap well still have a gradient.

    A shift of 1e-7 avoids the infinite slope at 0, the value of absent labels.

    Source: Abraham & Khan 2019, equation 4 with gamma = 4/3.
    """
    shift = 1e-7
    missing = (1 - _tversky_index(sums)).clamp(min=0)
    return sums.mean((missing + shift) ** TVERSKY_FOCUS - shift**TVERSKY_FOCUS)


def lovasz_loss(sums: OverlapSums) -> Tensor:
    """Lovász extension of 1 - intersection over union, averaged over samples and the labels present in each.

    Errors |reference - probability| are sorted in descending order, and each is weighted by the increase of the Jaccard loss when
    its voxel is added to the wrong ones. With a softmax the labels present count, and the background too, without which a patch of
    background alone would have no gradient. Regions have errors of their sigmoids (not hinges of logits, which are not bounded) and
    count in all samples; the loss of an absent one is its largest error. Always sample by sample, also with ``batch_dice``.

    Source: Berman et al. 2018, equations 8, 9 and 11.
    """
    target = sums.target
    annotated = (target.labels >= 0)[:, None]
    inside = target.members[:, target.labels.clamp(min=0)].transpose(0, 1) & annotated  # (B, K, voxels)
    errors = torch.where(inside, 1 - sums.probabilities, sums.probabilities) * annotated
    losses = (errors * _jaccard_slopes(errors.detach(), inside)).sum(2)
    counted = (sums.voxel_weight > 0 if target.regions else inside).any(2)
    weight = counted.to(losses.dtype) if target.weights is None else counted * target.weights
    return sums.average((losses * weight).sum(), weight.sum())


def cross_entropy(sums: OverlapSums) -> Tensor:
    """The mean, weighted by class, over annotated voxels (and regions); 0 where nothing is annotated."""
    return -sums.average(sums.log_score.sum(), sums.count)


def topk_loss(sums: OverlapSums) -> Tensor:
    """Mean cross-entropy of those 10 % of each sample's annotated voxels, over all regions, in which it is largest.

    Source: Wu et al. 2016 (online bootstrapping), as in nnU-Net, which however uses a tenth of the whole batch.
    """
    errors = -sums.log_score.flatten(1)
    quota = ((sums.voxel_weight > 0).sum((1, 2)) + HARDEST - 1) // HARDEST
    worst = errors.topk(-(-errors.shape[1] // HARDEST), dim=1).values
    chosen = torch.arange(worst.shape[1], device=worst.device) < quota[:, None]
    return sums.average(torch.where(chosen, worst, 0).sum(), quota.sum().to(worst.dtype))


def focal_loss(sums: OverlapSums) -> Tensor:
    """Cross-entropy with smaller weights for well predicted voxels, -(1 - p)^2 log p.

    Source: Lin et al. 2017; class weights are its alpha.
    """
    focus = (1 - sums.log_truth.exp()) ** FOCUS
    return -sums.average((focus * sums.log_truth * sums.voxel_weight).sum(), sums.count)


def distillation_loss(logits: Tensor, probabilities: Tensor, target: LossTarget) -> Tensor:
    """Mean Kullback-Leibler divergence from other networks' probabilities over annotated voxels (and regions).

    It has the gradient of the cross-entropy with these probabilities, and is 0 where the network's own are equal to them. They also
    count for labels that were not annotated, and hold the class weights that the other networks were trained with.

    Args:
        logits: (B, K, *space).
        probabilities: (B, F, *space) of the labels without the background, or of the regions.
        target: the reference.

    Source: Hinton et al. 2015, section 2, at temperature 1.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).flatten(2)
    given = probabilities.to(logits.dtype).flatten(2).clamp(max=1)  # interpolation exceeds it by rounding
    annotated = (target.labels.flatten(1) >= 0).to(logits.dtype)
    if target.regions:
        own, given = torch.cat([logsigmoid(logits), logsigmoid(-logits)], dim=1), torch.cat([given, 1 - given], dim=1)
    else:
        background = (1 - given.sum(1, keepdim=True)).clamp(min=0)
        own, given = torch.log_softmax(logits, dim=1), torch.cat([background, given], dim=1)
    amount = (kl_div(own, given, reduction="none").sum(1) * annotated).sum()
    count = annotated.sum() * (logits.shape[1] if target.regions else 1)
    amounts, counts = target.ranks.sum(torch.stack([amount, count]))
    mean: Tensor = amounts / (counts + NOTHING)
    return mean


def sum_of(*terms: Term) -> Loss:
    """The sum of terms, each with weight 1."""

    def loss(logits: Tensor, target: LossTarget) -> Tensor:
        sums = overlap_sums(logits, target)
        return torch.stack([term(sums) for term in terms]).sum()

    return loss


def mean_of(own: OwnLoss) -> Loss:
    """A user's loss; over several ranks, its mean weighted by their numbers of samples.

    The background is ignored in samples in which some labels were not annotated, as it may be one of them.
    """

    def loss(logits: Tensor, target: LossTarget) -> Tensor:
        labels = target.labels
        if target.known is not None:
            partial = ~target.known[:, 1:].all(1)
            uncertain = partial.view(-1, *[1] * (labels.ndim - 1)) & (labels == 0)
            labels = torch.where(uncertain, -1, labels)
        value = own(logits.float(), labels)
        samples = torch.full_like(value.detach(), len(labels))
        return target.ranks.sum(value * (samples / target.ranks.sum(samples)))

    return loss


def make_loss(plan: Plan, *, ranks: Ranks = SINGLE_PROCESS, loss: OwnLoss | None = None) -> StagedLoss:
    """The plan's loss of a network's outputs against labels (B, *space).

    The logits of coarser stages are compared with the labels at the centres of their voxels; weights halve from stage to stage.

    Args:
        ranks: the processes that share a batch: values are those of the whole batch, and so is the mean of the ranks' gradients.
            All ranks must call the loss at the same point.
        loss: instead of the plan's.
    """
    single = LOSSES[plan.training.loss] if loss is None else mean_of(loss)
    share = plan.training.distillation

    @cache  # copying to the device at every step would make it wait
    def target_without_labels(device: torch.device) -> LossTarget:
        return _target_without_labels(plan, ranks, device)

    def staged(
        outputs: Sequence[Tensor] | Tensor, labels: Tensor, known: Tensor | None = None, probabilities: Tensor | None = None
    ) -> Tensor:
        stages = [outputs] if isinstance(outputs, Tensor) else outputs
        target = replace(target_without_labels(labels.device), known=None if known is None else known.to(labels.device))
        losses = []
        with torch.autocast(labels.device.type, enabled=False):
            for weight, logits in zip(stage_weights(len(stages)), stages, strict=True):
                if weight:
                    here = replace(target, labels=downsample(labels, logits.shape[2:]).long())
                    value = single(logits, here)
                    if probabilities is not None:
                        given = downsample(probabilities, logits.shape[2:])
                        value = (1 - share) * value + share * distillation_loss(logits, given, here)
                    losses.append(weight * value)
        return torch.stack(losses).sum()

    return staged


def stage_weights(stages: int) -> list[float]:
    """Weights of deep supervision, finest first: halved from stage to stage, the coarsest of three or more 0, their sum 1.

    Example:
        >>> stage_weights(3)
        [0.6666666666666666, 0.3333333333333333, 0.0]
    """
    raw = [0.5**i for i in range(stages)]
    if stages > 2:
        raw[-1] = 0.0
    return [w / sum(raw) for w in raw]


def downsample(labels: Tensor, shape: Sequence[int]) -> Tensor:
    """Labels (..., *space) at the centres of the voxels of a coarser grid; its ``shape`` divides theirs."""
    steps = [n // m for n, m in zip(labels.shape[-len(shape) :], shape, strict=True)]
    return labels[(*[slice(None)] * (labels.ndim - len(shape)), *(slice(s // 2, None, s) for s in steps))]


def _target_without_labels(plan: Plan, ranks: Ranks, device: torch.device) -> LossTarget:
    training, weights = plan.training, None
    if training.class_weights:
        weights = torch.tensor(training.class_weights, device=device)
        weights = weights / weights.mean()
    return LossTarget(
        labels=torch.empty(0, dtype=torch.int64, device=device),
        members=torch.from_numpy(plan.labels.members()).to(device),
        regions=bool(plan.labels.regions),
        batch=training.batch_dice,
        weights=weights,
        smoothing=training.label_smoothing,
        ranks=ranks,
    )


def _tversky_index(sums: OverlapSums) -> Tensor:
    extra = TVERSKY_FALSE_POSITIVE * (sums.predicted - sums.both)
    missed = TVERSKY_FALSE_NEGATIVE * (sums.reference - sums.both)
    return (sums.both + SMOOTHING / 2) / (sums.both + extra + missed + SMOOTHING / 2)


def _jaccard_slopes(errors: Tensor, inside: Tensor) -> Tensor:
    """The increase of 1 - intersection over union by each voxel (B, K, voxels), added to the wrong ones in the order of errors.

    In closed form: differences of successive values would be lost in rounding. Counts are integers, exact in any order.
    """
    order = errors.argsort(dim=2, descending=True)
    missed, total = inside.gather(2, order), inside.sum(2, keepdim=True)
    intersection = total - missed.cumsum(2)
    union = intersection + torch.arange(1, errors.shape[2] + 1, device=errors.device)
    outside = intersection / (union * (union - 1).clamp(min=1))
    slopes = torch.where(missed, 1 / union, outside).to(errors.dtype)
    slopes[:, :, :1].masked_fill_(total == 0, 1)
    return torch.empty_like(errors).scatter_(2, order, slopes)


TERMS: dict[str, Term] = {
    "dice": dice_loss,
    "iou": iou_loss,
    "tversky": tversky_loss,
    "focal_tversky": focal_tversky_loss,
    "lovasz": lovasz_loss,
    "ce": cross_entropy,
    "topk": topk_loss,
    "focal": focal_loss,
}
"""Every term by its name in `LossName`, where ``a_b`` is the sum of the terms a and b."""


def _loss_called(name: str) -> Loss:
    terms = [name] if name in TERMS else name.rsplit("_", 1)
    if unknown := [term for term in terms if term not in TERMS]:
        raise TypeError(f'the loss "{name}" of LossName needs a function in TERMS for: {", ".join(unknown)}')
    return sum_of(*(TERMS[term] for term in terms))


LOSSES: dict[str, Loss] = {name: _loss_called(name) for name in get_args(LossName)}
