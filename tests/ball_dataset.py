"""A small dataset of balls in noise."""

import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk


def write_balls(folder: Path, *, cases: int, seed: int = 0) -> Path:
    """Write scans of 12 x 20 x 16 voxels with a ball of radius 4 to 5 voxels somewhere inside."""
    random = np.random.default_rng(seed)
    for sub in ("imagesTr", "labelsTr"):
        (folder / sub).mkdir(parents=True)
    z, y, x = np.mgrid[:12, :20, :16]
    entries = []
    for i in range(cases):
        centre = random.uniform((5, 8, 6), (7, 12, 10))
        ball = (z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2 < random.uniform(4, 5) ** 2
        image = (100 + 80 * ball + random.normal(0, 10, ball.shape)).astype(np.float32)
        name = f"ball_{i:02d}.nii.gz"
        for sub, voxels in (("imagesTr", image), ("labelsTr", ball.astype(np.uint8))):
            volume = sitk.GetImageFromArray(voxels)
            volume.SetSpacing((1.0, 1.0, 1.5))
            sitk.WriteImage(volume, str(folder / sub / name))
        entries.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    content = {
        "name": "Balls",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "ball"},
        "training": entries,
        "numTraining": cases,
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder
