"""Does the model know which of its answers are bad? Quality against Dice on held-out cases, beside the entropy of the softmax.

    python benchmarks/bench_trust.py RUN [--figure trust.svg]

RUN is a finished run with one plan and several folds. Each held-out case is predicted by its fold's network; what is said of it
comes from the cases of the other folds alone. Printed: rank correlation with the mean Dice, area under the risk-coverage curve
(risk is 1 - Dice; smaller is better), how many of the 5 worst cases lie in the tenth of lowest quality, calibration error of
probabilities before and after temperature, how often a scan of the same kind is called unlike, and what few held-out cases suffice
for.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from drawing import write_figure
from scipy.stats import spearmanr

from nnseg.core.dataset import Case
from nnseg.core.labels import Labels
from nnseg.core.scan_ranges import find_ranges
from nnseg.core.trust import Trust
from nnseg.crossval.evidence import SAMPLE, cross_entropies, sample_truth
from nnseg.crossval.trust import HeldOutCase, cross_validate_expected_dice, fit_expected_dice, fit_temperature
from nnseg.evaluation.evaluate import case_score
from nnseg.evaluation.metrics import count
from nnseg.inference.predict import Predictor
from nnseg.inference.uncertainty import DrawnVoxels
from nnseg.network.bundle import load_model_file
from nnseg.storage.images.read import read_label_map, read_scan
from nnseg.storage.run import Run

Numbers = npt.NDArray[np.float64]
WORST = 5
BINS = 15
DRAWS = 20


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A held-out case, predicted: what the product keeps of it, and what is compared with that."""

    held: HeldOutCase
    entropy: float
    entropy_of_foreground: float
    sample: DrawnVoxels
    truth: npt.NDArray[np.int16]


def main() -> None:
    """Predict, compare, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    run = Run(options.run)
    seen = list(_predicted(run))
    labels = run.plans[0].plan.labels
    curves = _ranking(seen)
    reliability = _calibration(seen, labels)
    _likeness(seen)
    _few(seen)
    if options.figure:
        coverage = ("Risk of the cases that are kept", "% of cases kept, best quality first", "mean of 1 - Dice", curves)
        calibration = ("How often probabilities are right", "% of the time it should be right", "% it is", reliability)
        write_figure(options.figure, [coverage, calibration])


def _predicted(run: Run) -> Iterator[Seen]:
    cases = {case.name: case for case in run.dataset.cases}
    (folder,) = run.final_plans.values()
    for number, fold in run.folds.items():
        predictor = Predictor(load_model_file(folder.fold(number).model_file))
        for name in fold.held_out:
            yield _seen(predictor, cases[name], number)


def _seen(predictor: Predictor, case: Case, fold: int) -> Seen:
    labels, scan = predictor.model.labels, read_scan(case.images)
    prediction = predictor.infer(predictor.prepare(scan), probabilities=True, uncertainty=True, sample=SAMPLE)
    assert prediction.confidence is not None
    assert prediction.sample is not None
    assert prediction.probabilities is not None
    assert case.labels is not None
    reference = read_label_map(case.labels)
    confidence = prediction.confidence.model_copy(
        update={"surprise": cross_entropies(sample_truth(prediction.sample, reference, labels))}
    )
    score = case_score(case.name, count(prediction.label_map.labels, reference.labels, labels, annotated=case.annotated))
    entropy = _entropy(np.asarray(prediction.probabilities, np.float64), labels)
    foreground = prediction.label_map.labels != labels.values[0]
    return Seen(
        held=HeldOutCase(fold=fold, confidence=confidence, score=score),
        entropy=float(entropy.mean()),
        entropy_of_foreground=float(entropy[foreground].mean()) if foreground.any() else 0.0,
        sample=prediction.sample,
        truth=labels.encode(reference.labels[tuple(prediction.sample.voxels.T)]),
    )


def _entropy(probabilities: Numbers, labels: Labels) -> Numbers:
    terms = -probabilities * np.log(np.clip(probabilities, 1e-12, 1.0))
    if labels.regions:
        rest = 1.0 - probabilities
        terms = terms - rest * np.log(np.clip(rest, 1e-12, 1.0))
    return terms.sum(0)


def _ranking(seen: Sequence[Seen]) -> Mapping[str, Sequence[tuple[float, float]]]:
    seen = [s for s in seen if s.held.score.mean_dice is not None]
    dice = np.array([s.held.score.mean_dice for s in seen], np.float64)
    certain = {
        "quality": np.array(cross_validate_expected_dice([s.held for s in seen])),
        "agreement alone": np.array([Trust().expected_mean_dice(s.held.confidence.agreement) for s in seen]),
        "softmax entropy, whole scan": -np.array([s.entropy for s in seen]),
        "softmax entropy, foreground": -np.array([s.entropy_of_foreground for s in seen]),
        "perfect": dice,
    }
    worst = set(np.argsort(dice)[:WORST].tolist())
    print(f"{len(seen)} held-out cases, mean Dice {dice.mean():.4f}, worst {', '.join(f'{d:.3f}' for d in np.sort(dice)[:WORST])}")
    print(f"{'':30}{'rank corr.':>12}{'AURC':>10}{f'worst {WORST} in tenth':>20}")
    for name, values in certain.items():
        tenth = set(np.argsort(values)[: max(1, len(seen) // 10)].tolist())
        rho = float(spearmanr(values, dice)[0])
        print(f"{name:30}{rho:12.3f}{_risks(values, dice).mean():10.5f}{len(worst & tenth):20}")
    print(f"{'at random':30}{0:12.3f}{1 - dice.mean():10.5f}")
    places = [int((certain["quality"] < certain["quality"][i]).sum()) + 1 for i in np.argsort(dice)[:WORST]]
    low = np.argsort(certain["quality"])[: max(1, len(seen) // 10)]
    print(f"places of the worst {WORST} by quality: {', '.join(map(str, places))}; ", end="")
    print(f"mean Dice of the tenth of lowest quality {dice[low].mean():.4f}, of the others {np.delete(dice, low).mean():.4f}")
    print(f"quality is off by {np.abs(certain['quality'] - dice).mean():.4f} of Dice, agreement alone by ", end="")
    print(f"{np.abs(certain['agreement alone'] - dice).mean():.4f}")
    percent = 100.0 * np.arange(1, len(seen) + 1) / len(seen)
    return {
        n: list(zip(percent.tolist(), _risks(v, dice).tolist(), strict=True)) for n, v in certain.items() if n != "agreement alone"
    }


def _risks(certain: Numbers, dice: Numbers) -> Numbers:
    """Mean of 1 - Dice over the n surest cases, for n = 1, 2, ..."""
    return np.cumsum(1.0 - dice[np.argsort(-certain, kind="stable")]) / np.arange(1, len(dice) + 1)


def _calibration(seen: Sequence[Seen], labels: Labels) -> Mapping[str, Sequence[tuple[float, float]]]:
    """Prints calibration errors; gives reliability curves. Each fold's temperature is that of the others."""
    if labels.regions:
        return {}
    folds = sorted({s.held.fold for s in seen})
    warm = {f: fit_temperature([s.held.confidence.surprise for s in seen if s.held.fold != f]) for f in folds}
    print(f"temperatures of the folds: {', '.join(f'{t:.3f}' for t in warm.values())}")
    curves = {}
    for name, temperatures in {"as the network says": dict.fromkeys(folds, 1.0), "with temperature": warm}.items():
        shares, right, weights = (
            np.concatenate(part) for part in zip(*(_told(s, temperatures[s.held.fold]) for s in seen), strict=True)
        )
        doubted = shares < 0.99
        errors = [_ece(shares[m], right[m], weights[m]) for m in (np.ones_like(doubted), doubted)]
        print(f"calibration error {name}: {errors[0]:.5f} of all voxels, {errors[1]:.4f} of those below 0.99")
        curves[name] = [(100 * p, 100 * r) for p, r, _ in _bins(shares, right, weights)]
    return {**curves, "perfect": [(0.0, 0.0), (100.0, 100.0)]}


