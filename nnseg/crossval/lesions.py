"""Detection of the objects of labels in held-out cases, by the threshold of the label's probability."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nnseg.core.detection import Detection
from nnseg.core.errors import EvaluationError
from nnseg.core.labels import Labels
from nnseg.evaluation.detection import FULL, ScanDetections, detect, find_boxes, summarize_detection
from nnseg.evaluation.pairs import FilePair, NumberedPair, read_numbered_pair
from nnseg.storage.images.read import read_label_map
from nnseg.storage.object_files import file_beside
from nnseg.storage.predictions import ScanRecord, level_end
from nnseg.system.parallel import map_items

log = logging.getLogger(__name__)

THRESHOLDS = (0.99, 0.98, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1, 0.05, 0.02)
"""Of the probability, that are tried."""


@dataclass(frozen=True, kw_only=True)
class HeldOutLevels:
    """Files of a held-out case.

    Args:
        levels: of each label's probability on the grid of the prediction, by the label's name.
    """

    pair: FilePair
    levels: Mapping[str, Path]


def measure_detection(
    pairs: Sequence[FilePair], records: Mapping[str, ScanRecord], labels: Labels, names: Sequence[str], *, workers: int = 0
) -> dict[str, Detection]:
    """Detection of the objects of labels in held-out cases, by name; only of cases whose probabilities were kept.

    Args:
        pairs: of held-out cases.
        records: of their predictions, by name.
        labels: of the label maps.
        names: of the labels whose connected components are objects.
        workers: processes; the result does not depend on it.

    Raises:
        EvaluationError: a disk does not give a file.
    """
    cases = []
    for pair in pairs:
        assert isinstance(pair.prediction, Path)
        files = {name: file_beside(pair.prediction, level_end(number)) for number, name in enumerate(names)}
        kept = {n: f for n, f in files.items() if f.name in records[pair.name].more and _is_annotated(n, pair, labels)}
        cases += [HeldOutLevels(pair=pair, levels=kept)] if kept else []
    scans: dict[str, list[list[ScanDetections]]] = {name: [] for name in names}
    for outcome in map_items(partial(_detect, labels=labels), cases, workers=workers, label="detecting objects"):
        if outcome.is_fault:
            raise EvaluationError(f"case {outcome.item.pair.name}: {outcome.reason}")
        if outcome.result is None:
            log.warning("case %s: its objects are not detected one by one: %s", outcome.item.pair.name, outcome.reason)
            continue
        for name, found in outcome.result.items():
            scans[name].append(found)
    return {name: summarize_detection(of, (None, *THRESHOLDS)) for name, of in scans.items() if of}


def _is_annotated(name: str, pair: FilePair, labels: Labels) -> bool:
    return pair.annotated is None or set(labels.parts()[name]) <= set(pair.annotated)


def _detect(case: HeldOutLevels, *, labels: Labels) -> dict[str, list[ScanDetections]]:
    """Of each label what is detected in the label map, and by each of the `THRESHOLDS`."""
    pair = read_numbered_pair(case.pair, labels)
    return {
        name: list(_detect_label(pair, name, read_label_map(file, sheared=True).labels, labels))
        for name, file in case.levels.items()
    }


def _detect_label(pair: NumberedPair, name: str, level: npt.NDArray[np.uint8], labels: Labels) -> Iterator[ScanDetections]:
    known = True if labels.ignore is None else pair.reference.labels != labels.ignore
    _, reference = find_boxes(labels.mask(name, pair.reference.labels))
    yield detect(labels.mask(name, pair.prediction.labels) & known, level, reference)
    for threshold in THRESHOLDS:
        yield detect((level >= threshold * FULL) & known, level, reference)
