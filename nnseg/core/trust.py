"""How far a model's predictions can be trusted: expected Dice with intervals, flags, and the temperature of its probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from pydantic import Field, FiniteFloat, model_validator

from nnseg.core.frozen import FrozenModel
from nnseg.core.reliability import Reliability
from nnseg.core.scan_ranges import ScanFacts, ScanRanges
from nnseg.core.validation import Factors, Moderate, NotNegative, Positive, Probability, Range, Shares

EDGE = 1e-4
"""Least distance of an agreement from 0 and 1 in a logit, which is then finite."""

TEMPERATURES = tuple(0.5 * 2.0 ** (i / 6) for i in range(25))
"""Temperatures from 0.5 to 8 that are tried on held-out cases; the best lies between two of them."""

INTERVAL_LEVEL = 0.9
"""Share of new scans whose Dice, and whose volumes, lie within the intervals."""

LARGEST = 60.0
"""Largest size of the logarithm of a factor of a volume: no two volumes differ more."""

Slopes = tuple[Moderate, Moderate, Moderate]


class Agreement(FrozenModel):
    """How far the networks of an ensemble, and their mirrored copies, agree with their common label map of one scan.

    Args:
        labels: by name of the label or region, soft Dice of the predicted mask with the mean probability; 1 for an empty mask where
            the probability is 0 everywhere.
        foreground: the same for all foreground labels as one.
        voxels: of each predicted mask, by name, on the network's grid.
    """

    labels: dict[str, Probability]
    foreground: Probability
    voxels: dict[str, NotNegative]

    def features(self, name: str) -> tuple[float, float, float]:
        """What a label's expected Dice is computed from: logits of both agreements, logarithm of its voxels."""
        return logit(self.labels[name]), logit(self.foreground), math.log(max(1.0, self.voxels[name]))


class EnsembleShift(FrozenModel):
    """How much lower the agreement of many networks is than that of the few that predicted a held-out case.

    A larger ensemble disagrees more, though its label map is better; without this correction good label maps would be flagged.

    Args:
        few, many: numbers of networks.
        labels, foreground: difference of the logits of agreement, not above 0.
    """

    few: int = Field(ge=1)
    many: int = Field(ge=2, le=1_000_000)
    labels: Moderate = Field(le=0)
    foreground: Moderate = Field(le=0)

    @model_validator(mode="after")
    def _check(self) -> EnsembleShift:
        if self.few >= self.many:
            raise ValueError(f"{self.few} networks are no fewer than {self.many}")
        return self

    def removed(self, agreement: Agreement, networks: int) -> Agreement:
        """The agreement that ``few`` networks would have; the difference grows as 1 - few/networks, like the variance of a mean."""
        part = max(0.0, 1.0 - self.few / networks) / (1.0 - self.few / self.many)
        return agreement.model_copy(
            update={
                "labels": {name: expit(logit(share) - part * self.labels) for name, share in agreement.labels.items()},
                "foreground": expit(logit(agreement.foreground) - part * self.foreground),
            }
        )


class LabelTrust(FrozenModel):
    """Calibration of one label or region, from held-out cases.

    Args:
        offset: of the logit of its expected Dice.
        missing: chance that it is truly absent where it is not predicted.
        cases: held-out cases with its mask predicted and scored.
        centre: mean of `Agreement.features` over these cases; None in models of earlier versions.
        errors: bounds of the logit of its Dice less that of the expected one, over the spread; None for too few cases.
        volume_errors: bounds of the logarithm of its true over the predicted volume, over the `largest_volume_error` at the lower
            end of the interval of its Dice; None for too few cases.
        volume_factors: bounds of its true volume over the predicted one, in models of earlier versions.
    """

    offset: Moderate = 0.0
    missing: Probability = 1.0
    cases: int = Field(default=0, ge=0)
    centre: Slopes | None = None
    errors: tuple[Moderate, Moderate] | None = None
    volume_errors: tuple[Moderate, Moderate] | None = None
    volume_factors: Factors | None = None

    def dice_interval(self, expected: float, spread: float = 1.0) -> Shares | None:
        """The interval of its Dice.

        Args:
            expected: its expected Dice.
            spread: see `Trust.spread`.
        """
        return self.errors and (expit(logit(expected) + spread * self.errors[0]), expit(logit(expected) + spread * self.errors[1]))

    def volume_interval(self, expected: float, spread: float = 1.0) -> Range | None:
        """The interval of its true over the predicted volume; arguments as for `dice_interval`."""
        interval = self.dice_interval(expected, spread)
        if self.volume_errors is None or interval is None:
            return self.volume_factors
        most = largest_volume_error(interval[0])
        low, high = (math.exp(min(max(most * error, -LARGEST), LARGEST)) for error in self.volume_errors)
        return low, high


