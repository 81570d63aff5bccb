"""Write a dataset of small targets: scans of a folder with drawn lesions, none in every fourth, of which some are faint.

    python benchmarks/make_lesions.py ACDC OUT --cases 40

A lesion is an ellipsoid of 2 to 5 voxels radius in the plane and one or two slices, brighter than its surroundings by 0.7 to 2.5
standard deviations of them, with a blurred edge. Its mask is what lies above half of its height.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

SIDE = 112


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", type=Path, help="folder below which NIfTI images are")
    parser.add_argument("out", type=Path)
    parser.add_argument("--cases", type=int, default=40)
    parser.add_argument("--pattern", default="**/images*/*_ED*.nii.gz")
    arguments = parser.parse_args()
    for sub in ("imagesTr", "labelsTr"):
        (arguments.out / sub).mkdir(parents=True)
    files = sorted(arguments.scans.glob(arguments.pattern))[: arguments.cases]
    for number, file in enumerate(files):
        random = np.random.default_rng(number)
        image = sitk.ReadImage(str(file), sitk.sitkFloat32)
        voxels, mask = draw(sitk.GetArrayFromImage(image), random, lesions=number % 4)
        for sub, of in (("imagesTr", voxels), ("labelsTr", mask)):
            volume = sitk.GetImageFromArray(of)
            volume.SetSpacing(image.GetSpacing())
            name = f"scan_{number:02d}{'_0000' if sub == 'imagesTr' else ''}.nii.gz"
            sitk.WriteImage(volume, str(arguments.out / sub / name))
    about = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "lesion": 1}, "instances": ["lesion"]}
    (arguments.out / "dataset.json").write_text(json.dumps(about | {"numTraining": len(files), "file_ending": ".nii.gz"}))


def draw(volume: np.ndarray, random: np.random.Generator, *, lesions: int) -> tuple[np.ndarray, np.ndarray]:
    """The middle of a volume with so many lesions, and their mask."""
    y, x = ((n - min(n, SIDE)) // 2 for n in volume.shape[1:])
    volume = volume[:, y : y + SIDE, x : x + SIDE].copy()
    mask = np.zeros(volume.shape, np.uint8)
    indices = np.indices(volume.shape)
    for _ in range(lesions):
        centre = [random.uniform(1, volume.shape[0] - 2), *(random.uniform(15, n - 15) for n in volume.shape[1:])]
        radius = np.array([random.uniform(0.6, 1.4), *random.uniform(2, 5, 2)])
        far = sum(((i - c) / r) ** 2 for i, c, r in zip(indices, centre, radius, strict=True))
        shape = ndimage.gaussian_filter((far < 1).astype(np.float32), (0, 0.7, 0.7))
        around = volume[far < 9]
        volume += shape * random.uniform(0.7, 2.5) * around.std()
        mask[shape > 0.5] = 1
    return volume, mask


if __name__ == "__main__":
    main()
