"""FreeSurfer's MGH and MGZ, Analyze 7.5, MINC 1 and AFNI files, and images in memory, through nibabel."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.brikhead import AFNIImage

from nnseg.core.errors import ScanError
from nnseg.core.image import Source
from nnseg.core.labels import Labels
from nnseg.core.limits import check_limit
from nnseg.storage.images.nifti import RAS_TO_LPS, arranged, flat_grid, ras_affine, read_nifti
from nnseg.storage.images.nifti_header import decompressed, is_pair_header, length_unit, voxel_file
from nnseg.storage.images.raw import (
    READ_DEFAULTS,
    RawImage,
    ReadOptions,
    check_size,
    errors_of_file,
    make_grid,
    placeholder,
    smallest_integer_type,
)
from nnseg.storage.images.units import to_mm
from nnseg.system.regular import check_regular

ANALYZE_HEADER_BYTES = 348

ANALYZE_NOTE = (
    "is Analyze 7.5, which does not say which side is left: its axes were taken to point left, front and up, as SPM does [NS-S016]"
)

MGH_HEADER_BYTES = 284

MGH_INTEGERS: Final = (np.uint8, np.int16, np.int32)
"""Types of whole numbers in MGH files. Source: FreeSurfer's wiki, MghFormat."""

AFNI_HEADER_BYTES, ORIENTATION_BYTES = 2**24, 2**16
"""Of a .HEAD file, and of SPM's .mat of two affine matrices, at most."""

MINC_HEADER_BYTES = 2**16
"""Of the beginning of a MINC 1 file, which holds its dimensions."""

HDF5_MAGIC = b"\x89HDF"


def read_mgh(path: Path, options: ReadOptions = READ_DEFAULTS) -> RawImage:
    """The voxels of an MGH or MGZ file; frames are channels.

    Raises:
        ScanError: no MGH file, truncated or damaged.
    """

    def load() -> Any:
        image = nib.MGHImage.from_bytes(decompressed(path, only_header=True))
        check_size(path, image.shape, image.get_data_dtype(), options, held=path.stat().st_size, packing="deflate")
        if options.only_header:
            return image
        announced = MGH_HEADER_BYTES + math.prod(image.shape) * image.get_data_dtype().itemsize
        return nib.MGHImage.from_bytes(decompressed(path, announced=announced))

    return _raw(path, load, options)


def read_pair(path: Path, options: ReadOptions = READ_DEFAULTS) -> RawImage:
    """The voxels of a NIfTI or Analyze 7.5 file in two parts, .hdr and .img.

    Raises:
        ScanError: a part is missing, truncated or damaged, or the header is of neither format.
    """
    for beside in (voxel_file(path), orientation := path.with_suffix(".mat")):
        if beside.exists():
            check_regular(beside)
    if orientation.exists():
        _check_bytes(orientation, ORIENTATION_BYTES)
    header = decompressed(path, only_header=True)
    if is_pair_header(header):
        return read_nifti(path, options)
    if ANALYZE_HEADER_BYTES not in (int.from_bytes(header[:4], order) for order in ("little", "big")):
        raise ScanError.at(path, "is no header of NIfTI or Analyze", "one of them", "convert the image to .nii.gz")
    if len(header) < ANALYZE_HEADER_BYTES:
        raise ScanError.at(path, f"has {len(header)} bytes", f"a header of {ANALYZE_HEADER_BYTES}", "copy it again")
    sizes = np.asarray(nib.AnalyzeHeader(header[:ANALYZE_HEADER_BYTES], check=False)["pixdim"][1:4])
    if not (np.isfinite(sizes) & (sizes != 0)).all():  # nibabel would take 1 mm
        found = f"has voxel sizes {tuple(map(float, sizes))} (x, y, z)"
        raise ScanError.at(path, found, "sizes in mm", "convert it to NIfTI with the right ones", "NS-S012")
    raw = _raw(path, lambda: nib.Spm2AnalyzeImage.from_filename(path, mmap=False), options)
    return raw if path.with_suffix(".mat").is_file() else replace(raw, notes=(*raw.notes, ANALYZE_NOTE))


def read_minc(path: Path, options: ReadOptions = READ_DEFAULTS) -> RawImage:
    """The voxels of a MINC 1 file.

    Raises:
        ScanError: MINC 2, which is HDF5; or damaged.
    """
    with path.open("rb") as file:
        if file.read(4) == HDF5_MAGIC:
            raise ScanError.at(path, "is MINC 2, which nnseg does not read", "MINC 1 or NIfTI", "convert it with mnc2nii")

    def load() -> Any:
        check_size(path, _minc_lengths(path), np.uint8)  # nibabel reads all voxels at once, whatever is asked for
        return nib.Minc1Image.from_filename(path, mmap=False)

    return _raw(path, load, options)


def _minc_lengths(path: Path) -> list[int]:
    """The lengths of a MINC 1 file's dimensions, but 0, which means as many as there are records.

    Source: NetCDF classic format: magic, number of records, tag and number of dimensions, name and length of each.
    """
    with path.open("rb") as file:
        start = file.read(MINC_HEADER_BYTES)
    count, at, lengths = int.from_bytes(start[12:16]), 16, list[int]()
    check_limit("channels", count, path, "has {:,} dimensions", ScanError, "export it again")
    for _ in range(count):
        name = int.from_bytes(start[at : at + 4])
        at += 8 + name + -name % 4
        lengths.append(int.from_bytes(start[at - 4 : at]))
    return [length for length in lengths if length]


