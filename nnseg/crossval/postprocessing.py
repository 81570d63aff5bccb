"""The postprocessing of a run's model: steps that improve the predictions of held-out cases."""

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
from nnseg.core.errors import RunError
from nnseg.core.frozen import digest
from nnseg.core.label_files import all_label_files
from nnseg.core.labels import Labels
from nnseg.crossval.components import (
    CaseRequest,
    LabelGroup,
    PostprocessedCase,
    SearchStep,
    Steps,
    dice_difference,
    measure_case,
    search_steps,
)
from nnseg.crossval.score import pair_files
from nnseg.evaluation.pairs import FilePair
from nnseg.evaluation.statistics import sign_flip
from nnseg.storage.datasets.content import content_hash
from nnseg.storage.run import Folds, Run
from nnseg.system.parallel import map_items

log = logging.getLogger(__name__)

Numbers = npt.NDArray[Any]

RULE = 1
"""Raised when the rule below changes, so that runs decide anew."""
LEAST_CASES = 10
"""Held-out cases below which no step is accepted."""
ALPHA = 0.05
"""Largest p of a gain in mean Dice that is accepted; at least five cases must change."""
HARM_ALPHA = 0.2
"""Largest p at which a label whose mean Dice falls counts as worse; lenient, to protect labels."""
FEW_CASES = 5
"""If Dice of a label changes in fewer cases, any fall of its mean counts as worse."""
QUANTILES = (0.0, 0.1, 0.5)
"""Of the volume of the smallest reference component over cases; half of each is tried, since predictions tend to be smaller."""
PARTS = 5
"""Parts of the cases for cross-validation if there are fewer than three folds."""


def choose_postprocessing(run: Run, folds: Folds, *, workers: int = 0) -> Postprocessing | None:
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
    seen = [(p.name, records[p.name].hash, content_hash(all_label_files(p.reference)), p.annotated) for p in pairs]
    key = digest([RULE, seen, labels.model_dump(mode="json")])
    if (known := run.postprocessing) and known.key == key:
        return known
    fold_of = {name: number for number, fold in folds.items() for name in fold.held_out}
    chosen = select_steps(pairs, {p.name: fold_of[p.name] for p in pairs}, labels, workers=workers)
    run.postprocessing = chosen = chosen.model_copy(update={"key": key})
    log.info("postprocessing: %s; %s", counted(len(chosen.steps), "step") if chosen.steps else "none", chosen.reason)
    return chosen


def select_steps(pairs: Sequence[FilePair], parts: Mapping[str, int], labels: Labels, *, workers: int = 0) -> Postprocessing:
    """The postprocessing steps that improve some predictions, with their effect on each label.

    The candidates of each of the `search_steps` are tried after those accepted before, see `assess`. The same is done with each
    part of the cases left out in turn, and that part is postprocessed with the steps chosen without it: unless mean Dice rises
    there too, no step is accepted.

    Args:
        pairs: of cases on which the networks were not trained.
        parts: the fold of each case by name; if there are fewer than three, the cases are divided into `PARTS`.
        labels: what the values mean.
        workers: processes; the choice does not depend on it.
    """
    if len(pairs) < LEAST_CASES:
        reason = f"{counted(len(pairs), 'held-out case')} cannot tell which step helps; {LEAST_CASES} are needed"
        return Postprocessing(cases=len(pairs), reason=reason)
    if len(set(parts.values())) < 3:
        parts = {name: i % PARTS for i, name in enumerate(sorted(parts))}
    cases = HeldOutCases(pairs=tuple(sorted(pairs, key=lambda p: p.name)), parts=parts, labels=labels, workers=workers)
    chosen: Chosen = dict.fromkeys([None, *sorted(set(parts.values()))], ())
    tried: list[Tried] = []
    for search in search_steps(labels):
        measured = cases.measure(chosen, search)
        for part, before in chosen.items():
            outcome = assess_candidates(search, [m[before] for n, m in measured.items() if parts[n] != part], labels.foreground)
            chosen[part] = before + tuple(t.step for t in outcome if t.accepted)
            tried += outcome if part is None else ()
    return _confirm(cases, chosen, tuple(tried))


Chosen = dict[int | None, Steps]
"""The steps chosen without each part of the cases; without None: by all of them."""


@dataclass(frozen=True, kw_only=True)
class HeldOutCases:
    """The cases that the choice is made on.

    Args:
        pairs: by name.
        parts: part of the cases that each belongs to, by name.
        labels: what the values mean.
        workers: processes.
    """

    pairs: tuple[FilePair, ...]
    parts: Mapping[str, int]
    labels: Labels
    workers: int

    def measure(self, chosen: Chosen, search: SearchStep | None) -> dict[str, dict[Steps, PostprocessedCase]]:
        """Each case, by name, after the steps chosen so far, with what a further step could change.

        Args:
            chosen: after the steps of each choice that the case takes part in, it is measured.
            search: the further step. None at the end: cases are measured without steps, with those that all cases chose, and with
                those chosen without the case's part.
        """
        requests = []
        for pair in self.pairs:
            own = self.parts[pair.name]
            sequences = {s for part, s in chosen.items() if part != own} if search else {(), chosen[None], chosen[own]}
            requests.append(CaseRequest(pair=pair, postprocessed=frozenset(sequences), search=search))
        found = {}
        outcomes = map_items(
            partial(measure_case, labels=self.labels), requests, workers=self.workers, label="trying postprocessing"
        )
        for outcome in outcomes:
            if outcome.is_fault:
                raise RunError(f"case {outcome.item.pair.name}: {outcome.reason}")
            if outcome.result is None:
                log.warning("case %s is not used to choose postprocessing: %s", outcome.item.pair.name, outcome.reason)
            else:
                found[outcome.item.pair.name] = outcome.result
        return dict(sorted(found.items()))


