"""Contours for treatment planning."""

from __future__ import annotations

from pathlib import Path

from nnseg.interop.conversion.converted_scan import ConvertedScan
from nnseg.storage.images.dicom_rtstruct import write_rtstruct


def write_contours(scan: ConvertedScan, folder: Path) -> tuple[Path, ...]:
    """The file CASE_rtstruct.dcm that is written: an RT Structure Set with an ROI for each label or region.

    Raises:
        ScanError: the scan was not read from DICOM.
        RunError: the folder cannot be written to.
    """
    file = folder / f"{scan.name}_rtstruct.dcm"
    write_rtstruct(scan.stored, file, like=scan.source, labels=scan.labels)
    return (file,)