def _told(seen: Seen, temperature: float) -> tuple[Numbers, Numbers, Numbers]:
    """Of each sampled voxel the probability of the decision, whether it is right, and how many voxels it stands for."""
    known = seen.truth >= 0
    raised = seen.sample.probabilities[known].astype(np.float64) ** (1.0 / temperature)
    shares = raised.max(1) / raised.sum(1)
    return shares, (raised.argmax(1) == seen.truth[known]).astype(np.float64), seen.sample.weights[known]


def _bins(shares: Numbers, right: Numbers, weights: Numbers) -> list[tuple[float, float, float]]:
    """Mean probability, share that is right, and weight of each bin."""
    number = np.minimum((shares * BINS).astype(int), BINS - 1)
    inside = [number == b for b in range(BINS) if (number == b).any()]
    return [
        (float(np.average(shares[i], weights=weights[i])), float(np.average(right[i], weights=weights[i])), float(weights[i].sum()))
        for i in inside
    ]


def _ece(shares: Numbers, right: Numbers, weights: Numbers) -> float:
    bins = _bins(shares, right, weights)
    return sum(w * abs(p - r) for p, r, w in bins) / sum(w for *_, w in bins)


def _likeness(seen: Sequence[Seen]) -> None:
    """How many of a fold's scans are unlike those of the other folds."""
    alarms = []
    for fold in sorted({s.held.fold for s in seen}):
        others = [s.held.confidence.facts for s in seen if s.held.fold != fold and s.held.confidence.facts]
        if ranges := find_ranges(others, [str(c) for c in range(len(others[0].intensities))]):
            own = [s.held.confidence.facts for s in seen if s.held.fold == fold and s.held.confidence.facts]
            alarms += [bool(ranges.differences(facts)) for facts in own]
    print(f"scans of the same kind called unlike: {sum(alarms)} of {len(alarms)}")


def _few(seen: Sequence[Seen]) -> None:
    """What a calibration on few cases is worth to the others."""
    held = [s.held for s in seen if s.held.score.mean_dice is not None]
    random = np.random.default_rng(0)
    for count_ in (4, 8, 16, 32):
        rows = []
        for _ in range(DRAWS if len(held) > count_ + WORST else 0):
            order = random.permutation(len(held))
            trust, rest = fit_expected_dice([held[i] for i in order[:count_]]), [held[i] for i in order[count_:]]
            quality = np.array([trust.expected_mean_dice(h.confidence.agreement) for h in rest])
            dice = np.array([h.score.mean_dice for h in rest], np.float64)
            rows.append((np.abs(quality - dice).mean(), float(spearmanr(quality, dice)[0])))
        if rows:
            off, rho = np.mean(rows, axis=0)
            print(f"calibrated on {count_} cases: off by {off:.4f} of Dice, rank correlation {rho:.3f}")


if __name__ == "__main__":
    main()
