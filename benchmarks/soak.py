"""Does a process that predicts and trains for long stay as it is? Memory, open files and threads over many calls.

    python benchmarks/soak.py [--predictions 2000] [--runs 20]

Predicts a small scan again and again with one loaded model, read from its file and written to one, then runs nnseg from dataset to
report in the same process, on tiny data on the CPU. Prints a table of samples; exit code 1 unless memory and handles are flat over
the second half, within what is stated below.
"""

from __future__ import annotations

import argparse
import gc
import logging
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import torch
from conftest import write_balls
from faults import RECIPE

from nnseg import pipeline
from nnseg.core.options import Options
from nnseg.inference.predict import Predictor
from nnseg.network.load import load_model
from nnseg.storage.images.read import read_scan
from nnseg.storage.images.write import write_label_map

MEGABYTES_A_CALL = {"predictions": 0.01, "runs": 1.0}
"""Growth that is taken as flat."""
SAMPLES = 10


def main() -> int:
    """Repeat both, and tell how memory and handles were."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--predictions", type=int, default=2000)
    parser.add_argument("--runs", type=int, default=20)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        predict, run = prepare(Path(folder))
        print("| what | calls | MB | open files | threads | children |\n|---|---|---|---|---|---|")
        flat = [repeat("predictions", predict, options.predictions), repeat("runs", run, options.runs)]
    return int(not all(flat))


def prepare(folder: Path) -> tuple[Callable[[], object], Callable[[], object]]:
    """A function that predicts a scan into a file, and one that makes a whole run."""
    torch.set_num_threads(1)
    data = write_balls(folder / "balls", cases=3)
    (folder / "recipe.toml").write_text(RECIPE)
    options = Options(device="cpu", folds=(0,), probe=False, workers=1, recipe=str(folder / "recipe.toml"))
    count = iter(range(10**9))

    def run() -> object:
        return pipeline.run(data, folder / f"run_{next(count)}", options)

    run()
    predictor = Predictor(load_model(folder / "run_0" / "model.nnseg"), device="cpu")

    def predict() -> object:
        scan = read_scan(data / "imagesTr" / "ball_00.nii.gz")
        return write_label_map(predictor(scan).label_map, folder / "out.nii.gz", like=scan.source)

    return predict, run


def repeat(what: str, call: Callable[[], object], count: int) -> bool:
    """Call so often; True if memory and handles at the end are those after the first half."""
    samples: list[tuple[float, int, int, int]] = []
    for number in range(1, count + 1):
        call()
        if number % max(1, count // SAMPLES) == 0:
            samples.append(sample())
            print(f"| {what} | {number} | " + " | ".join(map(str, samples[-1])) + " |", flush=True)
    half, last = samples[len(samples) // 2 - 1], samples[-1]
    flat = last[0] - half[0] <= MEGABYTES_A_CALL[what] * count and all(b <= a for a, b in zip(half[1:], last[1:], strict=True))
    print(f"{what}: {'flat' if flat else 'NOT FLAT'}", file=sys.stderr)
    return flat


def sample() -> tuple[float, int, int, int]:
    """MB that this process alone holds, its open files, threads and children."""
    gc.collect()
    process = psutil.Process()
    held = round(process.memory_full_info().uss / 1e6, 1)
    return held, process.num_fds(), threading.active_count(), len(process.children(recursive=True))


if __name__ == "__main__":
    sys.exit(main())
