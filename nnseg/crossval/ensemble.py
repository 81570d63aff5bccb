"""Which of a run's plans the model consists of, one or several: decided by their predictions of held-out cases."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from nnseg.core.dataset import Case
from nnseg.core.decisions import Choice, Interval, candidate_ensembles, ensemble_name
from nnseg.core.frozen import digest
from nnseg.core.label_files import all_label_files
from nnseg.core.labels import Labels
from nnseg.core.scores import CaseScore
from nnseg.crossval.score import pair_files
from nnseg.evaluation.averages import table
from nnseg.evaluation.evaluate import OVERLAP, evaluate
from nnseg.evaluation.model_selection import CandidateScores, select
from nnseg.storage.datasets.content import content_hash
from nnseg.storage.predictions import ScanRecord, held_out_predictions
from nnseg.storage.run import Folds, Run

log = logging.getLogger(__name__)

RULE = 2
"""Raised when the rule changes, so that runs decide anew."""
TIMED_STAGES = ("preprocess", "network", "restore")
"""Stages whose time is compared; reading and writing take the same time with any plan."""


def choose_model(run: Run, folds: Folds, *, workers: int = 0) -> Choice | None:
    """The plans that the model consists of, chosen by their predictions of held-out cases; written to ``choice.json``.

    A file that was decided on the same predictions and references stays, edited or not.

    Args:
        run: whose held-out cases are predicted with every plan and every ensemble.
        folds: whose held-out cases are used.
        workers: processes; the choice does not depend on it.

    Returns:
        None if there is only one plan, or nothing was held out.
    """
    candidates = [_CandidatePredictions.read(run, weights, folds) for weights in candidate_ensembles(list(run.final_plans))]
    dataset = run.dataset
    cases = [case for case in dataset.cases if case.labels and all(candidate.has(case.name) for candidate in candidates)]
    if len(candidates) == 1 or not cases:
        run.choice = None
        return None
    hashes = {ensemble_name(c.weights): [c.records[case.name].hash for case in cases] for c in candidates}
    references = [(case.name, content_hash(all_label_files(case.labels)), case.annotated) for case in cases]
    key = digest([RULE, references, hashes, dataset.labels.model_dump(mode="json")])
    if (known := run.choice) and known.key == key:
        return known
    scored = [candidate.score(cases, dataset.labels, workers) for candidate in candidates]
    common = sorted(set.intersection(*map(set, scored)))
    compared = [
        CandidateScores(
            plans=candidate.weights,
            dice=table([scores[name] for name in common], dataset.labels.foreground, "dice"),
            seconds=candidate.seconds(cases),
        )
        for candidate, scores in zip(candidates, scored, strict=True)
    ]
    fold_of = {name: number for number, fold in folds.items() for name in fold.held_out}
    run.choice = choice = select(compared, [fold_of[name] for name in common]).model_copy(update={"key": key})
    for line in describe_choice(choice):
        log.info("%s", line)
    return choice


@dataclass(frozen=True, kw_only=True)
class _CandidatePredictions:
    """The predictions of held-out cases with weighted plans.

    Args:
        weights: of the plans, by name.
        folder: that the files of the records are relative to.
        records: by name of the case.
    """

    weights: Mapping[str, float]
    folder: Path
    records: Mapping[str, ScanRecord]

    @classmethod
    def read(cls, run: Run, weights: Mapping[str, float], folds: Folds) -> _CandidatePredictions:
        folder = run.ensemble_folder(weights).path
        return cls(weights=weights, folder=folder, records=held_out_predictions(folder, folds))

    def has(self, case: str) -> bool:
        return case in self.records and self.records[case].status == "done"

    def score(self, cases: Sequence[Case], labels: Labels, workers: int) -> dict[str, CaseScore]:
        """The overlap of each case that could be scored, by name."""
        pairs = pair_files({case.name: case for case in cases}, self.folder, self.records)
        return {
            score.name: score for score in evaluate(pairs, labels, measures=OVERLAP, workers=workers, stop_for_faults=True).cases
        }

    def seconds(self, cases: Sequence[Case]) -> float:
        """The mean time that a scan takes."""
        return fmean(sum(self.records[case.name].seconds.get(stage, 0.0) for stage in TIMED_STAGES) for case in cases)


def describe_choice(choice: Choice) -> Iterable[str]:
    """The choice as a table for a terminal, line by line."""
    width = max([len(c.name) for c in choice.candidates] + [9])
    yield f"{'plans':{width}}  {'Dice':24}  {'above ' + choice.best_single:26}  {'p':>6}  seconds a scan"
    for candidate in choice.candidates:
        chosen = "  <- chosen" if candidate.name == ensemble_name(choice.plans) else ""
        dice = _number(candidate.dice, candidate.interval)
        gain = "" if candidate.gain is None else _number(candidate.gain, candidate.gain_interval, sign="+")
        p = "" if candidate.p is None else f"{candidate.p:.2g}"
        yield f"{candidate.name:{width}}  {dice:24}  {gain:26}  {p:>6}  {candidate.seconds:.3g}{chosen}"
    yield choice.reason
    if len(choice.plans) > 1 and choice.nested and choice.time_ratio:
        gain = _number(choice.nested.gain, choice.nested.interval, sign="+")
        yield f"{gain} of Dice to be expected, for {choice.time_ratio:.2g} times the time of {choice.best_single} alone"


def _number(value: float, interval: Interval | None, sign: str = "") -> str:
    return f"{value:{sign}.4f}" + (f" [{interval[0]:{sign}.4f}, {interval[1]:{sign}.4f}]" if interval else "")
