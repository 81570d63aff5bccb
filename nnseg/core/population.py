"""Distributions of volumes in a population, and the percentile of one volume."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from nnseg.core.errors import DatasetError
from nnseg.core.frozen import FrozenModel
from nnseg.core.head_size import FEWEST_HEADS, HeadCorrection, regression_slope
from nnseg.core.options import HeadMethod
from nnseg.core.validation import NotNegative, Positive

Sex = Literal["F", "M"]
Age = Annotated[float, Field(ge=0, le=130)]

LEVELS: Final = (1.0, *(2.5 * i for i in range(1, 40)), 99.0)
"""Percentages of a distribution's quantiles, without minimum and maximum, which would disclose single patients."""

BAND: Final = (5.0, 25.0, 50.0, 75.0, 95.0)
"""Percentages that are drawn; volumes outside of the first and the last are unusual."""

WINDOWS: Final = (5.0, 10.0, 20.0)
"""Standard deviations of the window in age, in years; a wider one is used where a narrower one has too few scans."""

FEWEST = 20
"""Least effective number of scans in a window of age, or of one sex."""

SMOOTH_LEVELS: Final = (1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 97.5, 99.0)
"""Percentages of smooth centiles."""

FEWEST_SMOOTH = 100
"""Least number of people of smooth centiles, of one sex or of all."""

FEWEST_OF_ALL = 5
"""Least number of scans of a distribution."""

WORDS: Final[Mapping[str, str]] = {"F": "women", "M": "men"}

Floats = npt.NDArray[np.float64]


class Person(FrozenModel):
    """One member of a population.

    Args:
        volumes: ml, by label.
        age: years; None if unknown.
        sex: None if unknown.
        head_ml: intracranial volume; None if unknown.
    """

    volumes: dict[str, NotNegative]
    age: Age | None = None
    sex: Sex | None = None
    head_ml: NotNegative | None = Field(default=None, exclude_if=lambda ml: ml is None)


class Distribution(FrozenModel):
    """The volumes of one label.

    Args:
        n: number of scans.
        quantiles: ml, at the percentages `LEVELS` of further scans like these.
    """

    n: Annotated[int, Field(ge=1)]
    quantiles: Annotated[tuple[NotNegative, ...], Field(min_length=len(LEVELS), max_length=len(LEVELS))]

    @model_validator(mode="after")
    def _check(self) -> Distribution:
        if any(b < a for a, b in zip(self.quantiles, self.quantiles[1:], strict=False)):
            raise ValueError("quantiles must not descend")
        return self


class CentileCurves(FrozenModel):
    """Smooth centiles of a label's volume over age.

    Args:
        sex: of the people; None for all.
        n: number of people.
        ages: years, ascending, from the youngest to the oldest person.
        quantiles: ml at these ages, one row for each of `SMOOTH_LEVELS`.
    """

    sex: Sex | None
    n: Annotated[int, Field(ge=1)]
    ages: tuple[Age, ...]
    quantiles: tuple[tuple[NotNegative, ...], ...]

    def percentile(self, ml: float, age: float) -> Percentile | None:
        """The percentile of a volume at an age; None beyond the ages of these people."""
        if not self.ages[0] <= age <= self.ages[-1]:
            return None
        volumes = np.array([np.interp(age, self.ages, row) for row in self.quantiles])
        percent, who = _level(np.array(SMOOTH_LEVELS), volumes, ml), WORDS[self.sex] if self.sex else "people"
        return Percentile(
            percent=float(np.clip(percent, 100 / (self.n + 1), 100 * self.n / (self.n + 1))),
            n=self.n,
            among=f"all {self.n} {who} of {self.ages[0]:g} to {self.ages[-1]:g} years, smoothed",
            band=tuple(np.interp(BAND, SMOOTH_LEVELS, volumes).tolist()),
        )


class Percentile(FrozenModel):
    """The percentile of a volume.

    Args:
        percent: of comparable scans with a smaller volume, limited to 100 / (n + 1) and 100 n / (n + 1).
        n: comparable scans; where they are weighted by age, the effective number (sum w)^2 / (sum w^2).
        among: these scans in words.
        note: why they are not of the same sex and age; empty if they are, or if neither is known.
        band: ml, at the percentages `BAND`.
    """

    percent: Annotated[float, Field(ge=0, le=100)]
    n: Positive
    among: str
    note: str = ""
    band: Annotated[tuple[NotNegative, ...], Field(min_length=len(BAND), max_length=len(BAND))]

    @property
    def unusual(self) -> Literal["", "low", "high"]:
        """The side on which it lies outside of the band, if it does."""
        return "low" if self.percent < BAND[0] else "high" if self.percent > BAND[-1] else ""


