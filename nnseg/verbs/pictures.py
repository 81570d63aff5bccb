"""Still pictures of a run's held-out cases, with the outlines of reference and prediction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from nnseg.core.dataset import Case, Dataset, Fold
from nnseg.core.errors import NnsegError
from nnseg.evaluation.scores import Scores
from nnseg.reporting.contours import CaseViews, ExamplePicture, case_views, montage_png
from nnseg.reporting.sections.scores import typical_cases
from nnseg.storage.files import write_aside
from nnseg.storage.images import read_label_map, read_scan
from nnseg.storage.runs import RunFolder, read_json
from nnseg.verbs.score import held_out_predictions


def still_pictures(run: RunFolder, dataset: Dataset, captions: Mapping[str, str]) -> list[CaseViews]:
    """Cases as still pictures show them; one that cannot be read any more is left out.

    Args:
        run: with held-out predictions.
        dataset: of the cases.
        captions: why each is shown, by its name.
    """
    return [case_views(example) for example in _examples(run, dataset, captions)]  # one scan is held at a time


def examples(run: RunFolder, dataset: Dataset, scores: Scores) -> list[ExamplePicture]:
    """The best, the median and the worst case with scan, reference and prediction."""
    dice = {case.name: case.mean_dice for case in scores.cases}
    captions = {name: f"{word}, mean Dice {dice[name]:.3f}" for word, name in typical_cases(scores).items()}
    return list(_examples(run, dataset, captions))


def write_picture(run: RunFolder, path: Path) -> None:
    """Write the best, the median and the worst case of a run side by side as PNG.

    Raises:
        RunError: the run is not scored yet, or the file cannot be written.
    """
    dataset, scores = read_json(run.dataset_file, Dataset), read_json(run.scores_file, Scores)
    with write_aside(path) as aside:
        aside.write_bytes(montage_png(examples(run, dataset, scores)))


def _examples(run: RunFolder, dataset: Dataset, captions: Mapping[str, str]) -> Iterator[ExamplePicture]:
    cases = {case.name: case for case in dataset.cases}
    folds = dict(enumerate(read_json(run.folds_file, tuple[Fold, ...])))
    files = {name: run.answers / written.file for name, written in held_out_predictions(run.answers, folds).items()}
    for name, caption in captions.items():
        try:
            yield _example(cases[name], files[name], caption, dataset)
        except (NnsegError, KeyError):
            continue


def _example(case: Case, prediction: Path, caption: str, dataset: Dataset) -> ExamplePicture:
    assert case.labels is not None
    scan = read_scan(case.images)
    return ExamplePicture(
        name=case.name,
        caption=caption,
        image=scan.image[0],
        spacing=scan.grid.spacing,
        reference=read_label_map(case.labels).labels,
        prediction=read_label_map(prediction).labels,
        labels=dataset.labels,
    )
