"""How many voxels of paired structures get the label of the other side, after a training on few cases?

    python benchmarks/left_right.py WORK --data FOLDER [--sets demo,mirrored] [--cases 10] [--held-out 20] [--minutes 3]

Two sets are made: *demo*, phantoms whose labels are divided at the middle of the head; and *mirrored*, a crop of Hippocampus beside
its mirror image, so that the sides differ by their place alone. A network is trained on so many cases and predicts the others.
Counted are voxels of a structure that got the same structure's label of the other side, as a share of those that got either. Prints
a table for RESULTS.md; what is done is not done again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from nnseg.demo.dataset import write_phantoms
from nnseg.storage.datasets.read import read_dataset
from nnseg.storage.files import write_json
from nnseg.storage.run import Run

Voxels = npt.NDArray[np.generic]
SIDES = ("right", "left")
"""In the order of voxels along x, which point to the left."""


class Made(NamedTuple):
    """A case: images of all channels, label map, an image with the grid, and names of the structures."""

    channels: list[Voxels]
    labels: Voxels
    grid: sitk.Image
    structures: list[str]


def main() -> None:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--data", type=Path, help="folder of Task04_Hippocampus")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--cases", type=int, default=10)
    parser.add_argument("--held-out", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=3)
    options = parser.parse_args()
    print("| set | cases | held out | Dice | voxels of the other side | of all | cases with any |")
    print("|---|---|---|---|---|---|---|")
    for name in options.sets.split(","):
        folder, run = options.work / f"{name}-data", Run(options.work / f"{name}-{options.cases}-{options.minutes:g}")
        if not (folder / "dataset.json").exists():
            _make(name, options.data, folder, options.cases + options.held_out)
        names = [case.name for case in read_dataset(folder).cases]
        split = options.work / f"{run.path.name}.json"
        write_json(split, [{"train": names[: options.cases], "val": names[options.cases :]}])
        if not run.scores:
            more = ("--split", split, "--folds", 0, "--budget", f"{options.minutes:g}m", "--device", "cpu")
            subprocess.run([sys.executable, "-m", "nnseg", "run", *map(str, (folder, run.path, *more))], check=True)
        dice = run.require_scores().averages.per_image["dice"].mean
        counts = [count_swapped(*_label_maps(run, folder, case)) for case in names[options.cases :]]
        swapped, found = (sum(numbers) for numbers in zip(*counts, strict=True))
        some = sum(wrong > 0 for wrong, _ in counts)
        print(f"| {name} | {options.cases} | {len(counts)} | {dice or 0:.4f} | {swapped} | {found} | {some} |", flush=True)


def count_swapped(reference: Voxels, predicted: Voxels) -> tuple[int, int]:
    """Voxels of paired labels (1 and 2, 3 and 4, ...) that got the other one of their pair, and those that got either."""
    wrong = found = 0
    for right in range(1, int(max(reference.max(), predicted.max())) + 1, 2):
        for label, other in ((right, right + 1), (right + 1, right)):
            inside = predicted[reference == label]
            wrong += int((inside == other).sum())
            found += int(((inside == label) | (inside == other)).sum())
    return wrong, found


def halved(labels: Voxels, image: Voxels) -> Voxels:
    """Labels 1, 2, ... as 1 and 2, 3 and 4, ...: of the right side and of the left one, divided at the middle of the head."""
    along_x = np.flatnonzero((image > np.percentile(image, 60)).any((0, 1)))
    left = np.arange(labels.shape[2]) > along_x.mean()
    return np.where(labels > 0, 2 * labels - 1 + left, 0).astype(np.uint8)


def phantoms(_: Path, work: Path, count: int) -> Iterator[Made]:
    """Phantoms, their labels divided."""
    dataset = read_dataset(write_phantoms(work / "phantoms", cases=count))
    for case in dataset.cases:
        images = [sitk.ReadImage(str(file)) for file in case.images]
        channels = [sitk.GetArrayFromImage(image) for image in images]
        labels = sitk.GetArrayFromImage(sitk.ReadImage(str(case.labels)))
        yield Made(channels, halved(labels, channels[0]), images[0], list(dataset.labels.names[1:]))


def pairs(data: Path, _: Path, count: int) -> Iterator[Made]:
    """Crops of Hippocampus beside their mirror images."""
    for case in read_dataset(data / "Task04_Hippocampus").cases[:count]:
        image, labels = (sitk.ReadImage(str(file)) for file in (case.images[0], case.labels))
        voxels, inside = sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(labels) > 0
        both = np.concatenate([voxels, voxels[:, :, ::-1]], 2)
        sides = np.concatenate([inside, 2 * inside[:, :, ::-1]], 2).astype(np.uint8)
        yield Made([both], sides, image, ["hippocampus"])


SETS: dict[str, Callable[[Path, Path, int], Iterator[Made]]] = {
    "demo": phantoms,
    "mirrored": pairs,
}


def _make(name: str, data: Path, folder: Path, count: int) -> None:
    """Write a set in nnU-Net's raw layout."""
    for sub in ("imagesTr", "labelsTr"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    cases = list(SETS[name](data, folder.parent, count))
    for number, case in enumerate(cases):
        files = {f"imagesTr/case_{number:02d}_{k:04d}.nii.gz": voxels for k, voxels in enumerate(case.channels)}
        for file, voxels in {**files, f"labelsTr/case_{number:02d}.nii.gz": case.labels}.items():
            volume = sitk.GetImageFromArray(voxels)
            volume.SetSpacing(case.grid.GetSpacing())
            sitk.WriteImage(volume, str(folder / file))
    named = {f"{side} {name}": 2 * n + 1 + k for n, name in enumerate(cases[0].structures) for k, side in enumerate(SIDES)}
    description = {
        "channel_names": {str(k): f"MR{k}" for k in range(len(cases[0].channels))},
        "labels": {"background": 0, **named},
        "numTraining": len(cases),
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description))


def _label_maps(run: Run, folder: Path, case: str) -> tuple[Voxels, Voxels]:
    """The reference and the prediction of a held-out case."""
    (plan,) = run.plans
    files = (folder / "labelsTr" / f"{case}.nii.gz", plan.fold(0).predictions / f"{case}.nii.gz")
    reference, predicted = (sitk.GetArrayFromImage(sitk.ReadImage(str(file))) for file in files)
    return reference, predicted


if __name__ == "__main__":
    main()
