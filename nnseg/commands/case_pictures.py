"""Pictures of a run's cases for the report: the best, the median and the worst, and those that were flagged."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from nnseg.core.dataset import Case, Dataset
from nnseg.core.errors import NnsegError, RunError, suppress_unless_fault
from nnseg.core.frozen import digest
from nnseg.core.image import Floats, Scan
from nnseg.core.scores import Scores
from nnseg.core.trust import Trust
from nnseg.crossval.trust import HeldOutCase, cross_validate_expected_dice, join_scores
from nnseg.inference.predict import Predictor
from nnseg.network.load import load_model
from nnseg.reporting.case_images import CaseImages
from nnseg.reporting.payload import PackedCase, pack
from nnseg.reporting.pictures import CasePictures, draw_case, montage_png
from nnseg.reporting.sections.scores import typical_cases
from nnseg.reporting.viewer import room
from nnseg.storage.files import read_json, write_aside, write_json
from nnseg.storage.images.read import read_labels_of, read_scan
from nnseg.storage.images.write import write_map
from nnseg.storage.predictions import UNCERTAINTY, ScanRecord
from nnseg.storage.run import Run
from nnseg.system.progress import progress

log = logging.getLogger(__name__)

MOST_CASES = 8
MOST_SECONDS = 60.0
"""Limit for computing all maps of uncertainty, as estimated from the time of the first prediction."""


def draw_still_pictures(run: Run, captions: Mapping[str, str]) -> list[CasePictures]:
    """Still pictures of cases; one that cannot be read is left out.

    Args:
        run: with held-out predictions.
        captions: of the cases that are drawn, by name.
    """
    return [draw_case(case) for case in _read_cases(run, captions)]  # one scan is held at a time


def read_examples(run: Run, scores: Scores) -> list[CaseImages]:
    """The best, the median and the worst case with scan, reference and prediction."""
    dice = {case.name: case.mean_dice for case in scores.cases}
    captions = {name: f"{word}, mean Dice {dice[name]:.3f}" for word, name in typical_cases(scores).items()}
    return list(_read_cases(run, captions))


def read_all_examples(run: Run, scores: Scores) -> Iterator[CaseImages]:
    """Every held-out case, worst first, one at a time; one that cannot be read is left out."""
    ranked = sorted(scores.cases, key=lambda case: (case.mean_dice or 0.0, case.name))
    known = {case.name: "no label" if case.mean_dice is None else f"mean Dice {case.mean_dice:.3f}" for case in ranked}
    return _read_cases(run, {name: f"{name}, {words}" for name, words in known.items()})


def write_picture(run: Run, path: Path) -> None:
    """Write the best, the median and the worst case of a run side by side as PNG.

    Raises:
        RunError: the run is not scored yet, none of its cases can be read, or the file cannot be written.
    """
    examples = read_examples(run, run.require_scores())
    if not examples:
        raise RunError(f"{path} is not written: none of the cases to show can be read as it was scored; repeat nnseg run")
    with write_aside(path) as aside:
        aside.write_bytes(montage_png(examples))


def _read_cases(run: Run, captions: Mapping[str, str]) -> Iterator[CaseImages]:
    """Cases with these names and captions, one at a time; one that cannot be read is left out."""
    cases, records, folder, dataset = run.cases, run.predictions(), run.predictions_folder, run.dataset
    for name, caption in captions.items():
        with suppress_unless_fault(NnsegError), suppress(KeyError):
            scan = read_scan(cases[name].images, resample=True, spacing=cases[name].spacing)
            yield _read_case(scan, cases[name], folder / records[name].file, dataset, caption=caption)


def _read_case(scan: Scan, case: Case, file: Path, dataset: Dataset, *, caption: str) -> CaseImages:
    prediction = read_labels_of(file, scan).labels
    reference = read_labels_of(case.labels, scan).labels if case.labels else None
    for name, found in (("prediction", prediction), ("reference", reference)):
        if found is not None and (found.shape != scan.grid.shape or dataset.labels.undeclared(found)):
            raise NnsegError(f"its {name} has changed since it was scored")
    return CaseImages(
        name=case.name,
        caption=caption,
        image=scan.image,
        grid=scan.grid,
        prediction=prediction,
        reference=reference,
        labels=dataset.labels,
        channels=dataset.channels,
    )


def pack_viewer_cases(
    run: Run,
    scores: Scores,
    trust: Trust | None,
    *,
    device: str = "auto",
    most_seconds: float = MOST_SECONDS,
) -> list[PackedCase]:
    """At most `MOST_CASES` held-out cases with scan, reference, prediction and uncertainty, packed for the viewer.

    Maps of uncertainty are computed by the networks that had not seen the case, and kept in ``RUN/shown``. A case that cannot be
    read is left out; one whose map would take too long, or cannot be computed, has a note about it.

    Args:
        run: whose held-out cases are predicted and scored.
        scores: of the cases.
        trust: whose threshold flags cases; None if it was not measured.
        device: where networks compute.
        most_seconds: for all maps that are not stored yet, as estimated from the first prediction.
    """
    records, folder, cases, dataset = run.predictions(), run.predictions_folder, run.cases, run.dataset
    captions = _captions(scores, _flagged(join_scores(records, scores.cases, run.folds), trust), most=MOST_CASES)
    captions = {name: caption for name, caption in captions.items() if name in records and name in cases}
    maps = _UncertaintyMaps(run, trust, device=device, seconds=most_seconds)
    packed: list[PackedCase] = []
    shown = progress(captions.items(), total=len(captions), label="drawing cases for the report")
    for done, (name, caption) in enumerate(shown):
        share = (room() - sum(p.size for p in packed)) // (len(captions) - done)
        try:
            scan = read_scan(cases[name].images, resample=True, spacing=cases[name].spacing)
            images = _read_case(scan, cases[name], folder / records[name].file, dataset, caption=caption)
            uncertainty, note = maps.read(name, scan, records[name])
            packed.append(pack(replace(images, uncertainty=uncertainty, notes=(note,) if note else ()), most_bytes=share))
        except NnsegError as error:
            if error.is_fault:
                raise
            log.warning("case %s is not shown in the report: %s", name, error)
    return packed


def _captions(scores: Scores, expected: Mapping[str, float], *, most: int) -> dict[str, str]:
    """Captions of the cases to show, by name: the typical ones first, then flagged ones.

    Args:
        scores: of all cases.
        expected: mean Dice of the flagged cases, by name, in the order in which they are to be shown.
        most: cases.
    """
    dice = {case.name: case.mean_dice for case in scores.cases}
    words = {name: word for word, name in typical_cases(scores).items()}
    found = {}
    for name in [*words, *(name for name in expected if name not in words)][:most]:
        why = " and ".join([*([words[name]] if name in words else []), *(["flagged"] if name in expected else [])])
        known = dice.get(name)
        score = "undefined" if known is None else f"{known:.3f}"
        found[name] = f"{why}, mean Dice {score}" + (f" ({expected[name]:.3f} expected)" if name in expected else "")
    return found


def _flagged(held: Sequence[HeldOutCase], trust: Trust | None) -> dict[str, float]:
    """Expected mean Dice of the cases below the threshold, lowest first."""
    if trust is None or trust.threshold is None:
        return {}
    expected = {h.score.name: quality for h, quality in zip(held, cross_validate_expected_dice(held), strict=True)}
    return dict(sorted(((n, q) for n, q in expected.items() if q < trust.threshold), key=lambda item: item[1]))


class _UncertaintyMaps:
    """Maps of uncertainty, stored in the run's folder with a record of the predictions and temperature they belong to."""

    def __init__(self, run: Run, trust: Trust | None, *, device: str, seconds: float) -> None:
        self._run, self._device, self._left = run, device, seconds
        self._temperature = trust.temperature if trust else 1.0
        self._fold_of = run.fold_of
        self._predictors: dict[int, Predictor] = {}
        self._record_file = run.uncertainty_folder / "shown.json"
        self._record: dict[str, str] = {}
        with suppress_unless_fault(RunError):  # missing or damaged: maps are computed again
            self._record = read_json(self._record_file, dict[str, str])

    def read(self, name: str, scan: Scan, written: ScanRecord) -> tuple[Floats | None, str]:
        """The map of a case, computed if it is not stored; None and the reason if there is none."""
        file = self._run.uncertainty_folder / f"{name}{UNCERTAINTY}"
        key = digest([written.key, written.hash, self._temperature])
        if self._record.get(name) != key or not file.exists():
            if written.total_seconds > self._left:
                return None, f"No map of uncertainty: it would take about {written.total_seconds:.0f} s."
            self._left -= written.total_seconds
            try:
                self._compute(name, scan, file, key)
            except NnsegError as error:
                if error.is_fault:
                    raise
                log.warning("case %s: no map of uncertainty: %s", name, error)
                return None, "No map of uncertainty: it could not be computed."
        found = read_scan(file, resample=True)
        return (found.image[0], "") if found.grid.shape == scan.grid.shape else (None, "")

    def _compute(self, name: str, scan: Scan, file: Path, key: str) -> None:
        fold = self._fold_of[name]
        if fold not in self._predictors:
            self._predictors = {fold: Predictor(load_model(self._run.path, folds=(fold,)), device=self._device)}
        predictor = self._predictors[fold]
        prediction = predictor.infer(predictor.prepare(scan), uncertainty=True, objects=False)
        assert prediction.uncertainty is not None
        self._run.uncertainty_folder.mkdir(exist_ok=True)
        write_map(prediction.uncertainty, file, like=scan.source)
        self._record[name] = key
        write_json(self._record_file, self._record)
