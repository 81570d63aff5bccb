"""Scores of held-out cases whose scans were changed, predicted by the networks that were not trained on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from nnseg.core.dataset import Case, Finding
from nnseg.core.errors import NnsegError, RunError
from nnseg.core.image import Scan
from nnseg.core.labels import Labels
from nnseg.core.robustness import ChangedScore, Robustness
from nnseg.core.scores import CaseScore
from nnseg.evaluation.compare import Comparison, compare
from nnseg.evaluation.evaluate import score, summarize
from nnseg.evaluation.statistics import holm
from nnseg.inference.predict import Predictor
from nnseg.network.load import load_model
from nnseg.storage.images.read import read_labels_of, read_scan
from nnseg.storage.run import Run
from nnseg.system.progress import progress

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Change:
    """One way to change scans.

    Args:
        name: of the change.
        strength: None if there is only one.
        apply: of a scan and the name of its case the changed scan; None if it cannot be changed so.
    """

    name: str
    strength: float | None = None
    apply: Callable[[Scan, str], Scan | None]


def score_changed(run: Run, changes: Sequence[Change], *, cases: int, device: str, label: str) -> Robustness:
    """The Dice of a run's held-out cases with each change of their scans, beside that of the scans as they are.

    Args:
        run: with scores.
        changes: to try, each by itself.
        cases: most cases that are predicted, spread evenly over their names.
        device: to compute on.
        label: what is done, in words.

    Raises:
        RunError: the run is not scored yet, or no held-out case can be predicted.
        ModelError: its networks are missing.
    """
    chosen = _choose_cases(run, cases)
    scores: list[list[CaseScore]] = [[] for _ in range(1 + len(changes))]
    findings = list[Finding]()
    for case, predictor in progress(_with_predictors(run, chosen, device), total=len(chosen), label=label):
        try:
            found = list(_score_case(case, predictor, changes, run.dataset.labels))
        except NnsegError as error:
            if error.is_fault:
                raise
            findings.append(Finding.read(str(error), "NS-S001", case=case.name, files=case.images))
            continue
        for of_change, one in zip(scores, found, strict=True):
            of_change.extend([one] if one else [])
    if not scores[0]:
        raise RunError(f"none of {len(chosen)} held-out cases of {run.path} can be predicted: {findings[0]}")
    records = run.predictions()
    return Robustness(
        cases={one.name: records[one.name].prediction_key for one in scores[0]},
        changes=tuple(_compare(changes, scores, run.dataset.labels)),
        findings=tuple(findings),
    )


def spread_evenly(items: Sequence[Item], count: int) -> tuple[Item, ...]:
    """So many items, evenly spaced from the first to the last; all if there are not more."""
    return tuple(items[int(place)] for place in np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).round()))


def _choose_cases(run: Run, count: int) -> tuple[Case, ...]:
    """Held-out cases with a reference and a prediction of the run, in the order of their folds."""
    scores, records, known, folds = run.require_scores(), run.predictions(), run.cases, run.fold_of
    usable = [case.name for case in scores.cases if case.name in records and case.name in known]
    if not usable:
        raise RunError(f"{run.path} has no held-out case with a score and a prediction; nnseg run makes both")
    return tuple(known[name] for name in sorted(spread_evenly(usable, count), key=lambda name: folds[name]))


def _with_predictors(run: Run, cases: Sequence[Case], device: str) -> Iterator[tuple[Case, Predictor]]:
    """Each case with the predictor of its fold, one of which is loaded at a time."""
    loaded: tuple[int, Predictor] | None = None
    for case in cases:
        fold = run.fold_of[case.name]
        if loaded is None or loaded[0] != fold:
            loaded = fold, Predictor(load_model(run.path, folds=(fold,)), device=device)
        yield case, loaded[1]


def _score_case(case: Case, predictor: Predictor, changes: Sequence[Change], labels: Labels) -> Iterator[CaseScore | None]:
    """The score of the scan as it is, then of each change; None for those that it cannot be changed by."""
    if case.labels is None:
        raise RunError(f"case {case.name} has lost its label map since it was scored; nnseg run scores it anew")
    scan = read_scan(case.images, repair=True, spacing=case.spacing)
    reference = read_labels_of(case.labels, scan)
    for change in (None, *changes):
        changed = change.apply(scan, case.name) if change else scan
        if changed is None:
            yield None
        else:
            yield score(case.name, predictor(changed).label_map, reference, labels, annotated=case.annotated)


def _compare(changes: Sequence[Change], scores: Sequence[Sequence[CaseScore]], labels: Labels) -> Iterator[ChangedScore]:
    """The rows of the changes that some case could be changed by."""
    unchanged, *changed = scores
    tried = [
        (change, compare(summarize(unchanged, labels), summarize(of_change, labels), ["dice"], names=("unchanged", "changed")))
        for change, of_change in zip(changes, changed, strict=True)
        if of_change
    ]
    adjusted = holm([found.rows[0].p for _, found in tried])
    for (change, found), p_adjusted in zip(tried, adjusted, strict=True):
        yield _row(change, found, p_adjusted)


def _row(change: Change, found: Comparison, p_adjusted: float) -> ChangedScore:
    mean, *of_labels = found.rows
    return ChangedScore(
        change=change.name,
        strength=change.strength,
        n=mean.n,
        unchanged=mean.a,
        changed=mean.b,
        difference=mean.difference,
        interval=mean.interval,
        p=mean.p,
        p_adjusted=p_adjusted,
        labels={row.label: row.difference for row in of_labels if row.label is not None},
    )
