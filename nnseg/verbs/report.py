"""``nnseg report``: a run folder as one page to look at."""

from __future__ import annotations

import logging
from datetime import datetime
from functools import cache
from pathlib import Path

from nnseg.core.dataset import Case, Dataset, Fold
from nnseg.core.errors import NnsegError, RunError
from nnseg.core.history import Epoch
from nnseg.evaluation.evaluate import Scores
from nnseg.planning.fingerprint import Fingerprint
from nnseg.reporting.contours import ExamplePicture, montage_png
from nnseg.reporting.html import Story, typical_cases, write_report
from nnseg.storage.files import write_aside
from nnseg.storage.images import read_label_map, read_scan
from nnseg.storage.runs import RunFolder, read_json
from nnseg.verbs.plan import findings_of
from nnseg.verbs.record import read_record
from nnseg.verbs.score import held_out_predictions

log = logging.getLogger(__name__)


def report(run: RunFolder, *, live: bool = False) -> None:
    """Write ``report.html`` from what the run has so far.

    Args:
        run: its folder; trainings may be under way in it.
        live: a training runs: the page says so and looks for news by itself, and pictures of cases, which take long, are left out.

    Raises:
        RunError: the folder holds no run.
    """
    if not run.record_file.exists():
        raise RunError(f"{run.path} is not a run folder; make one with nnseg run")
    dataset, fingerprint = read_json(run.dataset_file, Dataset), read_json(run.fingerprint_file, Fingerprint)
    scores = read_json(run.scores_file, Scores) if run.scores_file.exists() else None
    record = read_record(run)
    story = Story(
        title=f"nnseg: {dataset.name}",
        dataset=dataset.describe(),
        findings=findings_of(fingerprint),
        plans=[folder.plan() for folder in run.plans()],
        histories=_histories(run),
        scores=scores,
        examples=examples(run, dataset, scores) if scores and not live else [],
        timings=record.get("seconds", {}),
        provenance={
            "finished": str(record.get("finished", "")),
            "machine": str(record.get("machine", "")),
            "dataset": fingerprint.key,
            **{name: str(version) for name, version in record.get("versions", {}).items()},
        },
        live=datetime.now().astimezone().isoformat(" ", "seconds") if live else "",
    )
    write_report(run.report_file, story)


def report_quietly(run: RunFolder) -> None:
    """Write the page of a run that is training. What goes wrong is warned of once and costs the training nothing."""
    try:
        report(run, live=True)
    except Exception as error:  # whatever it is, training is worth more
        _warn(f"the report of {run.path} cannot be kept up to date: {error}")


@cache
def _warn(message: str) -> None:
    """Once in each process."""
    log.warning("%s", message)


def examples(run: RunFolder, dataset: Dataset, scores: Scores) -> list[ExamplePicture]:
    """The best, the median and the worst case with scan, reference and prediction; one that cannot be read any more is left out."""
    cases = {case.name: case for case in dataset.cases}
    folds = dict(enumerate(read_json(run.folds_file, tuple[Fold, ...])))
    files = {name: run.answers / written.file for name, written in held_out_predictions(run.answers, folds).items()}
    dice = {case.name: case.mean_dice for case in scores.cases}
    pictures = []
    for word, name in typical_cases(scores).items():
        try:
            pictures.append(_example(cases[name], files[name], f"{word}, mean Dice {dice[name]:.3f}", dataset))
        except (NnsegError, KeyError):
            continue
    return pictures


def write_picture(run: RunFolder, path: Path) -> None:
    """Write the best, the median and the worst case of a run side by side as PNG.

    Raises:
        RunError: the run is not scored yet, or the file cannot be written.
    """
    dataset, scores = read_json(run.dataset_file, Dataset), read_json(run.scores_file, Scores)
    with write_aside(path) as aside:
        aside.write_bytes(montage_png(examples(run, dataset, scores)))


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


def _histories(run: RunFolder) -> dict[str, tuple[Epoch, ...]]:
    found = {}
    for folder in run.plans():
        for place in folder.folds():
            if history := place.history():
                found[f"{folder.plan().name} fold {place.number}"] = history
    return found
