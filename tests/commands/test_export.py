"""What a card says of a model's limits follows from the facts."""

import logging
from pathlib import Path

import pytest
from plan_examples import small_plan

from nnseg.commands.export import describe_limits, export
from nnseg.core.dataset import Dataset, Fold
from nnseg.core.decisions import Choice
from nnseg.core.errors import RunError
from nnseg.core.fingerprint import CaseMeasure, Fingerprint
from nnseg.core.labels import Labels
from nnseg.core.scores import Counts, Grouped
from nnseg.core.trust import LabelTrust, Trust
from nnseg.evaluation.evaluate import case_score, summarize
from nnseg.evaluation.groups import group_scores
from nnseg.network.bundle import Member, Model
from nnseg.storage.files import write_json
from nnseg.storage.run import Run

LABELS = Labels(names=("background", "big", "rare"), values=(0, 1, 2))


def case(number: int, *, spacing=(1.0, 1.0, 1.0), rare=0, annotated=None) -> CaseMeasure:
    return CaseMeasure(
        name=f"c{number}", key="", shape=(4, 4, 4), spacing=spacing, cropped_shape=(4, 4, 4), annotated=annotated,
        voxels={"background": 50, "big": 10, "rare": rare},
    )  # fmt: skip


def scored(*dices: float):
    """Cases whose big label has these Dice, of 1000 voxels; the rare one half of it."""

    def counts(dice):
        return Counts(tp=round(1000 * dice), fp=1000 - round(1000 * dice), fn=1000 - round(1000 * dice), tn=0)

    cases = [case_score(f"c{i}", {"big": counts(d), "rare": counts(d / 2)}) for i, d in enumerate(dices)]
    return summarize(cases, LABELS)


def said(run: Run, cases, *, scores=None, trust=None, folds=(0,), of=1) -> str:
    write_json(run.path / "folds.json", tuple(Fold(training=(), held_out=()) for _ in range(of)))
    run.fingerprint = Fingerprint(dataset="d", layout="", channels=("CT",), labels=LABELS, cases=cases, intensities=())
    run.dataset = Dataset(name="Bars", folder=Path(), layout="", cases=(), channels=("CT",), labels=LABELS, suffix=".nii")
    model = Model(members=tuple(Member(plan=small_plan(LABELS), fold=fold, weights={}) for fold in folds), trust=trust)
    return "\n".join(describe_limits(run, model, scores))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_a_model_of_which_nothing_is_known_says_so(run):
    text = said(run, (case(0), case(1)))
    assert "not a medical device" in text
    assert "trained on 2 cases of one dataset, Bars" in text
    assert "All scans of the training have the same voxel spacing" in text
    assert "The label rare is in 0 cases only" in text
    assert "It has no scores of held-out cases; its performance is unknown." in text
    assert "Its probabilities are not calibrated" in text


def test_a_well_tested_model_has_fewer_limits(run):
    cases = tuple(case(i, rare=5, spacing=(1.0 + i, 1.0, 1.0)) for i in range(12))
    text = said(run, cases, scores=scored(*[0.9] * 11, 0.4), trust=Trust(cases=12, threshold=0.5))
    assert not any(words in text for words in ("cases only", "networks of only", "uncertain"))
    assert "smaller or larger voxels than those of the training" in text
    assert "Of its labels rare has the lowest mean Dice, 0.429." in text
    assert "In the worst of the held-out cases its mean Dice is 0.300." in text
    assert "calibrated" not in text


def test_missing_folds_few_cases_and_partial_labels_are_named(run):
    cases = (case(0, rare=1), case(1, annotated=("big",)), *(case(i, rare=1) for i in range(2, 12)))
    text = said(run, cases, scores=scored(0.8, 0.9), trust=Trust(cases=9), of=5)
    assert "It has the networks of only 1 of 5 folds" in text
    assert "Its scores are those of 2 cases" in text
    assert "In 1 case not every label was annotated" in text
    assert "Too few cases were held out to set a threshold for flagging predictions." in text
    few = Trust(cases=12, labels={"big": LabelTrust(errors=(-0.1, 0.1)), "rare": LabelTrust(cases=5)})
    text = said(run, cases, scores=scored(0.8, 0.9), trust=few)
    assert "Too few held-out cases have rare for an interval of its Dice and volume: 9 are needed." in text


def test_the_worst_group_and_small_groups_are_named(run):
    scores = scored(*[0.9] * 10, 0.6, 0.6)
    cohorts = {"site": {f"c{i}": "A" if i < 10 else "B" for i in range(12)}}
    run.groups = Grouped(groups=group_scores(scores, cohorts), tests=())
    text = said(run, (case(0),), scores=scores)
    assert "Of the groups by site, B has the lowest mean Dice, 0.450." in text
    assert "Some groups by site have too few cases for reliable scores: B (2)." in text


def test_scores_of_the_cases_that_chose_the_plans_are_said_to_be_flattered(run):
    cases = (case(0), case(1))
    assert "optimistic" not in said(run, cases, scores=scored(0.8, 0.9))
    run.choice = Choice(plans={"3d": 1.0})
    assert "Its plans were chosen on the same held-out cases as its scores" in said(run, cases, scores=scored(0.8, 0.9))


def test_groups_that_another_nnseg_wrote_are_left_out_and_named(run, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("nnseg"), "propagate", True)  # the command line may have run before
    (run.path / "groups.json").write_text('{"groups": 1}')
    assert "Of the groups" not in said(run, (case(0),), scores=scored(0.8))
    assert "groups.json is damaged, or of another version of nnseg, and not on the card" in caplog.text


def test_a_model_is_not_written_where_its_card_belongs(run):
    (run.path / "run.json").write_text("{}")
    with pytest.raises(RunError, match=r"call the model best\.nnseg"):
        export(run, run.path / "best.md")
