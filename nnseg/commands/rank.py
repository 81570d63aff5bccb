"""``nnseg rank``: which of the predicted scans to annotate next."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from nnseg.core.errors import RunError
from nnseg.core.frozen import FrozenModel
from nnseg.core.thumbnail import SIDE, unpack
from nnseg.core.trust import Confidence
from nnseg.evaluation.annotation_order import annotation_order
from nnseg.storage.predictions import read_predictions


class RankedScan(FrozenModel):
    """A scan to annotate.

    Args:
        case: its name among the predictions.
        expected_dice: mean over the labels.
        foreign: it is unlike the scans of the training; None if that was not measured.
        images: its files.
    """

    case: str
    expected_dice: float
    foreign: bool | None
    images: tuple[Path, ...]


class RankedScans(FrozenModel):
    """What ``nnseg rank`` finds.

    Args:
        scans: number of scans that were compared.
        ranking: those to annotate, the first to be annotated first.
    """

    scans: int
    ranking: tuple[RankedScan, ...]


def rank(folder: Path, *, count: int = 10) -> RankedScans:
    """The scans of a folder of predictions that are to be annotated next.

    Args:
        folder: with predictions and their certainty.
        count: number of scans.

    Raises:
        RunError: the folder has no predictions with an expected Dice.
    """
    records = read_predictions(folder)
    known = {name: record.confidence for name, record in records.items() if record.confidence is not None}
    if not known:
        raise RunError(f"{folder} has no predictions with an expected Dice; make them with nnseg predict --uncertainty")
    names, expected = list(known), np.array([one.quality for one in known.values()])
    described = np.stack([_describe(one) for one in known.values()])
    chosen = [names[i] for i in annotation_order(expected, described, count)]
    ranking = (
        RankedScan(case=name, expected_dice=known[name].quality, foreign=known[name].foreign, images=records[name].images)
        for name in chosen
    )
    return RankedScans(scans=len(known), ranking=tuple(ranking))


def _describe(confidence: Confidence) -> npt.NDArray[np.float64]:
    """The thumbnail of a scan's first channel as a vector; one of zeros where it was not measured."""
    packed = confidence.facts.thumbnails if confidence.facts else ()
    return unpack(packed[0]).ravel() if packed else np.zeros(SIDE**3)
