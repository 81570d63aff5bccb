"""The best of several plans, or an ensemble of them if that is significantly better.

The score of the best of many candidates is biased upwards by the selection. So its gain is estimated by nested cross-validation: in
each part of the cases, the ensemble that is best in all other parts is compared with the single plan that is best in all parts
(which favours the single plan). And the gain of the best ensemble must be significant for a maximum over all ensembles: if none is
better than the best single plan, one is chosen in at most 5 % of cases. (A test of the nested gains does not guarantee this: if
chance favours one ensemble, all parts choose it, and all gains contain the same chance. Such a test chose an ensemble in 9 % of
simulations.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from nnseg.core.dataset import counted
from nnseg.core.decisions import Choice, EnsembleCandidate, Interval, Nested, ensemble_name
from nnseg.evaluation.averages import FEW
from nnseg.evaluation.statistics import DRAWS, EXACT, bootstrap_weights, interval, sign_flip

Numbers = npt.NDArray[np.float64]

LEAST_CASES = 10
"""Least number of held-out cases to choose an ensemble."""
ALPHA = 0.05
"""Significance level of the gain."""
PARTS = 5
"""Number of parts for nested cross-validation where there are fewer than three folds."""
SAME = 9
"""Digits of a mean that are compared; of candidates that are equal in these, the fastest is chosen."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CandidateScores:
    """Held-out scores of a plan, or of an ensemble of plans.

    Args:
        plans: their weights, by name.
        dice: (cases, labels), NaN where the mask is undefined; the same cases for all candidates.
        seconds: per scan.
    """

    plans: Mapping[str, float]
    dice: Numbers
    seconds: float


