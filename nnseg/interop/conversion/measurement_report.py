"""Volumes as a structured report of DICOM, by highdicom.

Source: DICOM PS3.16, TID 1500 (measurement report), 1411 (volumetric ROI), 300 and 310 (measurement and its properties).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
from pydicom.uid import generate_uid

from nnseg.core.errors import ScanError
from nnseg.core.label_volumes import volumes_of
from nnseg.interop.conversion.converted_scan import ConvertedScan
from nnseg.storage.files import write_aside
from nnseg.storage.images.codes import find_codes
from nnseg.storage.images.dicom_derived import software_version
from nnseg.storage.images.dicom_headers import quiet
from nnseg.storage.images.dicom_seg import write_dicom_seg

IMAGING = ("363679005", "SCT", "Imaging")
"""The procedure reported, of whatever modality."""

UNCERTAINTIES = (
    ("371885007", "SCT", "-, range of lower measurement uncertainty"),
    ("371886008", "SCT", "+, range of upper measurement uncertainty"),
)

MILLILITRE = ("mL", "UCUM", "milliliter")

DIGITS = 4
"""Decimals of ml."""


def write_measurement_report(scan: ConvertedScan, folder: Path) -> tuple[Path, ...]:
    """The file CASE_sr.dcm that is written, and CASE.dcm, the DICOM-SEG it refers to, where none was predicted.

    Raises:
        ScanError: the scan was not read from DICOM, or the DICOM-SEG has no segments of the labels.
        RunError: the folder cannot be written to.
    """
    seg, written = scan.seg, list[Path]()
    if seg is None:
        seg = folder / f"{scan.name}.dcm"
        write_dicom_seg(scan.stored, seg, like=scan.source, labels=scan.labels)
        written.append(seg)
    file = folder / f"{scan.name}_sr.dcm"
    with quiet():
        sources = [pydicom.dcmread(path, stop_before_pixels=True) for path in dict.fromkeys(scan.source.files)]
        report = _report(scan, pydicom.dcmread(seg), sources)
        with write_aside(file) as aside:
            report.save_as(aside)
    return (*written, file)


def _report(scan: ConvertedScan, seg: pydicom.Dataset, sources: list[pydicom.Dataset]) -> Any:
    """The DICOM object."""
    from highdicom import sr  # noqa: PLC0415 (an extra)
    from pydicom.sr.codedict import codes  # noqa: PLC0415 (takes a tenth of a second)

    device = sr.DeviceObserverIdentifyingAttributes(uid=generate_uid(entropy_srcs=["nnseg"]), name="nnseg", model_name="nnseg")
    observer = sr.ObserverContext(observer_type=codes.DCM.Device, observer_identifying_attributes=device)
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=sr.CodedConcept(*IMAGING),
        imaging_measurements=[*_groups(scan, seg)],
        title=codes.DCM.ImagingMeasurementReport,
    )
    seed = [seg.SOPInstanceUID, *scan.labels.foreground, "measurement report"]
    return sr.ComprehensiveSR(
        evidence=[seg, *sources],
        content=content[0],
        series_instance_uid=generate_uid(entropy_srcs=[*seed, "series"]),
        series_number=int(seg.SeriesNumber) + 1,
        sop_instance_uid=generate_uid(entropy_srcs=[*seed, "instance"]),
        instance_number=1,
        manufacturer="nnseg",
        series_description="nnseg volumes",
    )


def _groups(scan: ConvertedScan, seg: pydicom.Dataset) -> Iterator[Any]:
    """The measurements of each label that is a segment: its volume, with the interval where it is known."""
    from highdicom import sr  # noqa: PLC0415 (an extra)
    from pydicom.sr.codedict import codes  # noqa: PLC0415

    numbers = {str(one.SegmentLabel): int(one.SegmentNumber) for one in seg.SegmentSequence}
    volumes = volumes_of(scan.label_map, scan.labels)
    single = {name for name, values in scan.labels.foreground_values.items() if len(values) == 1}  # other regions are no segment
    measured = [name for name in volumes if name in single and name[:64] in numbers]
    if not measured:
        raise ScanError(f"{scan.name}: its DICOM-SEG has no segments of {', '.join(volumes)}")
    algorithm = sr.AlgorithmIdentification(name="nnseg", version=software_version())
    series = sr.SourceSeriesForSegmentation(seg.ReferencedSeriesSequence[0].SeriesInstanceUID)
    for name in measured:
        ml = volumes[name]
        segment = sr.ReferencedSegment(seg.SOPClassUID, seg.SOPInstanceUID, numbers[name[:64]], source_series=series)
        words = find_codes(name)
        site = words.organ or words.kind
        uid = generate_uid(entropy_srcs=[seg.SOPInstanceUID, name])
        yield sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=sr.TrackingIdentifier(uid=uid, identifier=name),
            referenced_segment=segment,
            finding_type=words.kind,
            finding_category=words.category,
            finding_sites=[sr.FindingSite(anatomic_location=site, laterality=words.side)] if words.organ or words.side else None,
            algorithm_id=algorithm,
            measurements=[
                sr.Measurement(
                    name=codes.SCT.Volume,
                    value=round(ml, DIGITS),
                    unit=sr.CodedConcept(*MILLILITRE),
                    properties=_uncertainty(scan, name, ml),
                )
            ],
        )


def _uncertainty(scan: ConvertedScan, name: str, ml: float) -> Any:
    """How far the true volume may lie below and above, by the interval that holds for 90 % of scans; None where it is not known."""
    from highdicom import sr  # noqa: PLC0415 (an extra)

    factors = scan.record.confidence.volume_factors if scan.record.confidence else {}
    if name not in factors:
        return None
    found = sr.MeasurementProperties()
    for code, share in zip(UNCERTAINTIES, (1 - factors[name][0], factors[name][1] - 1), strict=True):
        found.append(
            sr.NumContentItem(
                name=sr.CodedConcept(*code),
                value=round(ml * share, DIGITS),
                unit=sr.CodedConcept(*MILLILITRE),
                relationship_type=sr.RelationshipTypeValues.HAS_PROPERTIES,
            )
        )
    return found
