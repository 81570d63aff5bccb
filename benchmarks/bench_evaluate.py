"""What do scores cost? Pairs of CT-sized label maps, 512 x 512 x 261 with three labels: read, and every metric, on two cores.

    PYTHONPATH=. python benchmarks/bench_evaluate.py WORK --kidneys KITS19_LABELS [--cases 40] [--peers 4]

nnseg is timed as a command, with its start and its intervals; MONAI 1.6.1 and surface-distance 0.1 by the wall clock of two worker
processes that have already loaded their libraries, on the first ``--peers`` cases, from which the time of 40 is extrapolated. All
read .nii.gz in two processes. Metrics: Dice, IoU, volumes, HD, HD95, ASSD, NSD at 1 and 2 mm. Memory is the largest process's
resident set. Needs psutil.

The label maps are those of KiTS19 (kidney, tumour), resampled to that size, flipped and turned, and a made organ; predictions are
the same warped, some dilated, shifted, with a false island, or without the tumour. surface-distance's numbers must be ours to 1e-6.
"""

# ruff: noqa: PLC0415 (libraries are loaded where they are used, so that no peer's memory holds another's)
from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import psutil

SHAPE = (261, 512, 512)
LABELS, TOLERANCES = (1, 2, 3), (1.0, 2.0)
ORGAN = 3
SUFFIX = ".nii.gz"


def make_case(source: Path, seed: int, work: Path) -> None:
    """Write a reference made of a real label map, and a prediction made of that."""
    from nnseg.storage.images.read import read_label_map

    rng, real = np.random.default_rng(seed), read_label_map(source)
    picked = [np.minimum((np.arange(n) + 0.5) * (m / n), m - 1).astype(int) for n, m in zip(SHAPE, real.labels.shape, strict=True)]
    labels = real.labels[np.ix_(*picked)].astype(np.uint8)
    spacing = [s * m / n for s, n, m in zip(real.grid.spacing, SHAPE, real.labels.shape, strict=True)]
    labels = turned(labels[:, :, :: rng.choice([-1, 1])], rng)
    add_organ(labels, rng)
    write(work / "references" / f"case_{seed:02d}{SUFFIX}", labels, spacing)
    write(work / "predictions" / f"case_{seed:02d}{SUFFIX}", predicted(labels, seed, rng), spacing)


