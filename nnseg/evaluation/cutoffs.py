"""`choose_cutoff`: the predicted volume from which a yes/no question about a scan is answered with yes, from held-out cases.

The score of a scan is the predicted volume, for "is the volume below" its negative. Source: ROC curve and its area, Hanley and
McNeil 1982, doi:10.1148/radiology.143.1.7063747; choice by sensitivity + specificity, Youden 1950, Cancer 3; interval of a share,
Wilson 1927, doi:10.1080/01621459.1927.10502953; decision curves, Vickers and Elkin 2006, doi:10.1177/0272989X06295361.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from nnseg.core.cutoffs import AnswerRates, CutOff, NetBenefit, Question, RocPoint, volume_pairs, volumes_key
from nnseg.core.errors import EvaluationError
from nnseg.core.scores import Interval, Scores
from nnseg.core.units import volume_name
from nnseg.evaluation.statistics import bootstrap_weights, interval

Numbers = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

FEWEST = 5
"""Least number of patients with either answer."""

PROBABILITIES = tuple(round(0.05 * step, 2) for step in range(1, 19))
"""At which net benefit is given."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Scans:
    """Held-out scans; volumes are negative for "is the volume below", so that yes is always above a cut-off.

    Args:
        volumes: (n,), predicted, ml.
        yes: (n,), the right answers.
        patients: (n,), numbers from 0.
        usual: cut-off that the label map alone gives.
    """

    volumes: Numbers
    yes: Flags
    patients: npt.NDArray[np.int64]
    usual: float

    def without(self, patient: int) -> _Scans:
        """Those of the other patients."""
        kept = self.patients != patient
        return _Scans(volumes=self.volumes[kept], yes=self.yes[kept], patients=self.patients[kept], usual=self.usual)


def choose_cutoff(
    scores: Scores, question: Question, *, least_sensitivity: float | None = None, patients: Mapping[str, str] | None = None
) -> CutOff:
    """The cut-off for a question, with ROC curve, net benefit and how good its answers are for patients it was not chosen on.

    Args:
        scores: of held-out cases.
        least_sensitivity: choose the most specific cut-off that is so sensitive; None for the largest sensitivity + specificity.
        patients: of cases, by name; one that is not named is the only one of its patient.

    Raises:
        EvaluationError: the label is not scored, fewer than `FEWEST` patients have either answer, or none is so sensitive.

    Example:
        >>> found = choose_cutoff(run.scores, Question(label="lesion"))
        >>> found.cutoff_ml, found.rates.sensitivity
    """
    pairs = volume_pairs(scores, question.label)
    if not pairs:
        raise EvaluationError(f"there is no volume of {question.label} in the scores; they have {', '.join(scores.labels)}")
    scans = _scans(pairs, question, patients or {})
    for answer, name in ((True, "yes"), (False, "no")):
        found = len(np.unique(scans.patients[scans.yes == answer]))
        if found < FEWEST:
            asked = question.describe(scores.length_unit)
            raise EvaluationError(f"{asked}: the references of {found} patients say {name}; at least {FEWEST} are needed")
    cutoff = _best(scans, least_sensitivity)
    answers = _left_out_answers(scans, least_sensitivity)
    usual = scans.volumes > scans.usual
    sign = 1.0 if question.below_ml is None else -1.0
    return CutOff(
        question=question,
        key=volumes_key(scores, question.label),
        unit=scores.length_unit,
        cutoff_ml=sign * cutoff,
        least_sensitivity=least_sensitivity,
        scans=len(scans.yes),
        yes=int(scans.yes.sum()),
        patients=len(np.unique(scans.patients)),
        auc=roc_area(scans.volumes, scans.yes),
        auc_interval=_area_interval(scans),
        rates=_rates(answers, scans),
        usual=_rates(usual, scans),
        roc=tuple(_roc(scans, sign)),
        benefit=tuple(
            NetBenefit(
                probability=p,
                chosen=net_benefit(answers, scans.yes, p),
                usual=net_benefit(usual, scans.yes, p),
                every=net_benefit(np.ones_like(scans.yes), scans.yes, p),
            )
            for p in PROBABILITIES
        ),
    )


def roc_area(scores: Numbers, yes: Flags) -> float:
    """The chance that a scan with the answer yes has a higher score than one with no, ties counted half; both exist.

    Args:
        scores, yes: (n,), of scans.
    """
    return float(_wins(scores, yes).mean())


def net_benefit(answers: Flags, yes: Flags, probability: float) -> float:
    """Scans rightly acted upon, less those wrongly acted upon times the odds of the probability, as a share of all scans.

    Args:
        answers: (n,), yes or no.
        yes: (n,), the right answers.
        probability: from which on one would act.
    """
    return float((answers & yes).mean() - (answers & ~yes).mean() * probability / (1 - probability))


def wilson(share: float, n: int) -> Interval:
    """The 95 % interval of a share of ``n``."""
    z = float(norm.ppf(0.975))
    middle, half = share + z * z / (2 * n), z * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    return max(0.0, (middle - half) / (1 + z * z / n)), min(1.0, (middle + half) / (1 + z * z / n))


