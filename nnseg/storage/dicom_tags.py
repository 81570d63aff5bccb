"""What the headers of DICOM files say of scanner and patient."""

from __future__ import annotations

import re
from pathlib import Path

from nnseg.storage.dicom import dicom_files, is_dicom
from nnseg.storage.itk import header_only, quiet, reason
from nnseg.storage.stored import refuse

TAGS = {
    "manufacturer": "0008|0070",
    "model": "0008|1090",
    "institution": "0008|0080",
    "sex": "0010|0040",
    "age": "0010|1010",
}
"""Read of each scan, by name; age in years, whatever its unit."""

_YEARS = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}


def read_tags(scan: Path) -> dict[str, str]:
    """Those of the `TAGS` that a scan's first file gives a value for; none of a scan that is not DICOM.

    Args:
        scan: a DICOM file, or the folder of a series.

    Raises:
        ScanError: its header cannot be read.
    """
    file = next(iter(dicom_files(scan)), None) if scan.is_dir() else scan
    if file is None or not is_dicom(file):
        return {}
    try:
        with quiet():
            reader = header_only(file, "GDCMImageIO")
    except RuntimeError as error:
        found = f"cannot be read as DICOM ({reason(error)})"
        raise refuse(file, found, expected="a slice with a header", advice="export the series again") from error
    texts = {name: str(reader.GetMetaData(key)).strip("\0 ") for name, key in TAGS.items() if reader.HasMetaDataKey(key)}
    if "age" in texts:
        texts["age"] = _years(texts["age"])
    return {name: text for name, text in texts.items() if text}


def _years(text: str) -> str:
    """Of an age such as 063Y or 018M; nothing of what is not written like one."""
    match = re.fullmatch(r"(\d{1,3})([YMWD])", text)
    return f"{int(match[1]) * _YEARS[match[2]]:.4g}" if match else ""
