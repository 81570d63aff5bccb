"""Do other normalizations close the gap to scans of an intensity band that was not trained on?

    python benchmarks/harmonisation.py WORK DATASET [--group '(patient\\d+)'] [--steps 300] [--train 80] [--test 20] [--seed 0]

The scans are divided into three bands by the percentiles of their intensities, as ``nnseg audit`` does. For each normalization and
band a network is trained on cases of the other bands and tested on the band, and one on a random part of all bands and tested on
the rest of the same band's cases, as far as the counts allow. Both see the same number of cases. The gap is the difference of both
on the same test cases. A line of WORK/cells.jsonl for each training; what is done is not done again. Prints a table for RESULTS.md.

Normalizations, each a function of the cropped scan: "zscore", the plan's own; "foreground", the same by mean and deviation of the
voxels above the mean; "histogram", percentiles of these moved to those of the standard normal distribution, linearly in between.
Sources: Nyul and Udupa 1999 (Magn Reson Med 42) for landmarks of the histogram above the mean; the scale that they learn from the
training set is fixed here, so that nothing of the dataset is needed.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

import nnseg
from nnseg.commands.audit import BAND, list_predictors
from nnseg.core.dataset import Case
from nnseg.core.image import PreprocessedCase
from nnseg.core.plan import Budget, Plan
from nnseg.evaluation.audit_traits import measure_traits
from nnseg.evaluation.evaluate import score
from nnseg.evaluation.statistics import bootstrap_weights, interval, sign_flip
from nnseg.inference.predict import Predictor
from nnseg.storage.images.read import read_labels_of, read_scan

Image = npt.NDArray[np.float32]

LANDMARKS = (1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 99)
"""Percentiles of the voxels above the mean."""


def zscore(image: Image) -> Image:
    """Each channel less its mean, over its standard deviation."""
    return np.stack([(channel - channel.mean()) / max(float(channel.std()), 1e-8) for channel in image])


def foreground(image: Image) -> Image:
    """Each channel less the mean of its voxels above the mean, over their standard deviation."""
    above = [channel[channel > channel.mean()] for channel in image]
    return np.stack([(c - a.mean()) / max(float(a.std()), 1e-8) if a.size else c * 0 for c, a in zip(image, above, strict=True)])


def histogram(image: Image) -> Image:
    """Each channel with the landmarks of its voxels above the mean at those of the standard normal distribution."""
    return np.stack([_to_normal(channel) for channel in image])


def _to_normal(channel: Image) -> Image:
    above = channel[channel > channel.mean()]
    if not above.size:
        return channel * 0
    found, target = np.percentile(above, LANDMARKS), stats.norm.ppf(np.array(LANDMARKS) / 100)
    found = np.maximum.accumulate(found + 1e-6 * np.arange(len(found)) * max(float(found[-1] - found[0]), 1e-6))
    slopes = [(target[b] - target[a]) / (found[b] - found[a]) for a, b in ((0, 1), (-2, -1))]
    moved = np.interp(channel, found, target)
    moved += np.minimum(channel - found[0], 0) * slopes[0] + np.maximum(channel - found[-1], 0) * slopes[1]
    return np.asarray(moved, np.float32)


NORMALIZERS: dict[str, Callable[[Image], Image]] = {"zscore": zscore, "foreground": foreground, "histogram": histogram}


def main() -> None:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--group", default="(.*)", help="what of a case's name its patient is")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--train", type=int, default=80)
    parser.add_argument("--test", type=int, default=20)
    parser.add_argument("--normalizers", default=",".join(NORMALIZERS))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    dataset = nnseg.read_dataset(options.dataset)
    fingerprint = nnseg.measure(dataset)
    (plan,) = nnseg.make_plans(fingerprint, Budget(steps=options.steps), nnseg.load_recipe("auto"), kinds=("3d",))
    cases = {case.name: case for case in dataset.cases if case.labels is not None}
    traits = {name: measure_traits(read_scan(case.images, resample=True)) for name, case in cases.items()}
    measures = [case for case in fingerprint.cases if case.name in cases]
    band_of = {name: str(band) for name, band in list_predictors(measures, traits, {})[BAND].items()}
    groups = {name: found[0] if (found := re.search(options.group, name)) else name for name in cases}
    parts = divide(band_of, groups, train=options.train, test=options.test, seed=options.seed)
    for name in options.normalizers.split(","):
        for (band, training), (trained, tested) in parts.items():
            if (name, band, training) not in read_cells(options.work):
                dice = _dice_of(plan, [cases[one] for one in trained], [cases[one] for one in tested], NORMALIZERS[name])
                line = {"normalizer": name, "band": band, "training": training, "trained": len(trained), "dice": dice}
                with (options.work / "cells.jsonl").open("a") as file:
                    file.write(json.dumps(line) + "\n")
    print("\n".join(table(read_cells(options.work))))


Part = tuple[list[str], list[str]]


def divide(bands: Mapping[str, str], groups: Mapping[str, str], *, train: int, test: int, seed: int) -> dict[tuple[str, str], Part]:
    """Names of the cases to train on and to test on, by band and by what is trained on; scans of a patient have one band."""
    rng, of_group = np.random.default_rng(seed), dict[str, str]()
    for group in dict.fromkeys(groups.values()):
        of_group[group] = Counter(bands[name] for name in bands if groups[name] == group).most_common(1)[0][0]
    found: dict[tuple[str, str], Part] = {}
    for band in sorted(set(of_group.values())):
        shuffled = [str(one) for one in rng.permutation(sorted(of_group))]
        names = {group: [name for name in bands if groups[name] == group] for group in shuffled}
        own = [name for group in shuffled if of_group[group] == band for name in names[group]]
        tested = own[: min(test, len(own) // 2)]
        held = {groups[name] for name in tested}
        others = [name for group in shuffled if of_group[group] != band for name in names[group]]
        every = [name for group in shuffled if group not in held for name in names[group]]
        count = min(train, len(others), len(every))
        found[band, "other bands"], found[band, "all bands"] = (others[:count], tested), (every[:count], tested)
    return found


def _dice_of(plan: Plan, trained: Sequence[Case], tested: Sequence[Case], normalizer: Callable[[Image], Image]) -> dict[str, float]:
    """The Dice of each test case by a network trained on the others."""
    training = nnseg.train(plan, [_preprocessed(case, plan, normalizer) for case in trained], device="cpu")
    for _ in training:
        pass
    predictor, found = Predictor(training.model(), device="cpu", normalizer=normalizer), {}
    for case in tested:
        scan = read_scan(case.images, repair=True)
        assert case.labels is not None
        scored = score(case.name, predictor(scan).label_map, read_labels_of(case.labels, scan), plan.labels)
        if scored.mean_dice is not None:
            found[case.name] = scored.mean_dice
    return found


def _preprocessed(case: Case, plan: Plan, normalizer: Callable[[Image], Image]) -> PreprocessedCase:
    scan = read_scan(case.images, resample=True)
    assert case.labels is not None
    return nnseg.preprocess(scan, read_labels_of(case.labels, scan), plan, name=case.name, normalizer=normalizer)


def read_cells(work: Path) -> dict[tuple[str, str, str], dict[str, Any]]:
    """What was measured, by normalization, band and training."""
    file = work / "cells.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return {(line["normalizer"], line["band"], line["training"]): line for line in lines}


def table(cells: Mapping[tuple[str, str, str], Mapping[str, Any]]) -> Iterator[str]:
    """The lines of a table for RESULTS.md: each normalization in each band, and its gap beside that of the first one."""
    yield "| normalization | band | trained on other bands | on all bands | gap (95 %) | other bands, less zscore (95 %) | p |"
    yield "|---|---|---|---|---|---|---|"
    for name, band in dict.fromkeys((name, band) for name, band, _ in cells):
        other, every = (cells.get((name, band, training), {}).get("dice", {}) for training in ("other bands", "all bands"))
        first = cells.get(("zscore", band, "other bands"), {}).get("dice", {})
        means = " | ".join(f"{np.mean(list(of.values())):.4f}" if of else "-" for of in (other, every))
        gaps = " | ".join([_difference(every, other)[0], *_difference(first, other)])
        yield f"| {name} | {band} (n = {len(other)}) | {means} | {gaps} |"


def _difference(a: Mapping[str, float], b: Mapping[str, float]) -> tuple[str, str]:
    """Mean of b less a over the cases of both with its interval, and p."""
    values = np.array([b[name] - a[name] for name in a if name in b])
    if not len(values):
        return "-", "-"
    low, high = interval(bootstrap_weights(len(values)) @ values / len(values)) or (np.nan, np.nan)
    return f"{values.mean():+.4f} ({low:+.4f} to {high:+.4f})", f"{sign_flip(values, two_sided=True):.2g}"


if __name__ == "__main__":
    main()
