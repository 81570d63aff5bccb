"""Calibration of a run's model on held-out cases: temperature, expected Dice of a prediction with its interval, when to flag it.

Held-out cases are predicted with the networks of one fold, new scans with those of all folds, whose votes agree less. The
difference is measured on a few of the same cases. Most of the networks were trained on these, so that it comes out too small, and
the expected Dice of a new scan too low rather than too high.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np
import numpy.typing as npt

from nnseg.core.dataset import Case
from nnseg.core.errors import NnsegError
from nnseg.core.fingerprint import Fingerprint
from nnseg.core.frozen import digest
from nnseg.core.scan_ranges import ScanRanges
from nnseg.core.scores import CaseScore
from nnseg.core.trust import (
    INTERVAL_LEVEL,
    TEMPERATURES,
    Agreement,
    Confidence,
    DiceErrors,
    EnsembleShift,
    LabelTrust,
    Slopes,
    Trust,
    largest_volume_error,
    logit,
)
from nnseg.crossval.scan_facts import ranges_of_run
from nnseg.evaluation.conformal import conformal_bounds
from nnseg.inference.predict import Predictor
from nnseg.network.load import load_model
from nnseg.planning.run_folds import patients_of_run
from nnseg.storage.images.read import read_scan
from nnseg.storage.predictions import ScanRecord
from nnseg.storage.run import Folds, Run
from nnseg.system.progress import progress

log = logging.getLogger(__name__)

Numbers = npt.NDArray[np.float64]
Absent = Mapping[str, tuple[int, int]]

RULE = 3
"""Raised when the measurement changes, so that runs measure anew."""

FEWEST_CASES = 4
"""Held-out cases below which nothing is measured."""

FEWEST_TO_FLAG = 10
"""Held-out cases below which no threshold is set, because it is the lowest tenth of their expected Dice."""

PRIOR: Slopes = (0.5, 0.5, 0.2)
"""Slopes without cases, for `Agreement.features`: expected Dice rises with both agreements and with volume."""

PRIOR_CASES = 20
"""Number of masks that the prior weighs as much as."""

DICE_EDGE = 0.02
"""Dice is kept this far from 0 and 1 in the fit of slopes, so that a single missed mask does not dominate it."""

LEAST_SPREAD, SPREAD_CASES = 0.1, 4
"""Least standard deviation of a feature, and the number of masks that a covariance without correlations weighs as much as."""

NO_VOLUME = -1e9
"""For the logarithm of 0, which JSON cannot hold; its exponential is 0."""

SHIFT_CASES = 8
"""Most held-out cases that the networks of all folds predict too."""

FEWEST_SHIFT_CASES = 3
"""Of these cases, where `SHIFT_CASES` would take longer than to predict each held-out case once."""

PARTS = 5
"""Parts of the cases for cross-validation if there is a single fold."""


@dataclass(frozen=True, kw_only=True)
class HeldOutCase:
    """A held-out case, predicted and scored.

    Args:
        fold: that held it out.
        confidence: of its prediction.
        score: of its prediction.
        key: of its prediction.
    """

    fold: int
    confidence: Confidence
    score: CaseScore
    key: str = ""


def measure_trust(run: Run, folds: Folds, *, device: str = "auto") -> Trust | None:
    """The calibration of the run's model, from the held-out predictions of the given folds; written to ``trust.json``.

    Args:
        run: whose held-out cases are predicted with a `CalibratingPredictor`, and scored.
        folds: that are trained.
        device: on which a few cases are predicted with the networks of all folds.

    Returns:
        None if fewer than `FEWEST_CASES` were predicted with their confidence, and scored.

    Raises:
        RunError: they are not scored yet.
    """
    records = run.predictions(folds)
    held = join_scores(records, run.require_scores().cases if records else (), folds)
    if len(held) < FEWEST_CASES:
        run.trust = None
        why = f"that takes {FEWEST_CASES} held-out cases, and there are {len(held)}"
        log.info("the Dice of new scans cannot be predicted from the certainty of the model: %s", why)
        return None
    absent = _count_absent(run.fingerprint_of_folds)
    scores = {h.score.name: h.score.model_dump(mode="json", exclude={"length_unit"}) for h in held}
    key = digest([RULE, absent, scores, {h.score.name: h.key for h in held}])
    if (known := run.trust) and known.key == key:
        return known
    patients = patients_of_run(run)
    ranges = ranges_of_run(run, {h.score.name: h.confidence.facts for h in held if h.confidence.facts}, patients)
    trust = fit_trust(held, absent, ranges, patients).model_copy(update={"key": key})
    if len(folds) > 1:
        predictor = Predictor(load_model(run.path, folds=tuple(folds)), device=device)
        networks = len(predictor.model.members)
        most = min(SHIFT_CASES, max(FEWEST_SHIFT_CASES, len(held) // networks))
        log.info("predicting %d held-out cases with all %d networks, to measure their certainty", min(most, len(held)), networks)
        pairs = _agreements_of_all_networks(predictor, run.cases, held[:: max(1, len(held) // most)][:most])
        shift = fit_ensemble_shift(pairs, few=networks // len(folds), many=networks)
        trust = trust.model_copy(update={"together": shift})
    run.trust = trust
    return trust


def fit_ensemble_shift(pairs: Sequence[tuple[Agreement, Agreement]], *, few: int, many: int) -> EnsembleShift | None:
    """By how much the agreement of votes falls from a few networks to many, as a mean difference of logits, never above 0.

    Args:
        pairs: agreement of the votes of a few networks, and of many, on the same scans.
        few, many: how many networks.

    Returns:
        None without pairs, or if there are no more networks.
    """
    if not pairs or few >= many:
        return None
    of_labels = [logit(b.labels[k]) - logit(a.labels[k]) for a, b in pairs for k in a.labels if a.voxels[k] and b.voxels[k]]
    of_foreground = [logit(b.foreground) - logit(a.foreground) for a, b in pairs]
    lost = [min(0.0, fmean(values)) if values else 0.0 for values in (of_labels, of_foreground)]
    return EnsembleShift(few=few, many=many, labels=lost[0], foreground=lost[1])


def _agreements_of_all_networks(
    predictor: Predictor, cases: Mapping[str, Case], held: Sequence[HeldOutCase]
) -> list[tuple[Agreement, Agreement]]:
    """The agreement of the networks of one fold, and of those of all folds, on each case that can still be predicted."""
    pairs = []
    for one in progress(held, total=len(held), label="predicting with all networks"):
        try:
            case = cases[one.score.name]
            scan = read_scan(case.images, repair=True, spacing=case.spacing)
            prediction = predictor.infer(predictor.prepare(scan), uncertainty=True, objects=False)
        except NnsegError as error:  # it could be predicted before; one case more or less does not matter
            if error.is_fault:
                raise
            log.warning("case %s: %s", one.score.name, error)
            continue
        assert prediction.confidence is not None
        pairs.append((one.confidence.agreement, prediction.confidence.agreement))
    return pairs


def join_scores(records: Mapping[str, ScanRecord], scores: Iterable[CaseScore], folds: Folds) -> tuple[HeldOutCase, ...]:
    """The held-out cases that were predicted with their confidence, and scored.

    Args:
        records: of the predictions, by case.
        scores: of cases.
        folds: that hold out the cases of the records.
    """
    score_of = {case.name: case for case in scores}
    fold_of = {name: number for number, fold in folds.items() for name in fold.held_out}
    return tuple(
        HeldOutCase(fold=fold_of[name], confidence=record.confidence, score=score_of[name], key=record.key)
        for name, record in records.items()
        if record.status == "done" and record.confidence and name in score_of
    )


def fit_trust(
    held: Sequence[HeldOutCase],
    absent: Absent | None = None,
    ranges: ScanRanges | None = None,
    patients: Mapping[str, str] | None = None,
) -> Trust:
    """The calibration of a model on at least `FEWEST_CASES` held-out cases.

    Args:
        absent: see `fit_expected_dice`.
        ranges: of the scans.
        patients: of cases, by name; one that is not named is the only one of its patient.
    """
    fitted = fit_expected_dice(held, absent)
    expected = cross_validate_expected_dice(held)
    errors = {h.score.name: h.score.mean_dice - q for q, h in zip(expected, held, strict=True) if h.score.mean_dice is not None}
    return fitted.model_copy(
        update={
            "labels": _with_intervals(held, fitted.labels),
            "temperature": fit_temperature([h.confidence.surprise for h in held if h.confidence.surprise]),
            "error": fmean(map(abs, errors.values())) if errors else None,
            "errors": _dice_errors(errors, patients or {}),
            "threshold": float(np.quantile(expected, 0.1)) if len(held) >= FEWEST_TO_FLAG else None,
            "ranges": ranges,
        }
    )


def _dice_errors(errors: Mapping[str, float], patients: Mapping[str, str]) -> DiceErrors | None:
    """Errors of cases, by name; None for fewer than two patients."""
    of_patients = defaultdict[str, list[float]](list)
    for name, error in errors.items():
        of_patients[patients.get(name, name)].append(error)
    if len(of_patients) < 2:
        return None
    spread = math.sqrt(len(errors) / len(of_patients)) * stdev(map(fmean, of_patients.values()))
    return DiceErrors(cases=len(errors), patients=len(of_patients), mean=fmean(errors.values()), spread=spread)


def cross_validate_expected_dice(held: Sequence[HeldOutCase]) -> tuple[float, ...]:
    """The expected mean Dice of each case, by its `cross_validate_trust`."""
    fitted = cross_validate_trust(held)
    return tuple(trust.expected_mean_dice(h.confidence.agreement) for trust, h in zip(fitted, held, strict=True))


def cross_validate_trust(held: Sequence[HeldOutCase]) -> tuple[Trust, ...]:
    """For each case the regression fitted to the cases of the other folds; with a single fold, of its other parts."""
    parts = [h.fold for h in held]
    if len(set(parts)) == 1:
        parts = [i % PARTS for i in range(len(held))]
    others = {part: fit_expected_dice([h for h, p in zip(held, parts, strict=True) if p != part]) for part in set(parts)}
    return tuple(others[part] for part in parts)


def fit_expected_dice(held: Sequence[HeldOutCase], absent: Absent | None = None) -> Trust:
    """The regression of Dice on agreement: slopes shared by all labels, and an offset for each label.

    Least squares of logits of Dice against `Agreement.features`, with a prior of the weight of `PRIOR_CASES`.

    Args:
        absent: of each label, the number of cases of the dataset without it, and of all; those of the held-out cases if None.
    """
    names = tuple(held[0].confidence.agreement.labels) if held else ()
    rows = {name: _rows(held, name) for name in names}
    full = [(x, y) for x, y in rows.values() if len(y)]
    if not full:
        return Trust(cases=len(held))
    x, y = (np.concatenate([part[i] - part[i].mean(0) for part in full]) for i in (0, 1))
    prior, spread = np.array(PRIOR), x.std(0) + 1e-9
    precision = (x / spread).T @ (x / spread) + PRIOR_CASES * np.eye(len(prior))
    slopes = prior + np.linalg.solve(precision, (x / spread).T @ (y - x @ prior)) / spread
    residuals = {name: y - x @ slopes for name, (x, y) in rows.items()}
    pooled = float(np.concatenate(list(residuals.values())).mean())
    absent = absent or {}
    labels = {
        name: LabelTrust(
            offset=float((rest.sum() + 2 * pooled) / (len(rest) + 2)),
            missing=_missing(held, name, absent.get(name)),
            centre=_triple(rows[name][0].mean(0)) if len(rest) else None,
        )
        for name, rest in residuals.items()
    }
    return Trust(cases=len(held), slopes=_triple(slopes), precision=_precision(x), labels=labels)


def _precision(features: Numbers) -> tuple[Slopes, Slopes, Slopes]:
    """Inverse covariance of features (n, 3), each label's less their mean."""
    squares, prior = features.T @ features, np.diag(np.maximum(features.var(0), LEAST_SPREAD**2))
    first, second, third = np.linalg.inv((squares + SPREAD_CASES * prior) / (len(features) + SPREAD_CASES))
    return _triple(first), _triple(second), _triple(third)


