"""``nnseg compare``: models compared by their scores, of runs, of files, or of nnU-Net."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nnseg.commands.legend import read_legend
from nnseg.core.errors import DatasetError, EvaluationError, NnsegError, suppress_unless_fault
from nnseg.core.frozen import FrozenModel
from nnseg.core.labels import Labels
from nnseg.core.scores import Counts, Scores
from nnseg.evaluation.compare import Comparison, common_metrics, compare, mean_ranks
from nnseg.evaluation.evaluate import case_score, summarize
from nnseg.interop.nnunet.summary import read_summary
from nnseg.storage.bounded import read_text_bytes
from nnseg.storage.files import read_json
from nnseg.storage.path_kinds import SCORES
from nnseg.storage.tables import read_rows
from nnseg.system.regular import resolved


class Comparisons(FrozenModel):
    """Each of several models against the first.

    Args:
        comparisons: one for each other model, each with p-values corrected for its own rows.
        metric: of the ranks.
        mean_ranks: by name, 1 is best; empty for two models.
    """

    comparisons: tuple[Comparison, ...]
    metric: str
    mean_ranks: dict[str, float]


def compare_models(paths: Sequence[Path], metrics: Sequence[str] | None = None) -> Comparisons:
    """Each of the models against the first, on the cases with scores of both.

    Args:
        paths: two or more: folders of runs or of their plans, files of scores, nnU-Net's summaries or their folders.
        metrics: to compare; by default Dice, IoU, HD95 and NSD, if all models have them.

    Raises:
        EvaluationError: scores cannot be read or compared.
    """
    if len(paths) < 2:
        raise EvaluationError("give two or more models to compare: run folders, or files of scores")
    models = read_models(paths)
    first, *others = models
    chosen = common_metrics(models, metrics)
    return Comparisons(
        comparisons=tuple(compare(models[first], models[other], chosen, names=(first, other)) for other in others),
        metric=chosen[0],
        mean_ranks=mean_ranks(models, chosen[0]) if len(others) > 1 else {},
    )


def read_models(paths: Sequence[Path]) -> dict[str, Scores]:
    """The scores at each path, by the name of the folder or file, or by the whole path where names repeat.

    Raises:
        EvaluationError: a path holds no scores that can be read.
    """
    labels = next(filter(None, map(_labels, paths)), None)
    names = [_name(path) for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    if len(set(names)) < len(names):
        raise EvaluationError(f"{next(n for n in names if names.count(n) > 1)} was given twice; compare it with another model")
    return dict(zip(names, (read_scores(path, labels) for path in paths), strict=True))


def read_scores(path: Path, labels: Labels | None = None) -> Scores:
    """The scores of a run or plan folder, of a file that nnseg wrote, or of nnU-Net.

    Args:
        path: a file, or a folder with one of the `SCORES`.
        labels: meaning of label values, for scores of nnU-Net.

    Raises:
        EvaluationError: there are none, or they cannot be read.
    """
    file = next((path / name for name in SCORES if (path / name).is_file()), None) if path.is_dir() else path
    if file is None or not file.is_file():
        raise EvaluationError(f"{path} holds no scores; give a run folder that has scores.json, or a file of scores")
    if file.suffix.lower() == ".csv":
        return _read_table(file)
    if b'"metric_per_case"' in read_text_bytes(file, "run"):
        return read_summary(file, labels)
    try:
        return read_json(file, Scores)
    except NnsegError as error:
        if error.is_fault:
            raise
        raise EvaluationError(f"{file} holds no scores that this nnseg can read; score the predictions again") from error


def _read_table(file: Path) -> Scores:
    """The scores in a table that nnseg evaluate wrote: Dice, IoU and their averages, computed from its voxel counts."""
    cases: dict[str, dict[str, Counts]] = {}
    try:
        for line, cells in read_rows(file)[1:]:
            name, label, *counts = cells[:6]
            if label and not cells[-1]:  # else the case has failed
                masks = cases.setdefault(name, {})
                if label in masks:
                    raise EvaluationError(f"{file}, line {line}: {name} has {label} twice; remove one")
                tp, fp, fn, tn = map(int, counts)
                masks[label] = Counts(tp=tp, fp=fp, fn=fn, tn=tn)
        labels = tuple(dict.fromkeys(label for masks in cases.values() for label in masks))
        named = Labels(names=("background", *labels), values=tuple(range(len(labels) + 1)))
        return summarize([case_score(name, masks) for name, masks in cases.items()], named)
    except (ValueError, OverflowError, DatasetError) as error:
        if isinstance(error, DatasetError) and error.is_fault:
            raise
        raise EvaluationError(f"{file} is no table that nnseg evaluate wrote; score the predictions again") from error


def _name(path: Path) -> str:
    """The name of a model: of its file, or of its folder if the file has one of the usual names."""
    return resolved(path).parent.name if path.name in SCORES else resolved(path).stem if path.is_file() else resolved(path).name


def _labels(path: Path) -> Labels | None:
    """The meaning of label values, if there is a run at or above the path."""
    run = next((place for place in (path, *resolved(path).parents[:2]) if (place / "dataset.json").is_file()), None)
    with suppress_unless_fault(NnsegError):
        return read_legend(run)[0] if run else None
    return None