def _scans(pairs: Mapping[str, tuple[float, float]], question: Question, patients: Mapping[str, str]) -> _Scans:
    predicted, reference = np.array(list(pairs.values()), np.float64).T
    _, numbers = np.unique([patients.get(name, f"case {name}") for name in pairs], return_inverse=True)
    return _Scans(
        volumes=predicted if question.below_ml is None else -predicted,
        yes=np.array([question.is_true(ml) for ml in reference]),
        patients=numbers,
        usual=0.0 if question.below_ml is None else -question.below_ml,
    )


def _wins(scores: Numbers, yes: Flags) -> Numbers:
    """(yes, no): 1 where the former has the higher score, 1/2 where both are equal."""
    differences = scores[yes][:, None] - scores[~yes][None]
    wins: Numbers = (differences > 0) + 0.5 * (differences == 0)
    return wins


def _area_interval(scans: _Scans) -> Interval | None:
    """The interval of the area, by bootstrap over patients; draws without one of the answers do not count."""
    weights = bootstrap_weights(int(scans.patients.max()) + 1)[:, scans.patients]
    of_yes, of_no = weights[:, scans.yes], weights[:, ~scans.yes]
    pairs = of_yes.sum(1) * of_no.sum(1)
    won = ((of_yes @ _wins(scans.volumes, scans.yes)) * of_no).sum(1)
    return interval(np.divide(won, pairs, out=np.full(len(won), np.nan), where=pairs > 0))


def _candidates(scans: _Scans) -> Numbers:
    """Cut-offs that answer differently, ascending: between neighbouring volumes, and the usual one."""
    volumes = np.unique(scans.volumes)
    return np.unique([*(volumes[1:] + volumes[:-1]) / 2, scans.usual])


def _curve(scans: _Scans) -> tuple[Numbers, Numbers, Numbers]:
    """Candidates for cut-offs (k,), and the sensitivity and specificity of each."""
    cutoffs = _candidates(scans)
    not_above = [
        np.searchsorted(np.sort(of), cutoffs, "right") / len(of) for of in (scans.volumes[scans.yes], scans.volumes[~scans.yes])
    ]
    return cutoffs, 1.0 - not_above[0], not_above[1]


def _best(scans: _Scans, least_sensitivity: float | None) -> float:
    """The chosen cut-off; of equally good ones that nearest to the usual one."""
    cutoffs, sensitivity, specificity = _curve(scans)
    if least_sensitivity is None:
        worth = sensitivity + specificity
    else:
        if sensitivity.max() < least_sensitivity:
            raise EvaluationError(
                f"no cut-off has a sensitivity of {least_sensitivity:g}: {sensitivity.max():.3f} is the highest; ask for less"
            )
        worth = np.where(sensitivity >= least_sensitivity, specificity, -1.0)
    best = cutoffs[worth >= worth.max() - 1e-12]
    return float(best[np.argmin(np.abs(best - scans.usual))])


def _left_out_answers(scans: _Scans, least_sensitivity: float | None) -> Flags:
    """Of each scan the answer by the cut-off that the other patients give, as sensitive as their scans allow."""
    answers = np.zeros(len(scans.yes), bool)
    for patient in np.unique(scans.patients):
        others, own = scans.without(patient), scans.patients == patient
        reached = _curve(others)[1].max()
        answers[own] = scans.volumes[own] > _best(others, None if least_sensitivity is None else min(least_sensitivity, reached))
    return answers


def _rates(answers: Flags, scans: _Scans) -> AnswerRates:
    shares, intervals = [], []
    for right in (True, False):
        of_it = scans.yes == right
        shares.append(float((answers[of_it] == right).mean()))
        intervals.append(wilson(shares[-1], len(np.unique(scans.patients[of_it]))))
    return AnswerRates(
        sensitivity=shares[0], specificity=shares[1], sensitivity_interval=intervals[0], specificity_interval=intervals[1]
    )


def _roc(scans: _Scans, sign: float) -> list[RocPoint]:
    """Points of the curve that differ."""
    rows = zip(*(row.tolist() for row in _curve(scans)), strict=True)
    points = {(sensitivity, specificity): sign * cutoff for cutoff, sensitivity, specificity in rows}
    return [RocPoint(cutoff_ml=abs(ml), sensitivity=a, specificity=b) for (a, b), ml in points.items()]


def describe_cutoff(found: CutOff) -> str:
    """The cut-off and how good it is, in sentences."""
    side, rates = "above" if found.question.below_ml is None else "below", found.rates
    return (
        f"{found.question.describe(found.unit)}: {found.yes} of {found.scans} held-out scans of {found.patients} patients. "
        f"Area under the ROC curve {_with_interval(found.auc, found.auc_interval)}. "
        f"Yes {side} {found.cutoff_ml:.4g} {volume_name(found.unit)} predicted: "
        f"sensitivity {_with_interval(rates.sensitivity, rates.sensitivity_interval)}, "
        f"specificity {_with_interval(rates.specificity, rates.specificity_interval)}."
    )


def _with_interval(share: float, ends: Interval | None) -> str:
    return f"{share:.3f}" + (f" ({ends[0]:.3f} to {ends[1]:.3f})" if ends else "")
