"""What does the absence of a channel cost, with and without channel dropout in training?

    python benchmarks/missing_channels.py WORK --data FOLDER [--sets Hippocampus,ACDC,demo] [--steps 300] [--dropout .25]

Hippocampus and ACDC get a second channel, derived from the first: the square of the negative with a tenth of its deviation of
noise, as another contrast of the same anatomy; the demonstration has two of its own. Networks of fold 0,
trained with all channels and with channel dropout, are scored on the same held-out cases with all channels and without each
(``nnseg channels``). Prints a table for RESULTS.md; what is done is not done again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnseg.core.dataset import Case
from nnseg.demo.dataset import write_phantoms
from nnseg.evaluation.compare import compare
from nnseg.storage.datasets.read import read_dataset
from nnseg.storage.run import Run

SETS = {"Hippocampus": "Task04_Hippocampus", "ACDC": "ACDC", "demo": ""}
OPTIONS = {"ACDC": ("--group-by", r"(patient\d+)")}
"""Of ``nnseg run``."""

NOISE = 0.1


def main() -> None:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--data", type=Path, help="folder of the sets")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--dropout", type=float, default=0.25)
    parser.add_argument("--cases", type=int, default=40, help="held-out cases without a channel, at most")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    recipe = options.work / "dropout.toml"
    recipe.write_text(f'based_on = "auto"\n[training.augmentation]\nchannel_dropout_probability = {options.dropout:g}\n')
    print("| set | training | all channels | without | Dice (same cases) | difference (95 %) | p |")
    print("|---|---|---|---|---|---|---|")
    for name in options.sets.split(","):
        data = options.work / f"{name}-data"
        if not (data / "dataset.json").exists():
            _make_dataset(name, options.data, data)
        runs = {"all channels": Run(options.work / f"{name}-all"), "channel dropout": Run(options.work / f"{name}-dropout")}
        for training, run in runs.items():
            settings = ("--recipe", str(recipe)) if training == "channel dropout" else ()
            if not run.scores:
                more = ("--steps", options.steps, "--device", "cpu", *OPTIONS.get(name, ()), *settings)
                _nnseg("run", data, run.path, "--folds", 0, *more)
            if not run.channel_scores:
                _nnseg("channels", run.path, "--cases", options.cases, "--device", "cpu")
            print("\n".join(_rows(name, training, run)), flush=True)
        without, dropout = (run.require_scores() for run in runs.values())
        mean = compare(without, dropout, ["dice"]).rows[0]
        ends = " ({:+.4f} to {:+.4f})".format(*mean.interval) if mean.interval else ""
        print(f"| {name} | dropout less all channels | {mean.difference:+.4f}{ends} | | | | {mean.p:.2g} |", flush=True)


def _rows(name: str, training: str, run: Run) -> Iterator[str]:
    """A line for each channel that is missing."""
    mean, found = run.require_scores().averages.per_image["dice"].mean, run.channel_scores
    dice = "-" if mean is None else f"{mean:.4f}"
    for row in found.changes if found else ():
        ends = " ({:+.4f} to {:+.4f})".format(*row.interval) if row.interval else ""
        values = f"{row.unchanged:.4f} to {row.changed:.4f} | {row.difference:+.4f}{ends} | {row.p_adjusted:.2g}"
        yield f"| {name} | {training} | {dice} | {row.change} | {values} |"


def _make_dataset(name: str, source: Path | None, folder: Path) -> None:
    """Write the set with two channels, as nnU-Net stores it."""
    if name == "demo":
        write_phantoms(folder, cases=40)
        return
    if source is None:
        raise SystemExit(f"give the folder with {SETS[name]} with --data")
    dataset = read_dataset(source / SETS[name])
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    labelled = [case for case in dataset.cases if case.labels is not None]
    for number, case in enumerate(labelled):
        _write_case(case, folder, np.random.default_rng(number))
    content = {
        "channel_names": {"0": "MRI", "1": "derived"},
        "labels": dict(zip(dataset.labels.names, dataset.labels.values, strict=True)),
        "numTraining": len(labelled),
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(content))


def _write_case(case: Case, folder: Path, rng: np.random.Generator) -> None:
    image, labels = sitk.ReadImage(str(case.images[0])), sitk.ReadImage(str(case.labels))
    values = sitk.GetArrayFromImage(image).astype(np.float32)
    squared = (values.max() - values) ** 2
    derived = sitk.GetImageFromArray((squared + rng.normal(0, NOISE * squared.std(), squared.shape)).astype(np.float32))
    derived.CopyInformation(image)
    for channel, one in enumerate((image, derived)):
        sitk.WriteImage(one, str(folder / "imagesTr" / f"{case.name}_{channel:04d}.nii.gz"))
    sitk.WriteImage(labels, str(folder / "labelsTr" / f"{case.name}.nii.gz"))


def _nnseg(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "nnseg", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
