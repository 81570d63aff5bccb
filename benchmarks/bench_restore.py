"""How long, and how much memory, does the way back from the network's grid take, beside nnU-Net's export of the same logits?

    PYTHONPATH=. python benchmarks/bench_restore.py WORK --peer PEER_PYTHON

Logits of made labels (cells around random centres, so that every label is somewhere largest) lie on a coarse grid, and are
brought to a scan's grid by both, in processes of their own, in turn. nnU-Net holds all labels there at once, so that it
is timed on a scan that fits; ours also does the full one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from nnseg.core.geometry import Box, Grid, Placement
from nnseg.core.labels import Labels
from nnseg.inference.restore import RestoreStream, blocks, decide_labels
from nnseg.preprocessing.resample import resample_image
from nnseg.system.machine import held_gb, peak_ram

FULL, SMALL = (400, 512, 512), (200, 256, 256)


def make_logits(path: Path, labels: int, shape: tuple[int, int, int]) -> None:
    """Minus the squared distance to a centre for each label, as float32 (K, Z, Y, X)."""
    draw = np.random.default_rng(0)
    logits = np.lib.format.open_memmap(path, "w+", np.float32, (labels, *shape))
    axes = [np.arange(n, dtype=np.float32)[:, None, None].swapaxes(0, a) / n for a, n in enumerate(shape)]
    for label in range(labels):
        centre = draw.random(3)
        logits[label] = -200 * sum((axis - c) ** 2 for axis, c in zip(axes, centre, strict=True))
    logits.flush()


def ours(arguments: argparse.Namespace) -> None:
    """Bring the logits back with nnseg's parts; print seconds and peak memory."""
    logits, shape = np.load(arguments.logits, mmap_mode="r"), arguments.shape
    count = len(logits)
    labels = Labels(names=tuple(f"label {i}" for i in range(count)), values=tuple(range(count)))
    grid = Grid(shape=shape)
    placement = Placement(scan=grid, crop=Box.whole(shape), axes=(0, 1, 2), shape=logits.shape[1:], spacing=(3.0, 3.0, 3.0))
    idle = held_gb()
    with peak_ram(every=0.01, children=False) as peak:
        start = time.perf_counter()
        slabs = (torch.from_numpy(np.ascontiguousarray(logits[:, z : z + 8])) for z in range(0, logits.shape[1], 8))
        streams = [RestoreStream(slabs, placement, separate=None)]
        found = np.empty(shape, labels.dtype)
        for block in blocks(streams, values=2_000_000, channels=count):
            found[block] = decide_labels(streams[0], block, labels)
        seconds = time.perf_counter() - start
    np.save(arguments.out, found)
    print(json.dumps({"seconds": round(seconds, 2), "gb": round(peak.gb - idle, 3)}))


def plain(arguments: argparse.Namespace) -> None:
    """The same with scipy, one label after the other: what both should give."""
    logits, shape = np.load(arguments.logits, mmap_mode="r"), arguments.shape
    best, found = np.full(shape, -np.inf, np.float32), np.zeros(shape, np.uint8)
    for label, volume in enumerate(logits):
        made = resample_image(np.ascontiguousarray(volume)[np.newaxis], shape, order=1)[0]
        found[made > best] = label
        np.maximum(best, made, out=best)
    np.save(arguments.out, found)


def run(command: list[str]) -> dict[str, float]:
    found: dict[str, float] = json.loads(
        subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--peer")
    parser.add_argument("--labels", type=int, default=117)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=["ours", "plain"], help="used by itself")
    parser.add_argument("--logits", type=Path)
    parser.add_argument("--shape", type=lambda text: tuple(map(int, text.split(","))))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.only:
        {"ours": ours, "plain": plain}[arguments.only](arguments)
        return
    arguments.work.mkdir(parents=True, exist_ok=True)
    for shape in (SMALL, FULL):
        name, text = "x".join(map(str, shape)), ",".join(map(str, shape))
        logits = arguments.work / f"logits_{name}.npy"
        make_logits(logits, arguments.labels, tuple(n // 3 for n in shape))
        common = ["--logits", str(logits), "--shape", text]
        mine = [sys.executable, __file__, str(arguments.work), "--only", "ours", *common, "--out", str(arguments.work / "ours.npy")]
        theirs = [arguments.peer, str(Path(__file__).with_name("peer_export.py")), *common]
        times = []
        for repeat in range(arguments.repeats if shape == SMALL else 1):
            row = {"nnseg": run(mine)}
            if arguments.peer and shape == SMALL:
                row["nnU-Net"] = run([*theirs, "--out", str(arguments.work / "theirs.npy")])
            times.append(row)
            print(name, repeat, json.dumps(row), flush=True)
        by_scipy = arguments.work / "plain.npy"
        run_plain = [sys.executable, __file__, str(arguments.work), "--only", "plain", *common, "--out", str(by_scipy)]
        subprocess.run(run_plain, check=True)
        found, expected = np.load(arguments.work / "ours.npy"), np.load(by_scipy)
        print(
            name, "labels of ours equal to the plain way:", float((found == expected).mean()), "labels seen:", len(np.unique(found))
        )
        if arguments.peer and shape == SMALL:
            print(name, "equal to nnU-Net's:", float((found == np.load(arguments.work / "theirs.npy")).mean()))
            ratios = sorted(row["nnU-Net"]["seconds"] / row["nnseg"]["seconds"] for row in times)
            print(name, "times faster than nnU-Net, median:", round(ratios[len(ratios) // 2], 1))


if __name__ == "__main__":
    main()
