"""Losses: how far logits are from the reference. 0 is perfect, and every loss is a table entry.

A loss is built of terms, and a term is a function of `Evidence`, the few sums and voxel-wise values that all of them share. Sums
are taken in float32 whatever the network computed in. One-hot references are never built: what a label's voxels were given is
gathered.

Sources: nnU-Net (Isensee et al. 2021) for soft Dice + cross-entropy and deep supervision; Rahman & Wang 2016 (IoU); Salehi et al.
2017 (Tversky); Lin et al. 2017 (focal).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nnseg.core.plan import Plan

SMOOTHING = 1e-5
"""Added above and below in Dice, so that a label absent from reference and prediction counts as perfect."""

TVERSKY_FALSE_POSITIVE, TVERSKY_FALSE_NEGATIVE = 0.3, 0.7
FOCUS = 2.0
"""The exponent of the focal loss."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """The reference, and what the heads mean.

    Args:
        labels: int64 (B, *space) of label indices, -1 where nobody annotated.
        members: bool (K, labels), as `nnseg.core.labels.Labels.members` gives it.
        regions: heads are regions, each with a sigmoid, and may overlap; else labels, under one softmax.
        batch: take overlaps of the whole batch as of one volume.
    """

    labels: Tensor
    members: Tensor
    regions: bool = False
    batch: bool = False


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What terms are made of; only annotated voxels count.

    Args:
        both, predicted, reference: (B, heads) soft counts of voxels, without the background's head; B is 1 for a batch's sums.
        log_truth: (B, heads or 1, voxels) log-probability given to what the reference says; 0 where not annotated.
        count: how many entries of ``log_truth`` are annotated, at least 1.
    """

    both: Tensor
    predicted: Tensor
    reference: Tensor
    log_truth: Tensor
    count: Tensor

    def over_batch(self) -> Evidence:
        """The same with the batch as one volume."""
        sums = {name: getattr(self, name).sum(0, keepdim=True) for name in ("both", "predicted", "reference")}
        return replace(self, **sums)


Term = Callable[[Evidence], Tensor]
Loss = Callable[[Tensor, Target], Tensor]


def dice_loss(evidence: Evidence) -> Tensor:
    """1 - soft Dice, averaged over samples and heads."""
    total = evidence.predicted + evidence.reference
    return 1 - ((2 * evidence.both + SMOOTHING) / (total + SMOOTHING)).mean()


def iou_loss(evidence: Evidence) -> Tensor:
    """1 - soft intersection over union; half the smoothing keeps iou = dice / (2 - dice) exact for one sample and head."""
    union = evidence.predicted + evidence.reference - evidence.both
    return 1 - ((evidence.both + SMOOTHING / 2) / (union + SMOOTHING / 2)).mean()


def tversky_loss(evidence: Evidence) -> Tensor:
    """1 - Tversky index, in which missed voxels weigh more than superfluous ones."""
    superfluous = TVERSKY_FALSE_POSITIVE * (evidence.predicted - evidence.both)
    missed = TVERSKY_FALSE_NEGATIVE * (evidence.reference - evidence.both)
    return 1 - ((evidence.both + SMOOTHING / 2) / (evidence.both + superfluous + missed + SMOOTHING / 2)).mean()


def cross_entropy(evidence: Evidence) -> Tensor:
    """Mean over annotated voxels, and regions; 0 where nothing is annotated."""
    return -evidence.log_truth.sum() / evidence.count


def focal_loss(evidence: Evidence) -> Tensor:
    """Cross-entropy in which voxels count less the better they are predicted."""
    doubt = (1 - evidence.log_truth.exp()) ** FOCUS
    return -(doubt * evidence.log_truth).sum() / evidence.count


def sum_of(*terms: Term) -> Loss:
    """A loss that adds terms, each with weight 1."""

    def loss(logits: Tensor, target: Target) -> Tensor:
        evidence = gather_evidence(logits, target)
        return torch.stack([term(evidence) for term in terms]).sum()

    return loss


