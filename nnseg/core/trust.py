"""How far a model's predictions can be trusted: calibration, expected Dice, flags, and likeness to the training scans."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field, FiniteFloat, field_validator

from nnseg.core.frozen import FrozenModel
from nnseg.core.geometry import Grid, Vector
from nnseg.core.validation import NotNegative, Positive, Probability

FEWEST_SCANS = 4
"""Fewer say nothing about what others are like."""

SAMPLE = 200_000
"""Voxels a percentile is taken of: its error is then a thousandth of the scans' spread."""

PERCENTILES = {
    1: "the darkest voxels",
    25: "the darker voxels",
    50: "the middle",
    75: "the brighter voxels",
    99: "the brightest voxels",
}
"""That intensities are compared by, and what they stand for."""

Percentiles = Annotated[tuple[FiniteFloat, ...], Field(min_length=len(PERCENTILES), max_length=len(PERCENTILES))]


class Facts(FrozenModel):
    """What of a scan is compared.

    Args:
        spacing: mm (z, y, x).
        size_mm: extent (z, y, x).
        intensities: of each channel, as the network sees it, the `PERCENTILES`.
    """

    spacing: Vector
    size_mm: Vector
    intensities: tuple[Percentiles, ...]


class Range(FrozenModel):
    """The values that training scans had, both ends included."""

    low: FiniteFloat
    high: FiniteFloat


class Ranges(FrozenModel):
    """What training scans were like.

    A value counts as unlike them where it lies further outside of theirs than chance carries a scan of the same kind: by a quarter
    of their range and 4/n of it more, since n scans do not show all there is; by at least a little where they are all the same.

    Args:
        scans: how many they were.
        channels: names.
        spacing, size_mm: along z, y and x.
        intensities: for each channel, of each of the `PERCENTILES`.
    """

    scans: int = Field(ge=FEWEST_SCANS)
    channels: tuple[str, ...]
    spacing: tuple[Range, Range, Range]
    size_mm: tuple[Range, Range, Range]
    intensities: tuple[tuple[Range, ...], ...]

    def unlike(self, facts: Facts) -> tuple[str, ...]:
        """In what a scan differs, with numbers: "spacing 5 mm along z; training scans had 0.9 to 1.1". Empty if in nothing."""
        lengths = [
            (f"{what} {value:.3g} mm along {axis}", value, seen, most)
            for what, values, ranges, most in (
                ("spacing", facts.spacing, self.spacing, 1.5),
                ("size", facts.size_mm, self.size_mm, 2.0),
            )
            for axis, value, seen in zip("zyx", values, ranges, strict=True)
        ]
        told = [_told(text, seen) for text, value, seen, most in lengths if self._excess(value, seen, most) > 0]
        return (*told, *self._unlike_intensities(facts))

    def _unlike_intensities(self, facts: Facts) -> Iterator[str]:
        """For each channel the percentile that is furthest out, if one is."""
        for channel, values, ranges in zip(self.channels, facts.intensities, self.intensities, strict=True):
            least = 0.07 * (ranges[-1].high - ranges[0].low)
            room = [max(self._share * (r.high - r.low), least) for r in ranges]
            excess = [max(r.low - v, v - r.high) - m for v, r, m in zip(values, ranges, room, strict=True)]
            worst = int(np.argmax(excess))
            if excess[worst] > 0:
                percent, words = list(PERCENTILES.items())[worst]
                text = f"{channel}: {words} ({percent}% are below) are at {values[worst]:.3g} after normalization"
                yield _told(text, ranges[worst])

    def _excess(self, value: float, seen: Range, most: float) -> float:
        """How far a length lies outside of what is allowed, as a logarithm: within a factor 1.25 always, of ``most`` never more."""
        room = min(max(self._share * math.log(seen.high / seen.low), math.log(1.25)), math.log(most))
        return max(math.log(seen.low / value), math.log(value / seen.high)) - room

    @property
    def _share(self) -> float:
        return 0.25 + 4 / self.scans


def facts_of(grid: Grid, image: npt.NDArray[Any]) -> Facts:
    """What is compared of a scan.

    Args:
        grid: the scan's own.
        image: (C, Z, Y, X), preprocessed: what the network sees of it; of a large one some voxels, the same each time.
    """
    z, y, x = (n * s for n, s in zip(grid.shape, grid.spacing, strict=True))
    flat = image.reshape(len(image), -1)
    if flat.shape[1] > SAMPLE:
        flat = flat[:, np.random.default_rng(0).integers(flat.shape[1], size=SAMPLE)]
    intensities = np.percentile(flat, list(PERCENTILES), axis=1).T
    return Facts(spacing=grid.spacing, size_mm=(z, y, x), intensities=tuple(tuple(row) for row in intensities.tolist()))


