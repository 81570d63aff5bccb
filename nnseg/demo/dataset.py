"""A dataset of phantoms in nnU-Net's raw layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt

from nnseg.core.errors import RunError
from nnseg.core.geometry import Grid
from nnseg.demo.scanner import CHANNELS, LABELS, Phantom, draw_phantom
from nnseg.storage.files import write_aside, write_text
from nnseg.system.progress import progress


def write_phantoms(folder: Path, *, cases: int = 16, seed: int = 0) -> Path:
    """Write a dataset of phantoms: ``imagesTr``, ``labelsTr`` and ``dataset.json``; the folder is returned.

    Equal seeds give equal bytes. A complete dataset is not changed, an incomplete one is completed.

    Args:
        folder: created if absent.
        seed: of every random choice; a case does not depend on how many there are.

    Raises:
        RunError: the folder holds something else, or cannot be written to.
    """
    description = _describe(cases, seed)
    wanted = [_files(folder, index) for index in range(cases)]
    finished = _is_finished(folder, description, {file for files in wanted for file in files})
    missing = [index for index, files in enumerate(wanted) if not finished or not all(file.is_file() for file in files)]
    for index in progress(missing, total=len(missing), label="drawing phantoms"):
        _write_case(draw_phantom(index, seed=seed), wanted[index])
    if not finished:
        write_text(folder / "dataset.json", description)  # last: where it is, the rest is
    return folder


def _is_finished(folder: Path, description: str, wanted: set[Path]) -> bool:
    """True if exactly this dataset was written before; without its dataset.json every file is written again.

    Raises:
        RunError: the folder holds something else.
    """
    index = folder / "dataset.json"
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file; name another folder for the phantoms")
    try:
        others = sorted({file for part in ("imagesTr", "labelsTr") for file in (folder / part).glob("[!.]*")} - wanted)
        known = index.read_text(encoding="utf-8") if index.exists() else None
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"cannot read {folder}: {error}; name another folder for the phantoms") from error
    if others or known not in (None, description):
        raise RunError(f"{others[0] if others else index} is not part of this dataset of phantoms; name another or an empty folder")
    return known is not None


def _describe(cases: int, seed: int) -> str:
    contents = {
        "name": "HeadPhantoms",
        "description": f"Head phantoms drawn by nnseg with seed {seed}; nobody's head",
        "licence": "CC0-1.0",
        "release": "1",
        "channel_names": {str(number): name for number, name in enumerate(CHANNELS)},
        "labels": LABELS,
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }
    return json.dumps(contents, indent=2) + "\n"


def _files(folder: Path, index: int) -> tuple[Path, ...]:
    """A case's channel files, then its label map."""
    images = (folder / "imagesTr" / f"phantom_{index:03}_{channel:04}.nii.gz" for channel in range(len(CHANNELS)))
    return *images, folder / "labelsTr" / f"phantom_{index:03}.nii.gz"


def _write_case(phantom: Phantom, files: tuple[Path, ...]) -> None:
    for voxels, file in zip((*phantom.image, phantom.labels), files, strict=True):
        _write_nifti(voxels, phantom.grid, file)


def _write_nifti(voxels: npt.NDArray[Any], grid: Grid, path: Path) -> None:
    """Write one volume; nibabel's gzip carries neither time nor name, so equal voxels give equal bytes."""
    affine = np.eye(4)
    affine[:3, :3] = grid.steps[::-1].T
    affine[:3, 3] = grid.origin
    affine[:2] *= -1  # NIfTI's world is RAS, ours LPS
    image = nibabel.Nifti1Image(voxels.T, affine)
    image.set_qform(affine, code="scanner")
    image.set_sform(affine, code="scanner")
    image.header.set_xyzt_units("mm")
    with write_aside(path) as aside:
        image.to_filename(aside)
