"""Whether the files of a submission obey the rules of the challenge: what is read from them is compared with rules and scans."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from nnseg.core.dataset import Finding, list_some
from nnseg.core.errors import ScanError
from nnseg.core.geometry import Grid, format_axes
from nnseg.interop.challenges.cases import SubmittedCase
from nnseg.interop.challenges.naming import BROKEN
from nnseg.interop.challenges.rules import Challenge, Pixels
from nnseg.storage.images.formats import read_raw, read_raw_file
from nnseg.storage.images.packing import is_compressed
from nnseg.storage.images.raw import RawImage, ReadOptions
from nnseg.storage.images.resampling import upright

TOLERANCE = 0.01
"""Largest distance in voxels between a file's grid and that of the scan."""

MOST_VALUES = 10
"""Wrong values that a finding names."""


def check_files(
    folder: Path, cases: Sequence[SubmittedCase], paths: Mapping[str, str], challenge: Challenge
) -> tuple[Finding, ...]:
    """What the files in a folder break of the rules; one finding for each rule and file.

    Args:
        folder: what the archive is to hold, and nothing else.
        cases: that were predicted.
        paths: in the archive, by the cases' names.
        challenge: the rules.
    """
    expected = {*paths.values()} | ({challenge.listing.file} if challenge.listing else set())
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    findings = [Finding.of(BROKEN, "is missing; expected a file for each case", file=file) for file in sorted(expected - there)]
    findings += [
        Finding.of(BROKEN, "is no file of the submission; expected none besides; move it", file=file)
        for file in sorted(there - expected)
    ]
    of_file = dict[str, list[SubmittedCase]]()
    for case in cases:
        of_file.setdefault(paths[case.name], []).append(case)
    for file, those in sorted(of_file.items()):
        if file in there:
            findings += [Finding.of(BROKEN, found, file=file) for found in _check(folder / file, those, challenge)]
    return tuple(findings)


def _check(path: Path, cases: Sequence[SubmittedCase], challenge: Challenge) -> Iterator[str]:
    """What is wrong with a file, in one text each."""
    pixels = challenge.pixels
    try:
        raw = read_raw_file(path, ReadOptions(as_labels=True))
    except ScanError as error:
        yield f"cannot be read: {error}"
        return
    if raw.voxels.dtype != pixels.type:
        yield f"holds {raw.voxels.dtype}; expected {pixels.type}"
    if len(raw.voxels) > 1:
        yield f"has {len(raw.voxels)} channels; expected one"
    yield from _check_values(raw, pixels)
    if pixels.shape and (shape := _shape(raw, len(pixels.shape))) != pixels.shape:
        yield f"has {format_axes(shape)} voxels; expected {format_axes(pixels.shape)}"
    if pixels.compressed is not None and is_compressed(path) != pixels.compressed:
        states = ("not compressed", "compressed")
        yield f"is {states[not pixels.compressed]}; expected a file that is {states[pixels.compressed]}"
    yield from _check_pages(raw, cases) if challenge.names.pages else _check_grid(raw, cases[0], pixels)


def _check_values(raw: RawImage, pixels: Pixels) -> Iterator[str]:
    """Values that the challenge does not know."""
    if pixels.content == "probabilities":
        low, high = float(raw.voxels.min()), float(raw.voxels.max())
        if not (low >= 0 and high <= 1):  # also false for NaN
            yield f"holds values from {low:g} to {high:g}; expected probabilities from 0 to 1"
        return
    wrong = [str(value) for value in np.unique(raw.voxels[~np.isin(raw.voxels, pixels.values)])]
    if wrong:
        known = list_some([*map(str, pixels.values)], 20)
        yield f"holds the values {list_some(wrong, MOST_VALUES)}; expected {known}; see pixels.rewrite"


def _shape(raw: RawImage, axes: int) -> tuple[int, ...]:
    """Voxels along x, y, z; along x and y alone where there is one slice and two axes are asked for."""
    shape = raw.voxels.shape[:0:-1]
    return shape[:2] if axes == 2 and shape[2] == 1 else shape


def _check_pages(raw: RawImage, cases: Sequence[SubmittedCase]) -> Iterator[str]:
    """Whether the pages are those of all scans."""
    shapes = [_scan(case).voxels.shape[1:] for case in cases]
    expected = (sum(shape[0] for shape in shapes), *shapes[0][1:])
    if raw.voxels.shape[1:] != expected:
        yield f"has pages of {format_axes(raw.voxels.shape[1:])}; expected {format_axes(expected)}, as the scans have"


def _check_grid(raw: RawImage, case: SubmittedCase, pixels: Pixels) -> Iterator[str]:
    """Whether a file lies where its scan does, with axes as they are asked for."""
    scan = _scan(case)
    if pixels.orientation and (found := letters_of(raw.grid)) != pixels.orientation:
        yield f"has axes that lead to {found}; expected {pixels.orientation}"
    turned = bool(pixels.orientation)
    here, there = (_canonical(grid) if turned else grid for grid in (raw.grid, scan.grid))
    if here.shape != there.shape:
        yield f"has {format_axes(here.shape)} voxels (z, y, x); expected {format_axes(there.shape)}, as the scan has"
    elif raw.has_geometry and scan.has_geometry and not here.matches(there, TOLERANCE):
        yield f"lies up to {here.largest_gap(there):.3g} mm away from the scan; expected the scan's own grid"


def letters_of(grid: Grid) -> str:
    """The letters of the sides to which the axes x, y, z of a grid lead.

    Example:
        ``letters_of(Grid(shape=(1, 1, 1), spacing=(1.0, 1.0, 1.0))) == "LPS"``
    """
    found = ""
    for row in np.asarray(grid.direction)[::-1]:
        axis = int(np.argmax(np.abs(row)))
        found += ("LPS" if row[axis] > 0 else "RAI")[axis]
    return found


def _canonical(grid: Grid) -> Grid:
    return upright(grid.reoriented(grid.canonical()))


def _scan(case: SubmittedCase) -> RawImage:
    """The first channel of a case's scan, without its voxels."""
    return read_raw(case.images[0], ReadOptions(only_header=True, spacing=case.spacing))
