"""Labels of a dataset by those of a model: by name, whatever their values, order and regions."""

from dataclasses import dataclass

import numpy as np

from nnseg.core.labels import Labels, Region
from nnseg.crossval.pseudo_labels import PseudoLabelPredictor, labels_of, shared_names

DATASET = Labels(names=("background", "Edema", "tumour", "vessel", "core"), values=(0, 4, 5, 6, 7))
REGIONS = Labels(
    names=("background", "edema", "necrosis", "core"),
    values=(0, 1, 2, 3),
    regions=(Region(name="tumour", values=(1, 2, 3), paint=1), Region(name="core", values=(2, 3), paint=3)),
)


@dataclass
class Known:
    """A predictor of which only the labels are asked."""

    labels: Labels

    @property
    def model(self) -> "Known":
        return self


def test_labels_are_matched_by_name_with_what_a_label_map_can_show():
    plain = Labels(names=("background", "core", "edema"), values=(0, 1, 2))
    assert shared_names(DATASET, plain) == {"Edema": "edema", "core": "core"}
    assert shared_names(DATASET, REGIONS) == {"Edema": "edema", "tumour": "tumour", "core": "core"}
    assert shared_names(Labels(names=("background", "necrosis"), values=(0, 1)), REGIONS) == {}  # no region is painted with it


def test_a_voxel_of_a_region_and_a_label_in_it_gets_the_label():
    names = shared_names(DATASET, REGIONS)
    labels = labels_of(DATASET, tuple(names))
    predictor = PseudoLabelPredictor(predictor=Known(REGIONS), names=names, labels=labels, channels=("T1",), places=(0,))
    assert labels == Labels(names=("background", "Edema", "tumour", "core"), values=(0, 4, 5, 7))
    assert predictor.renumbered(np.array([[[0, 1, 3, 2]]])).tolist() == [[[0, 4, 7, 7]]]
