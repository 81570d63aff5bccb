"""Formats of images: `FORMATS` of single files, by suffix, and `FOLDER_FORMATS` of images that are several files of a folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nnseg.core.errors import ScanError
from nnseg.core.image import Source
from nnseg.storage.images.arrays import read_array, write_array
from nnseg.storage.images.dicom import read_series, sort_files, split_path
from nnseg.storage.images.dicom_headers import dicom_files, may_be_dicom
from nnseg.storage.images.dicom_label_files import (
    find_label_file,
    find_series_of_contours,
    is_dicom_labels,
    is_dicom_seg,
    note_other_frame,
)
from nnseg.storage.images.dicom_rtstruct_read import read_rtstruct
from nnseg.storage.images.dicom_seg import write_dicom_seg
from nnseg.storage.images.dicom_seg_read import read_dicom_seg
from nnseg.storage.images.itk import data_files, read_itk, write_itk
from nnseg.storage.images.jpeg_masks import divide_jpeg_mask
from nnseg.storage.images.nibabel_files import afni_files, pair_files, read_afni, read_mgh, read_minc, read_pair, write_mgh
from nnseg.storage.images.nifti import read_nifti, write_nifti
from nnseg.storage.images.nrrd import NRRD, nrrd_files
from nnseg.storage.images.ome_zarr import is_store, read_store, store_files
from nnseg.storage.images.pictures import read_picture, write_picture
from nnseg.storage.images.raw import RawImage, ReadOptions, check_file, errors_of_file
from nnseg.storage.images.sidecar import sidecar_of
from nnseg.storage.images.tiff import keeps_spacing, read_tiff, write_tiff
from nnseg.storage.images.unread import why_unread

Reader = Callable[[Path, ReadOptions], RawImage]
Writer = Callable[..., None]


@dataclass(frozen=True, kw_only=True)
class FileFormat:
    """How files of one suffix are read and written.

    Args:
        read: (path of a file that can be read, options) -> RawImage; with ``options.only_header`` without voxels.
        write: (voxels in stored order, path, *, like, labels); None if nnseg does not write this format.
        lossy: of label maps, this format can hold masks in black and white alone.
        label_suffix: of label maps, where this format cannot or should not hold them.
        map_suffix: of maps of floats, where this format cannot hold them.
        beside: (path) -> the files that are read with one of this format.
        spacing_beside: (scan) -> True if its spacing is written to a file CASE.json beside, because the format has no place for it.
    """

    read: Reader
    write: Writer | None
    lossy: bool = False
    label_suffix: str = ""
    map_suffix: str = ""
    beside: Callable[[Path], tuple[Path, ...]] = lambda path: ()
    spacing_beside: Callable[[Source], bool] = lambda like: False


@dataclass(frozen=True, kw_only=True)
class FolderFormat:
    """How images are read that are several files in a folder, and how label maps are written beside them.

    Args:
        is_part: (path) -> True for a file, of a suffix that is not in `FORMATS`, that is part of an image of this format.
        files: (folder) -> the files in it that its images are made of, in a fixed order.
        read: (folder or files, options) -> RawImage with the files in the order of its slices.
        sort: (files) -> the files of each image by a name for it, if a folder or a file holds several, {} for one; and those of the
            files that are of this format but no scans, with the reason. An image that shares a file with others is named by a path
            below the file: ``scan.dcm/echo2``.
        write: (label map in stored order, path, *, like, labels); None if nnseg does not write this format.
        suffix: of these label maps.
        is_labels: (path) -> True for a file of this format that is a label map.
        read_labels: (a label map in this format, or a folder with one, options) -> RawImage; None if it has none.
        is_image: (folder) -> True if all that is in the folder and below is one image; None for formats of files beside others.
        endings: of the names of such folders, which are no part of a case's name.
    """

    is_part: Callable[[Path], bool]
    files: Callable[[Path], tuple[Path, ...]]
    read: Callable[[Path | Sequence[Path], ReadOptions], RawImage]
    sort: Callable[[Sequence[Path]], tuple[dict[str, tuple[Path, ...]], dict[Path, str]]] = lambda files: ({}, {})
    write: Writer | None = None
    suffix: str = ""
    is_labels: Callable[[Path], bool] = lambda path: False
    read_labels: Reader | None = None
    is_image: Callable[[Path], bool] | None = None
    endings: tuple[str, ...] = ()

    def is_in(self, folder: Path) -> bool:
        """True if a part of an image lies in the folder itself; hidden files do not count."""
        if self.is_image is not None:
            return self.is_image(folder)
        try:
            return any(p.is_file() and not p.name.startswith(".") and self.is_part(p) for p in folder.iterdir())
        except OSError:
            return False


def folder_format(path: Path) -> FolderFormat | None:
    """The format of the image in a folder, or of which a file is a part; None for a file of a suffix in `FORMATS`.

    A path below a file, such as ``scan.dcm/echo2``, is an image in it.
    """
    path, _ = split_path(path)
    if path.is_dir():
        return next((form for form in FOLDER_FORMATS.values() if form.is_in(path)), None)
    if suffix_of(path) in FORMATS or not path.is_file():
        return None
    return next((form for form in FOLDER_FORMATS.values() if form.is_part(path)), None)


def read_raw(path: Path, options: ReadOptions) -> RawImage:
    """The content of a file, or of a folder of files that are one image."""
    form = folder_format(path) or (DICOM if path.is_dir() else None)
    if form is None:
        return read_raw_file(path, options)
    with errors_of_file(path):
        return form.read(path if path.is_dir() else [path], options)


def read_raw_labels(path: Path, like: Source | None = None) -> RawImage:
    """The label map of a file, or of a folder of files of a format that has label maps of its own.

    Args:
        like: the scan that it belongs to, on whose grid contours are filled.
    """
    form = folder_format(path)
    options = ReadOptions(as_labels=True, like=like)
    if form is None:
        return read_raw_file(path, options)
    with errors_of_file(path):
        return (form.read_labels or form.read)(path, options)


def read_dicom_labels(path: Path, options: ReadOptions) -> RawImage:
    """The label map of a DICOM-SEG or RT Structure Set, or of the only one in a folder.

    Contours are filled on the grid of ``options.like``, else of the series that they were drawn on, which is looked for near them.
    """
    file = find_label_file(path)
    files, grid = (options.like.files, options.like.grid) if options.like is not None else ((), None)
    if is_dicom_seg(file):
        found = read_dicom_seg(file, options)
    else:
        if grid is None:
            series = read_series(find_series_of_contours(file), ReadOptions(only_header=True, spacing=options.spacing))
            files, grid = series.files, series.grid
        found = read_rtstruct(file, grid, options)
    return replace(found, notes=(*found.notes, *(note_other_frame(file, files[0]) if files else ())))


def read_raw_file(path: Path, options: ReadOptions) -> RawImage:
    """The content of a file, by the reader of its suffix."""
    check_file(path)
    form = FORMATS.get(suffix_of(path))
    if form is None:
        if reason := why_unread(path):
            raise ScanError(f"{path}: {reason}")
        found = f'has the unknown suffix "{suffix_of(path)}"'
        raise ScanError.at(path, found, f"one of {known_suffixes()}", "convert it", "NS-S004")
    with errors_of_file(path):
        raw = form.read(path, options)
        return divide_jpeg_mask(path, raw) if form.lossy and options.as_labels and not options.only_header else raw


def files_of(path: Path) -> tuple[Path, ...]:
    """All files that are read for an image: those in its folder, or its file (which may hold others too) and those beside it.

    Raises:
        ScanError: the folder cannot be listed, or the file cannot be read.
    """
    path, _ = split_path(path)
    if path.is_dir():
        return (folder_format(path) or DICOM).files(path)
    form = FORMATS.get(suffix_of(path))
    try:
        return (path, *form.beside(path)) if form else (path,)
    except OSError as error:
        raise ScanError.at(path, f"cannot be read ({error.strerror})", "a file", "restore it") from error


def suffix_of(path: Path) -> str:
    """The suffix of an image file in lower case, with the dot; ".nii.gz" and ".dcm.gz" count as one."""
    parts = path.name.lower().split(".")
    ends = (f".{'.'.join(parts[-count:])}" for count in (2, 1) if len(parts) > count)
    return next((end for end in ends if end in FORMATS or end == PACKED_DICOM), path.suffix.lower())


def folder_stem(folder: Path) -> str:
    """A folder's name without the ending of a folder that is one image."""
    endings = [ending for form in FOLDER_FORMATS.values() for ending in form.endings if folder.name.lower().endswith(ending)]
    return folder.name[: -len(max(endings, key=len))] if endings else folder.name


