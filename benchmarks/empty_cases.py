"""Is a set learned of whose cases most have no object? Crops of DSB2018, four of five without a nucleus, against a balanced set.

    python benchmarks/empty_cases.py WORK --data DSB2018 [--budget 2m | --steps 300] [--recipe auto] [--crop 128]

Makes WORK/empty and WORK/balanced: the same crops with nuclei for training, and four times or once as many without; and
WORK/held_out of other images. ``nnseg run --folds 0`` trains on each set, and its model predicts the held-out crops. Printed: mean
Dice of those with nuclei with a 95 % bootstrap interval, and the share of those without in which something was found, with an exact
interval. What is done is not done again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import stats

from nnseg.evaluation.statistics import bootstrap_weights, interval

STRIDE = 32
"""Pixels between two crops that are tried."""

LEAST = 0.01
"""Share of its pixels in nuclei of a crop that has some."""

HELD_OUT = 4
"""One image in so many is held out with all its crops."""

EMPTY = {"empty": 4, "balanced": 1}
"""Crops without nuclei for each one with them, by set."""

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, eq=False)
class Crop:
    """A part of an image (Y, X, 3), and where its nuclei are (Y, X)."""

    name: str
    image: Pixels
    nuclei: Pixels


def main() -> None:
    """Make the sets, train, predict, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder of DSB2018")
    parser.add_argument("--budget", default="2m")
    parser.add_argument("--steps", type=int, help="of each training, in the place of the budget")
    parser.add_argument("--recipe", default="auto")
    parser.add_argument("--crop", type=int, default=128, help="pixels a side")
    options = parser.parse_args()
    if not (options.work / "held_out").exists():
        make_sets(options.data, options.work, options.crop)
    length = ("--steps", options.steps) if options.steps else ("--budget", options.budget)
    for name in EMPTY:
        found = options.work / f"{Path(options.recipe).stem}-{name}-{length[1]}"
        command = ("run", options.work / name, found, "--folds", 0, "--group-by", r"(\w+)_\d+_\d+")  # crops of one image together
        _nnseg(*command, *length, "--recipe", options.recipe)
        _nnseg("predict", options.work / "held_out" / "images", found / "held_out", "--model", found)
        print(describe(options.work / "held_out" / "labels", found))


def make_sets(data: Path, work: Path, size: int) -> None:
    """Write the sets. Crops of one image are all in the training sets or all held out."""
    random, full, empty = np.random.default_rng(0), [list[Crop](), list[Crop]()], [list[Crop](), list[Crop]()]
    for number, path in enumerate(sorted((data / "images").glob("*.png"))):
        held_out = number % HELD_OUT == 0
        image, nuclei = np.asarray(Image.open(path).convert("RGB")), np.asarray(Image.open(data / "labels" / path.name)) > 0
        crops = list(_crops(path.stem, image, nuclei.astype(np.uint8), size))
        random.shuffle(crops)
        full[held_out] += [crop for crop in crops if crop.nuclei.mean() >= LEAST][:1]
        empty[held_out] += [crop for crop in crops if not crop.nuclei.any()][:MOST_EMPTY]
    print(f"with nuclei {len(full[0])} and {len(full[1])} held out, without {len(empty[0])} and {len(empty[1])}", file=sys.stderr)
    count = min(len(full[0]), len(empty[0]) // max(EMPTY.values()))
    for crops in (*full, *empty):
        random.shuffle(crops)
    for name, ratio in EMPTY.items():
        _write(work / name, [*full[0][:count], *empty[0][: ratio * count]])
    _write(work / "held_out", [*full[1], *empty[1]])


MOST_EMPTY = 4
"""Crops without nuclei of one image."""


def _crops(name: str, image: Pixels, nuclei: Pixels, size: int) -> Iterator[Crop]:
    for y in range(0, nuclei.shape[0] - size + 1, STRIDE):
        for x in range(0, nuclei.shape[1] - size + 1, STRIDE):
            box = slice(y, y + size), slice(x, x + size)
            if np.ptp(image[box]):  # a constant image is refused
                yield Crop(name=f"{name}_{y}_{x}", image=image[box], nuclei=nuclei[box])


def _write(folder: Path, crops: list[Crop]) -> None:
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for crop in crops:
        Image.fromarray(crop.image).save(folder / "images" / f"{crop.name}.png")
        Image.fromarray(crop.nuclei).save(folder / "labels" / f"{crop.name}.png")


def _nnseg(*arguments: object) -> None:
    command = [sys.executable, "-m", "nnseg", *map(str, arguments), "--device", "cpu"]
    print(" ".join(command[1:]), file=sys.stderr, flush=True)
    subprocess.run(command, check=True)


def describe(references: Path, found: Path) -> str:
    """A line of the table: Dice of the crops with nuclei, and how many of the others are not empty in the prediction."""
    dice, positive = list[float](), list[bool]()
    for path in sorted(references.glob("*.png")):
        reference, predicted = (np.asarray(Image.open(p)) > 0 for p in (path, found / "held_out" / path.name))
        if reference.any():
            dice.append(float(2 * (reference & predicted).sum() / (reference.sum() + predicted.sum())))
        else:
            positive.append(bool(predicted.any()))
    low, high = interval(bootstrap_weights(len(dice)) @ np.array(dice) / len(dice)) or (np.nan, np.nan)
    sure = stats.binomtest(sum(positive), len(positive)).proportion_ci()
    falsely = f"{sum(positive)} of {len(positive)} ({np.mean(positive):.1%}, {sure.low:.1%} to {sure.high:.1%})"
    return f"| {found.name} | {np.mean(dice):.4f} ({low:.4f} to {high:.4f}), {len(dice)} crops | {falsely} |"


if __name__ == "__main__":
    main()
