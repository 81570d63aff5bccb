"""Predicted labels fill in the background of a reference, and nothing else."""

import numpy as np

from nnseg.core.geometry import Grid
from nnseg.core.image import LabelMap
from nnseg.core.labels import Labels
from nnseg.preprocessing.fill_in import fill_in

LABELS = Labels(names=("background", "liver", "spleen", "kidney"), values=(0, 1, 2, 300), ignore=9)


def label_map(*values: int) -> LabelMap:
    return LabelMap(labels=np.array([[values]], np.int32), grid=Grid(shape=(1, 1, len(values)), spacing=(1.0, 1.0, 1.0)))


def test_annotated_labels_ignored_voxels_and_labels_that_are_not_taken_stay():
    reference, prediction = label_map(0, 1, 9, 0, 0, 0, 2), label_map(300, 300, 300, 2, 0, 1, 300)
    filled = fill_in(reference, prediction, LABELS, ["liver", "kidney"])
    assert filled.labels.tolist() == [[[300, 1, 9, 0, 0, 1, 2]]]
    assert filled.labels.dtype == LABELS.dtype
    assert reference.labels.tolist() == [[[0, 1, 9, 0, 0, 0, 2]]]
