import json
from pathlib import Path

import numpy as np
import pytest
from lesion_pairs import PAIRS, lesion_pair

from nnseg.core.scores import Lesions
from nnseg.evaluation.case_score import match_lesions

PANOPTICA = json.loads((Path(__file__).parent / "data" / "panoptica.json").read_text())["answers"]


def row(text: str) -> np.ndarray:
    return np.array([[[c == "x" for c in text]]])


@pytest.mark.parametrize("seed", range(PAIRS))
def test_lesions_are_matched_as_panoptica_does(seed):
    found, expected = match_lesions(*lesion_pair(seed)), PANOPTICA[seed]
    assert {name: getattr(found, name) for name in expected} == pytest.approx(expected, abs=1e-9)


def test_lesions_worked_by_hand():
    reference, prediction = row("xxxx..xxx...x"), row("xxx...x...x..")
    assert match_lesions(prediction, reference) == Lesions(
        reference=3,
        predicted=3,
        matched=2,  # with IoU 3/4 and 1/3
        matched_half=1,
        sum_iou_matched=0.75,
        f1=4 / 6,
        sensitivity=2 / 3,
        precision=2 / 3,
        false_positives=1,
        panoptic_quality=0.75 / (1 + 2 / 2 + 2 / 2),
        matched_iou=(1, 1, 1, 0, 0),
        ap_50=1 / 5,
        mean_ap=(1 / 5 + 1 / 5 + 1 / 5) / 5,
        object_f1=2 / 6,
        count_error=0,
    )


def test_a_pair_counts_from_an_iou_of_a_tenth_on():
    assert match_lesions(row("x........."), row("xxxxxxxxxx")).matched == 1
    assert match_lesions(row("x.........."), row("xxxxxxxxxxx")).matched == 0


def test_half_is_not_above_half():
    found = match_lesions(row("x."), row("xx"))
    assert (found.matched, found.matched_half, found.panoptic_quality) == (1, 0, 0.0)


def test_one_prediction_over_two_lesions_finds_one():
    found = match_lesions(row("xxxxx"), row("xx.xx"))
    assert (found.matched, found.sensitivity, found.precision) == (1, 0.5, 1.0)


def test_pairs_are_chosen_for_the_largest_sum():
    found = match_lesions(row("..xxxxxxx.xx"), row("xxxx.xxxxxxx"))  # the best pair has 4/10; without it there are 2/9 and 2/7
    assert found.matched == 2


def test_voxels_that_share_a_corner_belong_together():
    diagonal = np.zeros((2, 2, 2), bool)
    diagonal[0, 0, 0] = diagonal[1, 1, 1] = True
    assert match_lesions(diagonal, diagonal).reference == 1
    assert match_lesions(np.eye(4, dtype=bool)[None], np.eye(4, dtype=bool)[None]).predicted == 1


def test_what_cannot_be_measured_is_undefined():
    nothing = match_lesions(row("..."), row("..."))
    assert (nothing.f1, nothing.sensitivity, nothing.precision, nothing.panoptic_quality) == (None, None, None, None)
    missed = match_lesions(row("..."), row("x.x"))
    assert (missed.f1, missed.sensitivity, missed.precision, missed.panoptic_quality) == (0.0, 0.0, None, 0.0)
    invented = match_lesions(row("x.x"), row("..."))
    assert (invented.f1, invented.sensitivity, invented.precision, invented.false_positives) == (0.0, None, 0.0, 2)
