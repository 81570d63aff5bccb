"""Which mendings a run's model gets: what its held-out cases are better for."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from nnseg.core.dataset import counted
from nnseg.core.decisions import Effect, Postprocessing, PostprocessingStep, Tried
from nnseg.core.frozen import digest
from nnseg.core.labels import Labels
from nnseg.crossval.components import CaseRequest, LabelGroup, Mendings, NextStep, PostprocessedCase, measure, rise, steps
from nnseg.crossval.score import pair_files
from nnseg.evaluation.evaluate import FilePair
from nnseg.evaluation.statistics import sign_flip
from nnseg.storage.datasets.read import content_hash
from nnseg.storage.run import Folds, Run
from nnseg.system.parallel import map_items

log = logging.getLogger(__name__)

Numbers = npt.NDArray[Any]

RULE = 1
"""Counted up when the rule below changes, so that runs decide anew."""
LEAST_CASES = 10
"""Held-out cases below which nothing is accepted."""
ALPHA = 0.05
"""The largest p of a gain in mean Dice that is accepted; five cases must change at least."""
HARM = 0.2
"""The largest p at which a label whose mean Dice falls counts as worse: sooner than not, it is spared."""
FEW = 5
"""Where Dice of a label changes in fewer cases, any fall of its mean counts as worse."""
SHARES = (0.0, 0.1, 0.5)
"""Quantiles over cases of the smallest reference object; half of each is tried, since what is predicted comes out smaller."""
PARTS = 5
"""That the cases of fewer than three folds are divided into for cross-validation, so that enough are left to choose."""


def choose_postprocessing(run: Run, folds: Folds, *, workers: int = 1) -> Postprocessing | None:
    """The postprocessing steps that improve the run's held-out predictions; written to ``postprocessing.json``.

    The predictions themselves stay as the networks gave them. A file that was decided on the same ones stays, edited or not.

    Args:
        run: with the held-out predictions, and the dataset with their references.
        folds: whose held-out cases are used.
        workers: processes; the choice does not depend on it.

    Returns:
        None if nothing was held out.
    """
    cases, records, labels = run.cases, run.predictions(folds), run.dataset.labels
    pairs = pair_files(cases, run.predictions_folder, records)
    if not pairs:
        return None
    seen = [(p.name, records[p.name].hash, content_hash([p.reference]), p.annotated) for p in pairs]
    key = digest([RULE, seen, labels.model_dump(mode="json")])
    if (known := run.postprocessing) and known.key == key:
        return known
    fold_of = {name: number for number, fold in folds.items() for name in fold.held_out}
    chosen = select_steps(pairs, {p.name: fold_of[p.name] for p in pairs}, labels, workers=workers)
    run.postprocessing = chosen = chosen.model_copy(update={"key": key})
    log.info("postprocessing: %s", chosen.reason)
    return chosen


def select_steps(pairs: Sequence[FilePair], parts: Mapping[str, int], labels: Labels, *, workers: int = 1) -> Postprocessing:
    """The mendings that some predictions are better for, with what they do to each label.

    The candidates of each of the `steps` are tried on what was accepted before, and accepted if mean Dice rises by more than chance
    and no label gets worse (`judge`). The same is done without each part of the cases in turn, and that part is mended as the
    others chose: unless mean Dice rises there as well, nothing is accepted.

    Args:
        pairs: of cases that the networks had not seen.
        parts: the fold of each case by name; of fewer than three, `PARTS` are made.
        labels: what the values mean.
        workers: processes; the choice does not depend on it.
    """
    if len(pairs) < LEAST_CASES:
        return Postprocessing(cases=len(pairs), reason=f"{counted(len(pairs), 'held-out case')}; at least {LEAST_CASES} are needed")
    if len(set(parts.values())) < 3:
        parts = {name: i % PARTS for i, name in enumerate(sorted(parts))}
    panel = HeldOutCases(pairs=tuple(sorted(pairs, key=lambda p: p.name)), parts=parts, labels=labels, workers=workers)
    without: dict[int | None, Mendings] = dict.fromkeys([None, *sorted(set(parts.values()))], ())
    tried: list[Tried] = []
    for step in steps(labels):
        found = panel.measured(without, step)
        for part, before in without.items():
            outcome = tries(step, [m[before] for name, m in found.items() if parts[name] != part], labels.foreground)
            without[part] = before + tuple(t.mending for t in outcome if t.accepted)
            tried += outcome if part is None else ()
    return _judged(panel, without, tuple(tried))


@dataclass(frozen=True, kw_only=True)
class HeldOutCases:
    """The cases that are asked.

    Args:
        pairs: by name.
        parts: which part of the cases each belongs to, by name.
        labels: what the values mean.
        workers: processes.
    """

    pairs: tuple[FilePair, ...]
    parts: Mapping[str, int]
    labels: Labels
    workers: int

    def measured(
        self, without: Mapping[int | None, Mendings], step: NextStep | None
    ) -> dict[str, dict[Mendings, PostprocessedCase]]:
        """What a step could do in each case, by name, for each way in which it is mended by now.

        Args:
            without: what was chosen without each part of the cases (without None: by all of them).
            step: the next, to which a case is mended as the choices stand that it has a say in. None at the end: it is measured
                as it was, as all chose, and as those chose who did not know it.
        """
        requests = []
        for pair in self.pairs:
            own = self.parts[pair.name]
            ways = {way for part, way in without.items() if part != own} if step else {(), without[None], without[own]}
            requests.append(CaseRequest(pair=pair, postprocessed=frozenset(ways), step=step))
        found = {}
        outcomes = map_items(partial(measure, labels=self.labels), requests, workers=self.workers, label="postprocessing")
        for outcome in outcomes:
            if outcome.result is None:
                log.warning("case %s has no say in postprocessing: %s", outcome.item.pair.name, outcome.reason)
            else:
                found[outcome.item.pair.name] = outcome.result
        return dict(sorted(found.items()))


def tries(step: NextStep, measured: Sequence[PostprocessedCase], names: Sequence[str]) -> list[Tried]:
    """What became of each candidate of a step that changes any of the given cases; at most one kind is accepted an object.

    Args:
        step: as it was measured.
        measured: one a case.
        names: that are scored.
    """
    found = []
    for number, thing in enumerate(step.objects):
        for rivals in _candidates(step, thing, [m.pieces[number].smallest_mm3 for m in measured]):
            some = [judge(mending, _changes(measured, number, mending, len(names)), names) for mending in rivals]
            best = max((t for t in some if t.accepted), key=lambda t: t.gain, default=None)
            second = [t.model_copy(update={"accepted": False, "reason": "another volume gains more"}) for t in some if t.accepted]
            found += [t for t in some if not t.accepted and t.cases] + [t for t in second if best and t.mending != best.mending]
            if best:
                found.append(best)
                break
    return found


def judge(mending: PostprocessingStep, changes: Numbers, names: Sequence[str]) -> Tried:
    """A candidate, accepted if mean Dice rises by more than chance and no label gets worse.

    A label is worse if its mean falls and the paired test cannot put that down to chance, or it changes in too few cases to tell.

    Args:
        mending: the candidate.
        changes: (cases, names) of Dice, NaN where undefined.
        names: that are scored.
    """
    defined = changes[~np.isnan(changes).all(1)]
    rises = np.nanmean(defined, axis=1) if len(defined) else np.zeros(0)
    gain, p = mean_rise(changes), sign_flip(rises)
    worse = [name for name, column in zip(names, changes.T, strict=True) if _is_worse(column[~np.isnan(column)])]
    reason = "mean Dice rises, and no label gets worse"
    if gain <= 0:
        reason = "mean Dice does not rise"
    elif p > ALPHA:
        reason = f"the rise of mean Dice may be chance (p = {p:.2g})"
    elif worse:
        reason = f"{', '.join(worse)} would get worse"
    accepted = gain > 0 and p <= ALPHA and not worse
    return Tried(mending=mending, cases=int(np.count_nonzero(rises)), gain=gain, p=p, accepted=accepted, reason=reason)


def _changes(measured: Sequence[PostprocessedCase], number: int, mending: PostprocessingStep, names: int) -> Numbers:
    """(cases, names) of Dice."""
    return np.array([m.change(number, mending) for m in measured]).reshape(len(measured), names)


def mean_rise(changes: Numbers) -> float:
    """The mean over names of their mean over the cases where they are defined; (cases, names), NaN where not."""
    columns = [column[~np.isnan(column)] for column in changes.T]
    return float(np.mean([column.mean() for column in columns if column.size] or [0.0]))


def _is_worse(column: Numbers) -> bool:
    if not column.size or column.mean() >= 0:
        return False
    return bool(np.count_nonzero(column) < FEW or sign_flip(-column) <= HARM)


def _candidates(step: NextStep, thing: LabelGroup, smallest_mm3: Sequence[float]) -> tuple[tuple[PostprocessingStep, ...], ...]:
    """What is tried on an object, kind after kind, the rivals of a kind beside each other."""
    if step.kind == "fill":
        return ((PostprocessingStep(action="holes", labels=thing.labels, fill=thing.fill),),)
    known = [size for size in smallest_mm3 if np.isfinite(size)]
    volumes = sorted({float(f"{size / 2:.2g}") for size in np.quantile(known, SHARES)}) if known else []
    return (
        (PostprocessingStep(action="largest", labels=thing.labels),),
        tuple(PostprocessingStep(action="smaller", labels=thing.labels, mm3=volume) for volume in volumes),
    )


def _judged(panel: HeldOutCases, without: Mapping[int | None, Mendings], tried: tuple[Tried, ...]) -> Postprocessing:
    """What was chosen, if the cases are better for it that had no say in their own mending."""
    chosen = without[None]
    if not chosen:
        return Postprocessing(cases=len(panel.pairs), reason="no candidate raises mean Dice without doubt", tried=tried)
    found = panel.measured(without, None)
    before = np.array([m[()].tally.dice() for m in found.values()])
    after = np.array([m[chosen].tally.dice() for m in found.values()])
    by_others = np.array([m[without[panel.parts[name]]].tally.dice() for name, m in found.items()])
    gain, names = mean_rise(rise(before, by_others)), panel.labels.foreground
    all_in_all = judge(chosen[0], rise(before, after), names)
    said = f"mean Dice of {len(found)} held-out cases changes by {gain:+.5f} when each part of them is mended as the others chose"
    if gain <= 0 or not all_in_all.accepted:
        why = "nothing is accepted" if gain <= 0 else f"nothing is accepted, for with all of it {all_in_all.reason}"
        return Postprocessing(cases=len(found), reason=f"{said}: {why}", tried=tried)
    effects = {name: _effect(before[:, i], after[:, i], by_others[:, i]) for i, name in enumerate(names)}
    return Postprocessing(mendings=chosen, cases=len(found), reason=said, effects=effects, tried=tried)


def _effect(before: Numbers, after: Numbers, by_others: Numbers) -> Effect:
    changes, honest = rise(before, after), rise(before, by_others)
    return Effect(
        cases=int(np.count_nonzero(~np.isnan(before) | ~np.isnan(after))),
        dice_before=_mean(before),
        dice_after=_mean(after),
        p=sign_flip(changes[~np.isnan(changes)]),
        gain=mean_rise(honest[:, None]),
    )


def _mean(dices: Numbers) -> float | None:
    known = dices[~np.isnan(dices)]
    return float(known.mean()) if known.size else None
