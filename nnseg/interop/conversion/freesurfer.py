"""Label maps with FreeSurfer's numbers, and its colour tables.

Source: FreeSurferColorLUT.txt of FreeSurfer 7, numbers and names of the automatic segmentation (aseg).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from nnseg.core.colours import colour_of
from nnseg.core.errors import ScanError
from nnseg.core.labels import Labels
from nnseg.interop.conversion.converted_scan import ConvertedScan
from nnseg.storage.images.codes import split_side
from nnseg.storage.images.write import write_label_map

PAIRED: Final[Mapping[str, tuple[int, int]]] = {
    "Cerebral-White-Matter": (2, 41),
    "Cerebral-Cortex": (3, 42),
    "Lateral-Ventricle": (4, 43),
    "Inf-Lat-Vent": (5, 44),
    "Cerebellum-White-Matter": (7, 46),
    "Cerebellum-Cortex": (8, 47),
    "Thalamus": (10, 49),
    "Caudate": (11, 50),
    "Putamen": (12, 51),
    "Pallidum": (13, 52),
    "Hippocampus": (17, 53),
    "Amygdala": (18, 54),
    "Accumbens-area": (26, 58),
    "VentralDC": (28, 60),
    "vessel": (30, 62),
    "choroid-plexus": (31, 63),
}
"""Numbers on the left and on the right, by name without "Left-" and "Right-"."""

SINGLE: Final[Mapping[str, int]] = {
    "3rd-Ventricle": 14,
    "4th-Ventricle": 15,
    "Brain-Stem": 16,
    "CSF": 24,
    "5th-Ventricle": 72,
    "WM-hypointensities": 77,
    "Optic-Chiasm": 85,
    "Corpus_Callosum": 192,
}

OTHER_NAMES: Final[Mapping[str, str]] = {
    "white matter": "cerebral white matter",
    "cortex": "cerebral cortex",
    "inferior lateral ventricle": "inf lat vent",
    "cerebellar white matter": "cerebellum white matter",
    "cerebellar cortex": "cerebellum cortex",
    "thalamus proper": "thalamus",
    "caudate nucleus": "caudate",
    "globus pallidus": "pallidum",
    "accumbens": "accumbens area",
    "nucleus accumbens": "accumbens area",
    "ventral diencephalon": "ventraldc",
    "third ventricle": "3rd ventricle",
    "fourth ventricle": "4th ventricle",
    "brainstem": "brain stem",
    "cerebrospinal fluid": "csf",
    "corpus callosum": "corpus callosum",
    "white matter hypointensities": "wm hypointensities",
}
"""Names in other datasets, and those of FreeSurfer in lower case."""

FIRST_UNLISTED = 30001
"""Number of the first label that aseg does not have; FreeSurfer's own numbers are lower."""


def write_aseg(scan: ConvertedScan, folder: Path) -> tuple[Path, ...]:
    """The file CASE_aseg.mgz that is written: the label map with the numbers of `aseg_numbers`.

    Raises:
        ScanError: aseg has none of the labels.
        RunError: the folder cannot be written to.
    """
    numbers, numbered = aseg_numbers(scan.labels), np.zeros(scan.label_map.labels.shape, np.int32)
    for name, value in scan.labels.named.items():
        numbered[scan.label_map.labels == value] = numbers[name]
    return write_label_map(replace(scan.label_map, labels=numbered), folder / f"{scan.name}_aseg.mgz", like=scan.source)


def aseg_numbers(labels: Labels) -> dict[str, int]:
    """FreeSurfer's number of each label of a label map, by name; of those that aseg does not have numbers from 30001 on.

    Raises:
        ScanError: aseg has none of the labels.

    Example:
        >>> aseg_numbers(Labels(names=("background", "hippocampus_left", "cyst"), values=(0, 1, 2)))
        {'hippocampus_left': 17, 'cyst': 30001}
    """
    known, found, unlisted = _known(), dict[str, int](), FIRST_UNLISTED
    for name in labels.named:
        key = _key(name)
        if key in known and known[key] not in found.values():
            found[name] = known[key]
        else:
            found[name], unlisted = unlisted, unlisted + 1
    if min(found.values()) >= FIRST_UNLISTED:
        names = ", ".join(labels.named)
        raise ScanError(f"none of the labels {names} is in FreeSurfer's aseg; convert to mgz, with the numbers of the model")
    return found


def colour_table(numbers: Mapping[str, int]) -> str:
    """FreeSurfer's colour table of labels: number, name without blanks, red, green, blue, transparency in a line each.

    Args:
        numbers: by name of the label.
    """
    rows = [(0, "Unknown", (0, 0, 0))]
    rows += [(number, "-".join(name.split()), colour_of(i)) for i, (name, number) in enumerate(numbers.items())]
    lines = (f"{number:<6} {name:<40} {' '.join(f'{part:>3}' for part in colour)}   0" for number, name, colour in sorted(rows))
    return "\n".join(lines) + "\n"


def _key(name: str) -> tuple[str, str]:
    """A name's words in FreeSurfer's form and lower case, and its side."""
    _, plain, side = split_side(name)
    words = " ".join(plain)
    return "".join(OTHER_NAMES.get(words, words).split()), side


def _known() -> dict[tuple[str, str], int]:
    sides = ((f"{side}-{name}", pair[i]) for name, pair in PAIRED.items() for i, side in enumerate(("Left", "Right")))
    return {_key(name): number for name, number in (*sides, *SINGLE.items())}
