"""Comparison of two models on the same cases: differences, their significance, and the smallest detectable difference.

Only masks for which both models have a value count. Signed errors are compared by their size. A difference is significant only
where both the sign-flip test, Holm-adjusted for all rows of the table, and the bootstrap interval say so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from nnseg.core.dataset import counted
from nnseg.core.errors import EvaluationError
from nnseg.core.frozen import FrozenModel
from nnseg.core.limits import check_limit
from nnseg.core.metrics import metric_of
from nnseg.core.scores import CaseScore, Interval, Number, Scores
from nnseg.core.units import LengthUnit
from nnseg.evaluation.averages import FEW, mean_of_masks, ratio, table
from nnseg.evaluation.statistics import DRAWS, bootstrap_weights, holm, interval, sign_flip, wilcoxon

ALPHA = 0.05
"""Family-wise error rate of a table."""

POWER = 0.8
"""Probability of finding the smallest detectable difference."""

USUAL = ("dice", "iou", "hd95", "nsd")
"""Metrics compared by default; ``nsd`` at its first tolerance."""

Numbers = npt.NDArray[np.float64]


class ComparisonRow(FrozenModel):
    """One metric of one label, or of the mean over the labels.

    Args:
        metric: by its name in `METRICS`.
        label: None for the mean over the labels of each case.
        n: cases with a value from both models.
        a, b: means over these.
        difference: b - a.
        interval: 95 %, bootstrap over cases; None for fewer than 5.
        p: two-sided, of the sign-flip test.
        p_adjusted: the same after Holm's correction for all rows.
        p_wilcoxon: two-sided, of the signed-rank test, without correction.
        wins, ties, losses: cases in which b is better, equal or worse.
        only_a, only_b: masks with a value from one model only, which are left out.
        detectable: the smallest difference that this many cases detect with 80 % power; None if they are too few.
        verdict: in words.
    """

    metric: str
    label: str | None
    n: int
    a: Number
    b: Number
    difference: Number
    interval: Interval | None
    p: float
    p_adjusted: float
    p_wilcoxon: float
    wins: int
    ties: int
    losses: int
    only_a: int
    only_b: int
    detectable: Number
    verdict: str


class Comparison(FrozenModel):
    """Model b against model a.

    Args:
        a, b: their names.
        cases: number of cases with scores from both.
        only_a, only_b: names of cases with scores from one model only, which are left out.
        rows: the table.
        verdict: of the first row, the mean of the first metric.
        length_unit: of the scores of both; mm if they differ.
    """

    a: str
    b: str
    cases: int
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    rows: tuple[ComparisonRow, ...]
    verdict: str
    length_unit: LengthUnit = "mm"


@dataclass(frozen=True, kw_only=True, eq=False)
class _Pairs:
    """The values of a row: (cases, 2) of a and b, NaN where a case has none from both."""

    metric: str
    label: str | None
    values: Numbers
    only_a: int
    only_b: int

    @property
    def differences(self) -> Numbers:
        """b - a of the cases with a value from both."""
        return np.diff(self.values[np.isfinite(self.values).all(1)])[:, 0]


def compare(
    a: Scores, b: Scores, metrics: Sequence[str] | None = None, *, names: tuple[str, str] = ("a", "b"), seed: int = 0
) -> Comparison:
    """Model b against model a on the cases with scores from both.

    Args:
        a, b: scores against the same references.
        metrics: what to compare; by default the `USUAL` ones that both measured.
        names: of the models, which differ.
        seed: of all random draws.

    Raises:
        EvaluationError: no case, no label or no metric in common, or another reference.
    """
    models = dict(zip(names, (a, b), strict=True))
    metrics = common_metrics(models, metrics)
    cases = shared_cases(models)
    check_limit(
        "comparisons",
        len(metrics) * (1 + len(a.labels)),
        names[0],
        f"has {{:,}} values to compare, {counted(len(metrics), 'metric')} of {counted(len(a.labels), 'label')}",
        EvaluationError,
        "compare fewer metrics with --metric",
    )
    pairs = [_pairs(cases, (label,) if label else a.labels, metric, label) for metric in metrics for label in (None, *a.labels)]
    draws = max(DRAWS, int(2 * len(pairs) / ALPHA))  # so that the least adjusted p is below ALPHA
    p_values = [sign_flip(row.differences, two_sided=True, seed=seed, draws=draws) for row in pairs]
    weights = bootstrap_weights(len(cases[0]), seed=seed).astype(np.float64)
    unit = a.length_unit if a.length_unit == b.length_unit else "mm"
    rows = tuple(
        _row(row, names, weights, p=p, adjusted=adjusted, tests=len(pairs), unit=unit)
        for row, p, adjusted in zip(pairs, p_values, holm(p_values), strict=True)
    )
    left_out = [tuple(sorted({c.name for c in m.cases} - {c.name for c in cases[0]})) for m in (a, b)]
    return Comparison(
        a=names[0],
        b=names[1],
        cases=len(cases[0]),
        only_a=left_out[0],
        only_b=left_out[1],
        rows=rows,
        verdict=f"{metric_of(metrics[0], unit).title}: {rows[0].verdict}",
        length_unit=unit,
    )


def mean_ranks(models: Mapping[str, Scores], metric: str) -> dict[str, float]:
    """The mean rank of each model over the cases, by its mean over the labels; 1 is best, ties get their mean rank.

    Args:
        models: scores against the same references, by name.
        metric: by its name in `METRICS`.

    Raises:
        EvaluationError: as for `compare`.
    """
    common_metrics(models, [metric])
    means, _ = _means(shared_cases(models), next(iter(models.values())).labels, metric)
    means = means[:, np.isfinite(means).all(0)]
    if not means.size:
        raise EvaluationError(f"no case has a {metric_of(metric).title} from every model; compare them by another metric")
    ranks = stats.rankdata(-means if metric_of(metric).better == "higher" else means, axis=0).mean(1)
    return dict(zip(models, map(float, ranks), strict=True))


def common_metrics(models: Mapping[str, Scores], metrics: Sequence[str] | None = None) -> tuple[str, ...]:
    """The given metrics, or the `USUAL` ones among those measured for all models.

    Raises:
        EvaluationError: a given one was not measured for all models.
    """
    first, *others = models.values()
    common = [metric for metric in first.metrics if all(metric in m.metrics for m in others)]
    if unknown := [metric for metric in metrics or () if metric not in common]:
        raise EvaluationError(f'"{unknown[0]}" was not measured for all of {", ".join(models)}; there are {", ".join(common)}')
    kinds = {metric: metric.partition("_")[0] if metric.startswith("nsd_") else metric for metric in reversed(common)}
    first_of = {kind: metric for metric, kind in kinds.items()}
    return tuple(dict.fromkeys(metrics or (first_of[kind] for kind in USUAL if kind in first_of)))


def shared_cases(models: Mapping[str, Scores]) -> tuple[tuple[CaseScore, ...], ...]:
    """For each model the cases with scores from all models, in the same order.

    Raises:
        EvaluationError: there is none, or the labels or references differ.
    """
    (one, first), *others = models.items()
    for another, scores in others:
        if set(scores.labels) != set(first.labels):
            found = f"{one} has scores of {', '.join(first.labels)}, {another} of {', '.join(scores.labels)}"
            raise EvaluationError(f"{found}; compare models of the same labels")
    by_name = [{case.name: case for case in scores.cases} for scores in models.values()]
    names = [name for name in by_name[0] if all(name in cases for cases in by_name[1:])]
    if not names:
        raise EvaluationError(f"no case has scores from all of {', '.join(models)}; compare models on the same cases")
    for (another, _), cases in zip(others, by_name[1:], strict=True):
        for name in names:
            _check_references(by_name[0][name], cases[name], (one, another))
    return tuple(tuple(cases[name] for name in names) for cases in by_name)


def _check_references(a: CaseScore, b: CaseScore, names: tuple[str, str]) -> None:
    for label in a.labels:
        voxels = [mask.tp + mask.fn for mask in (a.labels[label], b.labels[label])]
        if voxels[0] != voxels[1]:
            found = f"case {a.name}: the reference of {names[0]} has {voxels[0]} voxels of {label}, that of {names[1]} {voxels[1]}"
            raise EvaluationError(f"{found}; score both against the same references")


def _means(cases: Sequence[Sequence[CaseScore]], labels: Sequence[str], metric: str) -> tuple[Numbers, list[int]]:
    """Means (models, cases) over the masks for which all models have a value, NaN without any; signed errors by their size.

    Also the number of masks of each model that were left out.
    """
    values = np.stack([table(of_model, labels, metric, signed=False) for of_model in cases])
    defined = np.isfinite(values)
    shared = defined.all(0)
    sums, counts = np.where(shared, values, 0.0).sum(2), np.broadcast_to(shared.sum(1), values.shape[:2])
    return ratio(sums, counts), [int((of_model & ~shared).sum()) for of_model in defined]


def _pairs(cases: Sequence[Sequence[CaseScore]], labels: Sequence[str], metric: str, label: str | None) -> _Pairs:
    means, (only_a, only_b) = _means(cases, labels, metric)
    return _Pairs(metric=metric, label=label, values=means.T, only_a=only_a, only_b=only_b)


def _row(
    pairs: _Pairs, names: tuple[str, str], weights: Numbers, *, p: float, adjusted: float, tests: int, unit: LengthUnit
) -> ComparisonRow:
    differences = pairs.differences
    n, gains = len(differences), differences * (1 if metric_of(pairs.metric).better == "higher" else -1)
    known = pairs.values[np.isfinite(pairs.values).all(1)]
    draws = mean_of_masks(np.diff(pairs.values), weights)[0]
    row = ComparisonRow(
        metric=pairs.metric,
        label=pairs.label,
        n=n,
        a=float(known[:, 0].mean()) if n else None,
        b=float(known[:, 1].mean()) if n else None,
        difference=float(differences.mean()) if n else None,
        interval=interval(draws) if n >= FEW else None,
        p=p,
        p_adjusted=adjusted,
        p_wilcoxon=wilcoxon(differences),
        wins=int((gains > 0).sum()),
        ties=int((gains == 0).sum()),
        losses=int((gains < 0).sum()),
        only_a=pairs.only_a,
        only_b=pairs.only_b,
        detectable=_detectable(differences, tests),
        verdict="",
    )
    return row.model_copy(update={"verdict": _verdict(row, names, tests, unit)})


def _detectable(differences: Numbers, tests: int) -> float | None:
    """The mean difference found with probability `POWER`, by the normal approximation, at Holm's strictest level."""
    n = len(differences)
    if 2.0 ** (1 - n) * tests > ALPHA:  # the least p of the sign-flip test, adjusted
        return None
    standard_errors = stats.norm.ppf(1 - ALPHA / (2 * tests)) + stats.norm.ppf(POWER)
    return float(standard_errors * differences.std(ddof=1) / n**0.5)


