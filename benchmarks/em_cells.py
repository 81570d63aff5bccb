"""Cells of electron microscopy as numbered objects: make them of masks, and score label maps by their components.

    python benchmarks/em_cells.py number LABELS OUT           # masks of cells (255) to numbers of connected components
    python benchmarks/em_cells.py score PREDICTIONS NUMBERS   # V-Rand and V-Info of predicted cells

Predictions with more than one value besides 0 number their cells; of others the components are the cells. Components share faces,
since membranes may be one pixel thin.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from nnseg.evaluation.partitions import partition_scores

FEWEST = 20
"""Smaller components of the references are no cells."""

MASK_VALUES = 2
"""Values of a mask."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("number", "score"))
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    arguments = parser.parse_args()
    files = sorted(file for file in arguments.first.iterdir() if file.suffix in (".png", ".tif", ".tiff"))
    if arguments.what == "number":
        arguments.second.mkdir(parents=True)
        for file in files:
            numbers, _ = ndimage.label(np.asarray(Image.open(file)) > 127)
            numbers[np.bincount(numbers.ravel())[numbers] < FEWEST] = 0
            Image.fromarray(np.unique(numbers, return_inverse=True)[1].reshape(numbers.shape).astype(np.uint16)).save(
                (arguments.second / file.name).with_suffix(".png")
            )
        return
    scores = []
    for file in files:
        reference = arguments.second / f"{file.stem}.png"
        if reference.is_file():
            predicted = np.asarray(Image.open(file)).astype(np.int32)
            if len(np.unique(predicted)) <= MASK_VALUES:
                predicted, _ = ndimage.label(predicted > 0)
            scores.append(partition_scores(predicted[None], np.asarray(Image.open(reference))[None].astype(np.int32)))
            print(f"{file.name}: V-Rand {scores[-1][0]:.4f}, V-Info {scores[-1][1]:.4f}")
    print("mean of {} images: V-Rand {:.4f}, V-Info {:.4f}".format(len(scores), *np.mean(scores, 0)))


if __name__ == "__main__":
    main()
