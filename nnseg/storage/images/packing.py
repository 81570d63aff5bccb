"""Whether the numbers of an image file are compressed, and files whose numbers are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy.typing as npt
import SimpleITK as sitk
import tifffile

from nnseg.storage.files import write_aside
from nnseg.storage.images.formats import TIFF, suffix_of
from nnseg.storage.images.itk import META, meta_header
from nnseg.storage.images.nrrd import NRRD, nrrd_header


def is_compressed(path: Path) -> bool:
    """True if the numbers of a file are compressed; of formats that always or never are, by the suffix."""
    suffix = suffix_of(path)
    if suffix in META:
        return meta_header(path).get("CompressedData", "F")[:1] in "tTyY1"
    if suffix in NRRD:
        return nrrd_header(path).get("encoding", "raw") not in ("raw", "ascii", "text", "txt", "hex")
    if suffix in TIFF:
        with tifffile.TiffFile(path) as file:
            return int(file.pages.first.compression) != 1
    return suffix in (".nii.gz", ".mgz", ".png")


def unpack(path: Path) -> None:
    """Write a file of MetaImage or NRRD again, with numbers that are not compressed.

    Raises:
        WriteError: it cannot be written.
    """
    image = sitk.ReadImage(str(path))
    with write_aside(path) as aside:
        sitk.WriteImage(image, str(aside), useCompression=False)


def write_pages(voxels_ZYX: npt.NDArray[Any], path: Path, *, compressed: bool) -> None:
    """Write a TIFF file of a page a slice, without voxel size.

    Raises:
        WriteError: it cannot be written.
    """
    with write_aside(path) as aside:
        tifffile.imwrite(aside, voxels_ZYX, photometric="minisblack", compression="zlib" if compressed else None)
