"""Centiles of volumes as smooth curves over age: quantile regression on cubic splines, for each sex on its own.

Source: Koenker and Bassett 1978, doi:10.2307/1913643, as linear programs in their dual form, by SciPy; splines with knots at
terciles of age. Curves that cross are put in order (Chernozhukov et al. 2010, doi:10.3982/ECTA7880).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.interpolate import BSpline
from scipy.optimize import linprog

from nnseg.core.errors import DatasetError
from nnseg.core.population import FEWEST_SMOOTH, SMOOTH_LEVELS, CentileCurves, Person, Population, Sex

Numbers = npt.NDArray[np.float64]

DEGREE = 3
KNOTS = (1 / 3, 2 / 3)
"""Quantiles of age between which a curve is one polynomial."""
POINTS = 81
"""Ages at which a curve is kept."""


def with_centiles(population: Population) -> Population:
    """A population with centile curves of each label over age, of women, of men and of all.

    Raises:
        DatasetError: no label has enough people of known age.
    """
    curves = {label: tuple(_curves_of(label, population.people)) for label in population.labels}
    if not any(curves.values()):
        raise DatasetError(
            f"the {population.source} are too few for smooth centiles: {FEWEST_SMOOTH} of known age are needed; "
            "give another population"
        )
    update = {"source": f"{population.source}, smooth centiles by age", "curves": curves}
    return population.model_copy(update=update)


def _curves_of(label: str, people: Sequence[Person]) -> list[CentileCurves]:
    groups: tuple[Sex | None, ...] = ("F", "M", None)
    found = []
    for sex in groups:
        known = [p for p in people if label in p.volumes and p.age is not None and sex in (None, p.sex)]
        if len(known) >= FEWEST_SMOOTH and len({p.age for p in known}) > DEGREE + len(KNOTS):
            ages, volumes = np.array([p.age for p in known], float), np.array([p.volumes[label] for p in known])
            found.append(_fit(ages, volumes, sex))
    return found


def _fit(ages: Numbers, volumes: Numbers, sex: Sex | None) -> CentileCurves:
    low, high = ages.min(), ages.max()
    inner = np.unique(np.clip(np.quantile(ages, KNOTS), low + 1e-6, high - 1e-6))
    knots = np.concatenate([[low] * (DEGREE + 1), inner, [high] * (DEGREE + 1)])
    design = BSpline.design_matrix(ages, knots, DEGREE).toarray()
    at = np.linspace(low, high, POINTS)
    kept = BSpline.design_matrix(at, knots, DEGREE).toarray()
    curves = np.array([kept @ _quantile_regression(design, volumes, level / 100) for level in SMOOTH_LEVELS])
    ordered = np.sort(np.maximum(curves, 0.0), axis=0)
    return CentileCurves(sex=sex, n=len(ages), ages=tuple(at.tolist()), quantiles=tuple(map(tuple, ordered.tolist())))


def _quantile_regression(design: Numbers, volumes: Numbers, share: float) -> Numbers:
    """Coefficients by which a share of the volumes lies below ``design @ coefficients``."""
    found = linprog(-volumes, A_eq=design.T, b_eq=(1 - share) * design.sum(0), bounds=(0, 1), method="highs")
    coefficients: Numbers = -np.asarray(found.eqlin.marginals)
    return coefficients
