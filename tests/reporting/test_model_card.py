"""A model card as a page of Markdown."""

import re

from nnseg.core.card import MetricSummary, ModelCard, Networks, SelfAssessment, TrainingData
from nnseg.core.decisions import Choice, Effect, EnsembleCandidate, Nested, Postprocessing
from nnseg.core.verdict import Verdict
from nnseg.reporting.model_card import model_card_markdown
from nnseg.storage.overwrite import is_made

MATERIAL = TrainingData(
    dataset="Bars",
    about={"licence": "CC-BY-SA 4.0", "reference": "Somewhere"},
    cases=12,
    channels=("T1", "T2"),
    labels=(("zeta", 12), ("alpha", 3)),
    spacing=((1.0, 0.5, 0.5), (3.0, 1.0, 1.0)),
    shape=((10, 20, 20), (10, 20, 20)),
    key="d00d",
)


def card(**changes) -> ModelCard:
    given = {
        "name": "Bars",
        "made": "2026-01-02",
        "purpose": "To outline bars.",
        "material": MATERIAL,
        "networks": (
            Networks(plan="3d", folds=(0, 1), weight=2.0, words="A U-Net.", key="abc", hashes=("w0", "w1")),
            Networks(plan="3d_lowres", folds=(0,), weight=None, key="def", hashes=("w2",)),
        ),
        "model": "c0ffee",
    }
    return ModelCard(**(given | changes))


def section(page: str, title: str) -> str:
    return page.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def test_every_fact_is_in_its_section():
    page = model_card_markdown(card(limits=("Only bars.",), versions={"torch": "9", "nnseg": "1"}))
    assert page.startswith("# Model card: Bars\n\n## Model details\n\nMade 2026-01-02 by nnseg 1.\n")
    details = section(page, "Model details")
    assert "**Plan 3d**: 2 networks (fold 0, 1), whose probabilities count 2 each. A U-Net." in details
    assert "**Plan 3d_lowres**: 1 network (fold 0), whose segmentation is an input of the cascade's second stage." in details
    assert section(page, "Intended use").strip() == "To outline bars."
    factors = section(page, "Factors")
    assert "- Voxel spacing (z, y, x): 1 × 0.5 × 0.5 to 3 × 1 × 1 mm" in factors  # noqa: RUF001
    assert "- Scan size (z, y, x): 10 × 20 × 20 voxels" in factors  # noqa: RUF001
    assert "- Labels: zeta (12 of 12 cases), alpha (3 of 12 cases)" in factors
    assert "- Licence: CC-BY-SA 4.0" in section(page, "Training data")
    assert section(page, "Evaluation data").strip() == "None: no cases were held out."
    assert "- Only bars." in section(page, "Limits, caveats and recommendations")
    hashes = section(page, "Hashes and versions")
    assert "| weights 3d, fold 1 | `w1` |" in hashes
    assert "Trained with nnseg 1, torch 9." in hashes
    assert page.endswith(".\n")


def test_a_card_is_known_as_ours_with_a_verdict_and_without(tmp_path):
    verdict = Verdict(
        level="poor", headline="Not useful.", reasons=("Dice 0.1.",), advice="train longer", command="nnseg train RUN"
    )
    for number, shown in enumerate((None, verdict, verdict.model_copy(update={"reasons": (), "command": ""}))):
        file = tmp_path / f"{number}.md"
        file.write_text(model_card_markdown(card(verdict=shown)))
        assert is_made(file, "model card")
    file.write_text("# Model card: mine\n\nText.\n")
    assert not is_made(file, "model card")


def test_scores_are_a_table_of_three_averages_and_one_of_labels():
    labels = (("zeta", 0.9, (0.85, 0.95)), ("alpha", None, None))
    scores = (
        MetricSummary(title="Dice", average="per_mask", mean=0.9, interval=(0.85, 0.95), labels=labels),
        MetricSummary(title="Dice", average="pooled", mean=0.91, labels=labels),
        MetricSummary(title="HD95", unit="mm", average="per_mask", mean=None, labels=(("zeta", 2.0, None), ("alpha", None, None))),
    )
    found = section(model_card_markdown(card(scores=scores, held_out=12)), "Quantitative analyses")
    assert "| Dice | 0.900 [0.850, 0.950] | – | 0.910 |" in found  # noqa: RUF001
    assert "| HD95 (mm) | – | – | – |" in found  # noqa: RUF001
    assert "| Label | Dice | HD95 (mm) |" in found
    assert "| zeta | 0.900 [0.850, 0.950] | 2.000 |" in found
    assert "| alpha | – | – |" in found  # noqa: RUF001


