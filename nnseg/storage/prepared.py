"""`write_prepared`: the channels of a scan after a step of preparation, as files."""

from __future__ import annotations

from pathlib import Path

from nnseg.core.image import Scan
from nnseg.storage.images.write import write_map
from nnseg.storage.predictions import prepared_end


def write_prepared(scan: Scan, step: str, name: str, folder: Path) -> tuple[Path, ...]:
    """The files ``NAME_0000_STEP_prepared.nii.gz`` written, one for each channel that the scan has, each on the scan's stored grid.

    Raises:
        RunError: the folder cannot be written to.
    """
    files = tuple(folder / f"{name}{prepared_end(number, step)}.nii.gz" for number in scan.present)
    for number, file in zip(scan.present, files, strict=True):
        write_map(scan.image[number], file, like=scan.source)
    return files
