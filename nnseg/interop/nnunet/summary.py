"""Writing and reading of nnU-Net v2's ``summary.json``.

nnU-Net writes undefined values as NaN, which is not JSON; here they are null, which nnU-Net reads too. The mean of a label is over
the cases with this label; the foreground mean is undefined if any label's mean is. The key of a label is its value ("1"), that of a
region its values ("(1, 2, 3)"), or its value if it has only one.

Source: nnunetv2 2.8.1, ``nnunetv2/evaluation/evaluate_predictions.py``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from statistics import fmean

from pydantic import BaseModel, NonNegativeInt, ValidationError

from nnseg.core.errors import EvaluationError
from nnseg.core.label_files import label_paths
from nnseg.core.labels import Labels, Region
from nnseg.core.scores import Counts, LabelScore, Scores
from nnseg.evaluation.evaluate import case_score, summarize
from nnseg.evaluation.pairs import FilePair
from nnseg.storage.bounded import parse_json, read_text
from nnseg.storage.files import write_text
from nnseg.storage.images.formats import stem_of

Values = tuple[int, ...]
Row = dict[str, float | None]


def write_summary(path: Path, scores: Scores, pairs: Sequence[FilePair], labels: Labels) -> None:
    """Write the scores of pairs of files as nnU-Net's ``summary.json``, without failed cases.

    Raises:
        RunError: the file cannot be written.
    """
    files, keys = {pair.name: pair for pair in pairs}, {name: _key(values) for name, values in _values_by_name(labels).items()}
    cases = [
        {
            "metrics": {keys[name]: _row(mask) for name, mask in case.labels.items()},
            "prediction_file": str(label_paths(files[case.name].prediction)[0]),
            "reference_file": str(label_paths(files[case.name].reference)[0]),
        }
        for case in scores.cases
    ]
    means = {key: _mean([_row(case.labels[name]) for case in scores.cases], skip=True) for name, key in keys.items()}
    summary = {"foreground_mean": _mean(means.values(), skip=False), "mean": means, "metric_per_case": cases}
    write_text(path, json.dumps(summary, indent=4, sort_keys=True, allow_nan=False))


def read_summary(path: Path, labels: Labels | None = None) -> Scores:
    """The scores in a ``summary.json``: Dice, IoU and their averages, computed from its voxel counts.

    Without ``labels``, labels are named "label 1", regions "label 1+2".

    Raises:
        EvaluationError: it cannot be read, or lacks a label.
    """
    counts = _read_counts(path)
    labels = labels or _labels_of(sorted(set().union(*counts.values())), path)
    wanted = {name: tuple(sorted(values)) for name, values in _values_by_name(labels).items()}
    for name, found in counts.items():
        if missing := set(wanted.values()) - set(found):
            raise EvaluationError(f"{path}: case {name} has no label {_key(min(missing))}; score it again with the same labels")
    cases = [case_score(n, {label: found[values] for label, values in wanted.items()}) for n, found in counts.items()]
    return summarize(cases, labels)


def _read_counts(path: Path) -> dict[str, dict[Values, Counts]]:
    """Voxel counts by case name and by the values of a label or region."""
    try:
        summary = _Summary.model_validate(parse_json(read_text(path)))
    except OSError as error:
        raise EvaluationError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise EvaluationError(f"{path} is not a summary.json of nnU-Net: {_message(error)}") from error
    counts: dict[str, dict[Values, Counts]] = {}
    for case in summary.metric_per_case:
        name = _name(case.prediction_file)
        if name in counts:
            raise EvaluationError(f"{path}: case {name} is there twice; remove one")
        counts[name] = {_values(key): Counts(tp=n.TP, fp=n.FP, fn=n.FN, tn=n.TN) for key, n in case.metrics.items()}
    return counts


class _MaskCounts(BaseModel):
    """The voxel counts of a mask in nnU-Net's file."""

    TP: NonNegativeInt
    FP: NonNegativeInt
    FN: NonNegativeInt
    TN: NonNegativeInt


class _SummaryCase(BaseModel):
    prediction_file: str
    metrics: dict[str, _MaskCounts]


class _Summary(BaseModel):
    metric_per_case: tuple[_SummaryCase, ...]


def _values_by_name(labels: Labels) -> dict[str, Values]:
    """The values of every scored label or region, by name."""
    if labels.regions:
        return {region.name: region.values for region in labels.regions}
    return {name: (value,) for name, value in labels.named.items()}


def _key(values: Values) -> str:
    return str(values[0]) if len(values) == 1 else str(values)


def _values(key: str) -> Values:
    """The values in a key such as "1" or "(2, 1)", ascending."""
    return tuple(sorted(map(int, re.findall(r"-?\d+", key))))


def _name(file: str) -> str:
    return stem_of(Path(file.replace("\\", "/").rsplit("/", 1)[-1]))  # the summary may have been written on Windows


def _labels_of(found: Iterable[Values], path: Path) -> Labels:
    united = {f"label {'+'.join(map(str, values))}": values for values in found if values}
    if not united:
        raise EvaluationError(f"{path} has no scores of any label")
    regions = tuple(Region(name=name, values=values, paint=values[0]) for name, values in united.items())
    values = sorted({value for one in united.values() for value in one} - {0})
    names = ("background", *(f"label {value}" for value in values))
    return Labels(names=names, values=(0, *values), regions=regions if any(len(v) > 1 for v in united.values()) else ())


def _row(mask: LabelScore) -> Row:
    counts: Row = {"FN": mask.fn, "FP": mask.fp, "TN": mask.tn, "TP": mask.tp}
    return {"Dice": mask.dice, "IoU": mask.iou, **counts, "n_pred": mask.tp + mask.fp, "n_ref": mask.tp + mask.fn}


def _mean(rows: Collection[Row], *, skip: bool) -> Row:
    """The mean of every column over its defined values; None without any, or unless ``skip``, if any value is undefined."""
    means: Row = {}
    for name in ("Dice", "FN", "FP", "IoU", "TN", "TP", "n_pred", "n_ref"):
        known = [value for row in rows if (value := row[name]) is not None]
        means[name] = fmean(known) if known and (skip or len(known) == len(rows)) else None
    return means


def _message(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error)
