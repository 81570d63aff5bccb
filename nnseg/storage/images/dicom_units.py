"""Units of DICOM voxels: HU of CT, Gy of doses, and SUV of PET where the header says all that it needs."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from nnseg.storage.images import dicom_headers as headers
from nnseg.storage.images.dicom_frame import DicomFile, Frame
from nnseg.storage.images.dicom_values import item_of, number_of, text_of

SUV, ACTIVITY = "SUVbw (g/ml)", "Bq/ml"

_PHILIPS_SUV = 0x70531000
_PET_TAGS: tuple[str | int, ...] = (
    *("Units", "DecayCorrection", "CorrectedImage", "SUVType", "PatientWeight", "RadiopharmaceuticalInformationSequence"),
    *("SeriesDate", "SeriesTime", "AcquisitionDate", "AcquisitionTime", "SOPClassUID", 0x70530010, _PHILIPS_SUV),
)
_LONGEST_UPTAKE = timedelta(hours=24)


class _MissingError(Exception):
    """What SUV cannot be computed without."""


def unit_of(file: DicomFile, frame: Frame) -> tuple[str, float, str]:
    """The unit of a volume's rescaled values, the factor that turns them into it, and a note if a better one is not possible."""
    if file.modality == "CT":
        return ("HU" if frame.rescale_type in ("HU", "") and frame.is_rescaled else ""), 1.0, ""
    if file.kind == headers.DOSE:
        return {"GY": "Gy", "RELATIVE": "relative dose"}.get(frame.rescale_type, ""), 1.0, ""
    if file.modality == "PT":
        with headers.quiet():
            return _pet_unit(headers.read_header(file.path, _PET_TAGS))
    return "", 1.0, ""


def _pet_unit(dataset: Any) -> tuple[str, float, str]:
    units, kind = text_of(dataset, "Units"), text_of(dataset, "SUVType") or "BW"
    if units == "GML":
        return (SUV if kind == "BW" else f"SUV {kind} (g/ml)"), 1.0, ""
    own = number_of(dataset, _PHILIPS_SUV) if "PHILIPS" in text_of(dataset, 0x70530010).upper() else None
    if units == "CNTS" and own:
        return SUV, own, ""
    if units != "BQML":
        return "", 1.0, f"its values are {units or 'of unknown unit'}, not SUV: only BQML and GML can be used"
    try:
        return SUV, _suv_factor(dataset), ""
    except _MissingError as lack:
        return ACTIVITY, 1.0, f"its values are {ACTIVITY}, not SUV: {lack}"


def _suv_factor(dataset: Any) -> float:
    """SUVbw of 1 Bq/ml: the patient's grams for each Bq that is left at the time to which the image is decay-corrected.

    Source: QIBA FDG-PET/CT profile, "SUV vendor-neutral pseudo-code": corrections ATTN and DECY; START and ADMIN.

    Raises:
        _MissingError: a tag is missing.
    """
    corrected = text_of(dataset, "CorrectedImage").split("\\")
    if lacking := [name for name in ("ATTN", "DECY") if name not in corrected]:
        raise _MissingError(f"CorrectedImage lacks {' and '.join(lacking)}")
    drug = item_of(dataset, "RadiopharmaceuticalInformationSequence")
    weight, dose = number_of(dataset, "PatientWeight"), number_of(drug, "RadionuclideTotalDose")
    if not weight or not dose or weight < 0 or dose < 0:
        raise _MissingError(f"{'PatientWeight' if not weight or weight < 0 else 'RadionuclideTotalDose'} is missing")
    corrected_to = text_of(dataset, "DecayCorrection")
    if corrected_to == "ADMIN":
        return weight * 1000 / dose
    if corrected_to != "START":
        raise _MissingError(f'DecayCorrection is "{corrected_to}", neither START nor ADMIN')
    half_life = number_of(drug, "RadionuclideHalfLife")
    if not half_life or half_life < 0:
        raise _MissingError("RadionuclideHalfLife is missing")
    delay = _uptake(dataset, drug)
    return float(weight * 1000 / (dose * 2 ** (-delay.total_seconds() / half_life)))


def _uptake(dataset: Any, drug: Any) -> timedelta:
    """The time from injection to the start of the scan."""
    start = _when(text_of(dataset, "SeriesDate") + text_of(dataset, "SeriesTime"))
    taken = _when(text_of(dataset, "AcquisitionDate") + text_of(dataset, "AcquisitionTime"))
    if start is None or taken is None or start > taken:  # series made later have another time, not that of the scan
        raise _MissingError("SeriesTime, that of the scan's start, is missing or later than AcquisitionTime")
    injected = _when(text_of(drug, "RadiopharmaceuticalStartDateTime"))
    if injected is None:
        injected = _when(f"{start:%Y%m%d}{text_of(drug, 'RadiopharmaceuticalStartTime')}")
        if injected is not None and injected > start:  # a time without a date, of the evening before
            injected -= timedelta(days=1)
    if injected is None:
        raise _MissingError("RadiopharmaceuticalStartTime is missing")
    if not timedelta() <= start - injected < _LONGEST_UPTAKE:
        raise _MissingError(f"RadiopharmaceuticalStartDateTime is {start - injected} before the scan")
    return start - injected


def _when(text: str) -> datetime | None:
    """A date and time such as 20260131093000.5, its time zone left out; None if it is not written like one."""
    try:
        return datetime.strptime(text[:14], "%Y%m%d%H%M%S")
    except ValueError:
        return None
