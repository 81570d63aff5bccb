"""`prepare`: what ``nnseg prepare`` writes."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from nnseg.commands.prepare import PreparedFolder
from nnseg.commands.prepare import prepare as prepare_folder
from nnseg.core.dataset import Reading
from nnseg.core.keywords import ScanOptions, Words, listing, options_of
from nnseg.core.options import parse_steps
from nnseg.storage.path_kinds import check_path


@listing(ScanOptions)
def prepare(
    scans: str | Path,
    out: str | Path,
    *,
    steps: Words,
    save_steps: bool = False,
    workers: int = 0,
    force: bool = False,
    **options: Unpack[ScanOptions],
) -> PreparedFolder:
    """Scans after steps such as N4 and a brain mask, in files of their own, as ``nnseg prepare``.

    For scans in memory there is `nnseg.prepare_scan`, and ``prepare`` of `nnseg.load`.

    Args:
        scans: one scan, or a folder of files or DICOM series.
        out: folder for the prepared scans.
        steps: names of steps in their order, such as "n4,register,mask:skip,normalize" or a list of them.
        save_steps: also write the channels after each step.
        workers: processes; 0 for this one.
        force: also overwrite files that nnseg did not make.
        options: as of the command.

    Raises:
        NnsegError: there is no scan, a step is unknown, or the folder has files of others. Failures of single scans are in
            ``findings``.

    Example:
        >>> nnseg.prepare("DATASET/imagesTr", "PREPARED/imagesTr", steps="n4,normalize").scans
    """
    check_path(Path(scans), "scans")
    check_path(Path(out), "output folder")
    reading = Reading.of(options_of(options, ScanOptions))
    chosen = parse_steps(steps)
    return prepare_folder(Path(scans), Path(out), chosen, reading, save_steps=save_steps, workers=workers, force=force)
