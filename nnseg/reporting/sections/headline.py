"""The head of the page: a few numbers that say most, and what they mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nnseg.core.metrics import metric_of
from nnseg.core.scores import Scores
from nnseg.reporting.charts.drawing import decimals, duration
from nnseg.reporting.content import ReportContent
from nnseg.reporting.sections.scores import AVERAGES, Cell, cell

SECOND_METRICS = ("hd95", "nsd_1")
"""Said of the head beside Dice and IoU, where they were measured."""


@dataclass(frozen=True, kw_only=True)
class Number:
    """A number with its name, and what there is to add."""

    value: str
    unit: str
    name: str
    more: str = ""


@dataclass(frozen=True, kw_only=True)
class AverageCard:
    """One way of averaging.

    Args:
        title: such as "per image".
        meaning: in a sentence.
        dice, iou: with intervals.
        counted: over how many what.
        left_out: how many are undefined.
    """

    title: str
    meaning: str
    dice: Cell
    iou: Cell
    counted: str
    left_out: int


@dataclass(frozen=True, kw_only=True)
class Headline:
    """The head of the page.

    Args:
        first: the mean Dice per image; None before there are scores.
        sentence: what it means.
        others: further numbers.
        averages: the three averages.
    """

    first: Number | None
    sentence: str
    others: Sequence[Number]
    averages: Sequence[AverageCard]


def headline(content: ReportContent) -> Headline:
    """The head of the page."""
    scores = content.scores if content.scores and content.scores.cases and "dice" in content.scores.metrics else None
    return Headline(
        first=_first(scores) if scores else None,
        sentence=_sentence(scores) if scores else "",
        others=[*(_others(scores) if scores else []), *_of_the_run(content)],
        averages=_averages(scores) if scores and "iou" in scores.metrics else [],
    )


def _first(scores: Scores) -> Number:
    mean = cell(scores.averages.per_image["dice"], 3)
    more = f"{mean.interval} (95 %)" if mean.interval else ""
    return Number(value=mean.mean, unit="", name="mean Dice per image", more=more)


def _sentence(scores: Scores) -> str:
    dice = scores.averages.per_image["dice"]
    if dice.mean is None:
        return "No held-out case shows any label, in the reference or the prediction."
    cases = "case" if dice.n == 1 else "cases"
    return (
        f"On {dice.n} held-out {cases} prediction and reference share {dice.mean:.1%} of what they show on average "
        f"(Dice; 1 is perfect). Each was predicted only by networks that never saw it in training."
    )


def _others(scores: Scores) -> list[Number]:
    numbers = []
    known = [case for case in scores.cases if case.mean_dice is not None]
    if len(known) > 1:
        worst = min(known, key=lambda case: (case.mean_dice or 0.0, case.name))
        numbers.append(Number(value=decimals(worst.mean_dice), unit="", name="Dice of the worst case", more=worst.name))
    for name in SECOND_METRICS:
        if name in scores.metrics and (mean := scores.averages.per_image[name]).mean is not None:
            metric, words = metric_of(name), cell(mean, metric_of(name).digits)
            numbers.append(Number(value=words.mean, unit=metric.unit, name=f"mean {metric.title} per image", more=words.interval))
    return numbers


def _of_the_run(content: ReportContent) -> list[Number]:
    numbers = []
    ended = [epochs[-1] for epochs in content.histories.values() if epochs]
    if ended:
        many = f"{len(ended)} trainings" if len(ended) > 1 else "1 training"
        numbers.append(Number(value=duration(sum(e.total_seconds for e in ended)), unit="", name="of training", more=many))
    if content.flagged:
        numbers.append(
            Number(value=str(len(content.flagged)), unit="", name="cases flagged", more=f"of {len(content.expected_quality)}")
        )
    return numbers


def _averages(scores: Scores) -> list[AverageCard]:
    cards = []
    for key, (title, noun, meaning) in AVERAGES.items():
        dice, iou = (getattr(scores.averages, key)[name] for name in ("dice", "iou"))
        counted = f"{dice.n} {noun}{'s' if dice.n != 1 else ''}"
        cards.append(
            AverageCard(
                title=title, meaning=meaning, dice=cell(dice, 3), iou=cell(iou, 3), counted=counted, left_out=dice.n_undefined
            )
        )
    return cards
