"""Headers of DICOM files: class, position and size of a slice, and tags of patient and scanner."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk

from nnseg.core.errors import ScanError
from nnseg.storage.images.itk import itk_message, no_itk_warnings, read_header_only

_STORAGE = "1.2.840.10008.5.1.4.1.1."
NO_IMAGES = (
    "1.2.840.10008.1.3.10",  # the directory of a disc
    *(_STORAGE + kind for kind in ("66", "88.", "11.", "104.", "9.", "4.2", "481.3", "481.4", "481.5", "481.8")),
)
"""Beginnings of SOP class UIDs of files that lie among the slices and are none: segmentations and registrations, reports,
presentation states, documents, waveforms, spectra, contours, treatment plans."""

_SPACINGS = ("0028|0030", "0018|1164", "0018|2010")
"""Tags of the pixel spacing: in the patient, at the detector, and as scanned from film."""

TAGS = {
    "manufacturer": "0008|0070",
    "model": "0008|1090",
    "institution": "0008|0080",
    "sex": "0010|0040",
    "age": "0010|1010",
}
"""Tags that `read_tags` reads, by name; age in years, whatever its unit."""

_YEARS = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}


@dataclass(frozen=True, kw_only=True)
class Slice:
    """The header of one file of a series.

    Args:
        uid: its SeriesInstanceUID.
        size: pixels (columns, rows).
        position: ImagePositionPatient in mm; () if it is missing.
        orientation: ImageOrientationPatient, six cosines; () if it is missing.
        is_localiser: a planning view, not part of a volume.
        spacing: mm between rows and between columns; () if it is missing.
    """

    path: Path
    uid: str
    number: str
    description: str
    size: tuple[int, ...]
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    is_localiser: bool
    frames: int
    spacing: tuple[float, ...]


def is_dicom(path: Path) -> bool:
    """True if a file starts like a DICOM file."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def dicom_files(folder: Path) -> tuple[Path, ...]:
    """The DICOM files with images that lie in a folder itself, by name.

    Raises:
        ScanError: the folder cannot be listed.
    """
    try:
        entries = [p for p in sorted(folder.iterdir()) if not p.name.startswith(".") and p.is_file()]
    except OSError as error:
        found = f"cannot be listed ({error.strerror})"
        raise ScanError.at(folder, found, "a readable folder", "check its permissions") from error
    return tuple(p for p in entries if is_dicom(p) and not _sop_class(p).startswith(NO_IMAGES))


def _sop_class(path: Path) -> str:
    """The MediaStorageSOPClassUID of a DICOM file; "" if it is not at its place in the format."""
    with path.open("rb") as file:
        start = file.read(4096)
    at = start.find(b"\x02\x00\x02\x00UI", 132)
    length = int.from_bytes(start[at + 6 : at + 8], "little")
    return start[at + 8 : at + 8 + length].rstrip(b"\0 ").decode("ascii", "replace") if at > 0 else ""


def read_slice(path: Path) -> Slice:
    """The header of a DICOM file.

    Raises:
        ScanError: it cannot be read, or is malformed.
    """
    reader = _open(path, "a slice with pixels", "export the series again, or remove the file")
    return Slice(
        path=path,
        uid=_text(reader, "0020|000e"),
        number=_text(reader, "0020|0011"),
        description=_text(reader, "0008|103e"),
        size=tuple(reader.GetSize()[:2]),
        position=_numbers(_text(reader, "0020|0032")),
        orientation=_numbers(_text(reader, "0020|0037")),
        is_localiser="LOCALIZER" in _text(reader, "0008|0008").upper(),
        frames=_whole(path, "NumberOfFrames", _text(reader, "0028|0008") or "1"),
        spacing=next((pair for key in _SPACINGS if len(pair := _numbers(_text(reader, key))) == 2 and min(pair) > 0), ()),
    )


def read_tags(scan: Path) -> dict[str, str]:
    """Those of the `TAGS` that a scan's first file has; {} for a scan that is not DICOM.

    Args:
        scan: a DICOM file, or the folder of a series.

    Raises:
        ScanError: its header cannot be read.
    """
    file = next(iter(dicom_files(scan)), None) if scan.is_dir() else scan
    if file is None or not is_dicom(file):
        return {}
    reader = _open(file, "a slice with a header", "export the series again")
    texts = {name: _text(reader, key) for name, key in TAGS.items()}
    texts["age"] = _years(texts["age"])
    return {name: text for name, text in texts.items() if text}


def _open(path: Path, expected: str, advice: str) -> sitk.ImageFileReader:
    try:
        with no_itk_warnings():
            return read_header_only(path, "GDCMImageIO")
    except RuntimeError as error:
        raise ScanError.at(path, f"cannot be read as DICOM ({itk_message(error)})", expected, advice) from error


def _text(reader: sitk.ImageFileReader, key: str) -> str:
    return str(reader.GetMetaData(key)).strip("\0 ") if reader.HasMetaDataKey(key) else ""


def _whole(path: Path, name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        advice = "correct the header, or remove the file"
        raise ScanError.at(path, f'has the {name} "{text}"', "a whole number", advice) from error


def _numbers(text: str) -> tuple[float, ...]:
    """The numbers of a DICOM value such as ``1\\0\\0``; () if one cannot be read."""
    try:
        return tuple(float(part) for part in text.split("\\"))
    except ValueError:
        return ()


def _years(text: str) -> str:
    """An age such as 063Y or 018M in years; "" if it is not written like one."""
    match = re.fullmatch(r"(\d{1,3})([YMWD])", text)
    return f"{int(match[1]) * _YEARS[match[2]]:.4g}" if match else ""
