"""What a dataset was taken with, as far as its channels' names tell."""

from __future__ import annotations

import re
from typing import Final, Literal

from nnseg.planning.fingerprint import Fingerprint

Modality = Literal["ct", "mr", "microscopy"]

MODALITY_NAMES: Final[dict[Modality, str]] = {
    "ct": r"ct|cbct|ncct|cta",
    "mr": r"mri?|t1\w*|t2\w*|flair|adc|dwi|pdw?|swi|dce|lge|cine|bssfp",
    "microscopy": r"em|sem|tem|microscopy|histology|fluorescence|brightfield|dic|dapi|gfp|haematoxylin|hematoxylin",
}
"""Words that channels of a modality are called by; letter case does not matter."""

OTHERS: Final = r"x|xr|xray|cr|dx|us|ultrasound|pet|suv|spect|fundus|octa?|endoscopy|dermoscopy|photo\w*"
"""Words for what is none of these."""


def modality_of(fingerprint: Fingerprint, *, has_sides: bool) -> tuple[Modality | None, str]:
    """The modality of all channels, with the reason for it; None if it is not known, or not the same.

    Args:
        fingerprint: of the dataset.
        has_sides: labels know left from right, so that images show bodies and not tissue.
    """
    names = ", ".join(fingerprint.channels)
    for modality, pattern in MODALITY_NAMES.items():
        if all(_is_called(name, pattern) for name in fingerprint.channels):
            return modality, f"{names}: {MODALITY_WORDS[modality]}"
    known = "|".join([*MODALITY_NAMES.values(), OTHERS])
    if any(_is_called(name, known) for name in fingerprint.channels) or has_sides or not fingerprint.is_2d:
        return None, ""
    if bool((fingerprint.spacings == 1.0).all()):
        return "microscopy", f"single images without a size in mm ({names}): {MODALITY_WORDS['microscopy']}"
    return None, ""


MODALITY_WORDS: Final[dict[Modality, str]] = {
    "ct": "CT has absolute units, and never the other sign",
    "mr": "MR scanners have such faults",
    "microscopy": "tissue under a microscope has no upright position and no fixed shape",
}
"""Why each has a policy of its own."""


def _is_called(name: str, pattern: str) -> bool:
    return any(re.fullmatch(pattern, word) for word in re.findall(r"[^\W_]+", name.casefold()))
