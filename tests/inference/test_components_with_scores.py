"""Labels found from a threshold of their probability on, and their components with scores."""

import numpy as np
import pytest
import torch

from nnseg.core.labels import Labels, Region
from nnseg.inference.lesions import add_components, apply_thresholds, find_distinct, object_scores, probability_levels

LABELS = Labels(names=("background", "organ", "lesion"), values=(0, 4, 9))
REGIONS = Labels(
    names=("background", "rim", "core", "other"),
    values=(0, 1, 2, 3),
    regions=(
        Region(name="whole", values=(1, 2), paint=1),
        Region(name="core", values=(2,), paint=2),
        Region(name="other", values=(3,), paint=3),
    ),
)


def decided(labels: Labels, rows: list[list[float]], thresholds: dict[str, float | None]) -> list[int]:
    """The label map of one row of voxels, from the probabilities of each label or region."""
    probabilities, names = torch.tensor(rows).reshape(len(rows), 1, 1, -1), tuple(thresholds)
    levels = probability_levels(probabilities, labels, names)
    before = probabilities.clone()
    found = labels.decide(apply_thresholds(probabilities, levels, labels, names, thresholds).numpy())
    assert torch.equal(probabilities, before)
    return found[0, 0].tolist()


ROWS = [[0.80, 0.10, 0.45, 0.05, 0.0], [0.05, 0.60, 0.25, 0.05, 0.0], [0.15, 0.30, 0.30, 0.90, 1.0]]


def test_a_label_is_where_its_probability_reaches_the_threshold():
    assert decided(LABELS, ROWS, {"lesion": None}) == [0, 4, 0, 9, 9]
    assert decided(LABELS, ROWS, {"lesion": 0.25}) == [0, 9, 9, 9, 9]
    assert decided(LABELS, ROWS, {"lesion": 0.1}) == [9] * 5
    assert decided(LABELS, ROWS, {"lesion": 0.95}) == [0, 4, 0, 0, 9]


def test_of_two_labels_that_reach_their_thresholds_the_most_probable_is_taken():
    assert decided(LABELS, ROWS, {"lesion": 0.1, "organ": 0.2}) == [9, 4, 9, 9, 9]


def test_regions_have_thresholds_too():
    rows = [[0.9, 0.3, 0.6], [0.4, 0.2, 0.1], [0.0, 0.0, 0.4]]
    assert decided(REGIONS, rows, {"core": None}) == [1, 0, 1]
    assert decided(REGIONS, rows, {"core": 0.3, "other": 0.3}) == [2, 0, 3]
    assert decided(REGIONS, rows, {"whole": 0.8}) == [1, 0, 0]


def test_levels_are_probabilities_in_255_steps():
    levels = probability_levels(torch.tensor(ROWS).reshape(3, 1, 1, 5), LABELS, ["lesion", "organ"])
    np.testing.assert_allclose(levels.flatten(1).numpy(), 255 * np.array([ROWS[2], ROWS[1]]), atol=0.51)
    assert (levels.dtype, levels.max()) == (torch.uint8, 255)


def test_regions_that_share_a_label_are_not_numbered_together():
    assert find_distinct(REGIONS, ["whole", "core", "other"]) == ("whole", "other")
    assert find_distinct(REGIONS, ["core", "whole"]) == ("core",)
    assert find_distinct(LABELS, ["lesion", "organ"]) == ("lesion", "organ")


def test_components_are_numbered_after_the_objects_that_are_there():
    numbers, values = np.array([[[1, 0, 0, 0, 0, 0, 0]]], np.uint32), np.array([[[4, 0, 9, 9, 0, 4, 9]]])
    assert add_components(numbers, values, LABELS, ["lesion"]) == {"lesion": 2}
    assert numbers[0, 0].tolist() == [1, 0, 2, 2, 0, 0, 3]


@pytest.mark.parametrize("names", [("organ", "lesion"), ("lesion", "organ")])
def test_the_score_of_an_object_is_the_mean_probability_of_its_own_label(names):
    levels = np.array([[[[51, 0, 0, 0]]], [[[255, 0, 102, 204]]]], np.uint8)[:: 1 if names[0] == "organ" else -1]
    scores = object_scores(np.array([[[1, 0, 2, 2]]]), levels, names, {"organ": 1, "lesion": 1})
    assert scores == pytest.approx([0.2, 0.6])
    assert object_scores(np.zeros((1, 1, 4), int), levels, names, {"organ": 0, "lesion": 0}).shape == (0,)
