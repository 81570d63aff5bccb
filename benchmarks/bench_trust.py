"""Does the model know which of its answers are bad? Quality against Dice on held-out cases, beside other measures of confidence.

    python benchmarks/bench_trust.py RUN [--figure trust.svg]

RUN is a finished run with one plan. Each held-out case is predicted by its fold's network; what is said of it comes from the cases
of the other folds alone, or with a single fold from the other four fifths. Printed: rank correlation with the mean Dice, area under
the risk-coverage curve (risk is 1 - Dice; smaller is better), how many of the 5 worst cases lie in the tenth of lowest quality,
calibration error and Brier score before and after temperature, of the decision and of each label, how often a scan of the same kind
is called unlike, and what few held-out cases suffice for.

Mutual information is that of the predictions of the scan and of its copies mirrored along one axis, also where the training
mirrored none. Soft Dice Confidence is the mean over predicted labels of 2 sum(p m) / (sum(p) + sum(m)), with probabilities p and
mask m. Source: Borges et al. 2024, arXiv:2402.10665.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from drawing import write_figure
from foreign import Seen as HeldOut
from foreign import read_held_out
from scipy.stats import spearmanr

from nnseg.core.image import Scan
from nnseg.core.labels import Labels
from nnseg.core.scan_ranges import find_ranges
from nnseg.core.trust import Trust
from nnseg.crossval.evidence import SAMPLE, cross_entropies, sample_truth
from nnseg.crossval.trust import PARTS, HeldOutCase, cross_validate_expected_dice, fit_expected_dice, fit_temperature
from nnseg.evaluation.evaluate import case_score
from nnseg.evaluation.metrics import count
from nnseg.inference.predict import Predictor
from nnseg.inference.prediction import DrawnVoxels
from nnseg.storage.run import Run

Numbers = npt.NDArray[np.float64]
WORST = 5
BINS = 15
DRAWS = 20
CERTAIN = 0.99
AXES = {"z": -3, "y": -2, "x": -1}


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A held-out case, predicted: what the product keeps of it, and what is compared with that.

    Args:
        measures: other measures of confidence, by name; larger is more confident.
        truth: index of the label of each sampled voxel.
    """

    held: HeldOutCase
    measures: Mapping[str, float]
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
    reliability = {} if labels.regions else _calibration(seen, labels)
    _likeness(seen)
    _few(seen)
    if options.figure:
        coverage = ("Risk of the cases that are kept", "% of cases kept, best quality first", "mean of 1 - Dice", curves)
        calibration = ("How often probabilities are right", "% of the time it should be right", "% it is", reliability)
        write_figure(options.figure, [coverage, calibration])


def _predicted(run: Run) -> Iterator[Seen]:
    plain: dict[int, Predictor] = {}
    for one in read_held_out(run):
        if one.fold not in plain:
            plain = {one.fold: Predictor(one.predictor.model, device="cpu", mirror=False)}
        yield _seen(one, plain[one.fold])


def _seen(one: HeldOut, plain: Predictor) -> Seen:
    case, scan, reference, labels = one.case, one.scan, one.reference, plain.model.labels
    prediction = one.predictor.infer(one.predictor.prepare(scan), probabilities=True, uncertainty=True, sample=SAMPLE)
    assert prediction.confidence is not None
    assert prediction.sample is not None
    assert prediction.probabilities is not None
    confidence = prediction.confidence.model_copy(
        update={"surprise": cross_entropies(sample_truth(prediction.sample, reference, labels))}
    )
    score = case_score(case.name, count(prediction.label_map.labels, reference.labels, labels, annotated=case.annotated))
    probabilities = np.asarray(prediction.probabilities, np.float64)
    foreground = prediction.label_map.labels != labels.values[0]
    copies = [probabilities_of(plain, scan, axes) for axes in ((), *((axis,) for axis in AXES.values()))]
    entropy, information = _entropy(probabilities, labels), _mutual_information(copies, labels)
    return Seen(
        held=HeldOutCase(fold=one.fold, confidence=confidence, score=score),
        measures={
            "soft Dice confidence": _soft_dice(probabilities, labels),
            "entropy, whole scan": -float(entropy.mean()),
            "entropy, foreground": -_mean_inside(entropy, foreground),
            "mutual information, whole scan": -float(information.mean()),
            "mutual information, foreground": -_mean_inside(information, foreground),
        },
        sample=prediction.sample,
        truth=labels.encode(reference.labels[tuple(prediction.sample.voxels.T)]),
    )