def around(labels: np.ndarray, margin: int) -> tuple[slice, ...]:
    lines = [np.flatnonzero(labels.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    return tuple(slice(max(0, int(line[0]) - margin), int(line[-1]) + margin + 1) for line in lines)


def turned(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A copy, turned by up to 15 degrees in the plane of the slices."""
    from scipy import ndimage

    labels = labels.copy()
    box = around(labels, 40)
    labels[box] = ndimage.rotate(labels[box], rng.uniform(-15, 15), axes=(1, 2), reshape=False, order=0)
    return labels


def add_organ(labels: np.ndarray, rng: np.random.Generator) -> None:
    """Add a lobed ellipsoid as the third label, where nothing else is."""
    radii = np.array([70, 90, 90]) * rng.uniform(0.7, 1.1, 3)
    start = [int(rng.integers(5, n - 2 * r - 5)) for n, r in zip(SHAPE, radii, strict=True)]
    size = [int(2 * r) for r in radii]
    axes = np.meshgrid(*(np.linspace(-1.2, 1.2, n, dtype=np.float32) for n in size), indexing="ij", sparse=True)
    inside = sum(axis**2 for axis in axes) < 1 + 0.15 * smooth(rng, size, 20)
    part = labels[tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))]
    part[inside & (part == 0)] = ORGAN


def smooth(rng: np.random.Generator, shape: list[int], scale: int) -> np.ndarray:
    """Noise of standard deviation near 1 whose hills are ``scale`` voxels wide."""
    from scipy import ndimage

    coarse = rng.normal(size=[n // scale + 2 for n in shape]).astype(np.float32)
    factors = [(n + 0.5) / m for n, m in zip(shape, coarse.shape, strict=True)]
    return ndimage.zoom(coarse, factors, order=1)[tuple(slice(n) for n in shape)]


def predicted(labels: np.ndarray, seed: int, rng: np.random.Generator) -> np.ndarray:
    """What a network might have made of it: boundaries off by a voxel or two, and one larger mistake in most cases."""
    from scipy import ndimage

    answer, box = labels.copy(), around(labels, 8)
    shape = list(labels[box].shape)
    grid = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in shape), indexing="ij", sparse=True)
    answer[box] = ndimage.map_coordinates(labels[box], [axis + 1.5 * smooth(rng, shape, 16) for axis in grid], order=0)
    if seed % 4 == 1:
        grown = ndimage.binary_dilation(answer[box] == 1) & (answer[box] == 0)
        answer[box][grown] = 1
    if seed % 5 == 2:
        answer = np.roll(answer, (1, 2, 2), axis=(0, 1, 2))
    if seed % 6 == 3:
        answer[20:36, 30:50, 30:50] = ORGAN
    if seed % 8 == 5:
        answer[answer == 2] = 0
    return answer


def write(path: Path, labels: np.ndarray, spacing: list[float]) -> None:
    import nibabel as nib

    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(labels.transpose(2, 1, 0), np.diag([*(-s for s in spacing[:0:-1]), spacing[0], 1.0])), path)


def read(path: Path) -> tuple[np.ndarray, tuple[float, ...]]:
    """Labels as stored, and spacing in the same order, as a peer's user would read them."""
    import nibabel as nib

    image = nib.load(path)
    return np.asarray(image.dataobj), tuple(map(float, image.header.get_zooms()))


def overlap(prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...]) -> dict[str, float]:
    """Dice, IoU and volumes, for a package that lacks them."""
    both, sizes = int((prediction & reference).sum()), (int(prediction.sum()), int(reference.sum()))
    ml = float(np.prod(spacing)) / 1000
    union = sum(sizes) - both
    found = {"dice": 2 * both / sum(sizes), "iou": both / union} if union else {}
    return {**found, "volume_ml": sizes[0] * ml, "reference_ml": sizes[1] * ml}


def by_surface_distance(prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...]) -> dict[str, float]:
    import surface_distance as package

    found = overlap(prediction, reference, spacing)
    if not (prediction.any() and reference.any()):
        return found  # it needs an older NumPy for these
    between = package.compute_surface_distances(reference, prediction, spacing)
    distances = np.concatenate([between["distances_gt_to_pred"], between["distances_pred_to_gt"]])
    areas = np.concatenate([between["surfel_areas_gt"], between["surfel_areas_pred"]])
    found |= {f"nsd_{t:g}": float(package.compute_surface_dice_at_tolerance(between, t)) for t in TOLERANCES}
    hausdorff = {"hd": 100, "hd95": 95}
    found |= {name: float(package.compute_robust_hausdorff(between, percent)) for name, percent in hausdorff.items()}
    return {**found, "assd": float(distances @ areas / areas.sum())}


def by_monai(prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...]) -> dict[str, float]:
    import torch
    from monai import metrics

    torch.set_num_threads(1)
    ml = float(np.prod(spacing)) / 1000
    found = {"volume_ml": float(prediction.sum()) * ml, "reference_ml": float(reference.sum()) * ml}
    pair = [torch.from_numpy(mask[None, None]) for mask in (prediction, reference)]
    how = {"include_background": True}
    found |= {"dice": float(metrics.compute_dice(*pair, **how)), "iou": float(metrics.compute_iou(*pair, **how))}
    if not (prediction.any() and reference.any()):
        return found
    how |= {"spacing": spacing}
    for name, percent in {"hd": 100, "hd95": 95}.items():
        found[name] = float(metrics.compute_hausdorff_distance(*pair, percentile=percent, **how))
    found["assd"] = float(metrics.compute_average_surface_distance(*pair, symmetric=True, **how))
    for t in TOLERANCES:
        found[f"nsd_{t:g}"] = float(metrics.compute_surface_dice(*pair, [t], use_subvoxels=True, **how))
    return found


PEERS: dict[str, Callable[..., dict[str, float]]] = {"MONAI": by_monai, "surface-distance": by_surface_distance}