def test_the_choice_and_postprocessing_are_listed_with_their_nested_gains():
    choice = Choice(
        plans={"2d": 1, "3d": 1},
        reason="it is better",
        decided="3d",
        cases=12,
        best_single="3d",
        nested=Nested(gain=0.01, interval=(0.005, 0.02)),
        p=0.01,
        candidates=(
            EnsembleCandidate(plans={"2d": 1, "3d": 1}, dice=0.91, gain=0.012, gain_interval=(0.001, 0.02), p=0.004, seconds=3.0),
            EnsembleCandidate(plans={"3d": 1}, dice=0.898, seconds=1.0),
        ),
    )
    effect = Effect(cases=3, dice_before=0.8, dice_after=0.9, p=0.01, gain=0.05)
    post = Postprocessing(cases=12, reason="stray parts", effects={"zeta": effect})
    page = model_card_markdown(
        card(choice=choice, postprocessing=post, reliance=SelfAssessment(temperature=1.5, error=0.04, threshold=0.7))
    )
    found = section(page, "Quantitative analyses")
    assert "(12 held-out cases): 2d+3d. Reason: it is better; overruled by hand: 2d+3d is used." in found
    assert "| 2d+3d | 0.9100 | +0.0120 [+0.0010, +0.0200] | 0.004 | 3 |" in found
    assert "| 3d | 0.8980 |  |  | 1 |" in found
    assert "Gain of the best ensemble in nested cross-validation: +0.0100 [+0.0050, +0.0200]." in found
    assert "Gain in Dice in nested cross-validation, by label: zeta +0.0500." in found
    assert "0.9000" not in found  # what the choosers' own cases gained is no evidence
    assert "a temperature of 1.5; the expected Dice of a scan is off by 0.040 on average; scans" in found


def test_intervals_of_labels_have_a_table():
    intervals = (("zeta", 40, (0.8123, 0.95), (0.9, 1.1)), ("a|b", 5, None, None))
    page = model_card_markdown(card(reliance=SelfAssessment(temperature=1.0, intervals=intervals)))
    assert "| zeta | 40 | 0.812 to 0.950 | 0.900 to 1.100 |" in page
    assert "| a\\|b | 5 | – | – |" in page  # noqa: RUF001 (a dash in a table)
    assert "**Intervals**" not in model_card_markdown(card(reliance=SelfAssessment(temperature=1.0)))


def test_markup_in_names_is_escaped():
    evil = "a|b <script>*x*\n# `y`"
    page = model_card_markdown(card(name=evil, material=MATERIAL.model_copy(update={"dataset": evil, "labels": ((evil, 1),)})))
    assert "<script" not in page.replace("\\<script", "")
    assert "a\\|b \\<script\\>\\*x\\* \\# \\`y\\`" in page


def test_a_card_survives_json():
    given = card(reliance=SelfAssessment(temperature=1.0, intervals=(("zeta", 40, (0.8, 0.9), None),)))
    again = ModelCard.model_validate_json(given.model_dump_json())
    assert again == given
    assert model_card_markdown(again) == model_card_markdown(given)


def test_every_text_of_a_card_is_escaped_wherever_it_stands():
    evil = "a|b <img src=x> [c](http://d) `e` *f*\n# g \x1b[2J~~h~~"
    candidate = EnsembleCandidate(plans={evil: 1.0}, dice=0.5, seconds=1.0)
    choice = Choice(cases=3, reason=evil, plans={evil: 1.0}, best_single=evil, candidates=(candidate,))
    about = {"reference": evil, "licence": evil}
    material = {"dataset": evil, "about": about, "channels": (evil,), "labels": ((evil, 1),), "key": evil}
    page = model_card_markdown(
        card(
            name=evil,
            made=evil,
            purpose=evil,
            material=MATERIAL.model_copy(update=material),
            networks=(Networks(plan=evil, folds=(0,), words=evil, key=evil, hashes=(evil,)),),
            scores=(MetricSummary(title=evil, unit=evil, average="per_mask", mean=0.5, labels=((evil, 0.5, None),)),),
            held_out=3,
            choice=choice,
            postprocessing=Postprocessing(
                reason=evil, cases=12, effects={evil: Effect(cases=3, dice_before=0.8, dice_after=0.9, p=0.01, gain=0.05)}
            ),
            limits=(evil,),
            model=evil,
            versions={evil: evil, "nnseg": evil},
        )
    )
    assert page.count("a\\|b \\<img src=x\\> \\[c\\](http://d)") > 15
    unescaped = re.sub(r"\\.", "", page)
    assert not set("<>~\x1b") & set(unescaped)
    assert "](" not in unescaped
    columns = {line.count("|") - 1 for line in unescaped.splitlines() if line.startswith("|")}
    assert columns == {2, 4, 5}


def test_underscores_in_words_of_our_sentences_stay():
    page = model_card_markdown(card(limits=("Of its labels left_kidney and _this_ are worst.",)))
    assert "- Of its labels left_kidney and \\_this\\_ are worst.\n" in page
