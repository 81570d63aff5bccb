"""How well channels that were moved apart are registered, and whether other parts of the body are refused.

    python benchmarks/registration.py DICOM_STUDY OTHER_SCAN --count 50

DICOM_STUDY holds folders t1, flair and t2 of one patient, which lie on one another; OTHER_SCAN is another part of the body.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnseg.preprocessing.channel_shift import find_shifts
from nnseg.preprocessing.register import LEAST_CONTRAST, register_volume
from nnseg.storage.images.read import read_scan

MOST_MM, MOST_DEGREES = 10.0, 10.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("other", type=Path)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--first", type=int, default=0)
    arguments = parser.parse_args()
    scan = read_scan([arguments.study / name for name in ("t1", "flair", "t2")])
    spacing = scan.grid.spacing
    print("as they are:", find_shifts(scan.image, spacing))
    pairs = [(0, 1), (0, 2), (1, 2), (2, 0)]
    for a, b in pairs:
        found, _ = register_volume(scan.image[a], scan.image[b], spacing, "rigid")
        print(f"in place {a}-{b}: moved {np.linalg.norm(found.translation):.2f} mm, {found.rotation:.2f} degrees, "
              f"MI {found.before:.3f} to {found.after:.3f}, contrast {found.contrast:.2f}")  # fmt: skip
    errors = []
    for number in range(arguments.first, arguments.first + arguments.count):
        errors.append(planted(scan.image, spacing, pairs[number % len(pairs)], number))
    good = [inside < 1.0 and across < 2.0 for inside, across in errors]
    print(f"{sum(good)} of {len(good)} within 1 mm in the plane and 2 mm across slices")
    other = read_scan([arguments.other]).image[0]
    for name, volume in {
        "other": resized(other, scan.image.shape[1:]),
        "upside down": scan.image[1][::-1],
        "noise": noise(scan.image[1]),
    }.items():
        found, _ = register_volume(scan.image[0], np.ascontiguousarray(volume), spacing, "rigid")
        word = "refused" if found.contrast < LEAST_CONTRAST else "TAKEN"
        print(f"{name}: MI {found.after:.3f}, contrast {found.contrast:.2f}: {word}")


def planted(image: np.ndarray, spacing: tuple[float, float, float], pair: tuple[int, int], seed: int) -> tuple[float, float]:
    """Mean residual in the plane and across slices, mm, inside the head, of a channel that was moved at random."""
    random = np.random.default_rng(seed)
    reference = sitk.GetImageFromArray(image[pair[1]])
    reference.SetSpacing(spacing[::-1])
    truth = sitk.Euler3DTransform()
    truth.SetCenter(reference.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in reference.GetSize()]))
    axis, shift = random.normal(size=3), random.normal(size=3)
    angle = np.radians(random.uniform(0, MOST_DEGREES))
    turn = sitk.VersorTransform((axis / np.linalg.norm(axis)).tolist(), angle)
    truth.SetMatrix(turn.GetMatrix())
    truth.SetTranslation((random.uniform(0, MOST_MM) * shift / np.linalg.norm(shift)).tolist())
    moved = sitk.GetArrayFromImage(sitk.Resample(reference, reference, truth, sitk.sitkLinear, float(image[pair[1]].min())))
    start = time.perf_counter()
    found, transform = register_volume(image[pair[0]], moved, spacing, "rigid")
    seconds = time.perf_counter() - start
    first = image[pair[0]]
    places = np.argwhere(first > np.percentile(first, 60))[::997]
    residuals = []
    for z, y, x in places:
        point = reference.TransformIndexToPhysicalPoint((int(x), int(y), int(z)))
        residuals.append(np.subtract(truth.TransformPoint(transform.TransformPoint(point)), point))
    x, y, z = np.abs(residuals).T
    inside, across = float(np.hypot(x, y).mean()), float(z.mean())
    notices = find_shifts(np.stack([first, moved]), spacing)
    shift, noticed = np.linalg.norm(truth.GetTranslation()), [round(one.distance, 1) for one in notices]
    print(
        f"{seed} {pair}: planted {shift:.1f} mm, {np.degrees(angle):.1f} degrees; residual {inside:.2f}, {across:.2f} mm;", end=" "
    )
    print(f"contrast {found.contrast:.2f}; {seconds:.1f} s; check: {noticed}", flush=True)
    return inside, across


def resized(volume: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A volume of the given shape by the nearest voxels."""
    return volume[np.ix_(*(np.linspace(0, n - 1, m).astype(int) for n, m in zip(volume.shape, shape, strict=True)))]


def noise(volume: np.ndarray) -> np.ndarray:
    """The voxels of a volume at random places."""
    return np.random.default_rng(0).permutation(volume.ravel()).reshape(volume.shape)


if __name__ == "__main__":
    main()
