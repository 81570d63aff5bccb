"""The files of a submission, made from predictions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnseg.core.geometry import Reorientation, as_shape
from nnseg.core.image import Floats, LabelMap, Source
from nnseg.core.labels import Labels
from nnseg.interop.challenges.cases import SubmittedCase
from nnseg.interop.challenges.naming import natural, written_values
from nnseg.interop.challenges.rules import AXES, Challenge, Pixels
from nnseg.storage.files import write_text
from nnseg.storage.images.formats import TIFF
from nnseg.storage.images.packing import unpack, write_pages
from nnseg.storage.images.read import read_label_map
from nnseg.storage.images.sidecar import sidecar_path
from nnseg.storage.images.write import map_to_stored_order, to_stored_order, write_label_map, write_map


def write_files(
    cases: Sequence[SubmittedCase], paths: Mapping[str, str], challenge: Challenge, labels: Labels, folder: Path
) -> None:
    """Write the files of a submission into a folder, as the archive is to hold them.

    Args:
        cases: that were predicted.
        paths: in the archive, by the cases' names.
        challenge: the rules.
        labels: of the model.
        folder: new, or empty.

    Raises:
        PlanError: the rules name labels that the model does not have.
        ScanError: a format cannot hold what the rules ask for.
        WriteError: the folder cannot be written.
    """
    ordered, pixels = sorted(cases, key=lambda case: natural(case.name)), challenge.pixels
    by_pages = challenge.names.pages or (challenge.suffix in TIFF and pixels.compressed is False)
    pages = dict[str, list[npt.NDArray[Any]]]()
    for case in ordered:
        content, source = _content(case, pixels, labels)
        if by_pages:
            pages.setdefault(paths[case.name], []).append(_stored(content, source).astype(pixels.type))
        else:
            _write(content, folder / paths[case.name], source, pixels)
    for file, parts in pages.items():
        write_pages(np.concatenate(parts), folder / file, compressed=pixels.compressed is not False)
    if challenge.listing:
        entries = [_filled(challenge.listing.entry, _words(case, paths)) for case in ordered]
        write_text(folder / challenge.listing.file, json.dumps(entries, indent=1) + "\n")


def _content(case: SubmittedCase, pixels: Pixels, labels: Labels) -> tuple[LabelMap | Floats, Source]:
    """What a case's file holds, in canonical orientation, and the source whose grid it gets."""
    label_map = read_label_map(case.label_map)
    assert label_map.source is not None
    source = oriented(label_map.source, pixels.orientation)
    if pixels.content == "labels":
        return replace(label_map, labels=_rewritten(label_map.labels, written_values(labels, pixels))), source
    assert case.probabilities is not None
    return _probability(case.probabilities, labels, pixels.probability_of), source


def oriented(source: Source, orientation: str) -> Source:
    """A source with its axes turned.

    Args:
        orientation: letters of the sides to which the axes x, y, z lead; "" to leave them.
    """
    if not orientation:
        return source
    letters = orientation[::-1]  # of the axes z, y, x
    first, second, third = (letter in "IAR" for letter in letters)
    turn = Reorientation(axes=as_shape(AXES[letter] for letter in letters), flips=(first, second, third))
    grid = source.grid.reoriented(source.grid.canonical()).reoriented(turn)
    return replace(source, grid=grid, files=(Path("turned"),))


def _rewritten(values: npt.NDArray[Any], written: Mapping[int, int]) -> npt.NDArray[Any]:
    changed = {old: new for old, new in written.items() if old != new}
    found = values.astype(np.int64) if changed else values
    for old, new in changed.items():
        found[values == old] = new
    return found


def _probability(path: Path, labels: Labels, wanted: str) -> Floats:
    """The probability (Z, Y, X) of a label, from the file of all probabilities."""
    with np.load(path) as stored:
        probabilities: Floats = stored["probabilities"].astype(np.float32)
        heads = [str(name) for name in stored["heads"]]
    background = 1 - probabilities.max(axis=0) if labels.regions else probabilities[0]
    found = background if wanted == "background" else 1 - background
    if wanted in heads:
        found = probabilities[heads.index(wanted)]
    return np.asarray(np.clip(found, 0, 1), np.float32)


def _stored(content: LabelMap | Floats, source: Source) -> npt.NDArray[Any]:
    return to_stored_order(content, source) if isinstance(content, LabelMap) else map_to_stored_order(content, source)


def _write(content: LabelMap | Floats, path: Path, source: Source, pixels: Pixels) -> None:
    if isinstance(content, LabelMap):
        write_label_map(content, path, like=source, dtype=pixels.type)
    else:
        write_map(content, path, like=source)
    sidecar_path(path).unlink(missing_ok=True)  # no challenge knows our file of spacings
    if pixels.compressed is False:
        unpack(path)


def _words(case: SubmittedCase, paths: Mapping[str, str]) -> dict[str, str]:
    return {"case": case.name, "file": paths[case.name], "scan": case.images[0].name}


def _filled(entry: Any, words: Mapping[str, str]) -> Any:
    """A table with the words put into all of its texts."""
    if isinstance(entry, dict):
        return {key: _filled(value, words) for key, value in entry.items()}
    if isinstance(entry, list):
        return [_filled(value, words) for value in entry]
    if not isinstance(entry, str):
        return entry
    for name, word in words.items():
        entry = entry.replace(f"{{{name}}}", word)
    return entry
