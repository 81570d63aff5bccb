"""Detection by boxes: worked by hand, and equal to definitions written out in loops."""

from itertools import product

import numpy as np
import pytest
from scipy import ndimage

from nnseg.core.detection import FALSE_POSITIVES
from nnseg.evaluation.detection import (
    IOUS,
    ScanDetections,
    average_precision,
    box_ious,
    detect,
    find_boxes,
    match_boxes,
    summarize_detection,
)


def found(*objects: tuple[float, bool], references: int) -> ScanDetections:
    """What was detected in a scan, by falling score: score, and whether it is matched at every IoU."""
    scores, matched = np.array([s for s, _ in objects], float), np.array([m for _, m in objects], bool)
    return ScanDetections(scores=scores, matched=np.stack([matched] * len(IOUS)), references=references)


def test_boxes_lie_tightly_around_components():
    mask = np.zeros((1, 4, 6), bool)
    mask[0, 0, 0] = mask[0, 1, 1] = True  # they share a corner
    mask[0, 3, 3:5] = True
    numbers, boxes = find_boxes(mask)
    assert boxes.tolist() == [[[0, 0, 0], [1, 2, 2]], [[0, 3, 3], [1, 4, 5]]]
    assert numbers[mask].tolist() == [1, 1, 2, 2]
    assert find_boxes(mask & False)[1].shape == (0, 2, 3)


def test_the_iou_of_boxes_is_that_of_their_voxels():
    random = np.random.default_rng(0)
    first = random.integers(0, 8, (2, 30, 3))
    some, others = np.stack([first, first + random.integers(1, 6, first.shape)], 2)
    ious = box_ious(some, others)
    for (i, a), (j, b) in product(enumerate(some), enumerate(others)):
        masks = np.zeros((2, 16, 16, 16), bool)
        for mask, (start, stop) in zip(masks, (a, b), strict=True):
            mask[tuple(map(slice, start, stop))] = True
        assert ious[i, j] == pytest.approx((masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum())


def test_a_reference_is_matched_once_and_by_the_highest_score():
    assert match_boxes(np.array([[0.2], [0.9], [0.05]]), 0.1).tolist() == [True, False, False]
    assert match_boxes(np.array([[0.3, 0.6], [0.5, 0.6]]), 0.1).tolist() == [True, True]  # the second takes what is free
    assert match_boxes(np.array([[0.3, 0.6], [0.0, 0.6]]), 0.1).tolist() == [True, False]
    assert match_boxes(np.zeros((2, 0)), 0.1).tolist() == [False, False]
    assert match_boxes(np.zeros((0, 2)), 0.1).tolist() == []


def test_the_score_of_an_object_is_its_mean_probability():
    mask, level = np.zeros((1, 3, 8), bool), np.zeros((1, 3, 8), np.uint8)
    mask[0, 1, 1:3], level[0, 1, 1:3] = True, (51, 102)
    mask[0, 1, 5:7], level[0, 1, 5:7] = True, (255, 204)
    one = detect(mask, level, np.array([[[0, 1, 5], [1, 2, 7]], [[0, 0, 0], [1, 1, 1]]]))
    assert one.scores == pytest.approx([0.9, 0.3])
    assert (one.matched.tolist(), one.references) == ([[True, False]] * 2, 2)


def test_average_precision_worked_by_hand():
    scores, matched = np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, False])
    # Precision is 1 up to a sensitivity of 1/4 (26 of the 101), 2/3 up to 1/2 (25 more), 0 beyond.
    assert average_precision(scores, matched, 4) == pytest.approx((26 + 25 * 2 / 3) / 101)
    assert average_precision(scores[:0], matched[:0], 4) == 0.0
    assert average_precision(scores, matched, 0) is None
    assert average_precision(scores, np.ones(4, bool), 4) == 1.0


def as_defined(scores, matched, references) -> float:
    """Average precision of COCO, for each sensitivity the highest precision over all numbers of objects that reach it."""
    order, values = sorted(range(len(scores)), key=lambda i: -scores[i]), []
    for hundredth in range(101):
        reached = [0.0]
        for kept in range(1, len(order) + 1):
            hits = sum(bool(matched[i]) for i in order[:kept])
            if 100 * hits >= hundredth * references:
                reached.append(hits / kept)
        values.append(max(reached))
    return sum(values) / len(values)


@pytest.mark.parametrize("seed", range(20))
def test_average_precision_is_that_of_its_definition(seed):
    random = np.random.default_rng(seed)
    n, references = int(random.integers(1, 40)), int(random.integers(1, 30))
    matched = np.zeros(n, bool)
    matched[random.permutation(n)[: random.integers(0, min(n, references) + 1)]] = True
    scores = random.permutation(n) / n
    assert average_precision(scores, matched, references) == pytest.approx(as_defined(scores, matched, references))


