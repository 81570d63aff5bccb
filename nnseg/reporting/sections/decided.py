"""Part of the scores: what was decided on the held-out cases, and what it brings: the choice of plans, and postprocessing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nnseg.core.decisions import Choice, Interval, Postprocessing, PostprocessingStep, name_of
from nnseg.core.labels import Labels
from nnseg.reporting.charts.drawing import decimals, duration
from nnseg.reporting.content import ReportContent


@dataclass(frozen=True, kw_only=True)
class CandidateRow:
    """A candidate of the choice, in words."""

    name: str
    chosen: bool
    dice: str
    interval: str
    gain: str
    p: str
    time: str


@dataclass(frozen=True, kw_only=True)
class EffectRow:
    """What mending does to a label, in words."""

    label: str
    cases: int
    before: str
    after: str
    gain: str
    p: str


@dataclass(frozen=True, kw_only=True)
class Decided:
    """What was decided.

    Args:
        chosen: the plans that answer, in words; empty where there was nothing to choose.
        why: in words.
        price: what the choice costs and brings.
        candidates: of the choice.
        mendings: in words, in the order in which they are applied.
        mending_why: why these.
        effects: of the mendings, by label.
        tried: how many other mendings changed any case.
    """

    chosen: str
    why: str
    price: str
    candidates: Sequence[CandidateRow]
    mendings: Sequence[str]
    mending_why: str
    effects: Sequence[EffectRow]
    tried: int


def decided(content: ReportContent) -> Decided | None:
    """What was decided on held-out cases; None if nothing was."""
    choice, post = content.choice, content.postprocessing
    labels = content.plans[0].labels if content.plans else None
    if choice is None and post is None:
        return None
    return Decided(
        chosen=name_of(choice.plans) if choice else "",
        why=choice.reason if choice else "",
        price=_price(choice) if choice else "",
        candidates=_candidates(choice) if choice else [],
        mendings=[_step_in_words(m, labels) for m in post.mendings] if post else [],
        mending_why=post.reason if post else "",
        effects=_effects(post) if post else [],
        tried=sum(not t.accepted for t in post.tried) if post else 0,
    )


def _price(choice: Choice) -> str:
    """Gain against time, of an ensemble that answers or does not."""
    parts = []
    if choice.nested and choice.p is not None:
        gain = f"{choice.nested.gain:+.4f}{_interval(choice.nested.interval, '+.4f')}"
        parts.append(
            f"To cases without a say in it the best ensemble brings {gain} Dice over the best single plan (p = {choice.p:.2g})."
        )
    if len(choice.plans) > 1 and choice.times_as_long:
        parts.append(f"A scan takes {choice.times_as_long:.3g} times as long as with the {choice.best_single} plan alone.")
    return " ".join(parts)


def _candidates(choice: Choice) -> list[CandidateRow]:
    chosen = name_of(choice.plans)
    return [
        CandidateRow(
            name=c.name,
            chosen=c.name == chosen,
            dice=decimals(c.dice, 4),
            interval=f"{c.interval[0]:.4f} to {c.interval[1]:.4f}" if c.interval else "",
            gain="" if c.gain is None else f"{c.gain:+.4f}{_interval(c.gain_interval, '+.4f')}",
            p="" if c.p is None else f"{c.p:.2g}",
            time=duration(c.seconds) if c.seconds else "",
        )
        for c in choice.candidates
    ]


def _effects(post: Postprocessing) -> list[EffectRow]:
    return [
        EffectRow(
            label=label,
            cases=of.cases,
            before=decimals(of.dice_before),
            after=decimals(of.dice_after),
            gain=f"{of.gain:+.4f}",
            p=f"{of.p:.2g}",
        )
        for label, of in post.effects.items()
    ]


def _step_in_words(mending: PostprocessingStep, labels: Labels | None) -> str:
    names = dict(zip(labels.values, labels.names, strict=True)) if labels else {}
    what = " with ".join(names.get(value, f"label {value}") for value in mending.labels)
    if mending.action == "largest":
        return f"Of {what} only the largest connected piece is kept."
    if mending.action == "smaller":
        return f"Pieces of {what} below {mending.mm3:g} mm³ are removed."
    return f"Holes in {what} are filled{f' with {names[mending.fill]}' if mending.fill in names else ''}."


def _interval(interval: Interval | None, form: str) -> str:
    return f" ({interval[0]:{form}} to {interval[1]:{form}})" if interval else ""