class DiceErrors(FrozenModel):
    """Errors of the expected mean Dice of held-out cases: the true one less that of a calibration on other cases.

    Args:
        cases: number of held-out cases.
        patients: number of patients that they are of.
        mean, spread: mean and standard deviation of the errors; where patients have several cases, the latter is that of the means
            of patients times the square root of their cases.
    """

    cases: int = Field(ge=2)
    patients: int = Field(ge=2)
    mean: FiniteFloat
    spread: NotNegative


class Confidence(FrozenModel):
    """How far the label map of one scan can be trusted.

    Args:
        quality: expected mean Dice over the labels; 1 is perfect.
        expected_dice: of each label that was predicted, by name.
        dice_intervals: of their Dice, by name, which hold for 90 % of scans; none of labels with too few held-out cases, nor of a
            foreign scan.
        volume_factors: likewise of the true volume of a label over the predicted one.
        flagged: True if the quality is as low as that of the worst tenth of the held-out cases; None if they were too few.
        foreign: True if the scan is unlike those of the training, so that the held-out cases say little about it; its expected Dice
            is lowered. None if that was not measured.
        unlike: differences of the scan from those of the training.
        agreement, facts: that this was computed from.
        errors: of the expected mean Dice of held-out cases; None if they were not measured.
        surprise: of a case with a reference, the mean over its voxels of -log(probability of the reference), at each of the
            `TEMPERATURES`.
        reliability: of such a case, how often its probabilities are right.
    """

    quality: Probability
    expected_dice: dict[str, Probability]
    dice_intervals: dict[str, Shares] = {}
    volume_factors: dict[str, Factors] = {}
    flagged: bool | None
    foreign: bool | None = None
    unlike: tuple[str, ...]
    agreement: Agreement
    facts: ScanFacts | None = None
    errors: DiceErrors | None = None
    surprise: tuple[FiniteFloat, ...] = ()
    reliability: Reliability | None = None


class FolderDice(FrozenModel):
    """The mean Dice of a folder of scans.

    Args:
        scans: whose Dice is expected.
        foreign: of these, the number of foreign scans.
        expected: mean over the scans.
        interval: which holds for 90 % of folders; None without calibration.
    """

    scans: int = Field(ge=1)
    foreign: int = Field(ge=0)
    expected: Probability
    interval: Shares | None


class LabelInterval(FrozenModel):
    """The intervals of one label or region.

    Args:
        cases: held-out cases that they were measured on.
        expected: mean expected Dice.
        dice: interval of the Dice where that is expected; None for too few cases.
        volume: of the true volume, as factors of the predicted one; None for too few cases.
    """

    label: str
    cases: int
    expected: Probability
    dice: Shares | None
    volume: Range | None


