"""A CT-like dataset of true size from real label maps, for planning, memory and speed; not for accuracy.

    python benchmarks/make_ct.py LABEL_MAPS OUT [--cases 1]

Writes OUT in Decathlon layout: body, air and table in Hounsfield units, organs brighter than what surrounds them, and noise.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

AIR, FAT, ORGAN, LESION, NOISE = -1000, -80, 150, 60, 20


def main() -> None:
    """Write the dataset."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("label_maps", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--cases", type=int, default=1)
    options = parser.parse_args()
    for sub in ("imagesTr", "labelsTr"):
        (options.out / sub).mkdir(parents=True, exist_ok=True)
    entries = []
    for number, path in enumerate(sorted(options.label_maps.rglob("*.nii.gz"))[: options.cases]):
        labels = sitk.ReadImage(str(path))
        image = sitk.GetImageFromArray(scan_of(sitk.GetArrayFromImage(labels), seed=number))
        image.CopyInformation(labels)
        name = f"ct_{number:02d}.nii.gz"
        sitk.WriteImage(image, str(options.out / "imagesTr" / name))
        sitk.WriteImage(labels, str(options.out / "labelsTr" / name))
        entries.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    described = {
        "name": "MadeCT",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "kidney", "2": "tumour"},
        "training": entries,
        "numTraining": len(entries),
    }
    (options.out / "dataset.json").write_text(json.dumps(described))


def scan_of(labels: np.ndarray, *, seed: int) -> np.ndarray:
    """int16 Hounsfield units for a label map: an elliptical body in air around the labelled organs."""
    random = np.random.default_rng(seed)
    middle = ndimage.center_of_mass(labels > 0)
    axis = int(np.argmin(labels.shape))
    grids = np.ogrid[tuple(slice(0, n) for n in labels.shape)]
    in_plane = [a for a in range(3) if a != axis]
    distance = sum(((grids[a] - middle[a]) / (0.45 * labels.shape[a])) ** 2 for a in in_plane)
    scan = np.where(np.broadcast_to(distance < 1, labels.shape), FAT, AIR).astype(np.float32)
    scan[labels == 1], scan[labels == 2] = ORGAN, LESION
    scan += random.normal(0, NOISE, labels.shape).astype(np.float32)
    return np.clip(scan, -1024, 3071).astype(np.int16)


if __name__ == "__main__":
    main()
