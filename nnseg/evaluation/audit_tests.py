"""Tests of whether properties of the scans explain scores or label volumes, with one error rate for all of them together.

Each association is the share of the variance of the outcome's ranks that a predictor explains: between the groups of a category, or
along the ranks of a number. Under permutations of the patients the strongest of all associations is as often as chance makes it,
however many predictors there are and however they depend on each other (Westfall and Young's max-T). Strengths of predictors with
different numbers of groups are compared by the p-value that they would have for normal outcomes.
Source: Westfall and Young 1993, Resampling-Based Multiple Testing; Kruskal and Wallis 1952, doi:10.1080/01621459.1952.10483441.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from nnseg.core.audit import Association
from nnseg.evaluation.statistics import DRAWS

Numbers = npt.NDArray[np.float64]
Values = Mapping[str, float] | Mapping[str, str]
"""A property of each case, by its name: a number or a category."""

Rows = Sequence[Sequence[str]]
"""The cases of each row of what is tested."""

MOST_GROUPS = 1 / 3
"""A property with more categories than this share of the patients tells the patients apart, and nothing else."""

FEWEST = 6
"""Patients without which nothing is tested."""

TINY = 1e-300
"""Least p of which a logarithm is taken."""

SEVERAL = "several"
"""The category of a patient whose cases are of several."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Predictor:
    """A predictor as an orthonormal basis (rows, columns) of what it tells of the rows, beside their mean."""

    basis: Numbers
    freedom: int


def find_associations(
    predictors: Mapping[str, Values],
    outcomes: Mapping[str, Mapping[str, float]],
    patients: Mapping[str, str],
    *,
    seed: int = 0,
    draws: int = DRAWS,
) -> tuple[Association, ...]:
    """The association of each predictor with each outcome, the strongest first; predictors that are the same for all are left out.

    Args:
        predictors: by name, the value of each case. A case without a value of a category is of the category "", and without a
            number has the mean one.
        outcomes: by name, the value of each case; cases that are in none of them are left out.
        patients: the patient of each case; cases that are not named are patients of their own. Scans of one patient count as one:
            patients are exchanged as a whole. Where they have unequal numbers of cases, their values are averaged.
        seed, draws: of the permutations; no p is below 1 / (1 + draws).
    """
    cases = sorted({case for of in outcomes.values() for case in of})
    units: dict[str, list[str]] = {}
    for case in cases:
        units.setdefault(patients.get(case, f"case {case}"), []).append(case)
    if len(units) < FEWEST:
        return ()
    rows, orders = _exchange(list(units.values()), np.random.default_rng(seed), draws)
    ranked = {outcome: _ranked(_means(of, rows)) for outcome, of in outcomes.items()}
    tested, strongest = list[tuple[str, str, float, float, float]](), np.zeros(len(orders))
    for name, values in predictors.items():  # one at a time: a table may have a thousand columns, and a column many groups
        if predictor := _predictor(values, rows, len(units)):
            for outcome, ranks in ranked.items():
                explained = np.square(ranks[orders] @ predictor.basis).sum(1)
                strength = _strength(explained, predictor.freedom, len(rows))
                strongest = np.maximum(strongest, strength)
                tested.append((name, outcome, float(explained[0]), float(strength[0]), _share(strength, strength[0])))
    associations = [
        Association(
            predictor=name,
            outcome=outcome,
            n=len(units),
            explained=min(explained, 1.0),
            p=p,
            p_adjusted=_share(strongest, strength),
        )
        for name, outcome, explained, strength, p in tested
    ]
    return tuple(sorted(associations, key=lambda one: (one.p_adjusted, -one.explained)))


def _exchange(units: Sequence[Sequence[str]], random: np.random.Generator, draws: int) -> tuple[Rows, npt.NDArray[np.int64]]:
    """The rows that are tested, and their order in each draw, (1 + draws, rows); the first is as they are.

    Where all patients have equally many cases, these are rows: patients are exchanged, and the cases of each patient. Otherwise a
    row is a patient, with the mean of its cases.
    """
    size = len(units[0]) if len({len(cases) for cases in units}) == 1 else 1
    rows: Rows = [[case] for cases in units for case in cases] if size > 1 else units
    patients = np.array([random.permutation(len(units)) for _ in range(draws)]).reshape(draws, len(units), 1)
    inside = random.random((draws, len(units), size)).argsort(axis=2)
    return rows, np.concatenate([np.arange(len(rows))[None], (patients * size + inside).reshape(draws, len(rows))])


def _share(drawn: Numbers, observed: float) -> float:
    """The share of draws, of which the first is the observed one, that are as large."""
    return float(np.mean(drawn >= observed - 1e-9 * max(1.0, abs(observed))))


def _strength(explained: Numbers, freedom: int, rows: int) -> Numbers:
    """Minus the logarithm of the p-value that each explained share of the variance would have for a normal outcome."""
    rest = max(rows - 1 - freedom, 1)
    chance = special.betainc(rest / 2, freedom / 2, np.clip(1 - explained, 0, 1))
    return np.asarray(-np.log(np.maximum(chance, TINY)))


def _predictor(values: Values, rows: Rows, patients: int) -> _Predictor | None:
    """The predictor of the rows; None if it is the same for all, or tells only which patient it is."""
    if any(isinstance(value, str) for value in values.values()):
        chosen = [{str(values.get(case, "")) for case in cases} for cases in rows]
        names, member = np.unique([min(one) if len(one) == 1 else SEVERAL for one in chosen], return_inverse=True)
        if not 1 < len(names) <= MOST_GROUPS * patients:
            return None
        groups = np.eye(len(names))[member]
        return _Predictor(basis=groups / np.sqrt(groups.sum(0)), freedom=len(names) - 1)
    numbers = _means({case: float(value) for case, value in values.items()}, rows)
    if np.ptp(numbers) <= 1e-9 * max(1.0, float(np.abs(numbers).max())):
        return None
    return _Predictor(basis=_ranked(numbers)[:, None], freedom=1)


def _means(values: Mapping[str, float], rows: Rows) -> Numbers:
    """The mean of each row's cases with a value, that of all where there is none."""
    known = [[values[case] for case in cases if case in values] for cases in rows]
    of_all = float(np.mean([value for one in known for value in one])) if any(known) else 0.0
    return np.array([float(np.mean(one)) if one else of_all for one in known])


def _ranked(values: npt.NDArray[Any]) -> Numbers:
    """Ranks with mean 0 and norm 1; zeros if all are equal."""
    ranks = stats.rankdata(values)
    centred = np.asarray(ranks - ranks.mean(), np.float64)
    return centred / max(float(np.linalg.norm(centred)), 1e-12)
