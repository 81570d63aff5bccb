"""Is a scan predicted faster by another runtime than torch, on the CPU, and what does it cost in memory and Dice?

    PYTHONPATH=. python benchmarks/bench_runtimes.py MODEL SCANS WORK [--count 5] [--made 200,512,512] [--rounds 3]

MODEL is a run, an exported file or a name. Its networks predict the first scans, or with --made one scan of noise and blobs of
that shape, whose voxels are half those of the network's grid; mirroring is off there. Each candidate predicts in a process of its
own, all in turn, round by round. Printed are the medians over rounds: seconds a scan (preprocessing, networks, the way back), how
many times as fast as torch in bfloat16, seconds before the first scan, peak memory of the process, and the least share of equal
voxels and the mean Dice against torch in float32. WORK/runtimes.json has all numbers.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from scipy import ndimage

from nnseg.core.geometry import Grid, as_shape, as_vector
from nnseg.core.image import Scan, Source
from nnseg.inference.predict import Predictor
from nnseg.interop.runtimes.write import in_float32
from nnseg.network.load import load_model
from nnseg.storage.datasets.find_scans import find_scans
from nnseg.storage.images.read import read_scan
from nnseg.storage.path_kinds import find_model

CANDIDATES = {
    "torch float32": ("torch", "float32"),
    "torch bf16": ("torch", "auto"),
    "ONNX Runtime float32": ("onnx", "float32"),
    "OpenVINO float32": ("openvino", "float32"),
    "OpenVINO bf16": ("openvino", "auto"),
}
"""Runtime and precision. What the precision "auto" is on this machine is printed."""

FIRST = "torch float32"


def main() -> None:
    """Measure all candidates, or one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("scans", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--count", type=int, default=5)
    parser.add_argument("--made", default="")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--without", nargs="*", default=[], choices=CANDIDATES, help="candidates that take too long")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.one:
        print(json.dumps(measure(options)))
        return
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in CANDIDATES if name not in options.without}
    for _ in range(options.rounds):
        for name, of_name in rows.items():
            done = subprocess.run([sys.executable, *sys.argv, "--one", name], check=True, capture_output=True, text=True)
            of_name.append(json.loads(done.stdout.splitlines()[-1]))
            print(name, json.dumps(of_name[-1]), file=sys.stderr, flush=True)
    found: dict[str, dict[str, float]] = {name: {key: median(row[key] for row in of) for key in of[0]} for name, of in rows.items()}
    for name, of_name in found.items():
        of_name.update(compare(options.work, name))
        seconds = [(torch["seconds"], own["seconds"]) for torch, own in zip(rows["torch bf16"], rows[name], strict=True)]
        of_name["times as fast as torch bf16"] = median(torch / own for torch, own in seconds)
    (options.work / "runtimes.json").write_text(json.dumps({"rows": rows, "medians": found}, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Predict all scans with one candidate; the label maps go into WORK."""
    runtime, precision = CANDIDATES[options.one]
    model = load_model(find_model(options.model))
    start = time.perf_counter()
    made = tuple(int(n) for n in options.made.split(",")) if options.made else ()
    model = in_float32(model) if precision == "float32" else model
    predictor = Predictor(model, device="cpu", runtime=runtime, mirror=False if made else None)
    setup, seconds = time.perf_counter() - start, []
    cases = find_scans(options.scans, channels=len(model.channels), names=model.channels).cases[: options.count]
    scans = [make_scan(made, predictor)] if made else [read_scan(case.images, repair=True) for case in cases]
    for number, scan in enumerate(scans):
        start = time.perf_counter()
        labels = predictor(scan).label_map.labels
        seconds.append(time.perf_counter() - start)
        np.save(options.work / f"{options.one}_{number}.npy", labels)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return {"seconds": sum(seconds) / len(seconds), "setup_s": setup, "peak_mb": peak, "dtype_bits": bits(predictor)}


def bits(predictor: Predictor) -> int:
    """Of the type in which torch would compute: 16 or 32."""
    return predictor.groups[0].window.dtype.itemsize * 8


def make_scan(shape: tuple[int, ...], predictor: Predictor) -> Scan:
    """Blobs and noise, by the mean and the spread that a CT has, or else around 0 and 1."""
    random, plan = np.random.default_rng(0), predictor.groups[0].plan
    blobs = ndimage.zoom(random.normal(0, 1, tuple(-(-n // 8) for n in shape)).astype(np.float32), 8, order=1)
    voxels = blobs[tuple(slice(n) for n in shape)] + random.normal(0, 0.2, shape).astype(np.float32)
    image = np.repeat(voxels[None], len(plan.channels), 0)
    for channel, settings in zip(image, plan.preprocessing.normalization, strict=True):
        if settings.scheme == "ct":
            channel[...] = settings.mean + settings.std * channel
    spacing = (2 * (plan.preprocessing.spacing[0],) + tuple(plan.preprocessing.spacing))[-3:]
    grid = Grid(shape=as_shape(shape), spacing=as_vector(mm / 2 for mm in spacing))
    return Scan(image=image, grid=grid, source=Source(files=(Path("made.nii.gz"),), grid=grid))


def compare(work: Path, name: str) -> dict[str, float]:
    """Share of equal voxels, and mean Dice over labels and scans, against torch in float32."""
    equal, dice = [], []
    for first in sorted(work.glob(f"{FIRST}_*.npy")):
        one, other = np.load(first), np.load(work / first.name.replace(FIRST, name))
        equal.append(float((one == other).mean()))
        for value in np.unique(one)[1:]:
            both, of_one, of_other = ((one == value) & (other == value)).sum(), (one == value).sum(), (other == value).sum()
            dice.append(2 * both / (of_one + of_other))
    return {"equal": min(equal), "dice": float(np.mean(dice))}


if __name__ == "__main__":
    main()
