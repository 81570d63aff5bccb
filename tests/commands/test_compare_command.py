"""Models compared by what they left on disk."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from nnseg.cli import app
from nnseg.commands.compare import compare_models, read_models, read_scores
from nnseg.commands.evaluate import scores_csv
from nnseg.core.errors import EvaluationError
from nnseg.core.labels import Labels
from nnseg.core.scores import Counts, Failure, Scores
from nnseg.evaluation.evaluate import case_score, summarize
from nnseg.storage.files import write_json

LABELS = Labels(names=("background", "ball"), values=(0, 3))


def counts(shift: int, cases: int = 12) -> dict[str, tuple[int, int, int]]:
    """TP, FP, FN by case; a larger shift is better, by another step in each case."""
    return {f"case_{i:02}": (70 + i % 5 + shift * (1 + i % 3), 10, 30 - i % 5 - shift * (1 + i % 3)) for i in range(cases)}


def ours(shift: int) -> Scores:
    masks = {name: Counts(tp=tp, fp=fp, fn=fn, tn=900) for name, (tp, fp, fn) in counts(shift).items()}
    return summarize([case_score(name, {"ball": c}) for name, c in masks.items()], LABELS)


def theirs(shift: int) -> str:
    """As nnU-Net writes it, by value."""
    cases = [
        {"prediction_file": f"/x/{name}.nii.gz", "metrics": {"3": {"TP": tp, "FP": fp, "FN": fn, "TN": 900}}}
        for name, (tp, fp, fn) in counts(shift).items()
    ]
    return json.dumps({"metric_per_case": cases, "mean": {"3": {"Dice": float("nan")}}})


@pytest.fixture
def models(tmp_path):
    """A run, a file of scores, and a folder of nnU-Net, each better than the one before."""
    for name in ("run", "nnunet"):
        (tmp_path / name).mkdir()
    (tmp_path / "run" / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "ball": 3}, "numTraining": 12}))
    write_json(tmp_path / "run" / "scores.json", ours(0))
    write_json(tmp_path / "better.json", ours(2))
    (tmp_path / "nnunet" / "summary.json").write_text(theirs(4))
    return [tmp_path / "run", tmp_path / "better.json", tmp_path / "nnunet"]


def test_a_run_is_compared_with_a_file_of_scores_and_with_nnunet(models):
    found = compare_models(models)
    assert [(c.a, c.b) for c in found.comparisons] == [("run", "better"), ("run", "nnunet")]
    one, another = (c.rows[0] for c in found.comparisons)
    dice = {shift: [2 * tp / (2 * tp + fp + fn) for tp, fp, fn in counts(shift).values()] for shift in (0, 2, 4)}
    assert one.difference == pytest.approx(np.mean(dice[2]) - np.mean(dice[0]))
    assert another.difference == pytest.approx(np.mean(dice[4]) - np.mean(dice[0]))
    assert "nnunet is better by" in found.comparisons[1].verdict
    assert found.mean_ranks == {"run": 3.0, "better": 2.0, "nnunet": 1.0}


def test_labels_of_nnunet_get_the_names_of_the_run(models):
    assert read_models(models)["nnunet"].labels == ("ball",)
    assert read_scores(models[2]).labels == ("label 3",)
    assert read_models([models[2], models[1]])["nnunet"].labels == ("label 3",)


def test_models_of_the_same_name_are_told_apart_by_their_paths(models, tmp_path):
    (tmp_path / "again" / "run").mkdir(parents=True)
    write_json(tmp_path / "again" / "run" / "scores.json", ours(1))
    paths = [models[0], tmp_path / "again" / "run" / "scores.json"]
    assert list(read_models(paths)) == [str(p) for p in paths]
    with pytest.raises(EvaluationError, match="given twice"):
        read_models([models[0], models[0]])


def test_what_holds_no_scores_is_named(models, tmp_path):
    with pytest.raises(EvaluationError, match="holds no scores; give a run folder"):
        compare_models([models[0], tmp_path])
    (tmp_path / "old.json").write_text('{"cases": []}')
    with pytest.raises(EvaluationError, match=r"old.json holds no scores that this nnseg can read; score the predictions again"):
        compare_models([models[0], tmp_path / "old.json"])
    with pytest.raises(EvaluationError, match="two or more"):
        compare_models(models[:1])


def test_numbers_that_cannot_be_computed_with_are_no_scores(models, tmp_path):
    content = json.loads(ours(1).model_dump_json())
    content["cases"][0]["labels"]["ball"]["dice"] = 1e308
    (tmp_path / "huge.json").write_text(json.dumps(content))
    with pytest.raises(EvaluationError, match=r"huge.json holds no scores that this nnseg can read"):
        compare_models([models[0], tmp_path / "huge.json"])


def test_the_table_that_evaluate_writes_is_read_too(tmp_path):
    scores = ours(1).model_copy(update={"failed": (Failure(name="case_99", reason="its label map is gone"),)})
    (tmp_path / "scores.csv").write_text(scores_csv(scores))
    read = read_scores(tmp_path / "scores.csv")
    assert read.labels == scores.labels
    assert [(c.name, c.labels["ball"].dice) for c in read.cases] == [(c.name, c.labels["ball"].dice) for c in scores.cases]
    for text in ("a,b", f"a,b,{10**400},1,1,1,"):
        (tmp_path / "other.csv").write_text(f"case,label,tp,fp,fn,tn,failed\n{text}\n")
        with pytest.raises(EvaluationError, match=r"other.csv is no table that nnseg evaluate wrote"):
            read_scores(tmp_path / "other.csv")
    (tmp_path / "scores.csv").write_text(scores_csv(scores) + scores_csv(scores).splitlines()[1] + "\n")
    with pytest.raises(EvaluationError, match="case_00 has ball twice"):
        read_scores(tmp_path / "scores.csv")


def test_the_verb_prints_the_table_and_writes_it(models, tmp_path):
    out = tmp_path / "comparison.json"
    result = CliRunner().invoke(app, ["compare", *map(str, models), "--metric", "iou", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "better against run: 12 cases with scores of both" in result.output
    assert "IoU: nnunet is better by" in result.output
    assert "mean rank by iou (1 is best): nnunet 1.00, better 2.00, run 3.00" in result.output
    written = json.loads(out.read_text())
    assert [row["metric"] for row in written["comparisons"][0]["rows"]] == ["iou", "iou"]


def test_the_verb_names_cases_that_only_one_has(models, tmp_path):
    few = ours(1)
    write_json(tmp_path / "few.json", few.model_copy(update={"cases": few.cases[:3]}))
    result = CliRunner().invoke(app, ["compare", str(tmp_path / "few.json"), str(models[0])])
    assert "left out, with scores of run only: cases case_03, case_04, case_05, case_06, case_07 and 4 more" in result.output
    assert "3 cases are too few to detect any difference among 4 tests" in result.output