def probabilities_of(predictor: Predictor, scan: Scan, mirrored: Sequence[int] = ()) -> Numbers:
    """Probabilities (K, Z, Y, X) of a scan, predicted mirrored along some axes, and mirrored back."""
    turned = replace(scan, image=np.ascontiguousarray(np.flip(scan.image, mirrored)))
    found = predictor.infer(predictor.prepare(turned), probabilities=True).probabilities
    assert found is not None
    return np.flip(np.asarray(found, np.float64), mirrored)


def _mutual_information(copies: Sequence[Numbers], labels: Labels) -> Numbers:
    """Entropy of the mean of predictions less their mean entropy. Source: Smith and Gal 2018, arXiv:1803.08533."""
    return _entropy(np.mean(copies, axis=0), labels) - np.mean([_entropy(one, labels) for one in copies], axis=0)


def _entropy(probabilities: Numbers, labels: Labels) -> Numbers:
    terms = -probabilities * np.log(np.clip(probabilities, 1e-12, 1.0))
    if labels.regions:
        rest = 1.0 - probabilities
        terms = terms - rest * np.log(np.clip(rest, 1e-12, 1.0))
    return terms.sum(0)


def _mean_inside(values: Numbers, mask: npt.NDArray[np.bool_]) -> float:
    return float(values[mask].mean()) if mask.any() else 0.0


def _soft_dice(probabilities: Numbers, labels: Labels) -> float:
    masks = probabilities > 0.5 if labels.regions else probabilities.argmax(0) == np.arange(len(probabilities))[:, None, None, None]
    found = [
        2.0 * probabilities[k][masks[k]].sum() / (probabilities[k].sum() + masks[k].sum())
        for k in map(labels.heads.index, labels.foreground)
        if masks[k].any()
    ]
    return float(np.mean(found)) if found else 0.0


def _parts(seen: Sequence[Seen]) -> list[int]:
    """The fold of each case; with a single fold, parts of its cases."""
    folds = [s.held.fold for s in seen]
    return folds if len(set(folds)) > 1 else [i % PARTS for i in range(len(seen))]


