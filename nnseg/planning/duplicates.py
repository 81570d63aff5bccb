"""Cases that have one and the same image: a case under two names, or an image with two label maps."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from nnseg.core.dataset import Finding, listed
from nnseg.core.fingerprint import CaseMeasure

MOST = 5
"""Images that are named one by one; of others the number is given."""


def voxel_digest(voxels: npt.NDArray[np.generic]) -> str:
    """A digest of an array's shape and values; equal for the same voxels in files of other formats or compression."""
    digest = hashlib.sha1(str((voxels.dtype.str, voxels.shape)).encode(), usedforsecurity=False)  # twice as fast as BLAKE2
    digest.update(np.ascontiguousarray(voxels).data)
    return digest.hexdigest()


def same_images(cases: Iterable[CaseMeasure]) -> tuple[tuple[CaseMeasure, ...], ...]:
    """The cases of each image that several cases have, voxel for voxel."""
    sets: dict[str, list[CaseMeasure]] = {}
    for case in cases:
        if case.image:
            sets.setdefault(case.image, []).append(case)
    return tuple(tuple(several) for several in sets.values() if len(several) > 1)


def find_duplicates(cases: Iterable[CaseMeasure]) -> tuple[Finding, ...]:
    """A warning for each image of several cases; it says whether their label maps agree."""
    several = same_images(cases)
    findings = [Finding.of("NS-D018", _describe(of_one_image)) for of_one_image in several[:MOST]]
    if rest := [case.name for of_one_image in several[MOST:] for case in of_one_image]:
        message = f"{len(several) - MOST} more images belong to several cases each ({listed(rest)}); keep one case of each image"
        findings.append(Finding.of("NS-D018", message))
    return tuple(findings)


def _describe(cases: tuple[CaseMeasure, ...]) -> str:
    names = listed([case.name for case in cases])
    if len({case.label_map for case in cases}) > 1:
        return f"{names} have the same image but different label maps: they stay in one fold; keep the label map that is right"
    return f"{names} are the same, image and label map: they stay in one fold, as scans of one patient; keep one of them"
