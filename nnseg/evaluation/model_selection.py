"""The best of several plans, or an ensemble of them where that is better beyond chance.

The best of many candidates looks better than it is, because it was chosen for its looks. So its gain is measured where the cases
had no say in it: in each part of them, the ensemble that is best in all other parts is compared with the single plan that is best
in all, which flatters that one. And the best of the ensembles must gain more than chance gives the best of as many: where none is
better than the best single plan, one is taken in at most 5 % of all choices. (A test of the nested gains would not hold that: when
chance favours one ensemble, all parts choose this one, and what they measure is its luck. Such a test took an ensemble in 9 % of
simulated choices.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from nnseg.core.dataset import counted
from nnseg.core.decisions import Candidate, Choice, Interval, Nested, name_of
from nnseg.evaluation.averages import FEW
from nnseg.evaluation.statistics import DRAWS, EXACT, bootstrap_weights, interval, sign_flip

Numbers = npt.NDArray[np.float64]

LEAST_CASES = 10
"""Held-out cases below which no ensemble is taken."""
ALPHA = 0.05
"""The largest p of a gain that is believed."""
PARTS = 5
"""That the cases of fewer than three folds are divided into, so that enough are left to choose."""
SAME = 9
"""Digits of a mean: candidates that are equal in these are as good as one another, and the cheaper is taken."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CandidateScores:
    """A plan, or several together.

    Args:
        plans: their weights, by name.
        dice: (cases, labels), NaN where neither side shows the label or nobody annotated it; the same cases for all rivals.
        seconds: that a scan takes.
    """

    plans: Mapping[str, float]
    dice: Numbers
    seconds: float


def select(rivals: Sequence[CandidateScores], parts: Sequence[int]) -> Choice:
    """The rival to answer, with the evidence: the best single plan, or the best ensemble if that is better beyond chance.

    Args:
        rivals: at least one of them a single plan.
        parts: the fold that held out each case; of fewer than three, `PARTS` are made.
    """
    panel = _ScoredCases.of(rivals, parts)
    single = panel.best(ensembles=False)
    together = panel.best(ensembles=True) if any(panel.is_ensemble) else None
    taken, nested, p, reason = single, None, None, "there is nothing to choose from"
    if together is not None:
        if panel.cases >= LEAST_CASES:
            nested, p = panel.nested(single), panel.chance(single)
            taken = together if nested.gain > 0 and p <= ALPHA else single
        reason = _reason(panel, nested, p, taken=panel.name(taken), single=panel.name(single))
    candidates = [panel.candidate(i, single) for i in range(len(rivals))]
    return Choice(
        plans=dict(rivals[taken].plans),
        reason=reason,
        cases=panel.cases,
        decided=panel.name(taken),
        best_single=panel.name(single),
        nested=nested,
        p=p,
        candidates=tuple(sorted(candidates, key=lambda c: (-round(c.dice, SAME), c.seconds))),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _ScoredCases:
    """The cases that say anything of the rivals.

    Args:
        rivals: as given.
        sums: (rivals, cases), Dice summed over the masks of each case.
        masks: (cases,), how many these are: the same for all rivals.
        parts: (cases,).
    """

    rivals: Sequence[CandidateScores]
    sums: Numbers
    masks: npt.NDArray[np.int64]
    parts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, rivals: Sequence[CandidateScores], parts: Sequence[int]) -> _ScoredCases:
        dice = np.stack([rival.dice for rival in rivals])
        shown = np.any(np.isfinite(dice), axis=0)  # by the reference, or by a rival's false alarm; who avoids that gets 1
        asked = np.any(shown, axis=1)
        sums = np.where(np.isfinite(dice), dice, shown).sum(2)[:, asked]
        folds = np.asarray(parts)[asked]
        if len(set(folds.tolist())) < 3:
            folds = np.arange(len(folds)) % PARTS
        return cls(rivals=rivals, sums=sums, masks=shown.sum(1)[asked], parts=folds)

    @property
    def cases(self) -> int:
        return len(self.masks)

    @property
    def is_ensemble(self) -> list[bool]:
        return [len(rival.plans) > 1 for rival in self.rivals]

    def name(self, rival: int) -> str:
        return name_of(self.rivals[rival].plans)

    def mean(self, rival: int, asked: npt.NDArray[np.bool_] | slice = slice(None)) -> float:
        """Of a rival's masks in some cases, rounded so that equals are equal."""
        return round(float(self.sums[rival, asked].sum() / max(1, self.masks[asked].sum())), SAME)

    def best(self, *, ensembles: bool, asked: npt.NDArray[np.bool_] | slice = slice(None)) -> int:
        """Number of the ensemble, or of the single plan, with the largest mean in some cases; the cheaper of equals."""
        able = [i for i, several in enumerate(self.is_ensemble) if several == ensembles]
        return max(able, key=lambda i: (self.mean(i, asked), -self.rivals[i].seconds))

    def nested(self, single: int) -> Nested:
        rises = np.zeros(self.cases)
        for part in np.unique(self.parts):
            here = self.parts == part
            rises[here] = (self.sums[self.best(ensembles=True, asked=~here)] - self.sums[single])[here]
        return Nested(gain=self._mean_of(rises), interval=self._interval(rises))

    def chance(self, single: int) -> float:
        """The chance that any ensemble rises above a single plan as the best one does, if each case could as well favour either.

        A rise counts in units of what signs alone do to it, or an ensemble that differs much in every case, for the worse, would
        hide one that is a little better in nearly all. One sign a case for all ensembles, so that what they share is kept.
        Source: Westfall and Young 1993, Resampling-Based Multiple Testing, section 2.3 (the largest statistic of each draw).
        """
        best = self.sums[self.best(ensembles=True)] - self.sums[single]
        if not best.any():
            return 1.0
        rises = (self.sums - self.sums[single])[self.is_ensemble].T
        rises = rises[(rises != 0).any(1)]
        rises = rises[:, (rises != 0).any(0)]
        rises /= np.sqrt((rises**2).sum(0))
        n, seen, tolerance = len(rises), best.sum() / np.sqrt((best**2).sum()), 1e-9
        if n <= EXACT:
            flips = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
        else:
            flips = np.random.default_rng(0).integers(0, 2, (DRAWS, n))
            flips[0] = 0  # as it was
        return float(np.mean(((1.0 - 2.0 * flips) @ rises).max(1) >= seen - tolerance))

    def candidate(self, rival: int, single: int) -> Candidate:
        rises = self.sums[rival] - self.sums[single]
        itself = rival == single
        return Candidate(
            plans=dict(self.rivals[rival].plans),
            dice=self._mean_of(self.sums[rival]),
            interval=self._interval(self.sums[rival]),
            gain=None if itself else self._mean_of(rises),
            gain_interval=None if itself else self._interval(rises),
            p=None if itself else sign_flip(rises),
            seconds=self.rivals[rival].seconds,
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


def _reason(panel: _ScoredCases, nested: Nested | None, p: float | None, *, taken: str, single: str) -> str:
    if nested is None or p is None:
        asked = counted(panel.cases, "held-out case")
        return f"{asked}; at least {LEAST_CASES} are needed to tell an ensemble from chance: {single} is the best plan alone"
    said = f"in {panel.cases} held-out cases that had no say in which it is, the best ensemble changes Dice by {nested.gain:+.4f}"
    if taken != single:
        return f"{said}, and chance alone is not likely to do as much for any (p = {p:.2g}): {taken} is taken"
    if nested.gain > 0:
        return f"{said}, and chance may do as much (p = {p:.2g}): {single}, the best plan alone, is taken"
    return f"{said}: {single}, the best plan alone, is taken"
