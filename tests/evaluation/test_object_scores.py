"""Average precision of objects against the definition of StarDist's matching, written anew."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from nnseg.core.scores import OBJECT_IOUS
from nnseg.evaluation.case_score import match_lesions


def random_objects(rng: np.random.Generator) -> np.ndarray:
    """Rectangles, later ones over earlier ones, so that many touch; numbers with gaps."""
    found = np.zeros((1, 24, 24), np.int64)
    for number in rng.permutation(60)[: rng.integers(0, 25)] + 1:
        y, x, height, width = *rng.integers(0, 22, 2), *rng.integers(1, 9, 2)
        found[0, y : y + height, x : x + width] = number
    return found


def jittered(objects: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same moved by up to one voxel, some of them gone and some merged."""
    numbers = np.arange(objects.max() + 1)
    numbers[rng.random(len(numbers)) < 0.1] = 0
    numbers[rng.random(len(numbers)) < 0.1] = 1
    return numbers[np.roll(objects, rng.integers(-1, 2, 2), (1, 2))]


def stardist_counts(reference: np.ndarray, predicted: np.ndarray, iou: float) -> tuple[int, int, int]:
    """True positives, false positives and false negatives as in ``stardist.matching`` (Schmidt et al. 2018)."""
    given, made = (sorted(set(np.unique(side).tolist()) - {0}) for side in (reference, predicted))
    scores = np.zeros((len(given), len(made)))
    for i, a in enumerate(given):
        for j, b in enumerate(made):
            both = np.count_nonzero((reference == a) & (predicted == b))
            scores[i, j] = both / (np.count_nonzero(reference == a) + np.count_nonzero(predicted == b) - both)
    if not scores.size or not (scores >= iou).any():
        return 0, len(made), len(given)
    costs = -(scores >= iou).astype(float) - scores / (2 * min(scores.shape))
    rows, columns = linear_sum_assignment(costs)
    matched = int(np.count_nonzero(scores[rows, columns] >= iou))
    return matched, len(made) - matched, len(given) - matched


@pytest.mark.parametrize("start", range(0, 200, 50))
def test_average_precision_is_that_of_stardist(start):
    for seed in range(start, start + 50):
        rng = np.random.default_rng(seed)
        reference = random_objects(rng)
        predicted = jittered(reference, rng) if seed % 4 else random_objects(rng)
        found = match_lesions(predicted > 0, reference > 0, (predicted, reference))
        counts = [stardist_counts(reference, predicted, iou) for iou in OBJECT_IOUS]
        assert found.matched_iou == tuple(tp for tp, _, _ in counts), seed
        if found.predicted + found.reference:
            precisions = [tp / (tp + fp + fn) for tp, fp, fn in counts]
            assert (found.ap_50, found.mean_ap) == pytest.approx((precisions[0], np.mean(precisions))), seed
            assert found.object_f1 == pytest.approx(2 * counts[0][0] / (found.predicted + found.reference)), seed
            assert found.count_error == len(np.unique(predicted[predicted > 0])) - len(np.unique(reference[reference > 0]))


def test_an_object_that_two_halves_cover_is_matched_once():
    whole, halves = np.array([[[1, 1, 1, 1]]]), np.array([[[1, 1, 2, 2]]])
    found = match_lesions(halves > 0, whole > 0, (halves, whole))
    assert (found.matched_iou, found.ap_50, found.count_error) == ((1, 0, 0, 0, 0), 0.5, 1)


def test_voxels_of_a_label_that_belong_to_no_object_are_none():
    numbers = np.array([[[1, 1, 0, 0, 2]]])
    found = match_lesions(np.ones(numbers.shape, bool), numbers > 0, (numbers, numbers))
    assert (found.predicted, found.ap_50, found.mean_ap) == (2, 1.0, 1.0)
