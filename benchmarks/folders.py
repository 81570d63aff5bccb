"""Is the mean Dice of a folder of scans without references estimated well? On held-out cases as they are, and on five shifted sets.

    python benchmarks/folders.py RUN [--together REGEX] [--by REGEX ...]

RUN is a finished run with one plan. Its held-out cases are predicted by the networks of their folds: as they are, with noise added
(standard deviation a tenth of the intensities' spread), with intensities squared between their ends (gamma 2), and with pairs of
slices averaged. They are divided at random, 50 times, by ``--together`` as in `intervals`: one half calibrates as it is, the other
is the folder. ``--by`` names groups as there; of each pair of groups one calibrates, and another is the folder. Printed for each
set: how many scans are called foreign; the true mean Dice, the expected one as if no scan were foreign, and the expected one; and
for both how often the interval holds, and its width.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from foreign import Seen, predict, read_held_out
from intervals import bands, groups_of, halves, pairs_of

from nnseg.core.geometry import as_shape
from nnseg.core.image import Integers, Scan
from nnseg.core.scan_ranges import find_ranges
from nnseg.core.trust import Confidence
from nnseg.crossval.trust import HeldOutCase, fit_trust
from nnseg.evaluation.folder_dice import estimate_folder_dice
from nnseg.storage.run import Run

NOISE, GAMMA, SLICES = 0.1, 2.0, 2
Split = tuple[Sequence[HeldOutCase], Sequence[HeldOutCase]]
"""Cases that calibrate, and the folder."""


def main() -> None:
    """Predict, shift, estimate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--together", default="(.*)")
    parser.add_argument("--by", nargs="*", default=[])
    options = parser.parse_args()
    run = Run(options.run)
    channels, sets = run.plans[0].plan.channels, predict_sets(run)
    held = list(sets["as they are"].values())
    patients = groups_of(held, options.together)
    splits = halves(held, patients)
    print(f"{'set':40}{'folders':>8}{'foreign':>9}{'true':>8}{'plain':>8}{'expected':>10}{'covered, plain':>20}{'covered':>18}")
    for name, shifted in sets.items():
        print_row(
            name, [(calibration, [shifted[h.score.name] for h in tested]) for calibration, tested in splits], channels, patients
        )
    for by in options.by:
        groups = bands(run, held) if by == "intensity" else groups_of(held, by)
        for name, pair in pairs_of(held, groups):
            print_row(name, [pair], channels, patients)


def predict_sets(run: Run) -> dict[str, dict[str, HeldOutCase]]:
    """The held-out cases of each set, by name."""
    sets = {name: dict[str, HeldOutCase]() for name in ("as they are", *SHIFTS)}
    for number, seen in enumerate(read_held_out(run)):
        name = seen.case.name
        sets["as they are"][name] = predict(seen, seen.scan, seen.reference.labels)
        for shift, make in SHIFTS.items():
            sets[shift][name] = predict(seen, *make(seen, np.random.default_rng(number)))
    return sets


def print_row(name: str, splits: Sequence[Split], channels: Sequence[str], patients: Mapping[str, str]) -> None:
    """What is estimated of each folder, beside the truth."""
    rows = []
    for calibration, tested in splits:
        facts = {h.score.name: h.confidence.facts for h in calibration if h.confidence.facts}
        ranges = find_ranges(tuple(facts.values()), channels, [patients[name] for name in facts])
        trust = fit_trust(calibration, ranges=ranges, patients=patients)
        found = [trust.confidence(h.confidence.agreement, h.confidence.facts) for h in tested]
        plain = [trust.model_copy(update={"ranges": None}).confidence(h.confidence.agreement) for h in tested]
        truth = float(np.mean([h.score.mean_dice for h in tested if h.score.mean_dice is not None]))
        rows.append((np.mean([bool(c.foreign) for c in found]), truth, *_estimate(plain, truth), *_estimate(found, truth)))
    foreign, truth, plain_mean, plain_inside, plain_width, mean, inside, width = np.mean(rows, axis=0)
    print(
        f"{name:40}{len(rows):8}{foreign:9.1%}{truth:8.3f}{plain_mean:8.3f}{mean:10.3f}"
        f"{plain_inside:12.2f} ({plain_width:.3f}){inside:10.2f} ({width:.3f})"
    )


def _estimate(confidences: Sequence[Confidence], truth: float) -> tuple[float, float, float]:
    """The expected mean Dice, whether its interval holds, and the width of that."""
    found = estimate_folder_dice(confidences)
    assert found is not None
    assert found.interval is not None
    low, high = found.interval
    return found.expected, float(low <= truth <= high), high - low


def _noise(seen: Seen, random: np.random.Generator) -> tuple[Scan, Integers]:
    low, high = np.percentile(seen.scan.image, [1, 99])
    noise = random.normal(0.0, NOISE * (high - low), seen.scan.image.shape)
    return replace(seen.scan, image=(seen.scan.image + noise).astype(np.float32)), seen.reference.labels


def _gamma(seen: Seen, _: np.random.Generator) -> tuple[Scan, Integers]:
    image = seen.scan.image.astype(np.float64)
    low, width = image.min(), image.max() - image.min()
    return replace(seen.scan, image=(low + width * ((image - low) / width) ** GAMMA).astype(np.float32)), seen.reference.labels


def _thick(seen: Seen, _: np.random.Generator) -> tuple[Scan, Integers]:
    """The reference is that of the first slice of each pair."""
    scan, (z, y, x) = seen.scan, seen.scan.grid.spacing
    slices = scan.image.shape[1] // SLICES
    pairs = scan.image[:, : SLICES * slices].reshape(len(scan.image), slices, SLICES, *scan.image.shape[2:])
    grid = replace(scan.grid, shape=as_shape((slices, *scan.image.shape[2:])), spacing=(SLICES * z, y, x))
    labels = np.ascontiguousarray(seen.reference.labels[: SLICES * slices : SLICES])
    return replace(scan, image=pairs.mean(2, dtype=np.float32), grid=grid), labels


SHIFTS: Mapping[str, Callable[[Seen, np.random.Generator], tuple[Scan, Integers]]] = {
    "noise": _noise,
    "gamma": _gamma,
    "thick slices": _thick,
}

if __name__ == "__main__":
    main()