def loops(scans, thresholds, most):
    """The highest sensitivity with at most so many false positives a scan, and the first threshold that gives it."""
    best = (0.0, None)
    for number, threshold in enumerate(thresholds):
        hits = sum(int(flag) for of in scans for flag in of[number].matched[0])
        wrong = sum(len(of[number].scores) for of in scans) - hits
        sensitivity = hits / sum(of[number].references for of in scans)
        if wrong / len(scans) <= most and sensitivity > best[0]:
            best = (sensitivity, threshold)
    return best


@pytest.mark.parametrize("seed", range(10))
def test_sensitivity_by_false_positives_is_that_of_its_definition(seed):
    random, thresholds = np.random.default_rng(seed), (None, 0.9, 0.5, 0.1)
    scans = []
    for references in random.integers(0, 4, 7):
        tried = [random.random((int(random.integers(0, 9)), 2)) for _ in thresholds]
        scans.append(
            [found(*((s, m < 0.3 and i < references) for i, (s, m) in enumerate(of)), references=references) for of in tried]
        )
    if not sum(of[0].references for of in scans):
        pytest.skip("no object was drawn")
    summary = summarize_detection(scans, thresholds)
    expected = [loops(scans, thresholds, most) for most in FALSE_POSITIVES]
    assert [(point.sensitivity, point.threshold) for point in summary.froc] == expected
    assert summary.mean_sensitivity == pytest.approx(np.mean([sensitivity for sensitivity, _ in expected]))
    for number, point in enumerate(summary.points):
        of = [scan[number] for scan in scans]
        hits, predicted, given = (
            sum(map(count, of)) for count in (lambda s: s.matched[0].sum(), lambda s: len(s.scores), lambda s: s.references)
        )
        assert (point.threshold, point.sensitivity) == (thresholds[number], hits / given)
        assert point.f1 == pytest.approx(2 * hits / (predicted + given))
        assert point.false_positives == (predicted - hits) / len(scans)
        empty = [len(s.scores) == 0 for s in of if not s.references]
        assert point.specificity == (np.mean(empty) if empty else None)
        pooled = [np.concatenate([getattr(s, name) for s in of], -1) for name in ("scores", "matched")]
        assert point.ap_10 == pytest.approx(as_defined(pooled[0], pooled[1][0], given))


def test_intervals_are_over_scans():
    scans = [[found((0.9, True), references=1)] for _ in range(6)] + [[found(references=1)] for _ in range(6)]
    summary = summarize_detection(scans, [0.5])
    low, high = summary.interval
    assert low < summary.mean_sensitivity == 0.5 < high
    assert all(point.interval == (low, high) for point in summary.froc)
    assert summarize_detection(scans[:3], [0.5]).interval is None


def test_scans_without_objects_give_specificity_alone():
    summary = summarize_detection([[found(references=0)], [found((0.7, False), (0.6, False), references=0)]], [0.5])
    assert (summary.scans, summary.scans_without, summary.objects) == (2, 2, 0)
    assert (summary.mean_sensitivity, summary.interval, summary.froc) == (None, None, ())
    (point,) = summary.points
    assert (point.specificity, point.false_positives, point.sensitivity, point.ap_10, point.precision) == (
        0.5,
        1.0,
        None,
        None,
        0.0,
    )


@pytest.mark.parametrize("seed", range(5))
def test_detections_are_matched_as_in_loops_over_voxels(seed):
    random = np.random.default_rng(seed)
    level = (255 * ndimage.gaussian_filter(random.random((6, 24, 24)), 1.2)).astype(np.uint8)
    mask, reference = level > 140, ndimage.gaussian_filter(random.random((6, 24, 24)), 1.2) > 0.55
    one = detect(mask, level, find_boxes(reference)[1])
    parts = [ndimage.label(of, np.ones((3, 3, 3))) for of in (mask, reference)]
    boxes = [[np.argwhere(of == i + 1) for i in range(n)] for of, n in parts]
    scores = [level[tuple(voxels.T)].mean() / 255 for voxels in boxes[0]]
    filled = [[{*product(*map(range, v.min(0), v.max(0) + 1))} for v in of] for of in boxes]
    free, matched = set(range(len(boxes[1]))), []
    for i in sorted(range(len(scores)), key=lambda i: -scores[i]):
        ious = {j: len(filled[0][i] & filled[1][j]) / len(filled[0][i] | filled[1][j]) for j in free}
        best = max(ious, key=lambda j: (ious[j], -j), default=None)
        matched.append(best is not None and ious[best] >= 0.1)
        free -= {best} if matched[-1] else set()
    assert one.scores == pytest.approx(sorted(scores, reverse=True))
    assert one.matched[0].tolist() == matched