def ranges_of(facts: Sequence[Facts], channels: Sequence[str]) -> Ranges | None:
    """What scans were like; None if they are too few to say."""
    if len(facts) < FEWEST_SCANS:
        return None
    spacing, size_mm = (_ranges([getattr(f, name) for f in facts]) for name in ("spacing", "size_mm"))
    return Ranges(
        scans=len(facts),
        channels=tuple(channels),
        spacing=(spacing[0], spacing[1], spacing[2]),
        size_mm=(size_mm[0], size_mm[1], size_mm[2]),
        intensities=tuple(_ranges([f.intensities[c] for f in facts]) for c in range(len(channels))),
    )


def _ranges(rows: Sequence[Sequence[float]]) -> tuple[Range, ...]:
    """Of each column."""
    return tuple(Range(low=min(column), high=max(column)) for column in zip(*rows, strict=True))


def _told(text: str, seen: Range) -> str:
    low, high = f"{seen.low:.3g}", f"{seen.high:.3g}"
    return f"{text}; training scans had {low if low == high else f'{low} to {high}'}"


Numbers = npt.NDArray[np.float64]

BINS = 15
"""Of equal width, from no confidence to full; a bin includes its upper end."""

RELIABILITY_TEMPERATURES = tuple(0.5 * 2.0 ** (i / 6) for i in range(19))
"""That sums are kept at, 0.5 to 4: the temperature is known only once all cases are. Between two of them the sums change evenly."""

_SCALE = 2.0**15
_SHAPE = (len(RELIABILITY_TEMPERATURES), 3 * BINS + 1)


class Reliability(FrozenModel):
    """Sums of one case whose reference is known, at each of the `RELIABILITY_TEMPERATURES`; its voxels weigh 1 together.

    Args:
        packed: the sums in half precision, little-endian, in base64: a twentieth of their text.
    """

    packed: str

    @field_validator("packed")
    @classmethod
    def _whole(cls, packed: str) -> str:
        if not np.isfinite(_unpacked(packed)).all():
            raise ValueError("the sums must be numbers")
        return packed

    @classmethod
    def of(cls, sums: Numbers, brier: Numbers) -> Reliability:
        """The noun of what `sums` and `brier` give back, to half precision.

        Args:
            sums: (temperatures, bins, 3).
            brier: (temperatures,).
        """
        table = np.concatenate([sums.reshape(len(sums), -1), brier[:, None]], 1) * _SCALE
        return cls(packed=base64.b64encode(table.astype("<f2").tobytes()).decode("ascii"))

    @property
    def sums(self) -> Numbers:
        """(temperatures, bins, 3): weight of the voxels; of it, how much surer than right (confidence - right); how much right."""
        return _unpacked(self.packed)[:, :-1].reshape(len(RELIABILITY_TEMPERATURES), BINS, 3)

    @property
    def brier(self) -> Numbers:
        """(temperatures,): mean squared distance of the probabilities from the truth."""
        return _unpacked(self.packed)[:, -1]


def _unpacked(packed: str) -> Numbers:
    table = np.frombuffer(base64.b64decode(packed, validate=True), "<f2").astype(np.float64) / _SCALE
    return table.reshape(_SHAPE)


EDGE = 1e-4
"""Agreement this near to none or to all counts as this far from it: logits are finite."""

TEMPERATURES = tuple(0.5 * 2.0 ** (i / 6) for i in range(25))
"""That are tried on held-out cases, 0.5 to 8; the best lies between two of them."""

Slopes = tuple[FiniteFloat, FiniteFloat, FiniteFloat]


class Agreement(FrozenModel):
    """How far votes agree with their decision on one scan. A *name* is a label of the foreground, or a region.

    Args:
        labels: by name, Dice of the decided mask with the votes' mean probability; of a mask that is empty it is 1 where no vote
            sees anything.
        foreground: the same of everything that is not background, whatever its label.
        voxels: of each decided mask, by name, on the network's grid.
    """

    labels: dict[str, Probability]
    foreground: Probability
    voxels: dict[str, NotNegative]

    def features(self, name: str) -> tuple[float, float, float]:
        """What expected Dice of a label is computed from: logits of both agreements, logarithm of its voxels."""
        return logit(self.labels[name]), logit(self.foreground), math.log(max(1.0, self.voxels[name]))