def _triple(values: Numbers) -> Slopes:
    return float(values[0]), float(values[1]), float(values[2])


def fit_temperature(losses: Sequence[Sequence[float]]) -> float:
    """The temperature with the lowest mean cross-entropy; 1 for fewer than `FEWEST_CASES` cases.

    Args:
        losses: of each case, at each of the `TEMPERATURES`; between these the minimum is interpolated by a parabola.
    """
    if len(losses) < FEWEST_CASES:
        return 1.0
    mean = np.mean(losses, axis=0)
    best = int(np.clip(mean.argmin(), 1, len(mean) - 2))
    before, here, after = mean[best - 1 : best + 2]
    curvature = before - 2 * here + after
    offset = 0.5 * (before - after) / curvature if curvature > 0 else 0.0
    step = np.log(TEMPERATURES[1] / TEMPERATURES[0])
    return float(TEMPERATURES[best] * np.exp(step * np.clip(offset, -1.0, 1.0)))


def _rows(held: Sequence[HeldOutCase], name: str) -> tuple[Numbers, Numbers]:
    """Features (n, 3) and logits of Dice (n,) of the predicted masks of a label that have a score."""
    found = [
        (h.confidence.agreement.features(name), logit(min(max(dice, DICE_EDGE), 1.0 - DICE_EDGE)))
        for h in held
        if h.confidence.agreement.voxels[name] > 0 and (dice := h.score.labels[name].dice) is not None
    ]
    return np.array([x for x, _ in found]).reshape(-1, len(PRIOR)), np.array([y for _, y in found])


