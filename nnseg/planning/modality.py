"""What channels are by their names: the words of each modality, and how a channel is normalized."""

from __future__ import annotations

import re
from typing import Final, Literal, get_args

from nnseg.core.plan import NormalizationScheme

Modality = Literal["ct", "mr", "microscopy"]

MODALITY_NAMES: Final[dict[Modality, str]] = {
    "ct": r"ct|cbct|ncct|cta",
    "mr": r"mri?|t1\w*|t2\w*|flair|adc|dwi|pdw?|swi|dce|lge|cine|bssfp",
    "microscopy": r"em|sem|tem|microscopy|histology|fluorescence|brightfield|dic|dapi|gfp|haematoxylin|hematoxylin",
}
"""Words in the names of a modality's channels, as a regular expression; letter case does not matter."""

SCHEMES: Final[dict[str, str]] = {"nonorm": "none"} | {name: name for name in get_args(NormalizationScheme) if name != "none"}
"""Normalization by the channel's name, as in nnU-Net; all other channels get the z-score of each case."""


def has_word(name: str, pattern: str) -> bool:
    """True if a word of a name is one of a pattern, whatever the letter case."""
    return any(re.fullmatch(pattern, word) for word in re.findall(r"[^\W_]+", name.casefold()))


def normalization_of(name: str) -> str:
    """The scheme by which a channel of this name is normalized."""
    return SCHEMES.get(name.casefold(), "zscore")
