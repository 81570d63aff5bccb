"""``nnseg evaluate``: scores of the label maps of a folder, overall and by group, written as JSON or CSV."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from nnseg.commands.cohorts import find_cohorts
from nnseg.commands.compare import read_scores
from nnseg.commands.legend import read_legend
from nnseg.core.dataset import Finding
from nnseg.core.errors import EvaluationError, NnsegError
from nnseg.core.frozen import FrozenModel
from nnseg.core.labels import Labels
from nnseg.core.metrics import METRICS
from nnseg.core.scores import Grouped, Scores
from nnseg.core.units import LengthUnit, length_name, volume_name
from nnseg.evaluation.case_score import Measures
from nnseg.evaluation.evaluate import evaluate
from nnseg.evaluation.folders import log_pairs, pair_folders
from nnseg.evaluation.groups import grouped
from nnseg.evaluation.pairs import FilePair
from nnseg.interop.nnunet.summary import write_summary
from nnseg.storage.files import write_json, write_text
from nnseg.storage.overwrite import Kind, check_overwrite
from nnseg.storage.path_kinds import PREDICTIONS_FIRST, check_path, check_suffix
from nnseg.storage.run import Run
from nnseg.storage.tables import csv_text

log = logging.getLogger(__name__)

Form = Literal["nnseg", "nnunet"]

GROUPS = "groups.json"
"""Beside the file of the scores."""


@dataclass(frozen=True, kw_only=True)
class EvaluatedScores:
    """Scores, with the files that were compared.

    Args:
        scores: of all pairs that could be compared.
        pairs: prediction and reference of each case.
        labels: what the values mean.
    """

    scores: Scores
    pairs: tuple[FilePair, ...]
    labels: Labels

    def write(self, path: Path, form: Form = "nnseg") -> None:
        """Write the scores: nnU-Net's ``summary.json`` if ``form`` is "nnunet"; else a table if it is called .csv, else JSON.

        Raises:
            NnsegError: the file cannot be written.
        """
        if form == "nnunet":
            write_summary(path, self.scores, self.pairs, self.labels)
        elif path.suffix.lower() == ".csv":
            write_text(path, scores_csv(self.scores))
        else:
            write_json(path, self.scores)


def evaluate_folders(
    predictions: Path,
    references: Path,
    *,
    legend: Path | None = None,
    tolerances: tuple[float, ...] = Measures().tolerances,
    instances: tuple[str, ...] = (),
    workers: int = 0,
) -> EvaluatedScores:
    """Scores of the label maps of one folder against those of another, paired by file name without suffix.

    Args:
        predictions, references: folders of label maps.
        legend: a run folder or a dataset.json with the meaning of label values; if None, it is what the folders' own files say, and
            all values that the label maps show besides.
        tolerances: mm, of surface distances; none of these are measured if it is empty.
        instances: labels whose components are counted one by one, besides those of the legend.
        workers: processes; the scores do not depend on it.

    Raises:
        EvaluationError: no name is in both folders, or the references show nothing but background.
        NnsegError: the legend cannot be read.
    """
    labels, known = read_legend(legend) if legend else (None, ())
    found = pair_folders(predictions, references, labels, workers=workers)
    log_pairs(found)
    measures = Measures(tolerances=tolerances, instances=tuple(dict.fromkeys((*known, *found.instances, *instances))))
    notes = (*found.notes, *found.doubts)
    scores = evaluate(found.pairs, found.labels, failed=found.failed, measures=measures, notes=notes, workers=workers)
    return EvaluatedScores(scores=scores, pairs=found.pairs, labels=found.labels)


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Options of ``nnseg evaluate``.

    Args:
        out: file for all scores; None for none.
        form: of that file.
        legend: a run folder or a dataset.json with the meaning of label values.
        tolerances: mm, of surface distances; none of these are measured if it is empty.
        instances: labels whose components are counted one by one.
        groups: where the groups of cases are read, as for `group`; "" for none.
        workers: processes.
        force: also overwrite files that nnseg did not make.
    """

    out: Path | None = None
    form: Form = "nnseg"
    legend: Path | None = None
    tolerances: tuple[float, ...] = Measures().tolerances
    instances: tuple[str, ...] = ()
    groups: str = ""
    workers: int = 0
    force: bool = False