def _ranking(seen: Sequence[Seen]) -> Mapping[str, Sequence[tuple[float, float]]]:
    seen = [s for s in seen if s.held.score.mean_dice is not None]
    dice = np.array([s.held.score.mean_dice for s in seen], np.float64)
    certain = {
        "quality": np.array(cross_validate_expected_dice([s.held for s in seen])),
        "agreement alone": np.array([Trust().expected_mean_dice(s.held.confidence.agreement) for s in seen]),
        **{name: np.array([s.measures[name] for s in seen]) for name in seen[0].measures},
        "perfect": dice,
    }
    worst = set(np.argsort(dice)[:WORST].tolist())
    print(f"{len(seen)} held-out cases, mean Dice {dice.mean():.4f}, worst {', '.join(f'{d:.3f}' for d in np.sort(dice)[:WORST])}")
    print(f"{'':32}{'rank corr.':>12}{'AURC':>10}{f'worst {WORST} in tenth':>20}")
    for name, values in certain.items():
        tenth = set(np.argsort(values)[: max(1, len(seen) // 10)].tolist())
        rho = float(spearmanr(values, dice)[0])
        print(f"{name:32}{rho:12.3f}{risks(values, dice).mean():10.5f}{len(worst & tenth):20}")
    print(f"{'at random':32}{0:12.3f}{1 - dice.mean():10.5f}")
    places = [int((certain["quality"] < certain["quality"][i]).sum()) + 1 for i in np.argsort(dice)[:WORST]]
    low = np.argsort(certain["quality"])[: max(1, len(seen) // 10)]
    print(f"places of the worst {WORST} by quality: {', '.join(map(str, places))}; ", end="")
    print(f"mean Dice of the tenth of lowest quality {dice[low].mean():.4f}, of the others {np.delete(dice, low).mean():.4f}")
    print(f"quality is off by {np.abs(certain['quality'] - dice).mean():.4f} of Dice, agreement alone by ", end="")
    print(f"{np.abs(certain['agreement alone'] - dice).mean():.4f}")
    percent = 100.0 * np.arange(1, len(seen) + 1) / len(seen)
    drawn = ("quality", "soft Dice confidence", "entropy, foreground", "perfect")
    return {name: list(zip(percent.tolist(), risks(certain[name], dice).tolist(), strict=True)) for name in drawn}


def risks(certain: Numbers, dice: Numbers) -> Numbers:
    """Mean of 1 - Dice over the n surest cases, for n = 1, 2, ..."""
    return np.cumsum(1.0 - dice[np.argsort(-certain, kind="stable")]) / np.arange(1, len(dice) + 1)


def _calibration(seen: Sequence[Seen], labels: Labels) -> Mapping[str, Sequence[tuple[float, float]]]:
    """Prints calibration errors; gives reliability curves. Each part's temperature is that of the others."""
    parts = _parts(seen)
    fitted = {
        part: fit_temperature([s.held.confidence.surprise for s, p in zip(seen, parts, strict=True) if p != part])
        for part in sorted(set(parts))
    }
    print(f"temperatures of the parts: {', '.join(f'{t:.3f}' for t in fitted.values())}")
    print(f"{'':14}{'':24}{'ECE':>10}{'Brier':>10}{'ECE where uncertain':>22}")
    curves = {}
    for name, temperatures in {"uncalibrated": dict.fromkeys(fitted, 1.0), "with temperature": fitted}.items():
        scaled, truth, weights = (
            np.concatenate(part)
            for part in zip(*(_scaled(s, temperatures[p]) for s, p in zip(seen, parts, strict=True)), strict=True)
        )
        decision = scaled.max(1), (scaled.argmax(1) == truth).astype(np.float64)
        _print_errors("decision", name, *decision, weights)
        for label, k in ((label, labels.heads.index(label)) for label in labels.foreground):
            _print_errors(label, name, scaled[:, k], (truth == k).astype(np.float64), weights)
        curves[name] = [(100 * p, 100 * r) for p, r, _ in _bins(*decision, weights)]
    return {**curves, "perfect": [(0.0, 0.0), (100.0, 100.0)]}


def _scaled(seen: Seen, temperature: float) -> tuple[Numbers, npt.NDArray[np.int16], Numbers]:
    """Of each sampled voxel the probabilities at a temperature, its label, and how many voxels it stands for."""
    known = seen.truth >= 0
    raised = seen.sample.probabilities[known].astype(np.float64) ** (1.0 / temperature)
    return raised / raised.sum(1, keepdims=True), seen.truth[known], seen.sample.weights[known]


def _print_errors(what: str, name: str, shares: Numbers, right: Numbers, weights: Numbers) -> None:
    """ECE and Brier score of the probabilities of an event, and the ECE of those between 0.01 and 0.99."""
    doubted = (shares > 1.0 - CERTAIN) & (shares < CERTAIN)
    brier = float(np.average(np.square(shares - right), weights=weights))
    uncertain = f"{_ece(shares[doubted], right[doubted], weights[doubted]):22.4f}" if doubted.any() else ""
    print(f"{what:14}{name:24}{_ece(shares, right, weights):10.5f}{brier:10.5f}{uncertain}")


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
    """How many of a part's scans are unlike those of the others."""
    alarms, parts = list[bool](), _parts(seen)
    facts = [(part, s.held.confidence.facts) for s, part in zip(seen, parts, strict=True) if s.held.confidence.facts]
    for part in sorted(set(parts)):
        others = [of for other, of in facts if other != part]
        if ranges := find_ranges(others, [str(c) for c in range(len(others[0].intensities))]):
            alarms += [bool(ranges.differences(of)) for own, of in facts if own == part]
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
