"""Objects from interiors and borders that a network has predicted."""

import numpy as np
import pytest
import torch

from nnseg.core.decisions import ObjectRule
from nnseg.core.labels import Labels
from nnseg.inference.instances import count_objects, mean_intensities, merge_borders, number_objects
from nnseg.preprocessing.borders import add_borders

LABELS = Labels(names=("background", "cell", "fibre"), values=(0, 4, 9))
RULE = {"cell": ObjectRule()}


def row(text: str) -> np.ndarray:
    """Levels of the interior, a digit for each tenth of it, of one row of voxels."""
    return np.array([[[25 * int(letter) for letter in text]]], np.uint8)


def numbered(labels: str, interior: str, **rule) -> list[int]:
    values = np.array([[[int(letter) for letter in labels]]])
    return number_objects(values, row(interior), LABELS, {"cell": ObjectRule(**rule)})[0, 0].tolist()


def test_a_border_counts_for_its_label_and_the_interior_has_its_share_of_both():
    learned = Labels(names=("background", "cell"), values=(0, 1)).with_borders(["cell"])
    probabilities = torch.tensor([[0.3, 0.6, 0.0], [0.5, 0.3, 0.0], [0.2, 0.1, 1.0]]).reshape(3, 1, 1, 3)
    merged, level = merge_borders(probabilities, learned)
    torch.testing.assert_close(merged.flatten(1), torch.tensor([[0.3, 0.6, 0.0], [0.7, 0.4, 1.0]]))
    assert level.flatten().tolist() == [round(255 * 5 / 7), 0, 0]  # the second voxel is background


def test_several_labels_have_borders_beside_one_without():
    learned = LABELS.with_borders(["fibre", "cell"])
    one = torch.eye(5).reshape(5, 1, 1, 5)
    merged, level = merge_borders(one, learned)
    assert merged.argmax(0).flatten().tolist() == [0, 1, 2, 2, 1]
    assert level.flatten().tolist() == [0, 255, 255, 0, 0]


def test_objects_that_touch_meet_where_the_interior_is_least():
    assert numbered("0444444404", "0689213990") == [0, 1, 1, 1, 1, 2, 2, 2, 0, 3]


def test_a_component_without_an_interior_is_one_object_and_other_labels_are_none():
    assert numbered("4440444999", "1110999999") == [2, 2, 2, 0, 1, 1, 1, 0, 0, 0]


def test_a_higher_seed_tells_more_apart():
    assert max(numbered("44444", "97679")) == 1
    assert max(numbered("44444", "97679", seed=0.8)) == 2


def test_small_objects_give_way_to_their_neighbours_or_go():
    assert numbered("4444440404", "9999190909", smallest_mm3=3) == [1, 1, 1, 1, 1, 1, 0, 0, 0, 0]
    assert (
        number_objects(np.full((1, 1, 4), 4), row("9999"), LABELS, {"cell": ObjectRule(smallest_mm3=2)}, voxel_mm3=0.4).max() == 0
    )


def test_objects_below_a_volume_that_no_image_has_are_none():
    rule = {"cell": ObjectRule(smallest_mm3=1e308)}
    assert number_objects(np.full((1, 1, 4), 4), row("9999"), LABELS, rule, voxel_mm3=1e-9).max() == 0


def test_objects_of_all_labels_are_numbered_together():
    values = np.array([[[4, 4, 0, 9, 0, 9]]])
    found = number_objects(values, np.full(values.shape, 255, np.uint8), LABELS, {"fibre": ObjectRule(), **RULE})
    assert found[0, 0].tolist() == [3, 3, 0, 1, 0, 2]
    learned = LABELS.with_borders(["cell", "fibre"])
    assert count_objects(found, values, learned) == {"cell": 1, "fibre": 2}


def test_any_number_of_objects_can_be_told_apart():
    values = np.zeros((1, 600, 600), int)
    values[0, ::2, ::2] = 4
    found = number_objects(values, np.zeros(values.shape, np.uint8), LABELS, RULE)
    assert (found.dtype, found.max()) == (np.uint32, 300**2)
    assert number_objects(values[:, :20], np.zeros((1, 20, 600), np.uint8), LABELS, RULE).dtype == np.uint16
    assert number_objects(values * 0, np.zeros(values.shape, np.uint8), LABELS, RULE).max() == 0


def test_mean_intensities_are_those_of_each_object_in_each_channel():
    objects, image = np.array([[[1, 1, 0, 2]]]), np.array([[[[1, 3, 9, 5]]], [[[0, 1, 9, 2]]]], np.float32)
    assert mean_intensities(objects, image).tolist() == [[2.0, 0.5], [5.0, 2.0]]
    assert mean_intensities(objects * 0, image).shape == (0, 2)


@pytest.mark.parametrize("shape", [(1, 70, 70), (14, 30, 30)])
def test_objects_come_back_from_their_own_borders(shape):
    points = np.random.default_rng(3).uniform(0, shape, (9, 3))
    nearest = np.linalg.norm(np.moveaxis(np.indices(shape), 0, -1)[..., None, :] - points, axis=-1)
    objects = np.where(nearest.min(-1) < 14, nearest.argmin(-1) + 1, 0)
    learned = LABELS.with_borders(["cell"])
    indices = add_borders((objects > 0).astype(np.int16), objects, learned, width=2.0, spacing=(1.0, 1.0, 1.0))
    interior = np.where(indices == 1, 255, 0).astype(np.uint8)
    found = number_objects(np.where(objects > 0, 4, 0), interior, LABELS, RULE)
    assert found.max() == len(np.unique(objects)) - 1
    pairs, counts = np.unique(np.stack([objects, found]).reshape(2, -1), axis=1, return_counts=True)
    shared = sum(max(counts[(pairs[0] == number)]) for number in range(1, objects.max() + 1))
    assert shared > 0.95 * np.count_nonzero(objects)
