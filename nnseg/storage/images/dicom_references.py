"""What a DICOM object takes from the series that it is derived from: patient, study, and which image lies behind each slice.

Scanners, anonymisers and converters leave out or misspell much that the standard requires of the derived object. What identifies
patient, study and images is taken as it is; other values that the standard does not allow are left empty.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.datadict import dictionary_VR
from pydicom.uid import generate_uid

from nnseg.core.errors import ScanError
from nnseg.core.geometry import IDENTITY, Grid, Vector, as_vector
from nnseg.core.image import Source

EMPTY_IF_UNKNOWN = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber"),
)
"""Of patient and study, what an object must have, if need be without a value (type 2 in DICOM PS3.3, C.7.1.1 and C.7.2.1)."""

LEFT_OUT_IF_UNKNOWN = (
    *("IssuerOfPatientID", "PatientBirthTime", "OtherPatientNames", "EthnicGroup", "PatientComments", "PatientSpeciesDescription"),
    *("PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence"),
    *("StudyDescription", "PatientAge", "PatientSize", "PatientWeight", "LongitudinalTemporalInformationModified"),
)

TRIAL = ("ClinicalTrialSponsorName", "ClinicalTrialProtocolID", "ClinicalTrialSubjectID")
TRIAL_MORE = ("ClinicalTrialProtocolName", "ClinicalTrialSiteID", "ClinicalTrialSiteName")
"""Taken if all of `TRIAL` is known (PS3.3, C.7.1.3)."""

_ALLOWED: Mapping[str, Sequence[str]] = {"PatientSex": ("M", "F", "O"), "PatientIdentityRemoved": ("YES", "NO")}
_PATTERNS = {"AS": r"\d{3}[DWMY]", "DA": r"\d{8}", "TM": r"\d\d(\d\d(\d\d(\.\d{1,6})?)?)?", "DS": r"[+-]?[\d.]+([eE][+-]?\d+)?"}

_READ = (
    *(*EMPTY_IF_UNKNOWN, *LEFT_OUT_IF_UNKNOWN, *TRIAL, *TRIAL_MORE),
    *("SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber"),
    *("FrameOfReferenceUID", "PositionReferenceIndicator", "SliceThickness", "NumberOfFrames", "Rows", "Columns"),
    *("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod", "ImagePositionPatient"),
    *("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"),
)

ROUNDING = 0.01
"""Largest distance in slice spacings of a slice from its place in an even stack, as for reading series."""

NEAR = 0.1
"""Largest distance in slice spacings of an image from the slice that it is the source of: other channels may lie beside it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Instance:
    """A DICOM file that a volume was read from.

    Args:
        positions: (frames, 3) mm of each frame; NaN where it is not known.
    """

    sop_class: str
    uid: str
    series: str
    study: str
    shape: tuple[int, int]
    positions: npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Behind:
    """An image that a slice was read from.

    Args:
        frame: its number, from 1; None if the file is meant as a whole: of one frame, or of frames that their positions do not tell
            apart, such as the tiles of a mosaic and the times of one place.
        position: mm of its first pixel, if it is known to be the slice's.
    """

    instance: Instance
    frame: int | None = None
    position: Vector | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class References:
    """The files of a scan as DICOM objects.

    Args:
        first: the header of the first file.
        instances: each file once; those without a UID, which nothing can refer to, are left out.
        study, frame_of_reference: UIDs; made from the series' one if the files have none.
    """

    first: Any
    instances: tuple[Instance, ...]
    study: str
    frame_of_reference: str

    def behind(self, grid: Grid) -> list[list[Behind]]:
        """For each slice of a grid the images that it was read from."""
        found: list[list[Behind]] = [[] for _ in range(grid.shape[0])]
        for instance in self.instances:
            frames = _frames_of_slices(instance, grid)
            whole = len(instance.positions) == 1 or any(len(numbers) > 1 for numbers in frames)
            for here, numbers in zip(found, frames, strict=True):
                if numbers:
                    place = as_vector(instance.positions[numbers[0] - 1])
                    here.append(Behind(instance=instance, frame=None if whole else numbers[0], position=place))
            if not any(frames):
                for here in found if instance.shape != grid.shape[1:] or not np.isfinite(instance.positions).any() else ():
                    here.append(Behind(instance=instance))
        return found


def read_references(like: Source) -> References:
    """The files of a scan that was read from DICOM.

    Raises:
        ScanError: they are no DICOM files.
    """
    headers = [(path, _read(path)) for path in dict.fromkeys(like.files)]
    first = headers[0][1]
    series = text_of(first, "SeriesInstanceUID") or str(like.files[0])
    study = text_of(first, "StudyInstanceUID") or generate_uid(entropy_srcs=[series, "study"])
    frame = text_of(first, "FrameOfReferenceUID")
    if not re.fullmatch(r"[0-9.]{1,64}", frame):
        frame = generate_uid(entropy_srcs=[series, "frame of reference"])
    instances = {i.uid: i for i in (_instance(header, study) for _, header in headers) if i.uid and i.sop_class}
    return References(first=first, instances=tuple(instances.values()), study=study, frame_of_reference=frame)


def has_place(references: References, grid: Grid) -> bool:
    """True if the place of the grid in the patient is known: the files say it, or it is not the one of images without any."""
    known = any(np.isfinite(instance.positions).any() for instance in references.instances)
    return bool(known or grid.origin != (0.0, 0.0, 0.0) or grid.direction != IDENTITY)


