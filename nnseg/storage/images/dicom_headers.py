"""Headers of DICOM files: which files are DICOM, of what kind, and what their tags say. No pixel is read here."""

from __future__ import annotations

import io
import logging
import mmap
import re
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pydicom
from pydicom.uid import UID

from nnseg.core.errors import ScanError
from nnseg.core.limits import check_limit
from nnseg.storage.images.dicom_nesting import ADVICE, check_nesting
from nnseg.storage.images.dicom_values import UNREADABLE, tag_of, text_of
from nnseg.storage.images.unpack import AUTOMATIC, unpack_parts
from nnseg.system.regular import open_regular

_STORAGE = "1.2.840.10008.5.1.4.1.1."
DOSE = _STORAGE + "481.2"
"""SOP class of dose distributions: images, but no scans; read if named, passed over in folders."""
WHOLE_SLIDE = _STORAGE + "77.1.6"
NUCLEAR = _STORAGE + "20"
NO_IMAGES = (
    "1.2.840.10008.1.3.10",  # the directory of a disc
    "1.2.840.10008.5.1.4.34.",  # treatments
    *(_STORAGE + kind for kind in ("66", "67", "68.", "88.", "11.", "104.", "9.", "4.2", "200.", "201.")),
    *(_STORAGE + "481." + kind for kind in ("3", "4", "5", "6", "7", "8", "9")),
)
"""Beginnings of SOP class UIDs of files that lie among the slices and are none: segmentations and registrations, reports,
presentation states, documents, waveforms, spectra, contours, treatment plans."""

TAGS = {
    "manufacturer": "Manufacturer",
    "model": "ManufacturerModelName",
    "institution": "InstitutionName",
    "sex": "PatientSex",
    "age": "PatientAge",
}
"""Tags that `read_tags` reads, by name; age in years, whatever its unit."""

MAYBE = (".dcm", ".dicom", ".ima", ".dcm.gz")
"""Suffixes of files that are DICOM by their name, even where they cannot be read."""


_START_BYTES = 512
_GZIP = b"\x1f\x8b"
_YEARS = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}


def is_dicom(path: Path) -> bool:
    """True if a file starts like a DICOM file, with or without preamble, also within gzip."""
    start = _start(path)
    return start[128:132] == b"DICM" or _starts_with_elements(start)


def may_be_dicom(path: Path) -> bool:
    """True for a file that is DICOM, or has a suffix of DICOM and is damaged."""
    return path.name.lower().endswith(MAYBE) or is_dicom(path)


def dicom_files(folder: Path) -> tuple[Path, ...]:
    """The DICOM files with images that lie in a folder itself, by name, and those that by their name should be such.

    A file that is empty or damaged counts if it has a suffix of DICOM, or the name of a DICOM file but for its number: a series
    with such a neighbour is not complete.

    Raises:
        ScanError: the folder cannot be listed.
    """
    try:
        entries = [p for p in sorted(folder.iterdir()) if not p.name.startswith(".") and p.is_file()]
    except OSError as error:
        found = f"cannot be listed ({error.strerror})"
        raise ScanError.at(folder, found, "a readable folder", "check its permissions") from error
    known = {p: is_dicom(p) for p in entries}
    patterns = {name_pattern(p) for p, dicom in known.items() if dicom}
    return tuple(p for p in entries if (not no_scan(p) if known[p] else _should_be_dicom(p, patterns)))


def name_pattern(path: Path) -> str:
    """A file's name with its numbers left out; slices of a series mostly share it."""
    return re.sub(r"\d+", "#", path.name)


def no_scan(path: Path) -> str:
    """What a DICOM file is if it is no scan, such as "Segmentation"; "" for images that may be scans."""
    kind = _sop_class(path)
    return kind_name(kind) if kind.startswith(NO_IMAGES) or kind == DOSE else ""


def kind_name(sop_class: str) -> str:
    """The standard's name of a kind of file: "RT Structure Set", "CT Image"."""
    return str(UID(sop_class, pydicom.config.IGNORE).name).removesuffix(" Storage") if sop_class else "object of unknown kind"


def read_header(path: Path, tags: Sequence[str | int]) -> Any:
    """The data set of a DICOM file with these tags only, and without pixels.

    Raises:
        ScanError: it is empty, or cannot be read as DICOM.
    """
    with quiet():
        return open_dataset(path, specific_tags=[tag_of(tag) for tag in tags], stop_before_pixels=True)


def open_dataset(path: Path, **options: Any) -> Any:
    """The pydicom data set of a file, its transfer syntax made sure of.

    Raises:
        ScanError: it is empty, or cannot be read as DICOM.
    """
    expected, advice = "a slice with pixels", "export the series again, or remove the file"
    try:
        if path.stat().st_size == 0:
            raise EOFError("it is empty")
        with _checked(path) as content:
            dataset = pydicom.dcmread(content, force=True, **options)
        kind = str(dataset.file_meta.get("MediaStorageSOPClassUID", ""))
        syntax = dataset.file_meta.get("TransferSyntaxUID")
    except (*UNREADABLE, MemoryError) as error:  # memory for an element of a length that the file does not have
        raise ScanError.at(path, f"cannot be read as DICOM ({error})", expected, advice) from error
    if not any(tag in dataset for tag in ("SOPClassUID", "Rows", "SeriesInstanceUID", "Manufacturer")):
        found = f"is a {kind_name(kind)}" if kind.startswith(NO_IMAGES) else "cannot be read as DICOM (no tag of an image in it)"
        raise ScanError.at(path, found, expected, advice)
    if not syntax:
        implicit, little = dataset.original_encoding
        dataset.file_meta.TransferSyntaxUID = (
            pydicom.uid.ImplicitVRLittleEndian
            if implicit
            else pydicom.uid.ExplicitVRLittleEndian
            if little
            else pydicom.uid.ExplicitVRBigEndian
        )
    return dataset


