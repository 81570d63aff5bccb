"""How far a run's model can be trusted: measured on what each fold held out.

Held-out cases are answered by one fold's networks, scans later by those of all folds, whose votes agree less. By how much is
measured on a few of the same cases. Most of the networks have been trained on these, so that it is rather found too small: what is
expected of a scan is rather too little than too much.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import numpy.typing as npt

from nnseg.core.dataset import Case
from nnseg.core.errors import NnsegError
from nnseg.core.frozen import digest
from nnseg.core.scan_ranges import find_ranges
from nnseg.core.scores import CaseScore
from nnseg.core.trust import TEMPERATURES, Agreement, Confidence, EnsembleShift, LabelTrust, Slopes, Trust, logit
from nnseg.inference.predict import Predictor
from nnseg.network.load import load_model
from nnseg.storage.images.read import read_scan
from nnseg.storage.predictions import ScanRecord
from nnseg.storage.run import Folds, Run

log = logging.getLogger(__name__)

Numbers = npt.NDArray[np.float64]

RULE = 1
"""Counted up when what is measured changes, so that runs measure anew."""

FEWEST_CASES = 4
"""Held-out cases below which nothing is measured."""

FEWEST_TO_FLAG = 10
"""Below which nobody knows what the worst tenth is like."""

PRIOR: Slopes = (0.5, 0.5, 0.2)
"""Slopes without cases: expected Dice is what both agreements say, and a larger structure is easier."""

PRIOR_CASES = 20
"""How many measured masks the prior counts for."""

DICE_EDGE = 0.02
"""Dice is kept this far from 0 and 1 while slopes are fitted: one mask that was missed must not decide."""

FEW = 8
"""Held-out cases that the networks of all folds answer too."""

PARTS = 5
"""That the cases of a single fold are divided into for cross-validation."""


@dataclass(frozen=True, kw_only=True)
class HeldOutCase:
    """A held-out case, predicted and scored.

    Args:
        fold: that held it out.
        confidence: of its prediction, whatever was known of the model by then.
        score: against its reference.
        key: of the prediction.
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
        log.info(
            "%d held-out cases are too few to measure how far the model can be trusted; %d are needed", len(held), FEWEST_CASES
        )
        return None
    key = digest([RULE, {h.score.name: h.score.model_dump(mode="json") for h in held}, {h.score.name: h.key for h in held}])
    if (known := run.trust) and known.key == key:
        return known
    trust = fit_trust(held, run.plans[0].plan.channels).model_copy(update={"key": key})
    if len(folds) > 1:
        predictor = Predictor(load_model(run.path, folds=tuple(folds)), device=device)
        networks = len(predictor.model.members)
        pairs = _agreements_of_all_networks(predictor, run.cases, held[:: max(1, len(held) // FEW)][:FEW])
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
    for one in held:
        try:
            prediction = predictor.infer(predictor.prepare(read_scan(cases[one.score.name].images)), uncertainty=True)
        except NnsegError as error:  # it could be predicted before; one case more or less does not matter
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


def fit_trust(held: Sequence[HeldOutCase], channels: Sequence[str]) -> Trust:
    """What held-out cases say of a model; they are at least `FEWEST_CASES`."""
    foreseen = cross_fitted(held)
    pairs = [(quality, h.score.mean_dice) for quality, h in zip(foreseen, held, strict=True) if h.score.mean_dice is not None]
    facts = [h.confidence.facts for h in held if h.confidence.facts]
    return calibrated(held).model_copy(
        update={
            "temperature": temperature_of([h.confidence.surprise for h in held if h.confidence.surprise]),
            "error": fmean(abs(quality - dice) for quality, dice in pairs) if pairs else None,
            "threshold": float(np.quantile(foreseen, 0.1)) if len(held) >= FEWEST_TO_FLAG else None,
            "ranges": find_ranges(facts, channels),
        }
    )


def cross_fitted(held: Sequence[HeldOutCase]) -> tuple[float, ...]:
    """The quality of each case by what the other folds' cases say; of a single fold's, by what its other parts say."""
    parts = [h.fold for h in held]
    if len(set(parts)) == 1:
        parts = [i % PARTS for i in range(len(held))]
    others = {part: calibrated([h for h, p in zip(held, parts, strict=True) if p != part]) for part in set(parts)}
    return tuple(others[part].expected_mean_dice(h.confidence.agreement) for h, part in zip(held, parts, strict=True))


def calibrated(held: Sequence[HeldOutCase]) -> Trust:
    """From agreement to expected Dice: slopes that all labels share, and an offset for each of them.

    Logits of Dice against `Agreement.features`, least squares with a prior, so that four cases move little and a hundred decide.
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
    rests = {name: y - x @ slopes for name, (x, y) in rows.items()}
    pooled = float(np.concatenate(list(rests.values())).mean())
    labels = {
        name: LabelTrust(offset=float((rest.sum() + 2 * pooled) / (len(rest) + 2)), missing=_missing(held, name))
        for name, rest in rests.items()
    }
    return Trust(cases=len(held), slopes=(float(slopes[0]), float(slopes[1]), float(slopes[2])), labels=labels)


def temperature_of(surprises: Sequence[Sequence[float]]) -> float:
    """The temperature at which cases, all weighing the same, surprise least; 1 if fewer than `FEWEST_CASES` say anything."""
    if len(surprises) < FEWEST_CASES:
        return 1.0
    mean = np.mean(surprises, axis=0)
    best = int(np.clip(mean.argmin(), 1, len(mean) - 2))
    before, here, after = mean[best - 1 : best + 2]
    bend = before - 2 * here + after
    aside = 0.5 * (before - after) / bend if bend > 0 else 0.0
    step = np.log(TEMPERATURES[1] / TEMPERATURES[0])
    return float(TEMPERATURES[best] * np.exp(step * np.clip(aside, -1.0, 1.0)))


def _rows(held: Sequence[HeldOutCase], name: str) -> tuple[Numbers, Numbers]:
    """Features (n, 3) and logits of Dice (n,) of the masks of a label that were found, and have a score."""
    found = [
        (h.confidence.agreement.features(name), logit(min(max(dice, DICE_EDGE), 1.0 - DICE_EDGE)))
        for h in held
        if h.confidence.agreement.voxels[name] > 0 and (dice := h.score.labels[name].dice) is not None
    ]
    return np.array([x for x, _ in found]).reshape(-1, len(PRIOR)), np.array([y for _, y in found])


def _missing(held: Sequence[HeldOutCase], name: str) -> float:
    """How often a label is truly absent where it was not found; before any was seen, how often it is absent."""
    counts = [(h.score.labels[name], h.confidence.agreement.voxels[name] > 0) for h in held]
    annotated = [(c.tp + c.fn == 0, found) for c, found in counts if c.tp + c.fp + c.fn + c.tn]
    absent = [gone for gone, found in annotated if not found]
    prior = fmean(gone for gone, _ in annotated) if annotated else 1.0
    return (sum(absent) + prior) / (len(absent) + 1)