def score(peer: str, prediction: Path, reference: Path) -> dict[str, dict[str, float]]:
    (predicted, spacing), (given, _) = read(prediction), read(reference)
    return {f"label {v}": PEERS[peer](predicted == v, given == v, spacing) for v in LABELS}


def warm(peer: str) -> None:
    """Load the libraries and every kernel on a small pair."""
    mask = np.zeros((4, 4, 4), bool)
    mask[1:3, 1:3, 1:3] = True
    PEERS[peer](mask, mask, (1.0, 1.0, 1.0))
    time.sleep(1)  # so that each worker takes one


def run_peer(peer: str, work: Path, cases: int) -> None:
    """Time a peer in two processes and print what it found."""
    files = sorted((work / "predictions").glob(f"*{SUFFIX}"))[:cases]
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(warm, [peer] * 2))
        start = time.perf_counter()
        scores = list(pool.map(score, [peer] * len(files), files, [work / "references" / f.name for f in files]))
        seconds = time.perf_counter() - start
    names = [file.name.removesuffix(SUFFIX) for file in files]
    print(json.dumps({"seconds": seconds, "scores": dict(zip(names, scores, strict=True))}))


def measured(command: list[str], output: Path) -> tuple[float, float]:
    """Seconds, and the largest process's resident set in MB, of a command whose output goes to a file."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    start, peak = time.perf_counter(), 0
    with output.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, env=environment)
        while process.poll() is None:
            try:
                tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
                peak = max([peak, *(p.memory_info().rss for p in tree)])
            except psutil.Error:
                continue
            time.sleep(0.05)
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed; see {output}")
    return time.perf_counter() - start, peak / 1e6


def largest_difference(ours: Path, theirs: dict[str, dict[str, dict[str, float]]]) -> float:
    cases = {case["name"]: case["labels"] for case in json.loads(ours.read_text())["cases"]}
    gaps = [0.0]
    for name, labels in theirs.items():
        for label, found in labels.items():
            mask = cases[name][label]
            mine = {**mask, **{f"nsd_{t}": value for t, value in mask["nsd"].items()}}
            gaps += [abs(mine[metric] - value) for metric, value in found.items()]
    return max(gaps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--kidneys", type=Path, help="folder with label maps of KiTS19")
    parser.add_argument("--cases", type=int, default=40)
    parser.add_argument("--peers", type=int, default=4, help="cases that peers are timed on; 0 for none")
    parser.add_argument("--peer", choices=PEERS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    work, ours = given.work, given.work / "ours.json"
    if given.peer:
        run_peer(given.peer, work, given.peers)
        return
    sources = sorted(given.kidneys.glob(f"*{SUFFIX}")) if given.kidneys else []
    missing = [n for n in range(given.cases) if not (work / "predictions" / f"case_{n:02d}{SUFFIX}").exists()]
    for seed in missing:
        make_case(sources[seed % len(sources)], seed, work)
    folders = [str(work / "predictions"), str(work / "references")]
    seconds, peak = measured(
        [sys.executable, "-m", "nnseg", "evaluate", *folders, "--workers", "2", "--out", str(ours)], work / "ours.txt"
    )
    mine = seconds / given.cases
    rows = [("nnseg", given.cases, mine, peak)]
    for peer in PEERS if given.peers else ():
        out = work / f"{peer}.json"
        _, peak = measured([sys.executable, __file__, str(work), "--peer", peer, "--peers", str(given.peers)], out)
        rows.append((peer, given.peers, json.loads(out.read_text())["seconds"] / given.peers, peak))
    print("| what | cases timed | s a case, two processes | times nnseg's | minutes for 40 | largest process, MB |")
    print("|---|---|---|---|---|---|")
    for name, count, each, peak in rows:
        print(f"| {name} | {count} | {each:.2f} | {each / mine:.1f} | {each * 40 / 60:.1f} | {peak:.0f} |")
    if given.peers:
        found = json.loads((work / "surface-distance.json").read_text())["scores"]
        print(f"\nlargest difference from surface-distance in any number: {largest_difference(ours, found):.1e}")


if __name__ == "__main__":
    main()