def _missing(held: Sequence[HeldOutCase], name: str, absent: tuple[int, int] | None) -> float:
    """The chance that a label is absent where it was not predicted, by the rule of Bayes.

    From how often it is absent, how often it was predicted where it is absent, and how often it was missed. To each share half a
    case is added on either side: few held-out cases with the label, all of them found, do not make a scan without it a failure.
    """
    counts = [(h.score.labels[name], h.confidence.agreement.voxels[name] > 0) for h in held]
    annotated = [(c.tp + c.fn == 0, found) for c, found in counts if c.tp + c.fp + c.fn + c.tn]
    without, present = ([found for missing, found in annotated if missing is kind] for kind in (True, False))
    prior = _share(*(absent or (len(without), len(annotated))))
    rightly = prior * _share(without.count(False), len(without))
    wrongly = (1.0 - prior) * _share(present.count(False), len(present))
    return rightly / (rightly + wrongly)


def _share(count: int, of: int) -> float:
    """The share of cases, with half a case added on either side. Source: Jeffreys' prior of a proportion."""
    return (count + 0.5) / (of + 1.0)


def _count_absent(fingerprint: Fingerprint) -> Absent:
    """Of each label and region, the number of cases without it, and of all that were annotated with all labels."""
    whole = [case.voxels for case in fingerprint.cases if case.annotated is None]
    parts = fingerprint.labels.parts().items()
    return {name: (sum(not any(map(voxels.get, those)) for voxels in whole), len(whole)) for name, those in parts}


