"""Which of a run's plans answer, alone or together: decided on what each fold held out."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from nnseg.core.dataset import Case, Dataset, Fold
from nnseg.core.decisions import Candidate, Choice, Interval, ensembles_of, name_of
from nnseg.core.frozen import digest
from nnseg.core.labels import Labels
from nnseg.core.scores import CaseScore
from nnseg.evaluation.averages import table
from nnseg.evaluation.evaluate import OVERLAP, FilePair, evaluate
from nnseg.evaluation.model_selection import CandidateScores, select
from nnseg.storage.datasets.read import content_hash
from nnseg.storage.predictions import ScanRecord, held_out_predictions
from nnseg.storage.run import Run

log = logging.getLogger(__name__)

RULE = 2
"""Counted up when the rule changes, so that runs decide anew."""
OF_THE_SCAN = ("preprocess", "network", "restore")
"""Stages that a scan's price is made of; files are read and written alike, whoever answers."""


def choose_model(run: Run, dataset: Dataset, folds: Mapping[int, Fold], *, workers: int = 1) -> Choice | None:
    """The plans that are to answer, by what the given folds held out; written to ``choice.json``.

    A file that was decided on the same predictions and references stays, edited or not.

    Args:
        run: whose held-out cases every plan and every ensemble has predicted.
        dataset: with their references.
        folds: by number, those that are predicted.
        workers: processes; the choice does not depend on it.

    Returns:
        None if there is only one plan, or nothing was held out.
    """
    tried = [_CandidatePredictions.of(run, plans, folds) for plans in ensembles_of(list(run.final_plans))]
    cases = [case for case in dataset.cases if case.labels and all(of.has(case.name) for of in tried)]
    if len(tried) == 1 or not cases:
        run.choice = None
        return None
    hashes = {name_of(of.plans): [of.written[case.name].hash for case in cases] for of in tried}
    references = [(case.name, content_hash(case.files[-1:]), case.annotated) for case in cases]
    key = digest([RULE, references, hashes, dataset.labels.model_dump(mode="json")])
    if (known := run.choice) and known.key == key:
        return known
    fold_of = {name: number for number, fold in folds.items() for name in fold.held_out}
    scored = [of.scored(cases, dataset.labels, workers) for of in tried]
    common = sorted(set.intersection(*map(set, scored)))
    rivals = [
        CandidateScores(
            plans=of.plans,
            dice=table([scores[name] for name in common], dataset.labels.foreground, "dice"),
            seconds=of.seconds(cases),
        )
        for of, scores in zip(tried, scored, strict=True)
    ]
    choice = select(rivals, [fold_of[name] for name in common]).model_copy(update={"key": key})
    run.choice = choice
    for line in describe(choice):
        log.info("%s", line)
    return choice


@dataclass(frozen=True, kw_only=True)
class _CandidatePredictions:
    """What weighted plans made of the held-out cases.

    Args:
        folder: that the files are relative to.
        written: by name of the case.
    """

    plans: Mapping[str, float]
    folder: Path
    written: Mapping[str, ScanRecord]

    @classmethod
    def of(cls, run: Run, plans: Mapping[str, float], folds: Mapping[int, Fold]) -> _CandidatePredictions:
        folder = run.ensemble_folder(plans).path
        return cls(plans=plans, folder=folder, written=held_out_predictions(folder, folds))

    def has(self, case: str) -> bool:
        return case in self.written and self.written[case].status == "done"

    def scored(self, cases: Sequence[Case], labels: Labels, workers: int) -> dict[str, CaseScore]:
        pairs = []
        for case in cases:
            assert case.labels is not None
            file = self.folder / self.written[case.name].file
            pairs.append(FilePair(name=case.name, prediction=file, reference=case.labels, annotated=case.annotated))
        return {of.name: of for of in evaluate(pairs, labels, measures=OVERLAP, workers=workers).cases}

    def seconds(self, cases: Sequence[Case]) -> float:
        return fmean(sum(self.written[case.name].seconds.get(stage, 0.0) for stage in OF_THE_SCAN) for case in cases)


def describe(choice: Choice) -> Iterable[str]:
    """The choice as a table for a terminal, line by line."""
    width = max([len(c.name) for c in choice.candidates] + [9])
    yield f"{'plans':{width}}  {'Dice':24}  {'above ' + choice.best_single:26}  {'p':>6}  seconds a scan"
    for of in choice.candidates:
        chosen = "  <- chosen" if of.name == name_of(choice.plans) else ""
        yield f"{of.name:{width}}  {_number(of.dice, of.interval):24}  {_gain(of):26}  {_chance(of.p):>6}  {of.seconds:.3g}{chosen}"
    yield choice.reason
    if len(choice.plans) > 1 and choice.nested and choice.times_as_long:
        gain = _number(choice.nested.gain, choice.nested.interval, sign="+")
        yield f"{gain} of Dice to be expected, for {choice.times_as_long:.2g} times the time of {choice.best_single} alone"


def _number(value: float, interval: Interval | None, sign: str = "") -> str:
    return f"{value:{sign}.4f}" + (f" [{interval[0]:{sign}.4f}, {interval[1]:{sign}.4f}]" if interval else "")


def _gain(of: Candidate) -> str:
    return "" if of.gain is None else _number(of.gain, of.gain_interval, sign="+")


def _chance(p: float | None) -> str:
    return "" if p is None else f"{p:.2g}"
