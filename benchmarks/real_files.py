"""Are real files read rightly? Every image below some folders, read by nnseg and by an independent reader of its format.

    python benchmarks/real_files.py FOLDER [FOLDER ...] [--out TABLE.json] [--dcm2niix PATH]

The independent readers are nibabel (NIfTI, Analyze, MGH, MINC, PAR), tifffile, Pillow, numpy, SimpleITK (MHA, NRRD) and, for single
DICOM files, pydicom. With ``--dcm2niix`` each folder with DICOM files is also read as one series and compared with dcm2niix.
Voxels are compared at the same positions in space. A file is "right", "refused" (an error of ours that names the file), "wrong"
(other voxels, or the same at other positions), or a "crash" (any other exception). Files that the independent reader refuses too
are "unreadable". Exit code 1 if anything is wrong or crashes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pydicom
import SimpleITK as sitk
import tifffile
from nibabel.loadsave import load
from PIL import Image, ImageOps

from nnseg.core.errors import NnsegError
from nnseg.core.image import Scan
from nnseg.storage.images.read import read_scan

SAMPLES = 4000
"""Voxels compared in each file."""

RELATIVE = 1e-4
"""Largest difference of values, as a share of the largest value of a file."""

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Truth:
    """What an independent reader finds.

    Args:
        voxels: (X, Y, Z, C).
        affine: (4, 4), from an index (x, y, z) to LPS in mm; None for a format without positions.
    """

    voxels: npt.NDArray[Any]
    affine: npt.NDArray[np.float64] | None


def by_nibabel(path: Path) -> Truth:
    image: Any = load(path)
    voxels = np.asanyarray(image.dataobj)
    if voxels.dtype.names:
        voxels = np.stack([voxels[name] for name in voxels.dtype.names], -1)
    voxels = voxels.reshape(*voxels.shape, *(1,) * (3 - voxels.ndim))
    unit = image.header.get_xyzt_units()[0] if hasattr(image.header, "get_xyzt_units") else ""
    space = {"meter": 1000.0, "micron": 0.001}.get(unit, 1.0)
    return Truth(voxels.reshape(*voxels.shape[:3], -1), LPS @ np.diag([space, space, space, 1]) @ image.affine)


def by_itk(path: Path) -> Truth:
    image = sitk.ReadImage(str(path))
    voxels = sitk.GetArrayFromImage(image)
    if image.GetNumberOfComponentsPerPixel() > 1:
        voxels = np.moveaxis(voxels, -1, 0)
    elif image.GetDimension() < 4:
        voxels = voxels[None]
    affine, n = np.eye(4), min(image.GetDimension(), 3)
    turn = np.reshape(image.GetDirection(), (image.GetDimension(),) * 2)[:n, :n]
    affine[:n, :n], affine[:n, 3] = turn * image.GetSpacing()[:n], image.GetOrigin()[:n]
    voxels = voxels.reshape(len(voxels), *(1,) * (4 - voxels.ndim), *voxels.shape[1:])
    return Truth(voxels.transpose(3, 2, 1, 0), affine)


def by_pydicom(path: Path) -> Truth:
    header = pydicom.dcmread(path)
    pixels = np.asarray(header.pixel_array, float)
    if int(header.get("NumberOfFrames") or 1) > 1:
        raise ValueError("several frames are compared with dcm2niix")
    pixels = pixels * float(header.get("RescaleSlope", 1) or 1) + float(header.get("RescaleIntercept", 0) or 0)
    voxels = pixels.reshape(*pixels.shape[:2], 1, -1).transpose(1, 0, 2, 3)
    if "ImageOrientationPatient" not in header or "PixelSpacing" not in header:
        return Truth(voxels, None)
    row, column = np.reshape([float(v) for v in header.ImageOrientationPatient], (2, 3))
    down, right = (float(v) for v in header.PixelSpacing)
    affine = np.eye(4)
    affine[:3, :3] = np.column_stack([row * right, column * down, np.cross(row, column)])
    affine[:3, 3] = [float(v) for v in header.ImagePositionPatient]
    return Truth(voxels, affine)


def by_tifffile(path: Path) -> Truth:
    with tifffile.TiffFile(path) as file:
        series = file.series[0]
        axes, voxels = series.axes, series.asarray()
    order = {"Y": -2, "X": -1}
    colours = [i for i, a in enumerate(axes) if a in "SC"]
    slices = [i for i, a in enumerate(axes) if a not in "SCYX"]
    turned = voxels.transpose(*[axes.index(a) for a in sorted(order, key=lambda a: order[a])][::-1], *slices, *colours)
    x, y = turned.shape[:2]
    return Truth(turned.reshape(x, y, max(1, int(np.prod([voxels.shape[i] for i in slices]))), -1), None)


def by_pillow(path: Path) -> Truth:
    with Image.open(path) as image:
        if getattr(image, "n_frames", 1) > 1:
            raise ValueError("several frames")
        upright = ImageOps.exif_transpose(image)
        pixels = np.asarray(
            upright.convert("RGBA" if "transparency" in upright.info else "RGB") if upright.mode == "P" else upright
        )
    return Truth(pixels.reshape(*pixels.shape[:2], 1, -1).transpose(1, 0, 2, 3), None)


def by_numpy(path: Path) -> Truth:
    voxels = np.load(path, allow_pickle=False)
    return Truth(voxels.reshape(*(1,) * (3 - voxels.ndim), *voxels.shape)[..., None].transpose(2, 1, 0, 3), None)


ORACLES: dict[str, Callable[[Path], Truth]] = {
    **dict.fromkeys((".nii", ".nii.gz", ".hdr", ".img", ".mgz", ".mgh", ".mnc", ".par", ".head"), by_nibabel),
    **dict.fromkeys((".mha", ".mhd", ".nrrd", ".nhdr", ".gipl"), by_itk),
    **dict.fromkeys((".tif", ".tiff"), by_tifffile),
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".bmp", ".gif"), by_pillow),
    **dict.fromkeys((".dcm", ".ima"), by_pydicom),
    ".npy": by_numpy,
}


def compare(scan: Scan, truth: Truth) -> str:
    """What differs between a scan and the truth; "" for nothing."""
    *shape, channels = truth.voxels.shape
    if len(scan.image) != channels and not (channels in (2, 4) and len(scan.image) == channels - 1):
        return f"{len(scan.image)} channels, not {channels}"
    if np.prod(scan.grid.shape) != np.prod(shape):
        return f"shape {scan.grid.shape}, not {tuple(shape[::-1])}"
    draw = np.random.default_rng(0)
    index = np.column_stack([draw.integers(0, n, SAMPLES) for n in shape])
    if truth.affine is None:
        there = index[:, ::-1]
        if tuple(scan.grid.shape) != tuple(shape[::-1]):
            return f"shape {scan.grid.shape}, not {tuple(shape[::-1])}"
    else:
        world = index @ truth.affine[:3, :3].T + truth.affine[:3, 3]
        exact = (world - np.asarray(scan.grid.origin)) @ np.linalg.inv(scan.grid.steps)
        there = np.rint(exact).astype(int)
        if np.abs(exact - there).max() > 0.05:
            return f"positions differ by up to {np.abs(exact - there).max():.2g} voxels"
        if (there < 0).any() or (there >= scan.grid.shape).any():
            return "positions lie outside"
    ours = scan.image[:, there[:, 0], there[:, 1], there[:, 2]].T
    theirs = truth.voxels[index[:, 0], index[:, 1], index[:, 2]][:, : len(scan.image)].astype(np.float64)
    usable = np.isfinite(theirs)
    largest = max(1e-12, float(np.abs(theirs[usable]).max(initial=0)))
    gap = float(np.abs(ours[usable] - theirs[usable]).max(initial=0)) / largest
    return f"voxels differ by up to {gap:.2g} of the largest" if gap > RELATIVE else ""


def judge(path: Path, oracle: Callable[[Path], Truth]) -> tuple[str, str]:
    """The verdict on a file, and a remark."""
    truth, why = None, ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            truth = oracle(path)
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
    try:
        scan = read_scan(path, repair=True)
    except NnsegError as error:
        return ("refused" if truth else "unreadable"), str(error)
    except Exception as error:
        return "crash", f"{type(error).__name__}: {error}"
    if truth is None:
        return "not compared", why
    difference = compare(scan, truth)
    if difference and any("sheared" in note for note in scan.notes):
        return "resampled", scan.notes[0]
    return ("wrong", difference) if difference else ("right", "; ".join(scan.notes))


def by_dcm2niix(program: str) -> Callable[[Path], Truth]:
    def read(folder: Path) -> Truth:
        with tempfile.TemporaryDirectory() as out:
            subprocess.run([program, "-b", "n", "-z", "n", "-d", "0", "-o", out, str(folder)], check=True, capture_output=True)
            found = sorted(Path(out).glob("*.nii"))
            if len(found) != 1:
                raise ValueError(f"dcm2niix made {len(found)} volumes")
            return by_nibabel(found[0])

    return read


def find(folders: list[Path], dcm2niix: str) -> Iterator[tuple[Path, Callable[[Path], Truth]]]:
    series = set()
    for folder in folders:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            name = path.name.lower()
            suffix = next((s for s in sorted(ORACLES, key=len, reverse=True) if name.endswith(s)), "")
            if suffix == ".img" and path.with_suffix(".hdr").exists():
                continue
            if suffix:
                yield path, ORACLES[suffix]
            if suffix in (".dcm", ".ima"):
                series.add(path.parent)
    if dcm2niix:
        yield from ((folder, by_dcm2niix(dcm2niix)) for folder in sorted(series) if len(list(folder.iterdir())) > 1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--dcm2niix", default="")
    given = parser.parse_args()
    nib.imageglobals.logger.setLevel(50)
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    rows = [(str(path), *judge(path, oracle)) for path, oracle in find(given.folders, given.dcm2niix)]
    for path, verdict, remark in rows:
        print(f"{verdict:12} {path}  {remark[:200]}")
    counts = Counter(verdict for _, verdict, _ in rows)
    print(f"\n{len(rows)} inputs: " + ", ".join(f"{verdict} {count}" for verdict, count in counts.most_common()))
    if given.out:
        given.out.write_text(json.dumps(rows, indent=1) + "\n")
    return int(bool(counts["wrong"] + counts["crash"]))


if __name__ == "__main__":
    sys.exit(main())