def assess_candidates(search: SearchStep, measured: Sequence[PostprocessedCase], names: Sequence[str]) -> list[Tried]:
    """The outcome of each candidate that changes any of the given cases; at most one is accepted for each group of labels.

    Args:
        search: the step whose candidates are assessed.
        measured: the cases.
        names: that are scored.
    """
    found = []
    for number, group in enumerate(search.groups):
        for candidates in _candidates(search, group, [m.components[number].smallest_mm3 for m in measured]):
            assessed = []
            for candidate in candidates:
                changes = np.array([m.dice_change(number, candidate) for m in measured]).reshape(len(measured), len(names))
                assessed.append(assess(candidate, changes, names))
            accepted = [t for t in assessed if t.accepted]
            best = max(accepted, key=lambda t: t.gain, default=None)
            found += [t for t in assessed if not t.accepted and t.cases]
            if best:
                surpassed = {"accepted": False, "reason": "another volume gains more"}
                found += [t.model_copy(update=surpassed) for t in accepted if t.step != best.step] + [best]
                break
    return found


def assess(step: PostprocessingStep, changes: Numbers, names: Sequence[str]) -> Tried:
    """A candidate, accepted if mean Dice rises significantly and no label gets worse.

    A label is worse if its mean falls and the paired test is not clearly against it, or too few cases change for a test.

    Args:
        step: the candidate.
        changes: (cases, names) of Dice, NaN where undefined.
        names: that are scored.
    """
    defined = changes[~np.isnan(changes).all(1)]
    rises = np.nanmean(defined, axis=1) if len(defined) else np.zeros(0)
    gain, p = mean_over_names(changes), sign_flip(rises)
    worse = [name for name, column in zip(names, changes.T, strict=True) if _is_worse(column[~np.isnan(column)])]
    reason = "mean Dice rises, and no label gets worse"
    if gain <= 0:
        reason = "mean Dice does not rise"
    elif p > ALPHA:
        reason = f"the rise of mean Dice may be chance (p = {p:.2g})"
    elif worse:
        reason = f"{', '.join(worse)} would get worse"
    accepted = gain > 0 and p <= ALPHA and not worse
    return Tried(step=step, cases=int(np.count_nonzero(rises)), gain=gain, p=p, accepted=accepted, reason=reason)


def mean_over_names(changes: Numbers) -> float:
    """The mean over names of their mean over the cases where they are defined; (cases, names), NaN where undefined."""
    columns = [column[~np.isnan(column)] for column in changes.T]
    return float(np.mean([column.mean() for column in columns if column.size] or [0.0]))


def _is_worse(column: Numbers) -> bool:
    if not column.size or column.mean() >= 0:
        return False
    return bool(np.count_nonzero(column) < FEW_CASES or sign_flip(-column) <= HARM_ALPHA)


def _candidates(search: SearchStep, group: LabelGroup, smallest_mm3: Sequence[float]) -> tuple[Steps, ...]:
    """The steps to try on a group of labels: alternatives of which one is accepted, then others if none was."""
    if search.action == "fill":
        return ((PostprocessingStep(action="holes", labels=group.labels, fill=group.fill),),)
    known = [size for size in smallest_mm3 if np.isfinite(size)]
    volumes = sorted({float(f"{size / 2:.2g}") for size in np.quantile(known, QUANTILES)}) if known else []
    return (
        (PostprocessingStep(action="largest", labels=group.labels),),
        tuple(PostprocessingStep(action="smaller", labels=group.labels, mm3=volume) for volume in volumes),
    )


def _confirm(cases: HeldOutCases, chosen: Chosen, tried: tuple[Tried, ...]) -> Postprocessing:
    """The chosen steps, if cross-validation confirms their gain; else none, with the reason."""
    steps = chosen[None]
    if not steps:
        reason = "no step that was tried raises mean Dice by more than chance explains"
        return Postprocessing(cases=len(cases.pairs), reason=reason, tried=tried)
    measured = cases.measure(chosen, None)
    before = np.array([m[()].counts.dice() for m in measured.values()])
    after = np.array([m[steps].counts.dice() for m in measured.values()])
    cross_validated = np.array([m[chosen[cases.parts[name]]].counts.dice() for name, m in measured.items()])
    gain, names = mean_over_names(dice_difference(before, cross_validated)), cases.labels.foreground
    overall = assess(steps[0], dice_difference(before, after), names)
    summary = f"in cross-validation on {len(measured)} held-out cases, the steps change mean Dice by {gain:+.4f}"
    if gain <= 0 or not overall.accepted:
        why = "none is used" if gain <= 0 else f"none is used, because together {overall.reason}"
        return Postprocessing(cases=len(measured), reason=f"{summary}: {why}", tried=tried)
    effects = {name: _effect(before[:, i], after[:, i], cross_validated[:, i]) for i, name in enumerate(names)}
    return Postprocessing(steps=steps, cases=len(measured), reason=summary, effects=effects, tried=tried)


def _effect(before: Numbers, after: Numbers, cross_validated: Numbers) -> Effect:
    """The effect on one name, from Dice (cases,) without steps, with the chosen ones, and with those chosen without the case."""
    changes = dice_difference(before, after)
    return Effect(
        cases=int(np.count_nonzero(~np.isnan(before) | ~np.isnan(after))),
        dice_before=_mean(before),
        dice_after=_mean(after),
        p=sign_flip(changes[~np.isnan(changes)]),
        gain=mean_over_names(dice_difference(before, cross_validated)[:, None]),
    )


def _mean(dices: Numbers) -> float | None:
    known = dices[~np.isnan(dices)]
    return float(known.mean()) if known.size else None
