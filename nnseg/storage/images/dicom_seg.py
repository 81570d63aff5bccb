"""DICOM-SEG: the label map of a DICOM series as DICOM, for archives and viewers. Needs the extra ``dicom``."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnseg.core.errors import RunError, ScanError
from nnseg.core.image import Integers, Source
from nnseg.core.labels import Labels
from nnseg.storage.files import write_aside
from nnseg.storage.images.codes import find_codes

_NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
_EMPTY_IF_MISSING = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID")
_NONE_IF_MISSING = ("StudyDate", "StudyTime")


def missing_extra() -> str:
    """The command that installs what writing DICOM-SEG needs; "" if it is installed."""
    return "" if all(importlib.util.find_spec(name) for name in ("highdicom", "pydicom")) else 'pip install "nnseg[dicom]"'


def write_dicom_seg(labels_ZYX: Integers, path: str | Path, *, like: Source, labels: Labels, when: datetime | None = None) -> None:
    """Write a label map as DICOM-SEG: one coded segment a label, each frame in its slice's place, the source images named.

    Args:
        labels_ZYX: stored values, in the stored order of the scan (`nnseg.storage.images.write.to_stored_order`).
        path: a complete file appears under this name, or none.
        like: the scan, read from DICOM.
        when: date and time of the segmentation; now by default. The same input and time give the same bytes.

    Raises:
        ScanError: the scan was not read from DICOM, or its headers cannot be used; or a value is no label.
        RunError: the extra is not installed, or the folder cannot be written to.
    """
    if command := missing_extra():
        raise RunError(f"{path}: DICOM-SEG needs highdicom, which is not installed; run {command}")
    unknown = labels.undeclared(labels_ZYX)
    if unknown:
        raise ScanError(f"{path}: the label map contains {unknown}, which are no labels of the model; predict again")
    segments = label_segments(labels)
    numbers = _segment_numbers(labels_ZYX, list(segments.values()))
    sources = _sources(like)
    try:
        segmentation = _segmentation(sources, numbers, list(segments), like.grid.shape[0], when or datetime.now())
    except (ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
        place = like.files[0].parent
        advice = "write .nii.gz instead, or correct the series' headers"
        raise ScanError.at(place, f"cannot be used for DICOM-SEG ({error})", "complete headers", advice) from error
    with write_aside(Path(path)) as aside:
        segmentation.save_as(aside)


def label_segments(labels: Labels) -> dict[str, int]:
    """Names and values of the segments: all labels but the background, or those that label maps of regions have."""
    if not labels.regions:
        return dict(zip(labels.names[1:], labels.values[1:], strict=True))
    names = dict(zip(labels.values, labels.names, strict=True))
    names |= {region.paint: names.get(region.paint, region.name) for region in labels.regions}
    return {names[value]: value for value in labels.painted}


def _segment_numbers(labels_ZYX: Integers, values: Sequence[int]) -> npt.NDArray[Any]:
    """The number of each voxel's segment, from 1 in the order of the values; 0 for none."""
    lowest = int(labels_ZYX.min())
    table = np.zeros(int(labels_ZYX.max()) - lowest + 1, np.uint8 if len(values) < 256 else np.uint16)
    for number, value in enumerate(values, 1):
        if 0 <= value - lowest < len(table):
            table[value - lowest] = number
    numbers: npt.NDArray[Any] = table[labels_ZYX.astype(np.int64) - lowest if lowest else labels_ZYX]
    return numbers


def _sources(like: Source) -> list[Any]:
    """The headers of all source files, with empty fields where the standard requires a field that may be empty."""
    import pydicom  # noqa: PLC0415 (an extra)

    try:
        headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in like.files]
    except (pydicom.errors.InvalidDicomError, OSError) as error:
        found = f"is no DICOM file ({error})"
        raise ScanError.at(like.files[0], found, "a scan read from DICOM", "write .nii.gz instead") from error
    missing = [field for field in _NEEDED if any(not header.get(field) for header in headers)]
    if missing:
        found = f"has slices without {', '.join(missing)}"
        raise ScanError.at(like.files[0].parent, found, "complete headers", "write .nii.gz instead")
    frame = pydicom.uid.generate_uid(entropy_srcs=[str(headers[0].get("SeriesInstanceUID", ""))])
    for header in headers:
        for field, empty in (*((f, "") for f in _EMPTY_IF_MISSING), *((f, None) for f in _NONE_IF_MISSING)):
            if field not in header:
                setattr(header, field, empty)
        if header.PatientSex not in ("M", "F", "O", ""):
            header.PatientSex = ""
        if "FrameOfReferenceUID" not in header and "ImagePositionPatient" in header:
            header.FrameOfReferenceUID = frame
    return headers


def _segmentation(sources: Sequence[Any], numbers: npt.NDArray[Any], names: Sequence[str], slices: int, when: datetime) -> Any:
    """The DICOM object.

    Args:
        sources: headers of the slices of the first channel, then those of the others.
        numbers: (Z, Y, X), of segments, 0 where there is none.
        slices: how many there are of the first channel.
        when: date and time of the segmentation.
    """
    import highdicom as hd  # noqa: PLC0415 (an extra)
    from pydicom.uid import generate_uid  # noqa: PLC0415

    logging.getLogger("highdicom").setLevel(logging.WARNING)  # it logs every module that it copies
    first = 1 if int(sources[0].get("NumberOfFrames") or 1) > 1 else slices
    seed = [*(str(s.SOPInstanceUID) for s in sources), hashlib.blake2b(numbers.tobytes()).hexdigest(), *names, when.isoformat()]
    segmentation = hd.seg.Segmentation(
        source_images=sources[:first],
        further_source_images=sources[first:] or None,
        pixel_array=numbers,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[_segment_description(number, name) for number, name in enumerate(names, 1)],
        series_instance_uid=generate_uid(entropy_srcs=[*seed, "series"]),
        series_number=int(sources[0].get("SeriesNumber") or 0) + 1000,
        series_description="nnseg segmentation",
        sop_instance_uid=generate_uid(entropy_srcs=[*seed, "instance"]),
        instance_number=1,
        manufacturer="nnseg",
        manufacturer_model_name="nnseg",
        software_versions=_version(),
        device_serial_number="none",
        content_label="SEGMENTATION",
        specific_character_set="ISO_IR 192",  # labels have names in any script
        content_date=when.date(),
        content_time=when.time(),
    )
    segmentation.InstanceCreationDate, segmentation.InstanceCreationTime = segmentation.ContentDate, segmentation.ContentTime
    for tool in segmentation.ContributingEquipmentSequence:
        tool.ContributionDateTime = when.strftime("%Y%m%d%H%M%S.%f")
    axes = generate_uid(entropy_srcs=[*seed, "dimensions"])
    for item in (*segmentation.DimensionOrganizationSequence, *segmentation.DimensionIndexSequence):
        item.DimensionOrganizationUID = axes
    return segmentation


def _segment_description(number: int, name: str) -> Any:
    import highdicom as hd  # noqa: PLC0415
    from pydicom.sr.codedict import codes  # noqa: PLC0415

    words = find_codes(name)
    described = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=name[:64],
        segmented_property_category=words.category,
        segmented_property_type=words.kind,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name="nnseg", family=codes.DCM.ArtificialIntelligence, version=_version()
        ),
    )
    if words.side is not None:
        kind = described.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [hd.sr.CodedConcept.from_code(words.side)]
    return described


def _version() -> str:
    with suppress(PackageNotFoundError):
        return version("nnseg")
    return "unknown"