def _verdict(row: ComparisonRow, names: tuple[str, str], tests: int, length_unit: LengthUnit) -> str:
    metric = metric_of(row.metric, length_unit)
    unit = f" {metric.unit}" if metric.unit else ""
    if not row.n or row.difference is None:
        return "no case has a value from both"
    if row.ties == row.n:
        return f"the same in {'all ' * (row.n > 1)}{counted(row.n, 'case')}"
    if row.p_adjusted <= ALPHA and row.interval and row.interval[0] * row.interval[1] > 0:
        better = names[(row.difference > 0) == (metric.better == "higher")]
        low, high = sorted(map(abs, row.interval))
        return f"{better} is better by {_text(abs(row.difference))} ({_text(low)} to {_text(high)}){unit}"
    if row.detectable is None:
        among = f" among {tests} tests" if tests > 1 else ""
        return f"{counted(row.n, 'case')} {'are' if row.n > 1 else 'is'} too few to detect any difference{among}"
    adjusted = "" if row.p > ALPHA else f" after correction for {tests} tests"
    return f"no significant difference{adjusted}: {row.n} cases detect one larger than about {row.detectable:.2g}{unit}"


def _text(value: float) -> str:
    """With two significant digits, and at least three decimals."""
    return f"{value:.3f}" if value >= 0.01 else f"{value:.2g}"
