import numpy as np
import pytest
import torch
from monai.metrics import compute_dice, compute_iou

from nnseg.core.labels import Labels, Region
from nnseg.core.scores import Counts
from nnseg.evaluation import metrics
from nnseg.evaluation.metrics import count, dice, iou

PLAIN = Labels(names=("background", "front", "back"), values=(0, 1, 2))


def row(*values: int) -> np.ndarray:
    return np.array([[values]], np.uint8)


def test_counts_worked_by_hand():
    counts = count(row(0, 1, 1, 2, 0, 2), row(0, 1, 2, 2, 1, 0), PLAIN)
    assert counts == {"front": Counts(tp=1, fp=1, fn=1, tn=3), "back": Counts(tp=1, fp=1, fn=1, tn=3)}


@pytest.mark.parametrize(
    ("counts", "expected_dice", "expected_iou"),
    [
        (Counts(tp=3, fp=1, fn=2, tn=9), 6 / 9, 3 / 6),
        (Counts(tp=5, fp=0, fn=0, tn=0), 1.0, 1.0),
        (Counts(tp=0, fp=4, fn=0, tn=9), 0.0, 0.0),
        (Counts(tp=0, fp=0, fn=4, tn=9), 0.0, 0.0),
        (Counts(tp=0, fp=0, fn=0, tn=9), None, None),
    ],
)
def test_dice_and_iou_worked_by_hand(counts, expected_dice, expected_iou):
    assert dice(counts) == expected_dice
    assert iou(counts) == expected_iou


def test_ignored_reference_voxels_are_left_out():
    labels = Labels(names=("background", "cell"), values=(0, 1), ignore=255)
    counts = count(row(1, 1, 1, 0), row(1, 255, 0, 255), labels)
    assert counts == {"cell": Counts(tp=1, fp=1, fn=0, tn=0)}


def test_a_predicted_ignore_value_is_no_label():
    labels = Labels(names=("background", "cell"), values=(0, 1), ignore=255)
    assert count(row(255, 255), row(1, 0), labels) == {"cell": Counts(tp=0, fp=0, fn=1, tn=1)}


def test_regions_count_the_union_of_their_labels():
    regions = (Region(name="whole", values=(1, 2), paint=1), Region(name="core", values=(2,), paint=2))
    labels = Labels(names=("background", "oedema", "core"), values=(0, 1, 2), regions=regions)
    counts = count(row(1, 2, 0, 1), row(2, 2, 1, 0), labels)
    assert counts == {"whole": Counts(tp=2, fp=1, fn=1, tn=0), "core": Counts(tp=1, fp=0, fn=1, tn=2)}


def test_of_a_label_that_was_not_annotated_nothing_is_counted():
    counts = count(row(0, 1, 1, 2), row(0, 1, 0, 0), PLAIN, annotated=("front",))
    assert counts == {"front": Counts(tp=1, fp=1, fn=0, tn=2), "back": metrics.NOTHING}
    assert count(row(1), row(1), PLAIN, annotated=None) == count(row(1), row(1), PLAIN, annotated=("front", "back"))


def test_of_a_region_that_was_annotated_in_part_nothing_is_counted():
    regions = (Region(name="whole", values=(1, 2), paint=1), Region(name="core", values=(2,), paint=2))
    labels = Labels(names=("background", "oedema", "core"), values=(0, 1, 2), regions=regions)
    counts = count(row(1, 2, 0, 1), row(0, 2, 0, 2), labels, annotated=("core",))
    assert counts == {"whole": metrics.NOTHING, "core": Counts(tp=1, fp=0, fn=1, tn=2)}


@pytest.mark.parametrize("slab_voxels", [1, 100, 10**9])
def test_counts_agree_with_counting_mask_by_mask(monkeypatch, slab_voxels):
    monkeypatch.setattr(metrics, "SLAB_VOXELS", slab_voxels)
    regions = (Region(name="both", values=(-3, 700), paint=700), Region(name="one", values=(7,), paint=7))
    labels = Labels(names=("background", "a", "b", "c"), values=(0, 700, -3, 7), ignore=99, regions=regions)
    reference, prediction = np.random.default_rng(0).choice([0, 700, -3, 7, 99], (2, 5, 6, 7))
    kept = reference != 99
    for name, counts in count(prediction, reference, labels).items():
        r, p = labels.mask(name, reference), labels.mask(name, prediction)
        expected = [np.sum(m & kept) for m in (r & p, ~r & p, r & ~p, ~r & ~p)]
        assert [counts.tp, counts.fp, counts.fn, counts.tn] == expected


def test_dice_and_iou_agree_with_monai():
    reference, prediction = np.random.default_rng(1).integers(0, 3, (2, 4, 9, 8))
    counts = count(prediction, reference, PLAIN)

    def one_hot(labels: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.stack([labels == k for k in range(3)])[None]).float()

    theirs_dice = compute_dice(one_hot(prediction), one_hot(reference), include_background=False)[0]
    theirs_iou = compute_iou(one_hot(prediction), one_hot(reference), include_background=False)[0]
    assert [dice(c) for c in counts.values()] == pytest.approx(theirs_dice.tolist(), abs=1e-6)
    assert [iou(c) for c in counts.values()] == pytest.approx(theirs_iou.tolist(), abs=1e-6)


def test_a_map_scores_one_against_itself_and_dice_follows_from_iou():
    reference, prediction = np.random.default_rng(2).integers(0, 3, (2, 3, 5, 5))
    assert [dice(c) for c in count(reference, reference, PLAIN).values()] == [1.0, 1.0]
    for c in count(prediction, reference, PLAIN).values():
        assert dice(c) == pytest.approx(2 * iou(c) / (1 + iou(c)))
