"""Scores of a folder of predictions against a folder of references: which label maps belong together, and what they show."""

from __future__ import annotations

import filecmp
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from nnseg.core.dataset import counted
from nnseg.core.errors import EvaluationError
from nnseg.core.label_files import LabelSource, label_paths
from nnseg.core.labels import Labels
from nnseg.core.scores import Failure, Scores
from nnseg.evaluation.case_score import Measures
from nnseg.evaluation.evaluate import evaluate
from nnseg.evaluation.find_label_maps import find_label_maps
from nnseg.evaluation.label_folder import LabelFolder
from nnseg.evaluation.legend import find_legend
from nnseg.evaluation.pairs import FilePair
from nnseg.storage.datasets.items import Item
from nnseg.storage.datasets.names import CONTRASTS, read_names
from nnseg.system.regular import resolved

log = logging.getLogger(__name__)

T = TypeVar("T")

PREDICTED = frozenset(["pred", "preds", "prediction", "predictions", "predicted", "output", "result", "results"])
"""Words that mark a prediction in names of files."""


def evaluate_folders(
    predictions: Path, references: Path, labels: Labels | None = None, *, measures: Measures | None = None, workers: int = 0
) -> Scores:
    """Scores of all label maps of one folder against those of another, paired by file name without suffix.

    Args:
        labels: declares the values; if None, they are those on record in either folder, and all that the label maps show besides.
        measures: what to measure besides overlap; distances, if None.
        workers: number of processes, which does not change the scores.

    Raises:
        EvaluationError: no name is in both folders, or the references contain only background.
        DatasetError: the references are a dataset that cannot be read.
    """
    found = pair_folders(predictions, references, labels, workers=workers)
    log_pairs(found)
    return evaluate(
        found.pairs, found.labels, failed=found.failed, measures=measures, notes=(*found.notes, *found.doubts), workers=workers
    )


def log_pairs(found: FolderPairs) -> None:
    """Log what was concluded of two folders, one line each."""
    for note in found.notes:
        log.info(note)
    for doubt in found.doubts:
        log.warning(doubt)


@dataclass(frozen=True, kw_only=True)
class FolderPairs:
    """The pairs of two folders.

    Args:
        failed: cases that are in one folder only.
        labels: that the label maps show.
        instances: of these, those whose connected components are known to be objects.
        notes: what was concluded, and what is not read, in one line each.
        doubts: signs that other folders were meant, in one line each.
    """

    pairs: tuple[FilePair, ...]
    failed: tuple[Failure, ...]
    labels: Labels
    instances: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


def pair_folders(predictions: Path, references: Path, labels: Labels | None = None, *, workers: int = 0) -> FolderPairs:
    """The label maps of two folders, paired by the names of the cases, and what their values mean.

    Args:
        labels: declares the values; if None, they are those on record in either folder, and all that the label maps show besides.
        workers: processes that read label maps.

    Raises:
        EvaluationError: no name is in both folders, a folder holds no label maps, or nothing says what they show.
        DatasetError: a folder is a dataset that cannot be read.
    """
    made, given = find_label_maps(predictions), find_label_maps(references)
    given, renamed = _with_names_of(made, given)
    failed = [
        Failure(name=n, reason=f"no reference for it in {references}") for n in sorted(made.files.keys() - given.files.keys())
    ]
    failed += [
        Failure(name=n, reason=f"no prediction for it in {predictions}") for n in sorted(given.files.keys() - made.files.keys())
    ]
    names = sorted(made.files.keys() & given.files.keys())
    if not names:
        found = " and ".join(_first_of(folder) for folder in (made, given))
        advice = "names must be equal, but for words such as seg or T1w; of a dataset, give its folder"
        raise EvaluationError(f"no case is in both {found}; {advice}")
    made, given = (replace(folder, files={name: folder.files[name] for name in names}) for folder in (made, given))
    doubts = tuple(_doubts(made, given))
    legend = find_legend(made, given, labels, workers=workers)
    pairs = [
        FilePair(
            name=n,
            prediction=legend.predictions[n],
            reference=legend.references[n],
            annotated=given.annotated.get(n),
            objects=made.objects.get(n),
        )
        for n in names
        if n not in legend.failed
    ]
    failed += [Failure(name=name, reason=reason) for name, reason in legend.failed.items()]
    return FolderPairs(
        pairs=tuple(pairs),
        failed=tuple(failed),
        labels=legend.labels,
        instances=legend.instances,
        notes=(*made.notes, *given.notes, *renamed, *legend.notes),
        doubts=doubts,
    )


def _with_names_of(made: LabelFolder, given: LabelFolder) -> tuple[LabelFolder, tuple[str, ...]]:
    """The references by the names of the predictions, where names differ in words that mark label maps or contrasts; and a note."""
    alone = [made.files.keys() - given.files.keys(), given.files.keys() - made.files.keys()]
    new: dict[str, str] = {}
    for drop in (PREDICTED, PREDICTED | CONTRASTS.keys()):
        ours, theirs = (_by_words(names, drop) for names in (alone[0] - set(new.values()), alone[1] - new.keys()))
        new |= {theirs[words]: ours[words] for words in ours.keys() & theirs.keys()}
    if not new:
        return given, ()
    one = min(new)
    note = f"{counted(len(new), 'name')} of references differ from those of predictions, such as {one} for {new[one]}"
    return replace(
        given,
        files=_renamed(given.files, new),
        masks=_renamed(given.masks, new),
        annotated=_renamed(given.annotated, new),
    ), (note,)


def _renamed(mapping: Mapping[str, T], new: Mapping[str, str]) -> dict[str, T]:
    return {new.get(name, name): value for name, value in mapping.items()}


def _by_words(names: Iterable[str], drop: Collection[str]) -> dict[tuple[str, ...], str]:
    """Names by their words without those that mark label maps, and without some more; names that share all words are left out."""
    found: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        words = (word.casefold() for word in read_names(Item(path=Path(name), folders=(), stem=name)).rest)
        found.setdefault(tuple(word for word in words if word not in drop), []).append(name)
    return {words: names[0] for words, names in found.items() if words and len(names) == 1}


def _first_of(folder: LabelFolder) -> str:
    first = f", the first is {min(folder.files)}" if folder.files else ""
    return f"{folder.path} ({counted(len(folder.files), 'label map')}{first})"


def _doubts(made: LabelFolder, given: LabelFolder) -> Iterator[str]:
    """Signs that the folders are swapped, or the same."""
    if resolved(made.path) == resolved(given.path):
        yield f"{made.path} is given for predictions and for references: all scores are perfect"
    elif all(_are_equal(made.files[name], given.files[name]) for name in made.files):
        yield f"all predictions in {made.path} are the same files as the references in {given.path}: all scores are perfect"
    elif given.predicted and not made.predicted:
        yield (
            f"{given.path}, given for references, was predicted by nnseg, {made.path} was not: are the folders swapped? "
            "Then give references second; false positives are taken for false negatives, and volume errors have the wrong sign"
        )


def _are_equal(one: LabelSource, other: LabelSource) -> bool:
    paths, others = label_paths(one), label_paths(other)
    return len(paths) == len(others) and all(filecmp.cmp(a, b, shallow=False) for a, b in zip(paths, others, strict=True))