def stem_of(path: Path) -> str:
    """A file's name without the suffix that `suffix_of` finds, and without the ".seg" that 3D Slicer puts before ".nrrd"."""
    suffix = suffix_of(path)
    stem = path.name[: len(path.name) - len(suffix)]
    return re.sub(r"(?<=.)\.seg$", "", stem, flags=re.IGNORECASE) if suffix in NRRD else stem


def image_files(folder: Path) -> tuple[Path, ...]:
    """The images in a folder by name: files with a known suffix, and folders with DICOM slices; hidden ones are left out."""
    entries = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    return tuple(p for p in entries if (folder_format(p) if p.is_dir() else suffix_of(p) in FORMATS))


def image_name(path: Path) -> str:
    """The case name of a file, a volume in a file or a series' folder, with the channel number if it has one."""
    if path.parent.is_file():
        return f"{stem_of(path.parent)}_{path.name}"
    return folder_stem(path) if path.is_dir() else stem_of(path)


def known_suffixes(*, writable: bool = False) -> str:
    """All suffixes that are read, or that are written, for messages."""
    return " ".join(s for s, form in FORMATS.items() if form.write or not writable)


PACKED_DICOM = ".dcm.gz"
TIFF = (".tif", ".tiff")
LOSSLESS_PICTURE = ".png"

