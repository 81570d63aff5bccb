"""A file for each label: its mask."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from nnseg.interop.conversion.converted_scan import ConvertedScan, file_names
from nnseg.storage.images.write import write_label_map


def write_masks(scan: ConvertedScan, folder: Path) -> tuple[Path, ...]:
    """The files CASE/LABEL.nii.gz that are written: 1 in the voxels of the label or region, else 0.

    Raises:
        RunError: the folder cannot be written to.
    """
    files: list[Path] = []
    for name, stem in file_names(scan.labels).items():
        mask = np.isin(scan.label_map.labels, scan.labels.foreground_values[name])
        file = folder / scan.name / f"{stem}.nii.gz"
        files += write_label_map(replace(scan.label_map, labels=mask.astype(np.uint8)), file, like=scan.source)
    return tuple(files)