def gather_evidence(logits: Tensor, target: Target) -> Evidence:
    """The evidence in logits (B, K, *space), in float32 at least."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).flatten(2).contiguous()
    labels = target.labels.flatten(1)
    annotated = (labels >= 0).to(logits.dtype)
    gather = _evidence_of_regions if target.regions else _evidence_of_labels
    evidence = gather(logits, labels.clamp(min=0), annotated, target.members)
    return evidence.over_batch() if target.batch else evidence


def make_loss(plan: Plan) -> Callable[[Sequence[Tensor] | Tensor, Tensor], Tensor]:
    """A function of a network's outputs (finest first, or only the finest) and of labels (B, *space), whose answer is a scalar.

    Labels are integers, indices into ``plan.labels.values``, -1 where nobody annotated. Coarser outputs are compared with labels
    picked from the middle of their voxels, with weights that halve from stage to stage.
    """
    training = plan.training
    single, members = LOSSES[training.loss], torch.from_numpy(plan.labels.members())

    def loss(outputs: Sequence[Tensor] | Tensor, labels: Tensor) -> Tensor:
        stages = [outputs] if isinstance(outputs, Tensor) else outputs
        target = Target(
            labels=labels, members=members.to(labels.device), regions=bool(plan.labels.regions), batch=training.batch_dice
        )
        losses = []
        with torch.autocast(labels.device.type, enabled=False):
            for weight, logits in zip(stage_weights(len(stages)), stages, strict=True):
                if weight:
                    here = replace(target, labels=downsample(labels, logits.shape[2:]).long())
                    losses.append(weight * single(logits, here))
        return torch.stack(losses).sum()

    return loss


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
    """Labels (B, *space) at the middle of every voxel of a coarser grid that covers the same space; `shape` divides theirs."""
    steps = [n // m for n, m in zip(labels.shape[1:], shape, strict=True)]
    return labels[(slice(None), *(slice(s // 2, None, s) for s in steps))]


def _evidence_of_labels(logits: Tensor, labels: Tensor, annotated: Tensor, members: Tensor) -> Evidence:
    log_probabilities = torch.log_softmax(logits, dim=1)
    log_truth = log_probabilities.gather(1, labels[:, None])[:, 0] * annotated
    counts = members.shape[0]
    both = _sums_by_label(log_truth.exp() * annotated, labels, counts)
    predicted = torch.bmm(log_probabilities.exp(), annotated[:, :, None])[:, :, 0]
    return Evidence(
        both=both[:, 1:],
        predicted=predicted[:, 1:],
        reference=_sums_by_label(annotated, labels, counts)[:, 1:],
        log_truth=log_truth[:, None],
        count=annotated.sum().clamp(min=1),
    )


def _evidence_of_regions(logits: Tensor, labels: Tensor, annotated: Tensor, members: Tensor) -> Evidence:
    inside = members[:, labels].transpose(0, 1)  # (B, K, voxels)
    probabilities = torch.sigmoid(logits) * annotated[:, None]
    return Evidence(
        both=torch.where(inside, probabilities, 0).sum(2),
        predicted=probabilities.sum(2),
        reference=(inside * annotated[:, None]).sum(2),
        log_truth=torch.nn.functional.logsigmoid(torch.where(inside, logits, -logits)) * annotated[:, None],
        count=(annotated.sum() * len(members)).clamp(min=1),
    )


def _sums_by_label(values: Tensor, labels: Tensor, count: int) -> Tensor:
    """(B, count) sums of values (B, voxels) over the voxels of each label."""
    if values.device.type == "cpu":
        return values.new_zeros(len(values), count).scatter_add(1, labels, values)
    # Elsewhere many threads would wait for the same few sums, and add in an order that differs from run to run.
    return torch.stack([torch.where(labels == k, values, 0).sum(1) for k in range(count)], dim=1)


LOSSES: dict[str, Loss] = {
    "dice_ce": sum_of(dice_loss, cross_entropy),
    "iou_ce": sum_of(iou_loss, cross_entropy),
    "tversky_ce": sum_of(tversky_loss, cross_entropy),
    "dice_focal": sum_of(dice_loss, focal_loss),
    "dice": sum_of(dice_loss),
    "iou": sum_of(iou_loss),
    "tversky": sum_of(tversky_loss),
    "ce": sum_of(cross_entropy),
    "focal": sum_of(focal_loss),
}