class EnsembleShift(FrozenModel):
    """How much less the votes of many networks agree than those of the few that answered a held-out case.

    Many see more to disagree about, while their answer is better; without this, good answers of many would be flagged.

    Args:
        few, many: how many networks.
        labels, foreground: what is lost by the logits of agreement, at most nothing.
    """

    few: int = Field(ge=1)
    many: int = Field(ge=2)
    labels: FiniteFloat = Field(le=0)
    foreground: FiniteFloat = Field(le=0)

    def undone(self, agreement: Agreement, networks: int) -> Agreement:
        """The agreement that a few networks would have had. What is lost grows as 1 - few/networks: variance of a mean."""
        part = max(0.0, 1.0 - self.few / networks) / (1.0 - self.few / self.many)
        return agreement.model_copy(
            update={
                "labels": {name: expit(logit(share) - part * self.labels) for name, share in agreement.labels.items()},
                "foreground": expit(logit(agreement.foreground) - part * self.foreground),
            }
        )


class LabelTrust(FrozenModel):
    """What held-out cases say of one label or region.

    Args:
        offset: of the logit of its expected Dice.
        missing: how often it is truly absent where it was not found.
    """

    offset: FiniteFloat = 0.0
    missing: Probability = 1.0


class Confidence(FrozenModel):
    """How far to trust one answer.

    Args:
        quality: expected mean Dice over the labels; 1 is perfect.
        expected_dice: of each label that was found, by name.
        flagged: True if the quality is as low as that of the worst tenth of the held-out cases; None if they were too few to know.
        unlike: in what the scan differs from those of the training.
        agreement, facts: what this was made from.
        surprise: of a case whose reference is known, the mean over its voxels of -log(probability of the reference), at each of the
            `TEMPERATURES`.
        reliability: of such a case, how often its probabilities are right.
    """

    quality: Probability
    expected_dice: dict[str, Probability]
    flagged: bool | None
    unlike: tuple[str, ...]
    agreement: Agreement
    facts: Facts | None = None
    surprise: tuple[FiniteFloat, ...] = ()
    reliability: Reliability | None = None


class Trust(FrozenModel):
    """Measured on held-out cases, each predicted by networks that had not seen it; without arguments, nothing was.

    Args:
        cases: how many they were.
        temperature: that logits are divided by, so that probabilities say how often they are right.
        slopes: of the logit of expected Dice, for `Agreement.features`.
        labels: by name.
        error: mean distance of a held-out case's quality from its true mean Dice, when it had no part in the calibration.
        threshold: quality below which a scan is flagged.
        ranges: what training scans were like.
        key: of the predictions that it was measured on; it stands while they are the same.
        together: for answers of more networks than held-out cases had; None if it was not measured.
    """

    cases: int = Field(default=0, ge=0)
    temperature: Positive = 1.0
    slopes: Slopes = (1.0, 0.0, 0.0)
    labels: dict[str, LabelTrust] = {}
    error: NotNegative | None = None
    threshold: Probability | None = None
    ranges: Ranges | None = None
    key: str = ""
    together: EnsembleShift | None = None

    def confidence(self, agreement: Agreement, facts: Facts | None = None, *, networks: int = 1) -> Confidence:
        """What to think of an answer.

        Args:
            agreement: of the votes of all networks.
            facts: of the scan.
            networks: how many voted.
        """
        comparable = self.together.undone(agreement, networks) if self.together else agreement
        quality = self.quality(comparable)
        return Confidence(
            quality=quality,
            expected_dice=self.expected_dice(comparable),
            flagged=None if self.threshold is None else quality < self.threshold,
            unlike=self.ranges.unlike(facts) if self.ranges and facts else (),
            agreement=agreement,
            facts=facts,
        )

    def expected_dice(self, agreement: Agreement) -> dict[str, float]:
        """Of each label that was found, by name."""
        return {name: self._dice(agreement, name) for name in agreement.labels if agreement.voxels[name] > 0}

    def quality(self, agreement: Agreement) -> float:
        """Expected mean Dice over the labels that are there: one that was not found counts as far as it may be there all the same.

        Of an answer in which nothing was found, the chance that nothing is there.
        """
        found = self.expected_dice(agreement)
        absent = [self._known(name).missing * share for name, share in agreement.labels.items() if name not in found]
        return sum(found.values()) / (len(found) + sum(1.0 - chance for chance in absent)) if found else min(absent)

    def _dice(self, agreement: Agreement, name: str) -> float:
        parts = zip(self.slopes, agreement.features(name), strict=True)
        return expit(self._known(name).offset + sum(slope * feature for slope, feature in parts))

    def _known(self, name: str) -> LabelTrust:
        return self.labels.get(name, LabelTrust())


def logit(share: float) -> float:
    """log(p / (1 - p)), with p kept `EDGE` away from 0 and 1."""
    inside = min(max(share, EDGE), 1.0 - EDGE)
    return math.log(inside / (1.0 - inside))


def expit(value: float) -> float:
    """1 / (1 + exp(-x))."""
    return 0.5 + 0.5 * math.tanh(0.5 * value)
