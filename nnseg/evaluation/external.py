"""A model on cases of another dataset beside its own held-out cases: differences of scores, and how good its estimates are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from nnseg.core.card import MetricSummary
from nnseg.core.frozen import FrozenModel
from nnseg.core.metrics import metric_of
from nnseg.core.scores import Finite, Interval, Scores
from nnseg.core.trust import INTERVAL_LEVEL, Confidence, Trust
from nnseg.core.validation import Probability
from nnseg.evaluation.averages import FEW, means_of_cases, table
from nnseg.evaluation.calibration import Calibration, calibration
from nnseg.evaluation.statistics import bootstrap_weights, interval

Numbers = npt.NDArray[np.float64]

NORMAL = 1.959964
"""Standard deviations from the mean to the end of a 95 % interval of a normal distribution."""

DRAWS = 2000

InternalSource = Literal["scores of a run", "model card", "none"]


class Difference(FrozenModel):
    """The mean of a metric on the other dataset and on the model's held-out cases; each case counts once.

    Args:
        metric: its name, such as "dice".
        label: "" for the mean over labels.
        internal: on held-out cases of the training data; None if it is not known.
        external: on the other dataset.
        difference: external less internal.
        interval: of the difference, 95 %, by bootstrap over the cases of either; None for fewer than five.
    """

    metric: str
    label: str
    internal: Finite | None
    external: Finite | None
    difference: Finite | None = None
    interval: Interval | None = None


class Coverage(FrozenModel):
    """How often the truth lies in the intervals that were given for it.

    Args:
        stated: share that should.
        share: that does; None without intervals.
        n: intervals: one for each label that was predicted in a scan that is like those of the training.
    """

    stated: Probability = INTERVAL_LEVEL
    share: Probability | None = None
    n: int = 0


class ExternalValidation(FrozenModel):
    """The content of ``validation.json``.

    Args:
        format: of this file.
        model: digest of everything that can change a prediction.
        dataset: name of the other dataset.
        cases: of it, that were predicted and scored.
        internal_cases: held-out cases of the training data with scores; 0 if it has none.
        internal_source: where the internal scores are from; those on a model card are means, whose distribution is taken as normal.
        differences: of the mean over labels first, then of each label.
        expected: mean expected Dice of these cases; None of a model that was not calibrated.
        true: their mean Dice.
        error: mean distance of a case's expected from its true Dice.
        internal_error: the same on held-out cases.
        dice_coverage, volume_coverage: of the intervals of the Dice and of the volume.
        flagged: number of cases that were flagged; None where there is no threshold.
        foreign: number of scans that were said to be unlike those of the training; None where that is not known.
        calibration: of the probabilities; None for few cases.
        known: cases whose files the model was trained on, which say nothing about other data.
    """

    format: Literal[1] = 1
    model: str
    dataset: str
    cases: int
    internal_cases: int
    internal_source: InternalSource
    differences: tuple[Difference, ...]
    expected: Finite | None = None
    true: Finite | None = None
    error: Finite | None = None
    internal_error: Finite | None = None
    dice_coverage: Coverage = Coverage()
    volume_coverage: Coverage = Coverage()
    flagged: int | None = None
    foreign: int | None = None
    calibration: Calibration | None = None
    known: tuple[str, ...] = ()


def compare_scores(external: Scores, internal: Scores | Sequence[MetricSummary] | None) -> Iterator[Difference]:
    """The difference of each metric that both have, of the mean over the labels that both have, and of each of these.

    Args:
        external: of the other dataset.
        internal: of held-out cases, or what a model card says of them; None if nothing is known.
    """
    labels = [label for label in external.labels if not isinstance(internal, Scores) or label in internal.labels]
    for metric in external.metrics:
        if isinstance(internal, Scores) and metric not in internal.metrics:
            continue
        for label in ("", *labels) if len(labels) > 1 else ("",):
            chosen = [label] if label else labels
            outside = _draws(_values(external, metric, chosen), seed=0)
            inside = (
                _draws(_values(internal, metric, chosen), seed=1)
                if isinstance(internal, Scores)
                else _draws_of_card(internal or (), metric, label)
            )
            yield _difference(metric, label, inside, outside)


def _values(scores: Scores, metric: str, labels: Sequence[str]) -> Numbers:
    """The mean over labels of each case where it is defined; signed errors with their sign, as on model cards."""
    means = means_of_cases(table(scores.cases, labels, metric))
    return means[np.isfinite(means)]


def _draws(values: Numbers, *, seed: int) -> Numbers:
    """The mean, then those of bootstrap draws; the mean alone for few cases, nothing for none."""
    if not len(values):
        return np.zeros(0)
    drawn = _weights(len(values), seed) @ values / len(values) if len(values) >= FEW else np.zeros(0)
    return np.concatenate([[values.mean()], drawn])


@lru_cache(maxsize=4)
def _weights(n: int, seed: int) -> npt.NDArray[np.int64]:
    """Bootstrap weights, drawn once for all metrics and labels of as many cases; not to be changed."""
    return bootstrap_weights(n, DRAWS, seed)


def _draws_of_card(summaries: Sequence[MetricSummary], metric: str, label: str) -> Numbers:
    """As `_draws`, from the mean and the interval on a model card."""
    title = metric_of(metric).title
    of = next((one for one in summaries if one.title == title and one.average == "per_image"), None)
    found = {"": (of.mean, of.interval)} | {name: (mean, ends) for name, mean, ends in of.labels} if of else {}
    mean, ends = found.get(label, (None, None))
    if mean is None:
        return np.zeros(0)
    drawn = np.random.default_rng(1).normal(mean, (ends[1] - ends[0]) / (2 * NORMAL), DRAWS) if ends else np.zeros(0)
    return np.concatenate([[mean], drawn])


def _difference(metric: str, label: str, internal: Numbers, external: Numbers) -> Difference:
    means = [float(drawn[0]) if len(drawn) else None for drawn in (internal, external)]
    both = len(internal) > 0 and len(external) > 0
    drawn = len(internal) > 1 and len(external) > 1
    return Difference(
        metric=metric,
        label=label,
        internal=means[0],
        external=means[1],
        difference=float(external[0] - internal[0]) if both else None,
        interval=interval(external[1:] - internal[1:]) if drawn else None,
    )


def assess_confidence(scores: Scores, confidences: Mapping[str, Confidence], trust: Trust | None) -> dict[str, Any]:
    """What `ExternalValidation` says of the model's own estimates, by field.

    Args:
        scores: of the cases.
        confidences: in the predictions of these cases.
        trust: of the model; None if it was not calibrated.
    """
    dice = {case.name: case.mean_dice for case in scores.cases}
    if trust is None or not trust.is_calibrated:
        return {"true": _mean([value for value in dice.values() if value is not None])}
    known = [(confidences[name].quality, value) for name, value in dice.items() if value is not None and name in confidences]
    masks = [
        (confidences[case.name], label, score)
        for case in scores.cases
        if case.name in confidences
        for label, score in case.labels.items()
    ]
    within = [
        ends[0] <= score.dice <= ends[1]
        for of, label, score in masks
        if score.dice is not None and score.tp + score.fp > 0 and (ends := of.dice_intervals.get(label))
    ]
    volumes = [
        factors[0] * (score.tp + score.fp) <= score.tp + score.fn <= factors[1] * (score.tp + score.fp)
        for of, label, score in masks
        if score.dice is not None and score.tp + score.fp > 0 and (factors := of.volume_factors.get(label))
    ]
    reliabilities = [of.reliability for of in confidences.values() if of.reliability]
    flags = [of.flagged for of in confidences.values() if of.flagged is not None]
    foreign = [of.foreign for of in confidences.values() if of.foreign is not None]
    return {
        "expected": _mean([quality for quality, _ in known]),
        "true": _mean([value for _, value in known]),
        "error": _mean([abs(quality - value) for quality, value in known]),
        "internal_error": trust.error,
        "dice_coverage": Coverage(share=_mean(within), n=len(within)),
        "volume_coverage": Coverage(share=_mean(volumes), n=len(volumes)),
        "flagged": sum(flags) if flags else None,
        "foreign": sum(foreign) if foreign else None,
        "calibration": calibration(reliabilities, trust.temperature),
    }


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