class Population(FrozenModel):
    """The volumes of a population.

    Args:
        source: in words: "training set of Hippocampus".
        labels: by name of the label or region.
        people: single members, to select by age and sex; empty where patients must not be identifiable.
        correction: for head size, by which all these volumes are corrected, as one must be that is compared with them.
        curves: smooth centiles by label, of women, men and all; with them no other percentiles are given.
    """

    source: str
    labels: dict[str, Distribution]
    people: tuple[Person, ...] = ()
    correction: HeadCorrection | None = Field(default=None, exclude_if=lambda found: found is None)
    curves: dict[str, tuple[CentileCurves, ...]] = Field(default={}, exclude_if=lambda curves: not curves)

    def percentile(self, label: str, ml: float, *, age: float | None = None, sex: Sex | None = None) -> Percentile | None:
        """The percentile of a volume among people of the same sex and about the same age, or else among all.

        Ages are weighted by a Gaussian window, a wider one where the effective number is below `FEWEST`.

        Returns:
            None if fewer than `FEWEST_OF_ALL` scans have the label; with `curves` also if the age is unknown or beyond those seen.
        """
        if self.curves:
            curves = next((one for one in self.curves.get(label, ()) if one.sex == sex), None)
            return None if curves is None or age is None else curves.percentile(ml, age)
        known = self.labels.get(label)
        if known is None or known.n < FEWEST_OF_ALL:
            return None
        levels, volumes = np.array(LEVELS), np.array(known.quantiles)
        n, among, note = float(known.n), f"all {known.n}", self._shortfall(age, sex)
        if alike := self._alike(label, age, sex):
            levels, volumes = _curve(alike.volumes, alike.weights)
            n, among, note = _effective(alike.weights), alike.among, alike.note
        return Percentile(
            percent=float(np.clip(_level(levels, volumes, ml), 100 / (n + 1), 100 * n / (n + 1))),
            n=round(n, 1),
            among=among,
            note=note,
            band=tuple(np.interp(BAND, levels, volumes).tolist()),
        )

    def why_no_centiles(self, age: float | None, sex: Sex | None) -> str:
        """Why smooth centiles say nothing of a patient; "" if they do, or if there are none."""
        fitted = [one for of_label in self.curves.values() for one in of_label if one.sex == sex]
        if not self.curves or (age is not None and any(one.ages[0] <= age <= one.ages[-1] for one in fitted)):
            return ""
        if age is None:
            return "no centiles: the age is not known"
        if not fitted:
            return f"no centiles: fewer than {FEWEST_SMOOTH} {WORDS[sex] if sex else 'people'} of known age"
        low, high = min(one.ages[0] for one in fitted), max(one.ages[-1] for one in fitted)
        return f"no centiles: the age of {age:g} is beyond those of the population, {low:g} to {high:g}"

    def _shortfall(self, age: float | None, sex: Sex | None) -> str:
        if age is None and sex is None:
            return ""
        return f"fewer than {FEWEST} are like this one" if self.people else "ages and sexes of these are not known"

    def _alike(self, label: str, age: float | None, sex: Sex | None) -> _WeightedVolumes | None:
        """Volumes of people of the same sex and similar age, else of the same sex; None if there are too few of either."""
        people = [p for p in self.people if label in p.volumes and (sex is None or p.sex == sex)]
        who = WORDS[sex] if sex else "people"
        if age is not None and (aged := _aged(label, [p for p in people if p.age is not None], age, who)):
            return aged
        if sex is None or len(people) < FEWEST:
            return None
        note = "" if age is None else f"too few within {WINDOWS[-1]:g} years"
        volumes = np.array([p.volumes[label] for p in people])
        return _WeightedVolumes(volumes=volumes, weights=np.ones(len(people)), among=f"{len(people)} {who}", note=note)


@dataclass(frozen=True, kw_only=True, eq=False)
class _WeightedVolumes:
    """Volumes (n,) of comparable people, and their weights (n,)."""

    volumes: Floats
    weights: Floats
    among: str
    note: str


