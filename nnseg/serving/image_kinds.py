"""Label maps and maps of floats as the kind of image that a scan was given as: arrays, tensors, images of nibabel or SimpleITK."""

from __future__ import annotations

from typing import Any, Final

import nibabel as nib
import numpy as np
import numpy.typing as npt
import torch
from nibabel.spatialimages import SpatialImage
from torch import Tensor

from nnseg.core.image import Scan, Source
from nnseg.storage.images.itk import as_image
from nnseg.storage.images.nibabel_files import as_nibabel

Arrays = np.ndarray | Tensor | Scan
"""Images without a header, and a scan, whose maps are arrays."""

SIGNED: Final = {np.dtype(np.uint16): np.int32, np.dtype(np.uint32): np.int64, np.dtype(np.uint64): np.int64}
"""Integers that tensors can be computed with, for those that they cannot."""


def as_array(scan: Any) -> Any:
    """A tensor as an array in memory, without its gradient; anything else as it is."""
    if not isinstance(scan, Tensor):
        return scan
    found = scan.detach().cpu()
    return (found.float() if found.dtype in (torch.bfloat16, torch.float16) else found).numpy()


def of_kind(voxels: npt.NDArray[Any], scan: Any, source: Source) -> tuple[Any, npt.NDArray[Any]]:
    """Voxels as the kind of image that a scan is, and as an array in its order of axes.

    Args:
        voxels: (Z, Y, X) or (K, Z, Y, X), in the stored order of the scan.
        scan: as it was given; of several channels the first.
        source: of the scan.
    """
    if isinstance(scan, SpatialImage):
        image: nib.Nifti1Image = as_nibabel(voxels, scan)
        return image, np.asarray(image.dataobj)
    flat = source.is_2d and not isinstance(scan, Scan)
    array = np.ascontiguousarray(voxels[..., 0, :, :] if flat else voxels)
    if isinstance(scan, Tensor):
        usable = array.astype(SIGNED.get(array.dtype, array.dtype), copy=False)
        return torch.from_numpy(usable).to(scan.device), array
    if isinstance(scan, np.ndarray | Scan):
        return array, array
    return as_image(voxels, source.grid, is_2d=source.is_2d), array
