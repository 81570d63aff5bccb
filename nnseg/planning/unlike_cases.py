"""Cases whose intensities or size are not those of the others, or of the modality that their channel is named after."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import median

import numpy as np

from nnseg.core.dataset import Finding, counted
from nnseg.core.fingerprint import CaseMeasure
from nnseg.core.geometry import format_axes
from nnseg.core.image import Floats
from nnseg.planning.cost_model import preprocessing_gb
from nnseg.planning.intensity import ForegroundSample
from nnseg.planning.modality import MODALITY_NAMES, has_word, normalization_of

SAMPLE = 20_000
"""Voxels of which percentiles are taken."""

OUTLYING, LEAST = 6.0, 200.0
"""A CT is unlike the others if air or foreground lie further from their median than so many MAD, and so many Hounsfield units."""

FEWEST = 5
"""Cases without which a spread means nothing."""

BELOW_AIR = -200.0
"""Hounsfield units between those of air and of tissue: CT has voxels below, other modalities do not."""

LARGER, LARGE_VOXELS = 8, 1 << 28
"""A scan is large if it has so many times the voxels of the median scan, and at least so many, or 4 times that many alone."""

SECONDS_PER_MEGAVOXEL = 0.2
"""Time of reading and preprocessing a channel on one core: its order of magnitude."""


def typical_values(image_CZYX: Floats, foreground: ForegroundSample | None) -> tuple[tuple[float, float, float], ...]:
    """Of each channel its 1st and 99th percentile, of every n-th voxel, and the foreground's median, or that of all."""
    found = []
    for number, channel in enumerate(image_CZYX):
        voxels = channel.ravel()[:: max(1, channel.size // SAMPLE)].astype(np.float64)
        low, middle, high = np.percentile(voxels, [1, 50, 99])
        inside = foreground.sample[number, foreground.sample.shape[1] // 2] if foreground else middle
        found.append((float(low), float(high), float(inside)))
    return tuple(found)


def find_unlike_cases(channels: Sequence[str], cases: Sequence[CaseMeasure]) -> Iterator[Finding]:
    """Warnings of cases that are far larger, of channels that are not what they are called, and of CT in other units."""
    yield from _large(channels, cases)
    measured = [case for case in cases if len(case.typical) == len(channels)]
    for number, name in enumerate(channels):
        values = [case.typical[number] for case in measured]
        if has_word(name, MODALITY_NAMES["ct"]):
            yield from _no_ct(name, values)
            yield from _other_units(name, measured, values)
        elif has_word(name, MODALITY_NAMES["mr"]):
            yield from _no_mr(name, values)


def _no_ct(name: str, values: Sequence[tuple[float, float, float]]) -> Iterator[Finding]:
    positive = [one for one in values if one[0] >= 0]
    if 2 * len(positive) > len(values):
        found = (
            f"channel {name} has no values below 0 in {len(positive)} of {counted(len(values), 'case')} (up to {_high(positive)})"
        )
        treated = f"they would be normalized by {normalization_of(name)}"
        yield Finding.of("NS-D023", f"{found}: {treated}; expected Hounsfield units, -1000 for air; {_RENAME}")


def _no_mr(name: str, values: Sequence[tuple[float, float, float]]) -> Iterator[Finding]:
    below = [one for one in values if one[0] < BELOW_AIR]
    if 2 * len(below) > len(values):
        low = f"{median(one[0] for one in below):.3g}"
        found = f"channel {name} has values like Hounsfield units in {len(below)} of {counted(len(values), 'case')} (from {low})"
        treated = f"they would be normalized by {normalization_of(name)}"
        yield Finding.of("NS-D023", f"{found}: {treated}; expected MR, of values from 0; {_RENAME}")


_RENAME = "correct the channel's name in a dataset.json if it is of another modality"


def _high(values: Sequence[tuple[float, float, float]]) -> str:
    return f"{median(one[1] for one in values):.3g}"


def _other_units(name: str, cases: Sequence[CaseMeasure], values: Sequence[tuple[float, float, float]]) -> Iterator[Finding]:
    """A warning for each case of CT whose air is brighter, or whose foreground is brighter or darker, than that of the others."""
    if len(values) < FEWEST:
        return
    air, _, tissue = np.array(values).T
    for what, found, distance in (("air", air, air - np.median(air)), ("foreground", tissue, np.abs(tissue - np.median(tissue)))):
        spread = float(np.median(np.abs(found - np.median(found))))
        for i in np.flatnonzero(distance > max(OUTLYING * spread, LEAST)).tolist():
            text = f"channel {name}: the {what} lies at {found[i]:.0f}, that of the other cases at {np.median(found):.0f}"
            expected = f"the others' scale, {spread:.0f} apart in the median"
            advice = "export it as signed numbers, with RescaleSlope and RescaleIntercept"
            yield Finding.of("NS-D024", f"{text}; expected {expected}; {advice}", case=cases[i].name)


def _large(channels: Sequence[str], cases: Sequence[CaseMeasure]) -> Iterator[Finding]:
    """A warning for each scan of extreme size, with what it will take."""
    usual = median(math.prod(case.shape) for case in cases)
    for case in cases:
        voxels = math.prod(case.shape)
        if voxels >= LARGE_VOXELS and voxels >= min(LARGER * usual, 4 * LARGE_VOXELS):
            seconds = voxels * len(channels) / 1e6 * SECONDS_PER_MEGAVOXEL
            cost = f"about {preprocessing_gb(voxels, len(channels)):.3g} GB and {seconds:.0f} s to preprocess"
            found = f"scan of {format_axes(case.shape)} voxels, {voxels / usual:.3g} times the median: {cost}"
            yield Finding.of("NS-S028", f"{found}; expected scans of similar size; crop it, or leave it out", case=case.name)
