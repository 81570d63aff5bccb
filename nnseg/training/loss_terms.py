"""The reference of a loss, and the sums and voxel-wise values that all its terms are made of.

Sums are float32 whatever the network's precision. One-hot references are never built: the probabilities of the reference's labels
are gathered. Every term averages with `OverlapSums.average`, so that several processes give the result of one.

Where only some labels were annotated in a sample, a voxel of the background may belong to any of the others. With a softmax its
probability is then the sum over the background and all of these, and overlaps count the annotated labels only; regions that contain
a label that was not annotated do not count.

Source: Shi et al. 2021 (marginal loss) for partial labels; Szegedy et al. 2016 for label smoothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from nnseg.training.context import SINGLE_PROCESS, Ranks

NOTHING = 1e-30
"""Added to divisors, where it is lost in rounding unless they are zero."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LossTarget:
    """The reference, the labels of each head, and the weights.

    Args:
        labels: int64 (B, *space) of label indices, -1 where not annotated.
        members: bool (K, labels), as `nnseg.core.labels.Labels.members` gives it.
        regions: heads are regions, each with a sigmoid, and may overlap; else they are labels, with one softmax.
        batch: compute overlaps of the whole batch as one volume.
        known: bool (B, labels), labels that were annotated in each sample; None if all were in all. The background's column is
            not used.
        weights: (K,) of the heads, their mean 1; None for equal weights.
        smoothing: label smoothing of cross-entropies.
        ranks: the processes that share the batch.
    """

    labels: Tensor
    members: Tensor
    regions: bool = False
    batch: bool = False
    known: Tensor | None = None
    weights: Tensor | None = None
    smoothing: float = 0.0
    ranks: Ranks = SINGLE_PROCESS


@dataclass(frozen=True, kw_only=True, eq=False)
class OverlapSums:
    """Overlaps and log-probabilities that the terms of a loss are made of; only annotated voxels count.

    Args:
        target: with labels (B, voxels).
        probabilities: (B, K, voxels); the background's include labels that were not annotated.
        both, predicted, reference: (B, heads) soft counts of voxels in the intersection, the prediction and the reference, without
            the background's head; B is 1 for sums of the batch.
        head_weight: (B, heads) weights in means, 0 where not annotated.
        log_truth: (B, heads or 1, voxels) log-probability of the reference; 0 where not annotated.
        log_score: the same, with label smoothing and weights.
        voxel_weight: the weights of ``log_truth``'s entries, 0 where not annotated.
        count: their sum.
    """

    target: LossTarget
    probabilities: Tensor
    both: Tensor
    predicted: Tensor
    reference: Tensor
    head_weight: Tensor
    log_truth: Tensor
    log_score: Tensor
    voxel_weight: Tensor
    count: Tensor

    def average(self, amount: Tensor, count: Tensor, *, empty: float = 0.0) -> Tensor:
        """``amount / count``, both summed over all ranks; ``empty`` if the count is zero."""
        amounts, counts = self.target.ranks.sum(torch.stack([amount, count]))
        mean: Tensor = (amounts + empty * NOTHING) / (counts + NOTHING)
        return mean

    def mean(self, values: Tensor, *, empty: float = 0.0) -> Tensor:
        """The weighted mean of (B, heads) over samples and heads."""
        return self.average((values * self.head_weight).sum(), self.head_weight.sum(), empty=empty)

    def over_batch(self) -> OverlapSums:
        """The sums of the batch, on all ranks, as one volume; a head counts if it was annotated in any sample."""
        known = (self.head_weight > 0).to(self.head_weight.dtype)
        rows = [v.sum(0, keepdim=True) for v in (self.both, self.predicted, self.reference, self.head_weight, known)]
        both, predicted, reference, weight, samples = self.target.ranks.sum(torch.stack(rows))
        weight = weight / samples.clamp(min=1)
        return replace(self, both=both, predicted=predicted, reference=reference, head_weight=weight)


