"""A quick estimate of Dice on held-out patches, for the record and the eye; scores come from whole predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from nnseg.network.build import network_input
from nnseg.storage.cases import StoredCase
from nnseg.training.context import TrainingContext

MOST_PATCHES = 16


class Validation:
    """Fixed held-out patches, each on the middle of a case's labelled voxels."""

    def __init__(self, cases: Sequence[StoredCase], setting: TrainingContext) -> None:
        self._setting = setting
        chosen = [cases[i] for i in np.linspace(0, len(cases) - 1, min(MOST_PATCHES, len(cases))).round().astype(int)]
        pairs = [_middle_patch(case, setting.plan.patch) for case in chosen]
        self._images = [torch.from_numpy(image) for image, _ in pairs]
        self._labels = [torch.from_numpy(labels) for _, labels in pairs]
        self._members = torch.from_numpy(setting.plan.labels.members())
        self._whole = [_whole_heads(case.known, self._members) for case in chosen]

    @torch.inference_mode()
    def estimate(self, network: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, float | None]:
        """Dice per scored name, pooled over the patches, of the network with the given weights; empty without held-out cases."""
        if not self._images:
            return {}
        labels = self._setting.plan.labels
        network.eval()
        counts = sum(self._count(network, weights, i) for i in range(0, len(self._images), 4))
        assert isinstance(counts, Tensor)
        first = 0 if labels.regions else 1
        return {
            name: (2 * both / total if total else None)
            for name, (both, total) in zip(labels.foreground, counts[first:].tolist(), strict=True)
        }

    def _count(self, network: nn.Module, weights: Mapping[str, Tensor], start: int) -> Tensor:
        """(K, 2) voxels in both, and voxels in prediction plus reference."""
        device = self._setting.device
        images = network_input(torch.stack(self._images[start : start + 4]).to(device), self._setting.plan)
        indices = torch.stack(self._labels[start : start + 4]).to(device).long()
        with self._setting.autocast():
            outputs = functional_call(network, dict(weights), (images,))
        logits = (outputs[0] if isinstance(outputs, list | tuple) else outputs).float()
        whole = torch.stack(self._whole[start : start + 4], 1).to(device)
        known = (indices >= 0) & whole.view(*whole.shape, *[1] * (indices.ndim - 1))  # K B Z Y X, as all masks here
        reference = self._members.to(device)[:, indices.clamp(min=0)] & known
        if self._setting.plan.labels.regions:
            predicted = (logits > 0).transpose(0, 1) & known
        else:
            predicted = (
                logits.argmax(1)[None] == torch.arange(logits.shape[1], device=device).view(-1, *[1] * indices.ndim)
            ) & known
        axes = tuple(range(1, reference.ndim))
        return torch.stack([(predicted & reference).sum(axes), predicted.sum(axes) + reference.sum(axes)], 1).cpu().double()


def _whole_heads(known: tuple[int, ...] | None, members: Tensor) -> Tensor:
    """(K,) which heads cover nothing but the background and labels that were annotated; all for None."""
    others = [i for i in range(1, members.shape[1]) if known is not None and i not in known]
    return ~members[:, others].any(1)


def _middle_patch(case: StoredCase, patch: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The patch around the middle of the labelled voxels, padded with zeros (image) and background (labels) where the case ends."""
    shape = tuple(case.labels.shape)
    size = (1, *patch) if len(patch) == 2 else patch
    places = [where for index, where in case.locations.items() if index > 0 and len(where)]
    centre = np.median(np.concatenate(places), axis=0).round().astype(int) if places else np.array(shape) // 2
    start = [
        int(np.clip(c - p // 2, min(0, (n - p) // 2), max(n - p, (n - p) // 2)))
        for c, p, n in zip(centre, size, shape, strict=True)
    ]
    inside = tuple(slice(max(0, a), min(n, a + p)) for a, p, n in zip(start, size, shape, strict=True))
    pad = [(max(0, -a), max(0, a + p - n)) for a, p, n in zip(start, size, shape, strict=True)]
    image = np.pad(np.asarray(case.image[(slice(None), *inside)], np.float32), [(0, 0), *pad])
    labels = np.pad(np.asarray(case.labels[inside]), pad)
    return (image[:, 0], labels[0]) if len(patch) == 2 else (image, labels)
