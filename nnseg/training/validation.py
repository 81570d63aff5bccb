"""A quick estimate of Dice on held-out patches, for history and curves; scores come from whole predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from nnseg.core.geometry import in_space
from nnseg.core.plan import Plan
from nnseg.network.inputs import SlicedCase, network_input
from nnseg.storage.cases import StoredCase
from nnseg.training.context import TrainingContext

MOST_PATCHES = 16


class Validation:
    """Fixed held-out patches, at most `MOST_PATCHES`, each around the median of a case's labelled voxels."""

    def __init__(self, cases: Sequence[StoredCase], context: TrainingContext) -> None:
        self._context = context
        chosen = [cases[i] for i in np.linspace(0, len(cases) - 1, min(MOST_PATCHES, len(cases))).round().astype(int)]
        pairs = [_middle_patch(case, context.plan) for case in chosen]
        self._images = [torch.from_numpy(image) for image, _ in pairs]
        self._labels = [torch.from_numpy(labels) for _, labels in pairs]
        self._names, self._places = context.plan.labels.whole, torch.tensor(context.plan.labels.whole_indices)
        self._members = torch.from_numpy(self._names.members())
        known = [case.known and tuple({int(self._places[i]) for i in case.known}) for case in chosen]
        self._whole = [_whole_heads(one, self._members) for one in known]

    @torch.inference_mode()
    def estimate(self, network: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, float | None]:
        """Dice of each label or region, pooled over the patches, of the network with the given weights.

        None for one that is in no patch; empty without held-out cases.
        """
        if not self._images:
            return {}
        labels = self._names
        network.eval()
        counts = sum(self._count(network, weights, i) for i in range(0, len(self._images), 4))
        assert isinstance(counts, Tensor)
        first = 0 if labels.regions else 1
        return {
            name: (2 * both / total if total else None)
            for name, (both, total) in zip(labels.foreground, counts[first:].tolist(), strict=True)
        }

    def _count(self, network: nn.Module, weights: Mapping[str, Tensor], start: int) -> Tensor:
        """(K, 2) numbers of voxels: in both, and in prediction plus reference."""
        device = self._context.device
        images = network_input(torch.stack(self._images[start : start + 4]).to(device), self._context.plan)
        indices = torch.stack(self._labels[start : start + 4]).to(device).long()
        with self._context.autocast():
            outputs = functional_call(network, dict(weights), (images,))
        logits = (outputs[0] if isinstance(outputs, list | tuple) else outputs).float()
        whole = torch.stack(self._whole[start : start + 4], 1).to(device)
        known = (indices >= 0) & whole.view(*whole.shape, *[1] * (indices.ndim - 1))  # K B Z Y X, as all masks here
        places, members = self._places.to(device), self._members.to(device)
        reference = members[:, places[indices.clamp(min=0)]] & known
        if self._names.regions:
            inside = (logits > 0).transpose(0, 1)
        else:
            inside = places[logits.argmax(1)][None] == torch.arange(len(members), device=device).view(-1, *[1] * indices.ndim)
        predicted = inside & known
        axes = tuple(range(1, reference.ndim))
        return torch.stack([(predicted & reference).sum(axes), predicted.sum(axes) + reference.sum(axes)], 1).cpu().double()


def _whole_heads(known: tuple[int, ...] | None, members: Tensor) -> Tensor:
    """(K,) True for heads that cover only the background and annotated labels; all True for ``known`` None."""
    others = [i for i in range(1, members.shape[1]) if known is not None and i not in known]
    return ~members[:, others].any(1)


def _middle_patch(case: StoredCase, plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """Image and labels of the patch around the median labelled voxel, padded with zeros and background outside the case."""
    shape = tuple(case.labels.shape)
    size = in_space(plan.patch)
    places = [where for index, where in case.locations.items() if index > 0 and len(where)]
    centre = np.median(np.concatenate(places), axis=0).round().astype(int) if places else np.array(shape) // 2
    start = [
        int(np.clip(c - p // 2, min(0, (n - p) // 2), max(n - p, (n - p) // 2)))
        for c, p, n in zip(centre, size, shape, strict=True)
    ]
    inside = tuple(slice(max(0, a), min(n, a + p)) for a, p, n in zip(start, size, shape, strict=True))
    pad = [(max(0, -a), max(0, a + p - n)) for a, p, n in zip(start, size, shape, strict=True)]
    image = np.pad(np.asarray(SlicedCase(case, plan).image[(slice(None), *inside)], np.float32), [(0, 0), *pad])
    labels = np.pad(np.asarray(case.labels[inside]), pad)
    return (image[:, 0], labels[0]) if plan.dimensions == 2 else (image, labels)
