"""How much longer training and prediction take while other programs compute.

    python benchmarks/busy.py DATASET WORK [--seconds 60] [--scans 10] [--before]

For 0, 1 and 2 other processes, each of which keeps one core busy: trains fold 0 within a time and predicts some scans with what was
trained, as whole commands. Prints a table of seconds a step and seconds a scan, as ratios to those of the idle machine; with
``--before`` also those with threads that wait for one another by computing, as libraries do by default. Nothing else may run.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

SETTLING = 0.3
"""Share of a training that is not counted: it begins with numbers of threads that others leave no core to."""


class Seconds(NamedTuple):
    """Of a training step and of a scan; and how many steps were done."""

    step: float
    scan: float
    steps: int


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--seconds", type=int, default=60, help="of each training")
    parser.add_argument("--scans", type=int, default=10)
    parser.add_argument("--before", action="store_true")
    options = parser.parse_args()
    base = options.work / "planned"
    if not base.exists():
        nnseg("run", options.dataset, base, "--budget", "20s", "--folds", "0")
    scans = sorted((options.dataset / "imagesTr").iterdir())[: options.scans]
    (options.work / "scans").mkdir(exist_ok=True)
    for scan in scans:
        shutil.copy(scan, options.work / "scans")
    print("| waiting threads | other processes | steps | s a step | times | s a scan | times |\n|---|---|---|---|---|---|---|")
    for policy in ("passive", "active") if options.before else ("passive",):
        idle: Seconds | None = None
        for others in range(3):
            with busy(others):
                found = measure(options.work, base, options.seconds, policy)
            idle = idle or found
            step, scan = found.step / idle.step, found.scan / idle.scan
            cells = (policy, others, found.steps, f"{found.step:.3f}", f"{step:.2f}", f"{found.scan:.2f}", f"{scan:.2f}")
            print("|", " | ".join(map(str, cells)), "|", flush=True)


def measure(work: Path, base: Path, seconds: int, policy: str) -> Seconds:
    """Train in a copy of a run, and predict with what was trained."""
    run, out = work / "run", work / "out"
    for folder in (run, out):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(base, run)
    shutil.rmtree(run / "fold_0")
    nnseg("train", run, "--folds", "0", "--budget", f"{seconds}s", policy=policy)
    epochs = [json.loads(line) for line in (run / "fold_0/history.jsonl").read_text().splitlines()]
    steps = [b["seconds"] / (b["step"] - a) for a, b in zip([0, *(e["step"] for e in epochs)], epochs, strict=False)]
    counted = steps[int(SETTLING * len(steps)) :]
    nnseg("predict", work / "scans", out, "--model", run / "fold_0/model.nnseg", policy=policy)
    scans = json.loads((out / "predictions.json").read_text())["cases"].values()
    return Seconds(median(counted), median(sum(scan["seconds"].values()) for scan in scans), epochs[-1]["step"])


def nnseg(*arguments: object, policy: str = "passive") -> None:
    """Run a command of nnseg, whose own policy is the passive one."""
    environment = os.environ | ({} if policy == "passive" else {"OMP_WAIT_POLICY": policy})
    subprocess.run([sys.executable, "-m", "nnseg", *map(str, arguments)], env=environment, check=True, capture_output=True)


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that compute without end."""
    processes = [multiprocessing.Process(target=_compute, daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


def _compute() -> None:
    while True:
        pass


if __name__ == "__main__":
    main()
