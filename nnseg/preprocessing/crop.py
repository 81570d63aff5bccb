"""The part of a scan that holds anything: volumes come padded with zeros, and skull stripping leaves more of them.

Kept free of heavy imports, since ``nnseg plan`` needs it and must start at once.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nnseg.core.geometry import Box
from nnseg.core.image import Floats


def nonzero_box(image_CZYX: Floats) -> Box:
    """The tightest box around all voxels where any channel is not zero; the whole volume if every voxel is zero.

    Source: Isensee et al. 2021, supplement 3 (cropping). Filling holes first, as nnU-Net does, cannot move the box.
    """
    filled = (image_CZYX != 0).any(axis=0)
    along_z, rest = filled.any(axis=(1, 2)), filled.any(axis=0)
    if not along_z.any():
        depth, height, width = filled.shape
        return Box.whole((depth, height, width))
    (z0, z1), (y0, y1), (x0, x1) = _span(along_z), _span(rest.any(axis=1)), _span(rest.any(axis=0))
    return Box(start=(z0, y0, x0), stop=(z1, y1, x1))


def _span(filled: npt.NDArray[np.bool_]) -> tuple[int, int]:
    return int(np.argmax(filled)), len(filled) - int(np.argmax(filled[::-1]))
