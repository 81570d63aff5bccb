"""V-Rand and V-Info: worked by hand, and as scikit-image computes them."""

import numpy as np
import pytest
from skimage.metrics import adapted_rand_error, variation_of_information

from nnseg.evaluation.case_score import match_lesions
from nnseg.evaluation.partitions import partition_scores


def row(text: str) -> np.ndarray:
    return np.array([[[int(letter) for letter in text]]], np.int32)


def test_partitions_worked_by_hand():
    assert partition_scores(row("2220111"), row("1110222")) == (1.0, 1.0)
    joined = partition_scores(row("1111"), row("1122"))
    assert joined == (pytest.approx(2 * (2 / 4) / (1 + 2 / 4)), 0.0)  # one object tells nothing of two
    halves = partition_scores(row("1122"), row("1111"))
    assert halves == joined
    missed = partition_scores(row("1100"), row("1112"))  # the background is an object more; shares 2/4, 1/4 and 1/4 together
    assert missed[0] == pytest.approx(2 * (4 + 1 + 1) / ((4 + 4) + (9 + 1)))
    assert partition_scores(row("1100"), row("0000")) == (None, None)
    assert partition_scores(row("1111"), row("1111")) == (1.0, 1.0)


@pytest.mark.parametrize("seed", range(30))
def test_partitions_are_scored_as_scikit_image_does(seed):
    random = np.random.default_rng(seed)
    given = random.integers(0, int(random.integers(2, 9)), (3, 12, 12)).astype(np.int32)
    predicted = np.where(random.random(given.shape) < 0.7, given + given // 4, random.integers(0, 9, given.shape)).astype(np.int32)
    rand, information = partition_scores(predicted, given)
    inside = given > 0
    same = [of[inside][:, None] == of[inside] for of in (predicted, given)]
    pairs, both, alone = sum(of.sum() for of in same), (same[0] & same[1]).sum(), inside.sum()
    assert rand == pytest.approx(2 * both / pairs)
    error, _, _ = adapted_rand_error(given, predicted, ignore_labels=(0,))  # which leaves out the pairs of a voxel with itself
    assert 1 - error == pytest.approx(2 * (both - alone) / (pairs - 2 * alone))
    wrongly_joined, wrongly_divided = variation_of_information(given[inside], predicted[inside])
    entropies = [
        -np.sum(p * np.log2(p)) for p in (np.unique(of[inside], return_counts=True)[1] / inside.sum() for of in (given, predicted))
    ]
    expected = (sum(entropies) - wrongly_joined - wrongly_divided) / sum(entropies)  # 2 I = H(P) + H(R) - VI
    assert information == pytest.approx(expected, abs=1e-9)


def test_only_references_that_number_their_objects_have_these_scores():
    mask, numbers = row("1101") > 0, row("1202")
    assert match_lesions(mask, mask).v_rand is None
    found = match_lesions(mask, mask, (numbers, row("1102")))
    assert (found.v_rand, found.v_info) == partition_scores(numbers, row("1102"))