def overlap_sums(logits: Tensor, target: LossTarget) -> OverlapSums:
    """Overlaps and log-probabilities of logits (B, K, *space), in float32 or a wider type."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).flatten(2).contiguous()
    labels = target.labels.flatten(1)
    if target.known is not None:
        unknown = ~target.known.gather(1, labels.clamp(min=0))
        labels = torch.where(unknown & (labels > 0), 0, labels)
    weights = None if target.weights is None else target.weights.to(logits.dtype)
    compute = _sums_of_regions if target.regions else _sums_of_labels
    sums = compute(logits, replace(target, labels=labels, weights=weights))
    return sums.over_batch() if target.batch else sums


def _sums_of_labels(logits: Tensor, target: LossTarget) -> OverlapSums:
    annotated, labels = (target.labels >= 0).to(logits.dtype), target.labels.clamp(min=0)
    log_probabilities = torch.log_softmax(logits, dim=1)
    if target.known is not None:
        log_probabilities = _merge_unknown(log_probabilities, target.known)
    log_truth = log_probabilities.gather(1, labels[:, None])[:, 0] * annotated
    probabilities, heads = log_probabilities.exp(), len(target.members)
    both = _sums_by_label(log_truth.exp() * annotated, labels, heads)
    predicted = torch.bmm(probabilities, annotated[:, :, None])[:, :, 0]
    reference = _sums_by_label(annotated, labels, heads)
    known = None if target.known is None else target.known[:, 1:]
    weights = None if target.weights is None else target.weights[1:]
    voxel_weight = annotated if target.weights is None else annotated * target.weights[labels]
    log_score = log_truth if target.weights is None else log_truth * voxel_weight
    if target.smoothing:
        spread = _smoothed(log_probabilities, target.weights) * annotated
        log_score = (1 - target.smoothing) * log_score + target.smoothing / heads * spread
    return OverlapSums(
        target=target,
        probabilities=probabilities,
        both=_where_known(both[:, 1:], known),
        predicted=_where_known(predicted[:, 1:], known),
        reference=_where_known(reference[:, 1:], known),
        head_weight=_head_weight(both[:, 1:], known, weights),
        log_truth=log_truth[:, None],
        log_score=log_score[:, None],
        voxel_weight=voxel_weight[:, None],
        count=voxel_weight.sum(),
    )


def _sums_of_regions(logits: Tensor, target: LossTarget) -> OverlapSums:
    labels = target.labels.clamp(min=0)
    annotated = (target.labels >= 0).to(logits.dtype)[:, None]
    inside = target.members[:, labels].transpose(0, 1)  # (B, K, voxels)
    known = None if target.known is None else _known_regions(target.members, target.known)
    if known is not None:
        annotated = annotated * known[:, :, None]
    probabilities = torch.sigmoid(logits) * annotated
    both = torch.where(inside, probabilities, 0).sum(2)
    signed = torch.where(inside, logits, -logits)
    log_truth = log_score = logsigmoid(signed) * annotated
    if target.smoothing:  # as logsigmoid(-x) is logsigmoid(x) - x
        log_score = log_score - target.smoothing / 2 * signed * annotated
    voxel_weight = annotated
    if target.weights is not None:
        voxel_weight = annotated * target.weights[:, None]
        log_score = log_score * target.weights[:, None]
    head_weight = _head_weight(both, known, target.weights)
    return OverlapSums(
        target=target,
        probabilities=probabilities,
        both=both,
        predicted=probabilities.sum(2),
        reference=(inside * annotated).sum(2),
        head_weight=head_weight,
        log_truth=log_truth,
        log_score=log_score,
        voxel_weight=voxel_weight.expand_as(logits),
        count=(annotated.sum(2) * head_weight).sum(),
    )


def _merge_unknown(log_probabilities: Tensor, known: Tensor) -> Tensor:
    """Log-probabilities (B, K, voxels), those of background and not annotated labels replaced by that of all of these together."""
    merged = ~known
    merged[:, 0] = True
    merged_log = log_probabilities.masked_fill(~merged[:, :, None], -torch.inf).logsumexp(1, keepdim=True)
    return torch.where(merged[:, :, None], merged_log, log_probabilities)


def _smoothed(log_probabilities: Tensor, weights: Tensor | None) -> Tensor:
    """(B, voxels) sums over the labels."""
    return (log_probabilities if weights is None else log_probabilities * weights[:, None]).sum(1)


def _known_regions(members: Tensor, known: Tensor) -> Tensor:
    """(B, K) True if all labels of the region were annotated; the background is not if any other label is not."""
    unknown = ~known
    unknown[:, 0] = unknown[:, 1:].any(1)
    return ~(members & unknown[:, None]).any(2)


def _head_weight(like: Tensor, known: Tensor | None, weights: Tensor | None) -> Tensor:
    weight = torch.ones_like(like) if weights is None else weights.expand_as(like)
    return _where_known(weight, known)


def _where_known(values: Tensor, known: Tensor | None) -> Tensor:
    return values if known is None else values * known


def _sums_by_label(values: Tensor, labels: Tensor, count: int) -> Tensor:
    """(B, count) sums of values (B, voxels) over the voxels of each label."""
    if values.device.type == "cpu":
        return values.new_zeros(len(values), count).scatter_add(1, labels, values)
    # On GPUs, scatter_add would be slow for so few sums, and its order of additions random.
    return torch.stack([torch.where(labels == k, values, 0).sum(1) for k in range(count)], dim=1)
