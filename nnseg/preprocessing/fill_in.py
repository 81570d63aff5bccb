"""`fill_in` adds predicted labels to a reference in which they were not annotated."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from nnseg.core.image import LabelMap
from nnseg.core.labels import Labels


def fill_in(reference: LabelMap, prediction: LabelMap, labels: Labels, names: Collection[str]) -> LabelMap:
    """The reference with predicted labels where it shows the background; annotated labels and ignored voxels stay as they are.

    Args:
        reference: of a case.
        prediction: on the same grid, with the same values.
        labels: of both.
        names: of the labels to take from the prediction, which were not annotated in the case.
    """
    taken = np.isin(prediction.labels, [labels.by_name[name] for name in names])
    free = reference.labels == labels.values[0]
    return replace(reference, labels=np.where(taken & free, prediction.labels, reference.labels).astype(labels.dtype))
