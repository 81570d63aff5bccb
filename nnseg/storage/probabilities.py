"""Probabilities on a scan's grid as an .npz file: written slice by slice, so that they are never held."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nnseg.core.image import Floats
from nnseg.storage.files import write_aside

LEVEL = 1
"""Of the compression: most probabilities are 0 or 1, which the fastest level packs as well as any."""


def write_probabilities(probabilities_KZYX: Floats, path: Path, *, heads: Sequence[str]) -> None:
    """Write probabilities to a file that ``numpy.load`` opens: float16 ``probabilities`` (K, Z, Y, X), and ``heads``, K names.

    Equal probabilities give equal bytes.

    Args:
        probabilities_KZYX: may be a memory map; a slice at a time is read of it.
        path: ends in ".npz".
        heads: the labels' or regions' names.

    Raises:
        RunError: the file cannot be written.
    """
    described = {"descr": "<f2", "fortran_order": False, "shape": probabilities_KZYX.shape}
    with write_aside(path) as aside, zipfile.ZipFile(aside, "w", zipfile.ZIP_DEFLATED, compresslevel=LEVEL) as archive:
        with archive.open("probabilities.npy", "w", force_zip64=True) as file:
            np.lib.format.write_array_header_1_0(file, described)
            for volume in probabilities_KZYX:
                for plane in volume:
                    file.write(np.ascontiguousarray(plane, "<f2").tobytes())
        with archive.open("heads.npy", "w") as file:
            np.lib.format.write_array(file, np.array(heads, dtype=np.str_), allow_pickle=False)