class Trust(FrozenModel):
    """Calibration on held-out cases, each predicted by networks that were not trained on it; by default nothing was measured.

    Args:
        cases: number of held-out cases; 0 if nothing was calibrated.
        temperature: that logits are divided by, so that probabilities are the frequencies of being right.
        slopes: of the logit of expected Dice, for `Agreement.features`.
        precision: inverse covariance of these features within labels; None in models of earlier versions.
        error: mean distance of the expected from the true mean Dice, of held-out cases not used in the calibration.
        errors: of the same cases; None if an earlier version calibrated.
        threshold: expected mean Dice below which a scan is flagged.
        key: of the predictions that it was measured on; it is valid while they are the same.
        together: for ensembles larger than those of held-out cases; None if it was not measured.
    """

    cases: int = Field(default=0, ge=0)
    temperature: Positive = 1.0
    slopes: Slopes = (1.0, 0.0, 0.0)
    precision: tuple[Slopes, Slopes, Slopes] | None = None
    labels: dict[str, LabelTrust] = {}
    error: NotNegative | None = None
    errors: DiceErrors | None = None
    threshold: Probability | None = None
    ranges: ScanRanges | None = None
    key: str = ""
    together: EnsembleShift | None = None

    @property
    def is_calibrated(self) -> bool:
        """True if it was measured on held-out cases; a distilled model has ranges of its training scans alone."""
        return self.cases > 0

    def confidence(self, agreement: Agreement, facts: ScanFacts | None = None, *, networks: int = 1) -> Confidence:
        """The confidence in a label map.

        What is expected of a foreign scan is divided by 1 + its distance from the ranges of the training scans, by 2 at most: it is
        halved where a property lies twice as far outside of them as is tolerated, or further. That is a rule, not a measurement.

        Args:
            agreement: of all networks.
            facts: of the scan, to be compared with those of the training.
        """
        comparable = self.together.removed(agreement, networks) if self.together else agreement
        unlike = self.ranges.differences(facts) if self.ranges and facts else ()
        foreign = bool(unlike) if self.ranges and facts else None
        part = 1.0 / (1.0 + min(1.0, self.ranges.distance(facts))) if self.ranges and facts else 1.0
        quality, expected = part * self.expected_mean_dice(comparable), self.expected_dice(comparable)
        known = (
            {} if foreign else {name: (self._known(name), dice, self.spread(comparable, name)) for name, dice in expected.items()}
        )
        intervals = {name: label.dice_interval(dice, spread) for name, (label, dice, spread) in known.items()}
        volumes = {name: label.volume_interval(dice, spread) for name, (label, dice, spread) in known.items()}
        return Confidence(
            quality=quality,
            expected_dice={name: part * dice for name, dice in expected.items()},
            dice_intervals={name: interval for name, interval in intervals.items() if interval},
            volume_factors={name: factors for name, factors in volumes.items() if factors},
            flagged=None if self.threshold is None else quality < self.threshold,
            foreign=foreign,
            unlike=unlike,
            agreement=agreement,
            facts=facts,
            errors=self.errors,
        )

    def label_intervals(self, agreements: Sequence[Agreement]) -> tuple[LabelInterval, ...]:
        """The intervals of each label that was predicted.

        Args:
            agreements: of the scans whose mean expected Dice, and mean spread, is taken.
        """
        found = []
        for name, label in self.labels.items():
            if predicted := [one for one in agreements if one.voxels.get(name, 0) > 0]:
                mean, spread = fmean(self._dice(one, name) for one in predicted), fmean(self.spread(one, name) for one in predicted)
                dice, volume = label.dice_interval(mean, spread), label.volume_interval(mean, spread)
                found.append(LabelInterval(label=name, cases=label.cases, expected=mean, dice=dice, volume=volume))
        return tuple(found)

    def spread(self, agreement: Agreement, name: str) -> float:
        """How much wider the intervals of a label are than in the middle of the held-out cases.

        sqrt(1 + d^2 / 3), with the Mahalanobis distance d of the three `Agreement.features` from their mean: sqrt(2) for a usual
        scan, more for one that is unlike the held-out cases, of which they say less.
        """
        centre = self._known(name).centre
        if centre is None or self.precision is None:
            return 1.0
        off = [value - mean for value, mean in zip(agreement.features(name), centre, strict=True)]
        distance = sum(a * b * p for a, row in zip(off, self.precision, strict=True) for b, p in zip(off, row, strict=True))
        return math.sqrt(1.0 + max(0.0, distance) / 3)

    def expected_dice(self, agreement: Agreement) -> dict[str, float]:
        """Of each label that was predicted, by name."""
        return {name: self._dice(agreement, name) for name in agreement.labels if agreement.voxels[name] > 0}

    def expected_mean_dice(self, agreement: Agreement) -> float:
        """Expected mean Dice over the labels in the scan; one that was not predicted counts 0, weighted by its chance to be there.

        Where nothing was predicted, the chance that nothing is there.
        """
        found = self.expected_dice(agreement)
        absent = [self._known(name).missing * share for name, share in agreement.labels.items() if name not in found]
        return sum(found.values()) / (len(found) + sum(1.0 - chance for chance in absent)) if found else min(absent)

    def _dice(self, agreement: Agreement, name: str) -> float:
        parts = zip(self.slopes, agreement.features(name), strict=True)
        return expit(self._known(name).offset + sum(slope * feature for slope, feature in parts))

    def _known(self, name: str) -> LabelTrust:
        return self.labels.get(name, LabelTrust())


def largest_volume_error(dice: float) -> float:
    """The largest size of the logarithm of the true over the predicted volume where the Dice is known.

    It is reached where one mask lies within the other: with p times its volume the Dice is 2p / (1 + p).

    Args:
        dice: kept `EDGE` away from 0 and 1.

    Example:
        ``largest_volume_error(0.8) == math.log(1.5)``
    """
    inside = min(max(dice, EDGE), 1.0 - EDGE)
    return math.log((2.0 - inside) / inside)


def logit(share: float) -> float:
    """log(p / (1 - p)), with p kept `EDGE` away from 0 and 1."""
    inside = min(max(share, EDGE), 1.0 - EDGE)
    return math.log(inside / (1.0 - inside))


def expit(value: float) -> float:
    """1 / (1 + exp(-x))."""
    return 0.5 + 0.5 * math.tanh(0.5 * value)
