"""What DICOM objects that are derived from a series have in common: patient, study, series, equipment; items and codes.

Source: DICOM PS3.3, C.7.1 to C.7.5 (patient, study, series, equipment) and C.12.1 (SOP common).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import DSfloat

_UTF8 = "ISO_IR 192"


def derived_object(
    about: Mapping[str, Any], seed: Sequence[str], when: datetime, *, sop_class: str, modality: str, description: str
) -> pydicom.FileDataset:
    """A DICOM object of a patient and study, in a series of its own.

    Args:
        about: attributes of patient and study by keyword, and the number of the source's series.
        seed: what the UIDs are made from: the same texts give the same UIDs.
        when: date and time of its making.
    """
    instance = generate_uid(entropy_srcs=[*seed, "instance"])
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = sop_class, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = instance
    found = pydicom.FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    found.SpecificCharacterSet = _UTF8  # labels have names in any script
    found.update(item(**about))
    found.update(
        item(
            SOPClassUID=sop_class,
            SOPInstanceUID=instance,
            InstanceCreationDate=when.strftime("%Y%m%d"),
            InstanceCreationTime=when.strftime("%H%M%S.%f"),
            Modality=modality,
            SeriesInstanceUID=generate_uid(entropy_srcs=[*seed, "series"]),
            SeriesNumber=about["SeriesNumber"] + 1000,
            SeriesDescription=description,
            InstanceNumber=1,
            Manufacturer="nnseg",
            ManufacturerModelName="nnseg",
            DeviceSerialNumber="none",
            SoftwareVersions=software_version(),
        )
    )
    return found


def item(**values: Any) -> Dataset:
    """A data set of attributes by keyword."""
    found = Dataset()
    for keyword, value in values.items():
        setattr(found, keyword, value)
    return found


def coded(code: Any) -> Dataset:
    """The item of a code of pydicom."""
    return item(CodeValue=code.value, CodingSchemeDesignator=code.scheme_designator, CodeMeaning=code.meaning[:64])


def decimal(value: float) -> DSfloat:
    """A number in the 16 characters that DICOM allows, zero without a sign."""
    return DSfloat(float(value) + 0.0, auto_format=True)


def software_version() -> str:
    """The version of nnseg."""
    with suppress(PackageNotFoundError):
        return version("nnseg")
    return "unknown"
