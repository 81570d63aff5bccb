import json

import pytest
from pydantic import ValidationError

from nnseg.core.labels import Labels
from nnseg.core.metrics import METRICS
from nnseg.core.scores import Counts, Lesions, Scores
from nnseg.evaluation.averages import PARTS
from nnseg.evaluation.case_score import label_score
from nnseg.evaluation.evaluate import case_score, summarize

SCORES = summarize(
    [case_score(name, {"a": Counts(tp=3, fp=1, fn=1, tn=5)}) for name in ("c0", "c1")],
    Labels(names=("background", "a"), values=(0, 1)),
).model_dump_json()

OBJECTS = ("ap_50", "mean_ap", "object_f1", "count_error", "v_rand", "v_info")


def test_every_metric_has_a_value_or_none_in_a_score():
    lesions = Lesions(
        **dict.fromkeys(("f1", "sensitivity", "precision", "panoptic_quality", "sum_iou_matched", *OBJECTS), 0.5),
        **dict.fromkeys(("reference", "predicted", "matched", "matched_half", "false_positives"), 1),
    )
    score = label_score(Counts(tp=3, fp=1, fn=1, tn=5), lesions=lesions)
    found = {name for name in METRICS if name != "nsd" and score.metric(name) is not None}
    assert found == {"dice", "iou", "panoptic_quality", *OBJECTS, *(name for name in METRICS if name.startswith("lesion_"))}
    assert set(PARTS) | {"hd", "hd95", "mean_ap", "v_rand", "v_info"} == set(METRICS)


def test_scores_come_back_from_their_json():
    assert Scores.model_validate_json(SCORES).averages.per_mask["dice"].mean == 0.75


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda s: s["metrics"].append("fun"), "fun is no metric"),
        (lambda s: s["metrics"].append("nsd_x"), "nsd_x is no metric"),
        (lambda s: s["metrics"].append("hd95"), "averages must be those of the metrics"),
        (lambda s: s["metrics"].clear(), "averages must be those of the metrics"),
        (lambda s: s["averages"]["pooled"].pop("iou"), "averages must be those of the metrics"),
        (lambda s: s["cases"][0]["labels"].clear(), "every case must have a score of every label"),
        (lambda s: s["cases"].append(s["cases"][0]), "two cases have the same name"),
        (lambda s: s["cases"][0]["labels"]["a"].update(dice=float("nan")), "valid"),
    ],
)
def test_scores_that_do_not_fit_together_are_refused(edit, reason):
    content = json.loads(SCORES)
    edit(content)
    with pytest.raises(ValidationError, match=reason):
        Scores.model_validate_json(json.dumps(content))
