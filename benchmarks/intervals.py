"""Do the intervals of Dice and volume hold, and how wide are they? Coverage on held-out cases beside plain quantiles of errors.

    python benchmarks/intervals.py RUN [--together REGEX] [--by REGEX] [--logits]

RUN is a finished run. Its held-out cases are divided at random, 50 times: one half calibrates, the other is tested. No network
computes: predictions and scores are those of the run. With ``--logits`` the cases are predicted again, and intervals of volumes
are also made as COMPASS makes them (arXiv:2509.22240): a number is added to the logit of the label, and the interval goes from the
volume with the lower bound of the numbers that would have given the true volumes to that with the upper one. ``--together`` names
what belongs to one patient by a group of a regular expression, such as (patient\\d+). ``--by`` likewise names groups, of which one
calibrates and another is tested, such as _(E[DS]); "intensity" stands for bands of intensities before normalization, apart by a
factor of 3.
"""

from __future__ import annotations

import argparse
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
from foreign import read_held_out as read_held_out_scans

from nnseg.core.scan_ranges import GAP
from nnseg.core.trust import INTERVAL_LEVEL, Trust
from nnseg.crossval.trust import HeldOutCase, cross_validate_trust, fit_trust, join_scores
from nnseg.evaluation.conformal import conformal_bounds
from nnseg.storage.run import Run

SPLITS = 50
FEWEST_TESTED = 5
ADDED = np.linspace(-16.0, 16.0, 641)
"""To the logit of a label."""

Volumes = Mapping[str, Mapping[str, npt.NDArray[np.int64]]]
"""Of each case and label, its voxels with each of the `ADDED`."""
Ends = tuple[float, float]
Bounds = Callable[[HeldOutCase, str, float], tuple[Ends | None, Ends | None]]
"""Of a label of a case with an expected Dice: the interval of its Dice, and of the true over the predicted volume."""


@dataclass
class IntervalStats:
    """What was found of one label by one method: for each split the share inside, and each width."""

    inside: list[float] = field(default_factory=list)
    widths: list[float] = field(default_factory=list)

    def row(self) -> str:
        """Mean coverage, its standard deviation over splits, and mean width."""
        if not self.inside:
            return f"{'no interval':>30}"
        return f"{np.mean(self.inside):10.3f}{np.std(self.inside):10.3f}{np.mean(self.widths):10.3f}"


def main() -> None:
    """Split, calibrate, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--together", default="(.*)")
    parser.add_argument("--by", default="")
    parser.add_argument("--logits", action="store_true")
    options = parser.parse_args()
    run = Run(options.run)
    held = read_held_out(run)
    patients, volumes = groups_of(held, options.together), shifted_volumes(run) if options.logits else {}
    print(f"{len(held)} held-out cases of {len(set(patients.values()))} patients; {INTERVAL_LEVEL:.0%} intervals")
    compare(f"{SPLITS} random halves", halves(held, patients), volumes)
    if options.by:
        groups = bands(run, held) if options.by == "intensity" else groups_of(held, options.by)
        for name, pair in pairs_of(held, groups):
            compare(name, [pair], volumes)


def read_held_out(run: Run) -> list[HeldOutCase]:
    """The held-out cases that were predicted with their confidence, and scored; without facts, which intervals do not need."""
    folds = {number: fold for number, fold in run.folds.items() if run.predictions({number: fold})}
    held = join_scores(run.predictions(folds), run.require_scores().cases, folds)
    return [HeldOutCase(fold=h.fold, confidence=h.confidence.model_copy(update={"facts": None}), score=h.score) for h in held]


def shifted_volumes(run: Run) -> Volumes:
    """The volumes of each held-out case with numbers added to the logits, predicted by its fold's network."""
    found = {}
    for seen in read_held_out_scans(run):
        prediction = seen.predictor.infer(seen.predictor.prepare(seen.scan), probabilities=True)
        labels, shares = seen.predictor.model.labels, np.clip(np.asarray(prediction.probabilities, np.float64), 1e-7, 1.0)
        found[seen.case.name] = {}
        for label, k in ((label, labels.heads.index(label)) for label in labels.foreground):
            others = np.clip(1.0 - shares[k], 1e-7, 1.0) if labels.regions else np.delete(shares, k, 0).max(0)
            margins = np.sort((np.log(shares[k]) - np.log(others)).ravel())
            found[seen.case.name][label] = margins.size - np.searchsorted(margins, -ADDED, side="right")
    return found


def compare(
    title: str, pairs: Sequence[tuple[Sequence[HeldOutCase], Sequence[HeldOutCase]]], volumes: Volumes | None = None
) -> None:
    """Print coverage and width of each method.

    Args:
        pairs: cases that calibrate, and those that are tested.
        volumes: of all cases, for intervals on logits.
    """
    stats: dict[tuple[str, str, str], IntervalStats] = defaultdict(IntervalStats)
    for calibration, tested in pairs:
        trust = fit_trust(calibration)
        methods = {"split-conformal": _conformal(trust), "plain quantiles": _plain(calibration)}
        if volumes:
            methods["on logits"] = _on_logits(calibration, volumes)
        for method, bounds in methods.items():
            _count(stats, method, trust, bounds, tested)
    sizes = f"{np.mean([len(c) for c, _ in pairs]):.0f} calibrate, {np.mean([len(t) for _, t in pairs]):.0f} are tested"
    print(f"\n{title}: {sizes}\n{'label':22}{'of':8}{'method':18}{'covered':>10}{'sd':>10}{'width':>10}")
    for (label, what, method), one in sorted(stats.items()):
        print(f"{label:22}{what:8}{method:18}{one.row()}")