def _aged(label: str, people: Sequence[Person], age: float, who: str) -> _WeightedVolumes | None:
    """Volumes weighted by age, with the narrowest window that has enough people on both sides; None if none has."""
    ages = np.array([p.age for p in people], np.float64)
    for window in WINDOWS:
        weights = np.exp(-0.5 * ((ages - age) / window) ** 2)
        if _effective(weights) >= FEWEST and abs(float(np.average(ages, weights=weights)) - age) <= window:
            volumes = np.array([p.volumes[label] for p in people])
            note = f"too few within {WINDOWS[0]:g} years" if window > WINDOWS[0] else ""
            return _WeightedVolumes(volumes=volumes, weights=weights, among=f"{who} of {age:g} ± {window:g} years", note=note)
    return None


def make_population(people: Sequence[Person], source: str, *, apart: bool = False) -> Population:
    """The population of some people.

    Args:
        people: a label that is not among a person's volumes is unknown; an absent structure has 0 ml.
        apart: keep single members.
    """
    names = dict.fromkeys(name for person in people for name in person.volumes)
    labels = {name: _distribution([p.volumes[name] for p in people if name in p.volumes]) for name in names}
    return Population(source=source, labels=labels, people=tuple(people) if apart else ())


def corrected_for_head(population: Population, method: HeadMethod) -> Population:
    """A population with the volumes that its members would have in heads of average size; members without a head size are left out.

    Raises:
        DatasetError: fewer than 20 members have a head size.
    """
    people = [person for person in population.people if person.head_ml]
    heads = [person.head_ml or 0.0 for person in people]
    if len(people) < FEWEST_HEADS:
        raise DatasetError(
            f"{len(people)} of the {population.source} have a head size, at least {FEWEST_HEADS} are needed to correct volumes; "
            'add a column "icv" in ml to the table of the population, or name the label with --head'
        )
    slopes = dict[str, float]()
    for label in population.labels if method == "residual" else ():
        known = [person for person in people if label in person.volumes]
        slope = regression_slope([person.head_ml or 0.0 for person in known], [person.volumes[label] for person in known])
        slopes |= {} if slope is None else {label: slope}
    correction = HeadCorrection(method=method, mean_ml=float(np.mean(heads)), people=len(people), slopes=slopes)
    made = []
    for person in people:
        new = {label: correction.corrected(label, ml, person.head_ml) for label, ml in person.volumes.items()}
        made.append(person.model_copy(update={"volumes": {label: ml for label, ml in new.items() if ml is not None}}))
    source = f"{population.source}, volumes corrected ({method}) to heads of {correction.mean_ml:.0f} ml"
    return make_population(made, source, apart=True).model_copy(update={"correction": correction})


def _distribution(volumes: Sequence[float]) -> Distribution:
    levels, ascending = _curve(np.array(volumes), np.ones(len(volumes)))
    quantiles = np.maximum.accumulate(np.interp(LEVELS, levels, ascending))  # rounding of an interpolation may descend
    return Distribution(n=len(volumes), quantiles=tuple(quantiles.tolist()))


def _curve(volumes: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Percentages and ascending volumes; with equal weights the k-th of n lies at 100 k / (n + 1).

    Source: Weibull's plotting position (Hyndman and Fan 1996, The American Statistician 50, definition 6), with weights.
    """
    order = np.argsort(volumes, kind="stable")
    ascending, shares = volumes[order], weights[order]
    new = float((shares**2).sum() / shares.sum())  # weight of one more
    return 100 * (np.cumsum(shares) - 0.5 * shares + 0.5 * new) / (shares.sum() + new), ascending


def _level(levels: Floats, volumes: Floats, ml: float) -> float:
    """Percentage at a volume, the middle of all equal ones; the first or last beyond the ends."""
    first, last = int(np.searchsorted(volumes, ml, "left")), int(np.searchsorted(volumes, ml, "right"))
    if last > first:
        return float(levels[first] + levels[last - 1]) / 2
    return float(np.interp(ml, volumes, levels))


def _effective(weights: Floats) -> float:
    """Effective sample size. Source: Kish 1965, Survey Sampling."""
    squares = float((weights**2).sum())
    return float(weights.sum()) ** 2 / squares if squares else 0.0


def volume_ml(voxels: int, voxel_ml: float) -> float:
    """Volume in ml of a number of voxels, rounded to 12 digits, so that equal volumes are equal."""
    return float(f"{voxels * voxel_ml:.12g}")
