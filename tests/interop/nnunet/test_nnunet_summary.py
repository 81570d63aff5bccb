import json
import math
from pathlib import Path

import pytest

from nnseg.core.errors import EvaluationError
from nnseg.core.labels import Labels, Region
from nnseg.core.scores import Counts
from nnseg.evaluation.evaluate import OVERLAP, case_score, evaluate, summarize
from nnseg.evaluation.folders import pair_folders
from nnseg.interop.nnunet.summary import read_summary, write_summary

DATA = Path(__file__).parent / "data" / "summaries"
REGIONS = (
    Region(name="whole", values=(1, 2, 3), paint=1),
    Region(name="core", values=(2, 3), paint=2),
    Region(name="enhancing", values=(3,), paint=3),
)
LABELS = Labels(names=("background", "a", "b", "c", "d"), values=(0, 1, 2, 3, 4), ignore=5)
LEGENDS = {"labels": LABELS, "regions": LABELS.model_copy(update={"regions": REGIONS})}


def flat(tree, at=()):
    """Every number and text of a JSON document by its place, null as NaN."""
    if isinstance(tree, dict | list):
        parts = tree.items() if isinstance(tree, dict) else enumerate(tree)
        return {place: leaf for key, part in parts for place, leaf in flat(part, (*at, key)).items()}
    return {at: math.nan if tree is None else tree}


@pytest.fixture
def in_data(monkeypatch):
    monkeypatch.chdir(DATA)  # where nnU-Net was run, so that the files have the same names


@pytest.mark.parametrize("kind", LEGENDS)
def test_the_summary_is_the_one_that_nnunet_writes(kind, tmp_path, in_data):
    pairs = pair_folders(Path("predictions"), Path("references")).pairs
    scores = evaluate(pairs, LEGENDS[kind], measures=OVERLAP)
    write_summary(tmp_path / "summary.json", scores, pairs, LEGENDS[kind])
    ours, theirs = (flat(json.loads(f.read_text())) for f in (tmp_path / "summary.json", DATA / f"{kind}.json"))
    assert list(ours) == list(theirs)  # sorted alike, too
    for place, value in theirs.items():
        assert ours[place] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-9, abs=1e-9, nan_ok=True)), place


def test_what_nnunet_leaves_undefined_is_null(tmp_path, in_data):
    pairs = pair_folders(Path("predictions"), Path("references")).pairs
    write_summary(tmp_path / "summary.json", evaluate(pairs, LABELS, measures=OVERLAP), pairs, LABELS)
    text = (tmp_path / "summary.json").read_text()
    assert "NaN" not in text
    found = json.loads(text)
    assert found["mean"]["4"]["Dice"] is None  # in no case
    assert found["foreground_mean"]["Dice"] is None
    assert found["mean"]["3"]["Dice"] is not None  # absent from one case


def test_a_summary_without_cases_has_no_means(tmp_path):
    write_summary(tmp_path / "summary.json", summarize([], LABELS), [], LABELS)
    found = json.loads((tmp_path / "summary.json").read_text())
    assert found["metric_per_case"] == []
    assert set(found["mean"]["1"].values()) == {None}


@pytest.mark.parametrize("kind", LEGENDS)
def test_the_scores_of_nnunets_summary_are_those_of_the_files(kind, in_data):
    pairs = pair_folders(Path("predictions"), Path("references")).pairs
    read, scored = read_summary(DATA / f"{kind}.json", LEGENDS[kind]), evaluate(pairs, LEGENDS[kind], measures=OVERLAP)
    assert read.labels == scored.labels
    for ours, theirs in zip(scored.cases, read.cases, strict=True):
        assert ours.name == theirs.name
        for label in scored.labels:
            assert (ours.labels[label].dice, ours.labels[label].tn) == (theirs.labels[label].dice, theirs.labels[label].tn)
    assert read.averages.per_mask["dice"] == scored.averages.per_mask["dice"]


def test_without_a_legend_labels_are_called_by_their_values():
    assert read_summary(DATA / "labels.json").labels == ("label 1", "label 2", "label 3", "label 4")
    assert read_summary(DATA / "regions.json").labels == ("label 1+2+3", "label 2+3", "label 3")


def test_a_written_summary_reads_back(tmp_path, in_data):
    pairs = pair_folders(Path("predictions"), Path("references")).pairs
    scores = summarize([case_score("case_0", dict.fromkeys("abcd", Counts(tp=1, fp=2, fn=3, tn=4)))], LABELS)
    write_summary(tmp_path / "summary.json", scores, pairs, LABELS)
    assert read_summary(tmp_path / "summary.json", LABELS) == scores


def summary(**case):
    counts = {"TP": 1, "FP": 0, "FN": 0, "TN": 9}
    return {"metric_per_case": [{"metrics": {"1": counts}, "prediction_file": r"C:\out\case_7.nii.gz", **case}]}


def test_cases_are_named_after_their_predictions(tmp_path):
    (tmp_path / "summary.json").write_text(json.dumps(summary()))
    assert [case.name for case in read_summary(tmp_path / "summary.json").cases] == ["case_7"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not a summary.json"),
        ("{}", "metric_per_case"),
        (json.dumps(summary(metrics={"1": {"TP": -1, "FP": 0, "FN": 0, "TN": 0}})), "greater than or equal to 0"),
        (json.dumps({"metric_per_case": []}), "no scores"),
        (json.dumps({"metric_per_case": summary()["metric_per_case"] * 2}), "case_7 is there twice"),
    ],
)
def test_a_damaged_summary_is_refused_by_name(text, said, tmp_path):
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(EvaluationError, match=said) as caught:
        read_summary(tmp_path / "summary.json")
    assert "summary.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_label_that_was_not_scored_is_named(tmp_path):
    (tmp_path / "summary.json").write_text(json.dumps(summary()))
    with pytest.raises(EvaluationError, match="case_7 has no label 2"):
        read_summary(tmp_path / "summary.json", LABELS)
    with pytest.raises(EvaluationError, match="cannot read"):
        read_summary(tmp_path / "none.json")
