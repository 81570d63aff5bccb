"""How far a model's answer can be trusted: expected Dice, probabilities that say how often they are right, unlike scans.

The first measure is how far the networks' mean probability agrees with the decision that it leads to: the Dice coefficient between
the decided mask and the probability, which is about the mean of the decision's Dice with masks drawn from it. What it says of the
Dice with a reference is measured on held-out cases and stored here; without them it stands as it is.
"""

from __future__ import annotations

import math

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from nnseg.core.likeness import Facts, Ranges
from nnseg.core.ranges import NotNegative, Positive, Probability
from nnseg.core.reliability import Reliability

EDGE = 1e-4
"""Agreement this near to none or to all counts as this far from it: logits are finite."""

TEMPERATURES = tuple(0.5 * 2.0 ** (i / 6) for i in range(25))
"""That are tried on held-out cases, 0.5 to 8; the best lies between two of them."""

Slopes = tuple[FiniteFloat, FiniteFloat, FiniteFloat]


class Noun(BaseModel):
    """Immutable, and strict about its JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Agreement(Noun):
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


class Together(Noun):
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


class LabelTrust(Noun):
    """What held-out cases say of one label or region.

    Args:
        offset: of the logit of its expected Dice.
        missing: how often it is truly absent where it was not found.
    """

    offset: FiniteFloat = 0.0
    missing: Probability = 1.0


class Confidence(Noun):
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


class Trust(Noun):
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
    together: Together | None = None

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
