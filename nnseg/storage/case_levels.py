"""Probabilities of other networks for preprocessed cases, from which a network learns besides their label maps.

They are stored as cases of their own, with levels in the place of the image: whole numbers from 0 to `LEVELS`, one channel for each
label without the background, or for each region. The background has what is left to `LEVELS`, so that zeros, which surround a case
in its patches, are background.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from nnseg.core.image import Floats
from nnseg.core.labels import Labels
from nnseg.storage.cases import StoredCase

LEVELS = 255
"""The level of probability 1: a byte for each voxel and label, in steps finer than what probabilities are worth."""


def levels_of(probabilities_KZYX: Floats, labels: Labels) -> npt.NDArray[np.uint8]:
    """The levels of probabilities.

    Args:
        probabilities_KZYX: one volume for each of ``labels.heads``.
    """
    return np.rint(probabilities_KZYX[-len(labels.foreground) :] * LEVELS).astype(np.uint8)


class ImageWithLevels:
    """The image of a case, with levels as further channels: sliced like an array, it gives float32.

    Args:
        image: (C, Z, Y, X), in memory or on disk.
        levels: (F, Z, Y, X) likewise.
    """

    def __init__(self, image: Any, levels: Any) -> None:
        self._image, self._levels = image, levels
        self.shape = (image.shape[0] + levels.shape[0], *image.shape[1:])

    def __getitem__(self, index: Any) -> Floats:
        return np.concatenate([self._image[index], self._levels[index]], dtype=np.float32)


def with_levels(case: StoredCase, levels: StoredCase) -> StoredCase:
    """A case for the patches of a plan with ``training.distillation``.

    Args:
        case: with its image.
        levels: the same case with levels in the place of the image.
    """
    return replace(case, image=ImageWithLevels(case.image, levels.image))
