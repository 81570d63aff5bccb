"""The formats of image files, by suffix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nnseg.storage.images.itk import data_files, read_itk, write_itk
from nnseg.storage.images.nifti import read_nifti, write_nifti
from nnseg.storage.images.pictures import read_picture, read_tiff, sidecar_of, write_picture, write_tiff
from nnseg.storage.images.raw import RawImage, ReadOptions

Reader = Callable[[Path, ReadOptions], RawImage]
Writer = Callable[..., None]


@dataclass(frozen=True, kw_only=True)
class Format:
    """How files of one suffix are read and written.

    Args:
        read: (path, asked) -> Stored.
        write: (voxels in stored order, path, grid, *, is_2d, source); None if nnseg does not write this format.
        instead: the suffix a label map gets where this format cannot or should not hold one.
        instead_of_floats: the suffix a map of floats gets where this format cannot hold one.
        beside: the files that are read with one of this format.
    """

    read: Reader
    write: Writer | None
    instead: str = ""
    instead_of_floats: str = ""
    beside: Callable[[Path], tuple[Path, ...]] | None = None


def suffix_of(path: Path) -> str:
    """The suffix of an image file in lower case, with the dot; ".nii.gz" counts as one."""
    name = path.name.lower()
    return next((s for s in sorted(FORMATS, key=len, reverse=True) if name.endswith(s)), path.suffix.lower())


def stem_of(path: Path) -> str:
    """A file's name without the suffix that `suffix_of` finds."""
    return path.name[: len(path.name) - len(suffix_of(path))] if suffix_of(path) else path.name


def known(*, writable: bool = False) -> str:
    """All suffixes that are read, or that are written, for people."""
    return " ".join(s for s, form in FORMATS.items() if form.write or not writable)


NIFTI = (".nii.gz", ".nii")
TIFF = (".tif", ".tiff")
LOSSLESS_PICTURE = ".png"

FORMATS: dict[str, Format] = {
    ".nii.gz": Format(read=read_nifti, write=write_nifti),
    ".nii": Format(read=read_nifti, write=write_nifti),
    ".mha": Format(read=read_itk, write=write_itk),
    ".mhd": Format(read=read_itk, write=None, instead=".mha", instead_of_floats=".mha", beside=data_files),
    ".nrrd": Format(read=read_itk, write=write_itk),
    ".gipl": Format(read=read_itk, write=write_itk),
    ".png": Format(read=read_picture, write=write_picture, instead_of_floats=".tif"),
    ".bmp": Format(read=read_picture, write=write_picture, instead_of_floats=".tif"),
    ".tif": Format(read=read_tiff, write=write_tiff, beside=sidecar_of),
    ".tiff": Format(read=read_tiff, write=write_tiff, beside=sidecar_of),
    ".jpg": Format(read=read_picture, write=None, instead=LOSSLESS_PICTURE, instead_of_floats=".tif"),
    ".jpeg": Format(read=read_picture, write=None, instead=LOSSLESS_PICTURE, instead_of_floats=".tif"),
}
