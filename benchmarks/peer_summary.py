"""nnU-Net's own scores of a few made label maps, stored for the tests; run with the peer's Python.

    python benchmarks/peer_summary.py tests/interop/data/summaries

Three cases of values 0 to 3 and 5, which is ignored; value 4 is declared and shown nowhere, and one case shows no 3.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

IGNORE = 5
KINDS = {"labels": [1, 2, 3, 4], "regions": [(1, 2, 3), (2, 3), 3]}


def write(path: Path, labels: np.ndarray) -> None:
    """Write a label map of 1 x 1 x 3 mm."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(labels.astype(np.uint8), np.diag([1.0, 1.0, 3.0, 1.0])), path)


def make() -> None:
    """Write references and predictions of three cases into the current folder."""
    for seed in range(3):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 3 if seed == 0 else 4, (4, 3, 3)).repeat(2, 0).repeat(3, 1).repeat(2, 2)
        wrong = rng.random(labels.shape) < 0.2
        predicted = np.where(wrong, rng.integers(0, 3 if seed == 0 else 4, labels.shape), labels)
        reference = np.where(rng.random(labels.shape) < 0.1, IGNORE, labels)
        write(Path(f"predictions/case_{seed}.nii.gz"), predicted)
        write(Path(f"references/case_{seed}.nii.gz"), reference)


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)  # so that the files have the same names wherever this runs
    make()
    for kind, heads in KINDS.items():
        out = f"{kind}.json"
        compute_metrics_on_folder("references", "predictions", out, SimpleITKIO(), ".nii.gz", heads, IGNORE, num_processes=1)


if __name__ == "__main__":
    main()
