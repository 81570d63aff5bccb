"""Does a run cost what `nnseg plan` said it would? Prediction beside measurement.

    python benchmarks/bench_preflight.py DATASET WORK [--budget 3m] [-- MORE OPTIONS OF nnseg]

Plans with a probe, then runs fold 0 to its end, then predicts the dataset's largest scan in a process of its own; everything is
read from the run's record and from what lies on the disk. WORK is removed first. Let nothing else run beside it.
"""

from __future__ import annotations

import argparse
import math
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from nnseg.commands.probe import known_probe
from nnseg.core.processors import default_workers
from nnseg.planning.preflight import Preflight, preflight
from nnseg.storage.predictions import read_predictions
from nnseg.storage.run import Run
from nnseg.system.machine import GIGABYTE

NNSEG = (sys.executable, "-m", "nnseg")

WATCHED = """
import pathlib, sys
from nnseg.system.machine import peak_ram
from nnseg.cli import app
with peak_ram(every=0.02) as peak:
    app(sys.argv[2:], standalone_mode=False)
pathlib.Path(sys.argv[1]).write_text(str(peak.gb))
"""
"""The command line in a process that watches its own memory."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One quantity."""

    name: str
    unit: str
    predicted: float | None
    measured: float


def main() -> None:
    """Plan, predict, run, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--budget", default="3m")
    parser.add_argument("more", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    more = [o for o in options.more if o != "--"]
    shutil.rmtree(options.work, ignore_errors=True)
    run = Run(options.work / "run")
    run.path.parent.mkdir(parents=True)
    asked = ["--folds", "0", "--budget", options.budget, *more]
    planning = _timed([*NNSEG, "plan", options.dataset, run.path, *asked])
    found = _foreseen(run)
    print(f"\nplanning, with its trials, took {planning:.0f} s\n")
    whole = _timed([*NNSEG, "run", options.dataset, run.path, *asked])
    lines = _measured(run, found) + _alone(run, options.work / "alone", found)
    print(f"{'':42}{'predicted':>12}{'measured':>12}{'ratio':>8}")
    for line in lines:
        ratio = "" if line.predicted is None else f"{line.predicted / line.measured:8.2f}"
        predicted = "?" if line.predicted is None else f"{line.predicted:.4g}"
        print(f"{line.name + ', ' + line.unit:42}{predicted:>12}{line.measured:>12.4g}{ratio}")
    print(f"\nthe whole command took {whole:.0f} s")


def _foreseen(run: Run) -> Preflight:
    fingerprint, [folder] = run.fingerprint, run.plans
    probe = known_probe(run, fingerprint)
    return preflight(
        folder.plan, fingerprint, probe, folds=[run.folds[0]], workers=default_workers()
    )  # fmt: skip


def _measured(run: Run, found: Preflight) -> list[Line]:
    """What the run's record and its files say."""
    record, [folder] = run.record, run.plans
    fold, fingerprint = folder.fold(0), run.fingerprint
    written = read_predictions(fold.predictions)
    sizes = {case.name: math.prod(case.shape) for case in fingerprint.cases}
    held_out = sorted(written, key=sizes.__getitem__)
    seconds, peak = record["seconds"], record["peak_gb"]
    maps = sum((fold.predictions / w.file).stat().st_size for w in written.values())
    epochs = fold.history()
    return [
        Line(name="preprocess all cases", unit="s", predicted=found.preprocess.seconds, measured=seconds["preprocess"]),
        Line(name="train fold 0", unit="s", predicted=found.train.seconds, measured=seconds["train"]),
        Line(name="its epochs alone", unit="s", predicted=found.train.seconds, measured=epochs[-1].total_seconds),
        Line(name="predict the held-out cases", unit="s", predicted=found.held_out.seconds, measured=seconds["predict"]),
        Line(
            name="predict a held-out scan, mean",
            unit="s",
            predicted=found.held_out.seconds and found.held_out.seconds / len(held_out),
            measured=mean(w.total_seconds for w in written.values()),
        ),
        Line(name="RAM to preprocess", unit="GB", predicted=found.preprocess.ram_gb, measured=peak["preprocess"]),
        Line(name="RAM to train", unit="GB", predicted=found.train.ram_gb, measured=peak["train"]),
        Line(name="RAM to predict them, after training", unit="GB", predicted=found.held_out.ram_gb, measured=peak["predict"]),
        Line(name="disk for preprocessed cases", unit="GB", predicted=found.preprocess.disk_gb, measured=_gb(folder.cases)),
        Line(
            name="disk for checkpoint and model",
            unit="GB",
            predicted=found.train.disk_gb,
            measured=(fold.checkpoint_file.stat().st_size + fold.model_file.stat().st_size) / GIGABYTE,
        ),
        Line(name="disk for held-out label maps", unit="GB", predicted=found.held_out.disk_gb, measured=maps / GIGABYTE),
    ]


def _alone(run: Run, work: Path, found: Preflight) -> list[Line]:
    """The largest scan through ``nnseg predict``, in a process of its own."""
    fingerprint, dataset = run.fingerprint, run.dataset
    largest = max(fingerprint.cases, key=lambda c: math.prod(c.shape)).name
    [case] = [c for c in dataset.cases if c.name == largest]
    (work / "scans").mkdir(parents=True)
    for image in case.images:
        (work / "scans" / image.name).symlink_to(image.absolute())
    _timed([sys.executable, "-c", WATCHED, work / "memory.txt", "predict", work / "scans", work / "out", "--model", run.path])
    [written] = read_predictions(work / "out").values()
    peak = float((work / "memory.txt").read_text())
    return [
        Line(name="predict the largest scan", unit="s", predicted=found.predict_largest.seconds, measured=written.total_seconds),
        Line(name="RAM to predict the largest scan", unit="GB", predicted=found.predict_largest.ram_gb, measured=peak),
    ]


def _gb(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / GIGABYTE


def _timed(command: list[object]) -> float:
    start = time.monotonic()
    subprocess.run([str(part) for part in command], check=True)
    return time.monotonic() - start


if __name__ == "__main__":
    main()
