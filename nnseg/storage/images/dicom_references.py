"""What a DICOM object takes from the series that it is derived from: patient, study, and which image lies behind each slice.

Scanners, anonymisers and converters leave out or misspell much that the standard requires of the derived object. What identifies
patient, study and images is taken as it is; other values that the standard does not allow are left empty.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
from pydicom.datadict import dictionary_VR
from pydicom.uid import generate_uid

from nnseg.core.errors import ScanError
from nnseg.core.geometry import Grid, Vector, as_vector
from nnseg.core.image import Source
from nnseg.storage.images.dicom_frame import DicomFile
from nnseg.storage.images.dicom_frames import read_file
from nnseg.storage.images.dicom_headers import read_header
from nnseg.storage.images.dicom_values import text_of, value_of

EMPTY_IF_UNKNOWN = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber"),
)
"""Of patient and study, what an object must have, if need be without a value (type 2 in DICOM PS3.3, C.7.1.1 and C.7.2.1)."""

DEIDENTIFICATION = ("DeidentificationMethod", "DeidentificationMethodCodeSequence")

LEFT_OUT_IF_UNKNOWN = (
    *("IssuerOfPatientID", "PatientBirthTime", "OtherPatientNames", "EthnicGroup", "PatientComments", "PatientSpeciesDescription"),
    *("PatientIdentityRemoved", *DEIDENTIFICATION),
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
    *("FrameOfReferenceUID", "PositionReferenceIndicator", "PatientOrientation", "SliceThickness"),
    *("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod", "Rows"),
)

ROUNDING = 0.01
"""Largest distance in slice spacings of a slice from its place in an even stack, as for reading series."""

NEAR = 0.1
"""Largest distance in slice spacings of an image from the slice that it is the source of: other channels may lie beside it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Instance:
    """A DICOM file that a volume was read from.

    Args:
        frames: where each of its planes lies.
    """

    sop_class: str
    uid: str
    series: str
    study: str
    file: DicomFile


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
        study: its UID; made from the series' one if the files have none.
        frame_of_reference: likewise; "" if no file says where its pixels lie in the patient.
    """

    first: Any
    instances: tuple[Instance, ...]
    study: str
    frame_of_reference: str

    def behind(self, grid: Grid) -> list[list[Behind]]:
        """For each slice of a grid the images that it was read from."""
        found: list[list[Behind]] = [[] for _ in range(grid.shape[0])]
        for instance in self.instances:
            planes = _planes_of_slices(instance.file, grid)
            several = any(len({index for index, _ in of_slice}) > 1 for of_slice in planes)
            whole = several or len({frame.index for frame in instance.file.frames}) == 1
            for here, of_slice in zip(found, planes, strict=True):
                for index, position in of_slice[:1]:
                    here.append(Behind(instance=instance, frame=None if whole else index + 1, position=position))
            if not any(frame.position for frame in instance.file.frames):
                for here in found:
                    here.append(Behind(instance=instance))
        return found


def read_references(like: Source) -> References:
    """The files of a scan that was read from DICOM.

    Raises:
        ScanError: they are no DICOM files.
    """
    files = tuple(dict.fromkeys(like.files))
    try:
        read = [(read_header(path, _READ), read_file(path)) for path in files]
    except ScanError as error:
        raise ScanError.at(files[0], "is no DICOM image", "a scan read from DICOM", "write .nii.gz instead") from error
    first = read[0][0]
    series = text_of(first, "SeriesInstanceUID") or str(files[0])
    study = text_of(first, "StudyInstanceUID") or generate_uid(entropy_srcs=[series, "study"])
    frame = text_of(first, "FrameOfReferenceUID")
    if not re.fullmatch(r"[0-9.]{1,64}", frame):
        frame = generate_uid(entropy_srcs=[series, "frame of reference"])
    instances = {i.uid: i for i in (_instance(header, file, study) for header, file in read) if i.uid and i.sop_class}
    placed = any(plane.position and plane.orientation for _, file in read for plane in file.frames)
    return References(first=first, instances=tuple(instances.values()), study=study, frame_of_reference=frame if placed else "")


def position_of(behind: Sequence[Behind], grid: Grid, z: int) -> Vector:
    """Where a slice lies: as its first image says, to the last digit, if that is the place in the grid but for rounding."""
    place = grid.world((z, 0, 0))
    said = behind[0].position if behind else None
    return said if said is not None and np.linalg.norm(np.subtract(said, place)) <= ROUNDING * grid.spacing[0] else place


def patient_and_study(header: Any) -> dict[str, Any]:
    """The values of the patient's and the study's attributes, by keyword."""
    values = {keyword: allowed_value(header, keyword) or "" for keyword in EMPTY_IF_UNKNOWN}
    values |= {keyword: value for keyword in LEFT_OUT_IF_UNKNOWN if (value := allowed_value(header, keyword))}
    if not any(keyword in values for keyword in DEIDENTIFICATION):  # it may not be said without the method
        values.pop("PatientIdentityRemoved", None)
    trial = {keyword: allowed_value(header, keyword) or "" for keyword in (*TRIAL, *TRIAL_MORE)}
    return values | (trial if all(trial[keyword] for keyword in TRIAL) else {})


def about_source(references: References) -> dict[str, Any]:
    """The attributes by which an object is of the same patient and study as its source, and the number of the source's series."""
    number = text_of(references.first, "SeriesNumber")
    numbered = int(number) if number.isdecimal() and len(number) < 9 else 0
    return patient_and_study(references.first) | {"StudyInstanceUID": references.study, "SeriesNumber": numbered}


def allowed_value(header: Any, keyword: str) -> Any:
    """The value of an attribute, dates and times without the signs of old versions; None if the standard does not allow it."""
    kind = dictionary_VR(keyword)
    if kind == "SQ":
        return header.get(keyword) or None
    text = str(value_of(header, keyword) or "") if kind == "PN" else text_of(header, keyword)
    text = text.replace(".", "").replace("-", "") if kind == "DA" else text.replace(":", "") if kind == "TM" else text
    wrong = keyword in _ALLOWED and text not in _ALLOWED[keyword]
    if wrong or not re.fullmatch(_PATTERNS.get(kind, r"[^\x00-\x1f]+"), text) or (kind == "DA" and not _is_date(text)):
        return None
    return text


def _is_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _instance(header: Any, file: DicomFile, study: str) -> Instance:
    return Instance(
        sop_class=file.kind,
        uid=text_of(header, "SOPInstanceUID") or text_of(header.file_meta, "MediaStorageSOPInstanceUID"),
        series=file.uid or generate_uid(entropy_srcs=[study, "series"]),
        study=text_of(header, "StudyInstanceUID") or study,
        file=file,
    )


def _planes_of_slices(file: DicomFile, grid: Grid) -> list[list[tuple[int, Vector]]]:
    """For each slice of the grid the frames, by index, with planes in its place that are as large, and these planes' positions."""
    found: list[list[tuple[int, Vector]]] = [[] for _ in range(grid.shape[0])]
    step = np.asarray(grid.world((1, 0, 0))) - grid.origin
    for frame in file.frames:
        if frame.size != grid.shape[1:] or not frame.position:
            continue
        away = np.asarray(frame.position) - grid.origin
        z = round(float(away @ step / (step @ step)))
        if 0 <= z < len(found) and np.linalg.norm(away - z * step) <= NEAR * grid.spacing[0]:
            found[z].append((frame.index, as_vector(frame.position)))
    return found