def select(candidates: Sequence[CandidateScores], parts: Sequence[int]) -> Choice:
    """The chosen candidate, with the evidence: the best single plan, or the best ensemble if that is significantly better.

    Args:
        candidates: at least one of them a single plan.
        parts: (cases,), the fold that held out each case; of fewer than three, `PARTS` are made.
    """
    scored = _ScoredCases.of(candidates, parts)
    single = scored.best(ensembles=False)
    chosen, nested, p, reason = single, None, None, "there is no ensemble to choose"
    if any(scored.is_ensemble):
        if scored.cases >= LEAST_CASES:
            nested, p = scored.nested(single), scored.p_of_best(single)
            chosen = scored.best(ensembles=True) if nested.gain > 0 and p <= ALPHA else single
        reason = _reason(scored.cases, nested, p, chosen=scored.name(chosen), single=scored.name(single))
    results = [scored.candidate(i, single) for i in range(len(candidates))]
    return Choice(
        plans=dict(candidates[chosen].plans),
        reason=reason,
        cases=scored.cases,
        decided=scored.name(chosen),
        best_single=scored.name(single),
        nested=nested,
        p=p,
        candidates=tuple(sorted(results, key=lambda c: (-round(c.dice, SAME), c.seconds))),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _ScoredCases:
    """The cases with a defined mask.

    Args:
        candidates: as given.
        sums: (candidates, cases), Dice summed over the masks of each case.
        masks: (cases,), the number of masks, which is the same for all candidates.
        parts: (cases,), of nested cross-validation.
    """

    candidates: Sequence[CandidateScores]
    sums: Numbers
    masks: npt.NDArray[np.int64]
    parts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, candidates: Sequence[CandidateScores], parts: Sequence[int]) -> _ScoredCases:
        dice = np.stack([candidate.dice for candidate in candidates])
        defined = np.any(np.isfinite(dice), axis=0)  # for any candidate; one without another's false positive gets 1
        used = np.any(defined, axis=1)
        sums = np.where(np.isfinite(dice), dice, defined).sum(2)[:, used]
        folds = np.asarray(parts)[used]
        if len(set(folds.tolist())) < 3:
            folds = np.arange(len(folds)) % PARTS
        return cls(candidates=candidates, sums=sums, masks=defined.sum(1)[used], parts=folds)

    @property
    def cases(self) -> int:
        return len(self.masks)

    @property
    def is_ensemble(self) -> list[bool]:
        return [len(candidate.plans) > 1 for candidate in self.candidates]

    def name(self, candidate: int) -> str:
        return ensemble_name(self.candidates[candidate].plans)

    def best(self, *, ensembles: bool, cases: npt.NDArray[np.bool_] | slice = slice(None)) -> int:
        """Number of the ensemble, or of the single plan, with the largest mean in some cases; the faster of equal ones."""
        numbers, masks = [i for i, several in enumerate(self.is_ensemble) if several == ensembles], max(1, self.masks[cases].sum())
        means = {i: round(float(self.sums[i, cases].sum() / masks), SAME) for i in numbers}
        return max(numbers, key=lambda i: (means[i], -self.candidates[i].seconds))

    def nested(self, single: int) -> Nested:
        gains = np.zeros(self.cases)
        for part in np.unique(self.parts):
            held_out = self.parts == part
            gains[held_out] = (self.sums[self.best(ensembles=True, cases=~held_out)] - self.sums[single])[held_out]
        return Nested(gain=self._mean_of(gains), interval=self._interval(gains))

    def p_of_best(self, single: int) -> float:
        """p of the best ensemble's gain over a single plan: the maximum over ensembles in a sign-flip test.

        Each ensemble's gain is divided by its standard deviation under the sign flips, so that one with large differences does not
        hide one with small, consistent gains. One sign per case for all ensembles keeps their correlation.
        Source: Westfall and Young 1993, Resampling-Based Multiple Testing, section 2.3 (the largest statistic of each draw).
        """
        best = self.sums[self.best(ensembles=True)] - self.sums[single]
        if not best.any():
            return 1.0
        gains = (self.sums - self.sums[single])[self.is_ensemble].T
        gains = gains[(gains != 0).any(1)]
        gains = gains[:, (gains != 0).any(0)]
        gains /= np.sqrt((gains**2).sum(0))
        n, observed, tolerance = len(gains), best.sum() / np.sqrt((best**2).sum()), 1e-9
        if n <= EXACT:
            flips = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
        else:
            flips = np.random.default_rng(0).integers(0, 2, (DRAWS, n))
            flips[0] = 0  # the observed signs
        return float(np.mean(((1.0 - 2.0 * flips) @ gains).max(1) >= observed - tolerance))

    def candidate(self, number: int, single: int) -> EnsembleCandidate:
        sums, scores, other = self.sums[number], self.candidates[number], number != single
        gains = sums - self.sums[single]
        return EnsembleCandidate(
            plans=dict(scores.plans),
            dice=self._mean_of(sums),
            interval=self._interval(sums),
            gain=self._mean_of(gains) if other else None,
            gain_interval=self._interval(gains) if other else None,
            p=sign_flip(gains) if other else None,
            seconds=scores.seconds,
        )

    def _mean_of(self, sums: Numbers) -> float:
        return float(sums.sum() / max(1, self.masks.sum()))

    def _interval(self, sums: Numbers) -> Interval | None:
        if self.cases < FEW:
            return None
        return interval((self._draws @ sums) / (self._draws @ self.masks))

    @cached_property
    def _draws(self) -> Numbers:
        return bootstrap_weights(self.cases).astype(np.float64)


def _reason(cases: int, nested: Nested | None, p: float | None, *, chosen: str, single: str) -> str:
    if nested is None or p is None:
        available = counted(cases, "held-out case")
        return f"{available}; at least {LEAST_CASES} are needed to test an ensemble: {single} is the best single plan"
    gain = f"in nested cross-validation over {cases} held-out cases the best ensemble changes Dice by {nested.gain:+.4f}"
    if chosen != single:
        return f"{gain}, which is significant (p = {p:.2g}): {chosen} is chosen"
    if nested.gain > 0:
        return f"{gain}, which is not significant (p = {p:.2g}): {single}, the best single plan, is chosen"
    return f"{gain}: {single}, the best single plan, is chosen"