def read_afni(path: Path, options: ReadOptions = READ_DEFAULTS) -> RawImage:
    """The voxels of an AFNI dataset, .HEAD with .BRIK; sub-bricks are channels.

    Raises:
        ScanError: a part is missing or damaged.
    """
    _check_bytes(path, AFNI_HEADER_BYTES)

    def load() -> Any:
        image = AFNIImage.from_filename(path, mmap=False)
        check_size(path, image.shape, image.get_data_dtype(), options)
        announced = math.prod(image.shape) * image.get_data_dtype().itemsize
        for file in () if options.only_header else afni_files(path):
            decompressed(file, announced=announced)  # nibabel reads what it needs, and no checksum
        return image

    return _raw(path, load, options)


def _check_bytes(path: Path, most: int) -> None:
    """Raise ScanError for a file that would be read as a whole, and unpacked, and that is longer than such files are."""
    if (size := path.stat().st_size) > most:
        raise ScanError.at(path, f"has {size:,} bytes", f"at most {most:,}", "export it again", "NS-S037")


def afni_files(path: Path) -> tuple[Path, ...]:
    """The voxels of an AFNI header."""
    beside = (path.with_suffix(suffix) for suffix in (".BRIK", ".brik", ".BRIK.gz", ".brik.gz"))
    return tuple(p for p in beside if p.is_file())[:1]


def pair_files(path: Path) -> tuple[Path, ...]:
    """The voxels of a header, and SPM's file of its orientation, if there is one.

    Raises:
        ScanError: there are no voxels.
    """
    orientation = path.with_suffix(".mat")
    return (voxel_file(path), *((orientation,) if orientation.is_file() else ()))


def raw_from_nibabel(path: Path, image: Any, options: ReadOptions = READ_DEFAULTS) -> RawImage:
    """The content of a nibabel image, on the grid of its affine.

    Args:
        path: that messages name.

    Raises:
        ScanError: it has no affine, complex numbers, or more axes than a volume with channels has.
    """
    shape, dtype = tuple(int(n) for n in image.shape), np.dtype(image.get_data_dtype())
    if image.affine is None:
        raise ScanError.at(path, "has no affine", "positions of its voxels", "give it one")
    if dtype.kind == "c":
        raise ScanError.at(path, "holds complex numbers", "integers or floats", "export magnitude images")
    check_size(path, shape, dtype, options)
    stored = placeholder(shape[::-1], dtype) if options.only_header else np.asanyarray(image.dataobj).T
    if stored.dtype.names:  # colours
        stored = np.ascontiguousarray(stored).view(np.uint8).reshape(*stored.shape, -1)
    voxels, notes = arranged(path, stored, shape)
    unit = length_unit(image.header) if isinstance(image.header, nib.Nifti1Header) else "mm"
    affine = np.asarray(image.affine, float)
    steps, origin = (RAS_TO_LPS @ affine[:3, 2::-1]).T, RAS_TO_LPS @ affine[:3, 3]
    grid = make_grid(path, voxels.shape[1:], to_mm(1, unit) * steps, to_mm(1, unit) * origin, options.spacing)
    flat = len(shape) == 2
    return RawImage(voxels=voxels, grid=flat_grid(grid) if flat else grid, is_2d=flat, notes=notes, length_unit=unit)


def _raw(path: Path, load: Callable[[], Any], options: ReadOptions) -> RawImage:
    with errors_of_file(path, "a complete image"):
        for beside in afni_files(path):
            check_regular(beside)
        return raw_from_nibabel(path, load(), options)


def as_nibabel(voxels: npt.NDArray[Any], like: Any) -> Any:
    """A NIfTI image in memory, with the affine of another image, and its header if that is NIfTI.

    Args:
        voxels: a label map (Z, Y, X), or floats, also (K, Z, Y, X).
        like: an image of nibabel.
    """
    header = like.header.copy() if isinstance(like.header, nib.Nifti1Header) else None
    kind = nib.Nifti2Image if isinstance(like.header, nib.Nifti2Header) else nib.Nifti1Image
    flat = len(like.shape) == 2 and voxels.ndim == 3
    stored = voxels if voxels.dtype.kind == "f" else voxels.astype(smallest_integer_type(voxels))
    image = kind(stored[0].T if flat else stored.T, like.affine, header)
    image.set_data_dtype(stored.dtype)
    image.header.set_intent("none")
    return image


def write_mgh(voxels: npt.NDArray[Any], path: Path, *, like: Source, labels: Labels | None = None) -> None:
    """Write a volume as MGH or MGZ, with the acquisition parameters of the scan's own file, if that is one.

    Raises:
        ScanError: values that the format cannot hold.
    """
    low, high = voxels.min(), voxels.max()
    kinds = [np.float32] if voxels.dtype.kind == "f" else [t for t in MGH_INTEGERS if _holds(t, int(low), int(high))]
    if not kinds:
        raise ScanError.at(path, f"cannot hold values {low} to {high}", "32-bit integers", "write .nii.gz")
    image = nib.MGHImage(voxels.astype(kinds[0]).T, ras_affine(like.grid), _mgh_header(like.files[0]))
    image.set_data_dtype(kinds[0])
    image.to_filename(path)


def _holds(kind: type, low: int, high: int) -> bool:
    return np.iinfo(kind).min <= low and high <= np.iinfo(kind).max


def _mgh_header(source: Path) -> Any:
    try:
        return nib.MGHImage.from_bytes(decompressed(source, only_header=True)).header.copy()
    except Exception:  # of another format, or of an image in memory
        return None