class Evaluation(FrozenModel):
    """What ``nnseg evaluate`` finds.

    Args:
        scores: of all cases.
        groups: scores by group; None unless requested.
        files: that were written.
    """

    scores: Scores
    groups: Grouped | None = None
    files: tuple[Path, ...] = Field(default=(), exclude=True)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The cases that could not be scored."""
        return tuple(Finding.read(case.reason, "NS-E001", case=case.name) for case in self.scores.failed)


def evaluate_paths(predictions: Path, references: Path | None, options: EvaluateOptions) -> Evaluation:
    """The scores of predictions against references, or those that a run has, overall and by group; written where it is wanted.

    Args:
        predictions: a folder of label maps; a run if there are no references.
        references: a folder of label maps.
        options: of the command.

    Raises:
        EvaluationError: the paths are of other things, no name is in both folders, or the references show nothing but background.
        NnsegError: a file cannot be read, or is not written.
    """
    out, run = options.out, options.legend
    _check_folders(predictions, references)
    _check_out(options)
    if references is None:
        scores, run = _scores_of_run(predictions, out), predictions
    else:
        evaluated = evaluate_folders(
            predictions, references, legend=options.legend, tolerances=options.tolerances, instances=options.instances,
            workers=options.workers,
        )  # fmt: skip
        if out:
            evaluated.write(out, options.form)
        scores = evaluated.scores
    if not options.groups:
        return Evaluation(scores=scores, files=(out,) if out else ())
    found = group(scores, options.groups, run=Run(run) if run else None)
    beside = out.with_name(GROUPS) if out else Run.groups.path(Run(predictions)) if references is None else None
    if beside:
        write_json(beside, found)
    return Evaluation(scores=scores, groups=found, files=tuple(file for file in (out, beside) if file))


def _check_folders(predictions: Path, references: Path | None) -> None:
    if references is None:
        check_path(predictions, "scores")
        return
    given = check_path(predictions, "predictions")
    if check_path(references, "references") == "a folder of predictions" != given:
        raise EvaluationError(f"{references} is a folder of predictions, and {predictions} is not; {PREDICTIONS_FIRST}")


def _check_out(options: EvaluateOptions) -> None:
    out = options.out
    if not out:
        if options.form != "nnseg":
            raise EvaluationError("--format needs a file to write; give one with --out")
        return
    summary = options.form == "nnunet"
    check_suffix(out, "summary" if summary else "scores")
    kind: Kind = "summary" if summary else "table of scores" if out.suffix.lower() == ".csv" else "scores"
    check_overwrite(out, kind, force=options.force)
    if options.groups:
        check_overwrite(out.with_name(GROUPS), "groups", force=options.force)


def _scores_of_run(folder: Path, out: Path | None) -> Scores:
    if out or not Run.scores.path(Run(folder)).exists():
        raise EvaluationError(
            f"{'--out' if out else folder} needs REFERENCES; only a run with scores.json can be shown without them"
        )
    return read_scores(folder)


def parse_tolerances(text: str) -> tuple[float, ...]:
    """The tolerances, in mm and ascending, of a text such as "1,2"; none for "none".

    Raises:
        NnsegError: the text is not of this form.
    """
    if text.strip().lower() == "none":
        return ()
    try:
        found = tuple(sorted({float(f"{float(part):g}") for part in text.split(",")}))  # as in their names
    except ValueError:
        found = ()
    if not found or not all(0 <= tolerance < math.inf for tolerance in found):
        raise NnsegError(f'"{text}" is not a list of tolerances; write millimetres like 1,2, or "none" to measure no distances')
    return found


def scores_csv(scores: Scores) -> str:
    """A table with a line for each case and label: counts, volumes and every metric; undefined cells are empty.

    Volumes are in ml and lengths in mm; of other units the names of the columns tell. A case that failed has one line, with
    the reason in the last column.
    """
    counts = ("tp", "fp", "fn", "tn", "volume_ml", "reference_ml")
    rows: list[Sequence[str | float | None]] = []
    for case in scores.cases:
        for label, mask in case.labels.items():
            measured = [mask.metric(name) for name in scores.metrics]
            rows.append([case.name, label, *(getattr(mask, name) for name in counts), *measured, None])
    empty = [None] * (1 + len(counts) + len(scores.metrics))
    rows += [[failure.name, *empty, failure.reason] for failure in scores.failed]
    columns = ("case", "label", *counts, *scores.metrics, "failed")
    return csv_text([_column(name, scores.length_unit) for name in columns], rows)


def _column(name: str, unit: LengthUnit) -> str:
    """A column's name, which tells the unit of volumes, and of lengths if it is not mm: "volume_error_1000_pixels", "hd95_um"."""
    metric = METRICS.get(name)
    if metric and metric.unit == "mm" and unit != "mm":
        return f"{name}_{length_name(unit)}"
    return name.removesuffix("_ml") + "_" + volume_name(unit).replace(" ", "_").replace("³", "3") if name.endswith("_ml") else name


def group(scores: Scores, source: str, *, run: Run | None = None) -> Grouped:
    """Scores by group.

    Args:
        scores: of the cases.
        source: a CSV with a column "case"; a folder of DICOM series, one folder a case; or "dicom" for the scans of the run.
        run: with the scans, for "dicom".

    Raises:
        EvaluationError: no case has a group, or the table cannot be used.
        DatasetError: the table cannot be read.
    """
    return grouped(scores, find_cohorts({case.name for case in scores.cases}, source, run))
