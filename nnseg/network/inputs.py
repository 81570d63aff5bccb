"""The input that a plan's network takes: neighbouring slices as channels, the previous stage's segmentation in a cascade."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnseg.core.plan import Plan


def network_input(image: Tensor, plan: Plan) -> Tensor:
    """A batch for the plan's network: unchanged, except in a cascade.

    There the last channel has the label indices of the previous stage's segmentation; it becomes one channel of zeros and ones for
    each label but the background, because the values of indices have no meaning.

    Args:
        image: float32 (B, C, *space) of preprocessed cases, padded with zeros, the background.
        plan: of the network.

    Returns:
        float32 (B, ``plan.input_channels``, *space).
    """
    if plan.previous is None:
        return image
    foreground = torch.arange(1, len(plan.labels.values), device=image.device).view(-1, *[1] * (image.ndim - 2))
    return torch.cat([image[:, :-1], (image[:, -1:] == foreground).to(image.dtype)], dim=1)


def read_slices(image: Any, box: Sequence[slice], slices: int) -> Tensor:
    """A box (C * slices, z, y, x) of an image, in which the neighbours of each slice are channels, from below to above.

    Beyond the first and the last slice these are repeated.

    Args:
        image: (C, Z, Y, X), a tensor, or what gives an array when sliced.
        box: along z, y and x, inside the image.
        slices: odd; 1 for the voxels as they are.
    """
    z, y, x = box
    wanted = np.clip(np.arange(z.start - slices // 2, z.stop + slices // 2), 0, image.shape[1] - 1)
    read = image[:, int(wanted[0]) : int(wanted[-1]) + 1, y, x]
    read = read if isinstance(read, Tensor) else torch.from_numpy(np.array(read))
    return read[:, wanted - wanted[0]].unfold(1, slices, 1).movedim(-1, 1).flatten(0, 1)


class SlicedCase:
    """Voxels of a preprocessed case as a plan's network takes them, without rotation or padding.

    Args:
        case: with ``image`` and ``labels``; its image may have more channels than the scan, which have no neighbours.
        plan: of the network.
    """

    def __init__(self, case: Any, plan: Plan) -> None:
        self.image: Any = _Neighbours(case.image, plan) if plan.network.slices > 1 else case.image
        self.labels = case.labels


class _Neighbours:
    """An image whose slices are read with their neighbours."""

    def __init__(self, image: Any, plan: Plan) -> None:
        self._image, self._slices, self._channels = image, plan.network.slices, len(plan.channels)

    def __getitem__(self, box: tuple[slice, ...]) -> Any:
        read = read_slices(self._image, box[1:], self._slices).unflatten(0, (-1, self._slices))
        scan, others = read[: self._channels].flatten(0, 1), read[self._channels :, self._slices // 2]
        return torch.cat([scan, others]).numpy()
