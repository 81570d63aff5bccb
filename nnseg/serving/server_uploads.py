"""Scans that clients upload, written below a folder of the server under names that the server chooses; and paths that they name."""

from __future__ import annotations

import shutil
import struct
import zipfile
import zlib
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath

from nnseg.core.dataset import list_some
from nnseg.core.errors import ScanError
from nnseg.core.limits import check_limit, limit
from nnseg.core.names import match_names
from nnseg.storage.bounded import open_archive
from nnseg.storage.datasets.find_scans import CHANNEL
from nnseg.storage.images.formats import FORMATS, known_suffixes, stem_of, suffix_of
from nnseg.storage.images.itk import data_files
from nnseg.storage.images.nrrd import nrrd_files

ZIP = ".zip"


class TooLargeError(ScanError):
    """An upload has more bytes than allowed, packed or unpacked."""


class NotAllowedError(ScanError):
    """A path is not below a folder that the server may read."""


def check_suffix(suffix: str) -> str:
    """The suffix of an upload in lower case; ScanError for none that is read."""
    found = suffix.lower()
    if found != ZIP and found not in FORMATS:
        raise ScanError(
            f'"{suffix}" is no suffix of scans; write one of {known_suffixes()} or {ZIP}, for DICOM or several channels'
        )
    return found


async def receive(stream: AsyncIterator[bytes], folder: Path, suffix: str) -> Path:
    """The file in a folder that the bytes of an upload are written to.

    Args:
        suffix: one of `check_suffix`.

    Raises:
        TooLargeError: it has more bytes than allowed.
    """
    file, count = folder / f"upload{suffix}", 0
    with file.open("wb") as target:
        async for part in stream:
            count += len(part)
            _check_bytes(count)
            target.write(part)
    return file


def images_of(upload: Path, channels: Sequence[str]) -> tuple[Path, ...]:
    """The images of an upload, a file for each channel or a folder of DICOM slices; a zip file is unpacked beside itself.

    Args:
        channels: names of the model's.

    Raises:
        ScanError: it is no zip file, damaged, its files are not those of one scan, or it is a header without voxels.
        TooLargeError: it unpacks to more bytes than allowed.
    """
    if upload.suffix != ZIP:
        return (_with_voxels(upload),)
    folder = upload.parent / "unpacked"
    folder.mkdir()
    try:
        with open_archive(upload, limit("data_files")) as archive:
            entries = [entry for entry in archive.infolist() if not (entry.is_dir() or _name(entry).startswith("."))]
            _check_bytes(sum(entry.file_size for entry in entries))
            if any(entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for entry in entries):
                raise NotImplementedError("it is not deflated")  # others take gigabytes for their dictionaries
            files = [folder / f"{number:06d}{_suffix(entry)}" for number, entry in enumerate(entries)]
            for entry, file in zip(entries, files, strict=True):
                with archive.open(entry) as source, file.open("wb") as target:
                    shutil.copyfileobj(source, target)
    except (zipfile.BadZipFile, zlib.error, struct.error, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        # damaged, unknown method, encrypted, names that are no text
        raise ScanError(f"the upload cannot be unpacked: {error}; send a zip file without password") from error
    upload.unlink()
    images = [(_name(entry), file) for entry, file in zip(entries, files, strict=True) if suffix_of(file) in FORMATS]
    if not images:
        return (folder,)  # DICOM
    return tuple(_with_voxels(images[place][1]) for place in _order([name for name, _ in images], channels))


def _with_voxels(image: Path) -> Path:
    """The image; ScanError for one whose header names the files of its voxels, since it could name any of the server's."""
    form = suffix_of(image)
    try:
        named = data_files(image) if form in (".mha", ".mhd") else nrrd_files(image) if form in (".nrrd", ".nhdr") else ()
    except OSError as error:
        raise ScanError(f"{image.name} cannot be read ({error.strerror})") from error
    if named:
        raise ScanError(f"{image.name} names other files, in which its voxels lie; send one file with them, such as .nii.gz")
    return image


def allowed_path(text: str, folders: Sequence[Path]) -> Path:
    """A path that a client names, with its links resolved.

    Args:
        folders: that the server may read; all that is below them.

    Raises:
        NotAllowedError: it is not below one of them, or does not exist.
    """
    with suppress(OSError, RuntimeError, ValueError):  # too long, a ring of links, no text
        path = Path(text).resolve()
        if any(path.is_relative_to(folder.resolve()) for folder in folders) and path.exists():
            return path
    # the same answer for all, so that nothing is told of other folders
    raise NotAllowedError("a path that is named must exist below a folder that the server was given by --scans")


def _check_bytes(count: int) -> None:
    check_limit("upload_bytes", count, "the upload", "has {:,} bytes", TooLargeError, "send a smaller scan")


def _name(entry: zipfile.ZipInfo) -> str:
    return PurePosixPath(entry.filename).name


def _suffix(entry: zipfile.ZipInfo) -> str:
    """The suffix that a file of an archive gets, one of a fixed list."""
    suffix = suffix_of(Path(_name(entry)))
    return suffix if suffix in FORMATS else ".dcm"


def _order(names: Sequence[str], channels: Sequence[str]) -> list[int]:
    """Places of the files of channels among others, in the order of the channels: by channels' names, or by nnU-Net's numbers."""
    if len(names) == 1:
        return [0]
    stems = [stem_of(Path(name)) for name in names]
    numbers = [match["channel"] if (match := CHANNEL.fullmatch(stem)) else stem for stem in stems]
    for found in (match_names(channels, stems), match_names([f"{number:04d}" for number in range(len(channels))], numbers)):
        places = [place for place in found if place is not None]
        if len(places) == len(names) == len(channels):
            return places
    there = f"the upload has the images {list_some(sorted(names), 10)}"
    raise ScanError(f"{there}; expected one for each of {list_some(channels, 10)}, with these names, or CASE_0000, CASE_0001, ...")