def _count(
    stats: Mapping[tuple[str, str, str], IntervalStats], method: str, trust: Trust, bounds: Bounds, tested: Sequence[HeldOutCase]
) -> None:
    inside: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for case in tested:
        for label, expected in trust.expected_dice(case.confidence.agreement).items():
            score = case.score.labels[label]
            if score.dice is None or not score.tp + score.fp:
                continue
            truths = {"Dice": score.dice, "volume": (score.tp + score.fn) / (score.tp + score.fp)}
            for (what, truth), interval in zip(truths.items(), bounds(case, label, expected), strict=True):
                one = stats[label, what, method]
                if interval:
                    inside[label, what].append(interval[0] <= truth <= interval[1])
                    one.widths.append(interval[1] - interval[0])
    for (label, what), found in inside.items():
        stats[label, what, method].inside.append(float(np.mean(found)))


def _conformal(trust: Trust) -> Bounds:
    """Split-conformal bounds of normalized errors, as a model has them."""

    def bounds(case: HeldOutCase, label: str, expected: float) -> tuple[Ends | None, Ends | None]:
        known, spread = trust.labels[label], trust.spread(case.confidence.agreement, label)
        return known.dice_interval(expected, spread), known.volume_interval(expected, spread)

    return bounds


def _plain(held: Sequence[HeldOutCase]) -> Bounds:
    """Quantiles of the errors, without a correction for their number, and of Dice without its logit."""
    fitted = cross_validate_trust(held)
    errors, ratios = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    for trust, case in zip(fitted, held, strict=True):
        for label, expected in trust.expected_dice(case.confidence.agreement).items():
            score = case.score.labels[label]
            if score.dice is not None and score.tp + score.fp:
                errors[label].append(score.dice - expected)
                ratios[label].append((score.tp + score.fn) / (score.tp + score.fp))
    tail = (1.0 - INTERVAL_LEVEL) / 2

    def bounds(_: HeldOutCase, label: str, expected: float) -> tuple[Ends | None, Ends | None]:
        if not errors[label]:
            return None, None
        (low, high), (least, most) = (np.quantile(of[label], (tail, 1.0 - tail)).tolist() for of in (errors, ratios))
        return (max(0.0, expected + low), min(1.0, expected + high)), (least, most)

    return bounds


def _on_logits(held: Sequence[HeldOutCase], volumes: Volumes) -> Bounds:
    """Volumes with numbers added to the logits, by conformal bounds of those that give the true volumes."""
    needed = defaultdict[str, list[float]](list)
    for case in held:
        for label, of in volumes[case.score.name].items():
            score = case.score.labels[label]
            if score.dice is not None and score.tp + score.fp:
                needed[label].append(float(ADDED[min(int(np.searchsorted(of, score.tp + score.fn)), len(ADDED) - 1)]))
    known = {label: conformal_bounds(of, INTERVAL_LEVEL) for label, of in needed.items()}

    def bounds(case: HeldOutCase, label: str, _: float) -> tuple[Ends | None, Ends | None]:
        ends, score = known.get(label), case.score.labels[label]
        if ends is None:
            return None, None
        low, high = np.interp(ends, ADDED, volumes[case.score.name][label]) / (score.tp + score.fp)
        return None, (float(low), float(high))

    return bounds


def groups_of(held: Sequence[HeldOutCase], pattern: str) -> dict[str, str]:
    """The group of each case, by its name; "" where the expression does not match."""
    return {h.score.name: match[1] if (match := re.search(pattern, h.score.name)) else "" for h in held}


def bands(run: Run, held: Sequence[HeldOutCase]) -> dict[str, str]:
    """The band of each case's intensities: the 99th percentile of the first channel."""
    bright = {case.name: case.typical[0][1] for case in run.fingerprint.cases if case.typical}
    ordered = sorted(bright[h.score.name] for h in held)
    starts = [ordered[0], *(high for low, high in pairwise(ordered) if high > GAP * low)]
    return {h.score.name: f"from {max(s for s in starts if s <= bright[h.score.name]):.3g}" for h in held}


def halves(held: Sequence[HeldOutCase], patients: Mapping[str, str]) -> list[tuple[Sequence[HeldOutCase], Sequence[HeldOutCase]]]:
    random, names = np.random.default_rng(0), sorted(set(patients.values()))
    pairs = []
    for _ in range(SPLITS):
        chosen = set(random.permutation(names)[: math.ceil(len(names) / 2)].tolist())
        parts: list[list[HeldOutCase]] = [[], []]
        for case in held:
            parts[patients[case.score.name] not in chosen].append(case)
        pairs.append((parts[0], parts[1]))
    return pairs


def pairs_of(
    held: Sequence[HeldOutCase], groups: Mapping[str, str]
) -> Iterator[tuple[str, tuple[Sequence[HeldOutCase], Sequence[HeldOutCase]]]]:
    members = {name: [h for h in held if groups[h.score.name] == name] for name in sorted(set(groups.values()))}
    for one, calibration in members.items():
        for other, tested in members.items():
            if one != other and len(tested) >= FEWEST_TESTED:
                yield f"calibrated on {one}, tested on {other}", (calibration, tested)


if __name__ == "__main__":
    main()