def _with_intervals(held: Sequence[HeldOutCase], labels: Mapping[str, LabelTrust]) -> dict[str, LabelTrust]:
    """The labels with bounds of their errors on the held-out cases, each expected by the regression on the others."""
    fitted = cross_validate_trust(held)
    found = {}
    for name, label in labels.items():
        known = [
            (trust.expected_dice(h.confidence.agreement)[name], trust.spread(h.confidence.agreement, name), h.score.labels[name])
            for trust, h in zip(fitted, held, strict=True)
            if h.confidence.agreement.voxels[name] > 0 and h.score.labels[name].dice is not None
        ]
        errors = [(logit(score.dice) - logit(dice)) / spread for dice, spread, score in known if score.dice is not None]
        found[name] = label.model_copy(update={"cases": len(known), "errors": conformal_bounds(errors, INTERVAL_LEVEL)})
        volumes = [
            _volume_error(score.tp + score.fn, score.tp + score.fp) / largest_volume_error(interval[0])
            for dice, spread, score in known
            if score.tp + score.fp and (interval := found[name].dice_interval(dice, spread))
        ]
        bounds = conformal_bounds(volumes, INTERVAL_LEVEL)
        if bounds and bounds[1] < math.inf:
            found[name] = found[name].model_copy(update={"volume_errors": (max(bounds[0], NO_VOLUME), bounds[1])})
    return found


def _volume_error(true: int, predicted: int) -> float:
    """The logarithm of the true over the predicted volume, from the voxels of both."""
    return math.log(true / predicted) if true else -math.inf
