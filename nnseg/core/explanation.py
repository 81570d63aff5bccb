"""Explanations of predictions: which voxels a label's prediction rests on, and whether the map of them passes its checks."""

from __future__ import annotations

from pydantic import Field, FiniteFloat

from nnseg.core.frozen import FrozenModel
from nnseg.core.names import CaseName, FileName
from nnseg.core.options import ExplanationMethod
from nnseg.core.validation import NotNegative, Probability

EXPLANATIONS = "explanations.json"
"""Name of the file beside the maps."""

MOST_LIKE_RANDOM = 0.3
"""A map is withheld whose rank correlation with that of the network with random weights in all layers is not below this.

Source: the check is that of Adebayo et al. 2018, arXiv:1810.03292, section 3.1; they compare methods and name no threshold.
"""

MOST_LIKE_OTHER = 0.9
"""A map is withheld whose rank correlation with that of another target is not below this: it hardly depends on the label."""

LEAST_REPEATED = 0.5
"""A map is withheld whose expected rank correlation with the map of other noise is lower: it is mostly noise, which would pass both
other checks."""

NEAR_MM = 3.0
"""Distance from a structure up to which attribution counts as near it, in mm."""


class Concentration(FrozenModel):
    """How much of the attribution lies in a part of the body.

    Args:
        attribution: share of the map's absolute values in this part.
        uniform: share of the body's voxels in it, which is what a uniform map has there.
    """

    attribution: Probability
    uniform: Probability

    @property
    def ratio(self) -> float:
        """How many times more attribution than in a uniform map."""
        return self.attribution / self.uniform if self.uniform else 0.0


class Explanation(FrozenModel):
    """The map of one label of one scan, and what its checks gave.

    Rank correlations are of absolute values, within shells of equal distance from the structure, corrected for noise.

    Args:
        case: name of the scan.
        label: name of the label or region.
        method: of the map.
        voxels: predicted as this label.
        random: rank correlations with the map of the network after a share of its layers, the last ones first, got random weights.
        other: the target of the map that this one is compared with: another label, or voxels elsewhere.
        other_correlation: rank correlation with that map.
        repeated: expected rank correlation with the map of other noise, by Spearman-Brown from two halves of the copies; None
            for a method without noise.
        inside: attribution inside the structure.
        near: attribution inside or within 3 mm of it.
        file: of the map; "" if it was withheld.
        picture: of the map over the scan; "" if it was withheld.
        withheld: why the map was not written; "" if it was.
        key: digest of the model and the scan.
        copies: noisy copies; 0 for a method without noise.
        seed: of noise, random weights and drawn voxels.
        seconds: that the map and its checks took.
    """

    case: CaseName
    label: str
    method: ExplanationMethod
    voxels: int = Field(ge=0)
    random: dict[str, FiniteFloat] = Field(min_length=1)
    other: str
    other_correlation: FiniteFloat
    repeated: FiniteFloat | None = None
    inside: Concentration
    near: Concentration
    file: FileName = ""
    picture: FileName = ""
    withheld: str = ""
    key: str = ""
    copies: int = Field(default=0, ge=0)
    seed: int = 0
    seconds: NotNegative = 0.0

    @property
    def random_correlation(self) -> float:
        """Rank correlation with the map of the network all of whose weights are random."""
        return list(self.random.values())[-1]

    def describe(self) -> str:
        """One line for users."""
        state = "withheld" if self.withheld else "written"
        numbers = f"{self.near.ratio:.1f} times a uniform map in and around it, like random weights {self.random_correlation:+.2f}"
        return f"{self.case} {self.label}: {state}; {numbers}, like {self.other} {self.other_correlation:+.2f}"


class Explanations(FrozenModel):
    """The record that ``nnseg explain`` writes beside its maps.

    Args:
        nnseg: version that wrote it last.
        explanations: of each scan, label and method.
    """

    nnseg: str
    explanations: tuple[Explanation, ...] = ()


def why_withheld(explanation: Explanation) -> str:
    """Which check a map fails; "" if it passes all."""
    random, other, repeated = explanation.random_correlation, explanation.other_correlation, explanation.repeated
    if random >= MOST_LIKE_RANDOM:
        return f"a network with random weights gives a map like it (rank correlation {random:.2f})"
    if other >= MOST_LIKE_OTHER:
        return f"the map of {explanation.other} is like it (rank correlation {other:.2f})"
    if repeated is not None and repeated < LEAST_REPEATED:
        return f"it is mostly noise: its rank correlation with a map of other noise is about {repeated:.2f}"
    return ""