def position_of(behind: Sequence[Behind], grid: Grid, z: int) -> Vector:
    """Where a slice lies: as its first image says, to the last digit, if that is the place in the grid but for rounding."""
    place = grid.world((z, 0, 0))
    said = behind[0].position if behind else None
    return said if said is not None and np.linalg.norm(np.subtract(said, place)) <= ROUNDING * grid.spacing[0] else place


def patient_and_study(header: Any) -> dict[str, Any]:
    """The values of the patient's and the study's attributes, by keyword."""
    values = {keyword: allowed_value(header, keyword) or "" for keyword in EMPTY_IF_UNKNOWN}
    values |= {keyword: value for keyword in LEFT_OUT_IF_UNKNOWN if (value := allowed_value(header, keyword))}
    trial = {keyword: allowed_value(header, keyword) or "" for keyword in (*TRIAL, *TRIAL_MORE)}
    return values | (trial if all(trial[keyword] for keyword in TRIAL) else {})


def allowed_value(header: Any, keyword: str) -> Any:
    """The value of an attribute, dates and times without the signs of old versions; None if the standard does not allow it."""
    kind = dictionary_VR(keyword)
    if kind == "SQ":
        return header.get(keyword) or None
    text = text_of(header, keyword)
    text = text.replace(".", "").replace("-", "") if kind == "DA" else text.replace(":", "") if kind == "TM" else text
    wrong = keyword in _ALLOWED and text not in _ALLOWED[keyword]
    if wrong or not re.fullmatch(_PATTERNS.get(kind, r"[^\x00-\x1f]+"), text) or (kind == "DA" and not _is_date(text)):
        return None
    return text


def text_of(header: Any, keyword: str) -> str:
    """The text of an attribute; "" if it is missing or cannot be read."""
    try:
        value = header.get(keyword)
    except (ValueError, TypeError, KeyError, NotImplementedError, AttributeError, OverflowError):
        return ""
    return "" if value is None else str(value).strip("\0 ")


@contextmanager
def quiet() -> Iterator[None]:
    """Switch off pydicom's warnings and log of odd values: they are the scanner's, and cannot be corrected here."""
    logger = logging.getLogger("pydicom")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), pydicom.config.disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def _is_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


_POSITION = "ImagePositionPatient"


def _read(path: Path) -> Any:
    advice = "write .nii.gz instead"
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=list(_READ))
    except (pydicom.errors.InvalidDicomError, OSError, ValueError, TypeError, KeyError, EOFError, NotImplementedError) as error:
        raise ScanError.at(path, f"is no DICOM file ({error})", "a scan read from DICOM", advice) from error
    if not header.get("Rows"):
        raise ScanError.at(path, "is no DICOM file", "a scan read from DICOM", advice)
    return header


def _instance(header: Any, study: str) -> Instance:
    meta = header.file_meta
    return Instance(
        sop_class=text_of(header, "SOPClassUID") or text_of(meta, "MediaStorageSOPClassUID"),
        uid=text_of(header, "SOPInstanceUID") or text_of(meta, "MediaStorageSOPInstanceUID"),
        series=text_of(header, "SeriesInstanceUID") or generate_uid(entropy_srcs=[study, "series"]),
        study=text_of(header, "StudyInstanceUID") or study,
        shape=(int(header.Rows), int(header.Columns)),
        positions=_positions(header),
    )


def _positions(header: Any) -> npt.NDArray[np.float64]:
    """(frames, 3) mm of each frame's first pixel, NaN where it is not known."""
    count = int(text_of(header, "NumberOfFrames") or 1)
    groups = header.get("PerFrameFunctionalGroupsSequence") or [None] * count
    shared = next(iter(header.get("SharedFunctionalGroupsSequence") or ()), None)
    own = [_numbers(_group_item(group) or _group_item(shared), _POSITION) for group in groups]
    plain = _numbers(header, _POSITION) if count == 1 else ()
    return np.array([position or plain or (np.nan,) * 3 for position in own])


def _group_item(group: Any) -> Any:
    items = group.get("PlanePositionSequence") if group is not None else None
    return items[0] if items else None


def _numbers(item: Any, keyword: str) -> tuple[float, ...]:
    """Three numbers, or () if they are missing or cannot be read."""
    try:
        values = tuple(float(v) for v in (item.get(keyword) or ())) if item is not None else ()
    except (ValueError, TypeError):
        return ()
    return values if len(values) == 3 else ()


def _frames_of_slices(instance: Instance, grid: Grid) -> list[list[int]]:
    """For each slice of the grid the numbers, from 1, of the frames that lie in its place and are as large."""
    found: list[list[int]] = [[] for _ in range(grid.shape[0])]
    if instance.shape != grid.shape[1:]:
        return found
    step = np.asarray(grid.world((1, 0, 0))) - grid.origin
    away = instance.positions - grid.origin
    places = np.nan_to_num(np.rint(away @ step / (step @ step)), nan=-1).astype(int)
    distances = np.linalg.norm(away - places[:, None] * step, axis=1)
    for number, (place, distance) in enumerate(zip(places, distances, strict=True), 1):
        if 0 <= place < len(found) and distance <= NEAR * grid.spacing[0]:
            found[place].append(number)
    return found