@contextmanager
def quiet() -> Iterator[None]:
    """Switch off pydicom's warnings and log of odd values; what matters is checked and raised."""
    logger = logging.getLogger("pydicom")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), pydicom.config.disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def read_tags(scan: Path) -> dict[str, str]:
    """Those of the `TAGS` that a scan's first file has; {} for a scan that is not DICOM.

    Args:
        scan: a DICOM file, a volume in one, or the folder of a series.

    Raises:
        ScanError: its header cannot be read.
    """
    file = next(iter(dicom_files(scan)), None) if scan.is_dir() else scan.parent if scan.parent.is_file() else scan
    if file is None or not may_be_dicom(file):
        return {}
    header = read_header(file, (*TAGS.values(), "SOPClassUID"))
    texts = {name: text_of(header, keyword) for name, keyword in TAGS.items()}
    texts["age"] = _years(texts["age"])
    return {name: text for name, text in texts.items() if text}


def whole_number(path: Path, dataset: Any, name: str, default: int) -> int:
    """A tag's whole number.

    Raises:
        ScanError: it is no whole number.
    """
    text = text_of(dataset, name)
    try:
        return int(text or default)
    except ValueError as error:
        advice = "correct the header, or remove the file"
        raise ScanError.at(path, f'has the {name} "{text}"', "a whole number", advice) from error


@contextmanager
def _checked(path: Path) -> Iterator[Path | io.BytesIO]:
    """What pydicom can read: a path, or the content of a file in gzip; neither has sequences nested too deeply.

    Raises:
        ScanError: it has, or is too large when unpacked.
    """
    with open_regular(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        if mapped[:2] != _GZIP:
            _check_nesting(path, mapped)
            yield path
            return
        content = _unpacked(path, file)
    _check_nesting(path, content)
    yield io.BytesIO(content)


def _check_nesting(path: Path, data: bytes | mmap.mmap) -> None:
    """As `check_nesting`, in a deflated data set too."""
    deflated = check_nesting(path, data)
    if deflated is not None:
        check_nesting(path, _unpacked(path, io.BytesIO(data[deflated:]), bare=True))


def _unpacked(path: Path, file: BinaryIO, *, bare: bool = False) -> bytes:
    """What a file in gzip, or the deflated (bare) rest of one, unpacks to.

    Raises:
        ScanError: it is damaged, or unpacks to more than it may.
    """
    whole = io.BytesIO()
    for part in unpack_parts(path, file, bare=bare):
        whole.write(part)
        check_limit("packed_dicom_bytes", whole.tell(), path, "unpacks to {:,} bytes or more", ScanError, *ADVICE)
    return whole.getvalue()


def _start(path: Path, length: int = _START_BYTES) -> bytes:
    """The first bytes of a file, unpacked; b"" if it cannot be read."""
    try:
        with open_regular(path) as file:
            start = file.read(length)
            if not start.startswith(_GZIP):
                return start
            return zlib.decompressobj(AUTOMATIC).decompress(start + file.read(length), length)  # of the first stream alone
    except (OSError, zlib.error):
        return b""


def _starts_with_elements(start: bytes) -> bool:
    """True for two elements of group 0002 or 0008 in rising order, as files without preamble start (PS3.5, 7.1)."""
    at, tags = 0, []
    for _ in range(2):
        order: Any = "big" if start[at : at + 2] in (b"\0\x02", b"\0\x08") else "little"
        group, element = (int.from_bytes(start[at + i : at + i + 2], order) for i in (0, 2))
        explicit = start[at + 4 : at + 6].isalpha() and start[at + 4 : at + 6].isupper()
        long = start[at + 4 : at + 6] in (b"OB", b"UN", b"SQ", b"UT")
        begin, end = (at + 8, at + 12) if long else (at + 6, at + 8) if explicit else (at + 4, at + 8)
        length = int.from_bytes(start[begin:end], order)
        if group not in (2, 8) or length > _START_BYTES or end > len(start):
            return False
        tags.append((group, element))
        at = end + length
    return tags[0] < tags[1]


def _sop_class(path: Path) -> str:
    """The SOP class UID of a DICOM file; "" if it is not among its first bytes."""
    start = _start(path, 4096)
    for tag, first in ((b"\x02\x00\x02\x00", 132), (b"\x08\x00\x16\x00", 0), (b"\x00\x08\x00\x16", 0)):
        at = start.find(tag, first)
        if at >= 0:
            text = re.match(rb"[0-9.]+", start[at + 8 :])
            return text[0].decode("ascii") if text else ""
    return ""


def _should_be_dicom(path: Path, patterns: set[str]) -> bool:
    """True for a file that cannot be read as DICOM though its name says that it is."""
    name = path.name.lower()
    return name.endswith(MAYBE) or (name_pattern(path) in patterns and name_pattern(path) != path.name)


def _years(text: str) -> str:
    """An age such as 063Y or 018M in years; "" if it is not written like one."""
    match = re.fullmatch(r"(\d{1,3})([YMWD])", text)
    return f"{int(match[1]) * _YEARS[match[2]]:.4g}" if match else ""