_NIFTI = FileFormat(read=read_nifti, write=write_nifti)
_ITK = FileFormat(read=read_itk, write=write_itk)
_DETACHED = FileFormat(read=read_itk, write=None, label_suffix=".mha", map_suffix=".mha", beside=data_files)
_MGH = FileFormat(read=read_mgh, write=write_mgh)
_PAIR = FileFormat(read=read_pair, write=None, label_suffix=".nii.gz", map_suffix=".nii.gz", beside=pair_files)
_PICTURE = FileFormat(
    read=read_picture, write=write_picture, map_suffix=".tif", beside=sidecar_of, spacing_beside=lambda like: True
)
_GIF = FileFormat(read=read_picture, write=None, label_suffix=LOSSLESS_PICTURE, map_suffix=".tif", beside=sidecar_of)
_JPEG = replace(_GIF, lossy=True)
_TIFF = FileFormat(read=read_tiff, write=write_tiff, beside=sidecar_of, spacing_beside=lambda like: not keeps_spacing(like))

FORMATS: dict[str, FileFormat] = {
    ".nii.gz": _NIFTI,
    ".nii": _NIFTI,
    ".mha": _ITK,
    ".mhd": _DETACHED,
    ".nrrd": _ITK,
    ".nhdr": replace(_DETACHED, label_suffix=".nrrd", map_suffix=".nrrd", beside=nrrd_files),
    ".gipl": _ITK,
    ".mgz": _MGH,
    ".mgh": _MGH,
    ".hdr": _PAIR,
    ".mnc": replace(_PAIR, read=read_minc, beside=lambda path: ()),
    ".head": replace(_PAIR, read=read_afni, beside=afni_files),
    ".npy": FileFormat(read=read_array, write=write_array, beside=sidecar_of, spacing_beside=lambda like: True),
    ".png": _PICTURE,
    ".ppm": _GIF,
    ".pgm": _GIF,
    ".bmp": _PICTURE,
    ".gif": _GIF,
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
}

DICOM = FolderFormat(
    is_part=may_be_dicom,
    files=dicom_files,
    read=read_series,
    sort=sort_files,
    write=write_dicom_seg,
    suffix=".dcm",
    is_labels=is_dicom_labels,
    read_labels=read_dicom_labels,
)
ZARR = FolderFormat(
    is_part=lambda path: False, files=store_files, read=read_store, is_image=is_store, endings=(".ome.zarr", ".zarr")
)
FOLDER_FORMATS: dict[str, FolderFormat] = {"OME-Zarr": ZARR, "DICOM": DICOM}
