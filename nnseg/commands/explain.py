"""``nnseg explain``: maps of what predictions of scans or held-out cases rest on; those that fail a check are withheld."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import get_args

from pydantic import Field

from nnseg.core.dataset import Case, Finding, Reading
from nnseg.core.errors import NnsegError, RunError, suppress_unless_fault
from nnseg.core.explanation import EXPLANATIONS, Explanation, Explanations
from nnseg.core.frozen import FrozenModel, digest
from nnseg.core.image import Scan
from nnseg.core.labels import Labels
from nnseg.core.names import shortened
from nnseg.core.options import ExplanationMethod, Options
from nnseg.core.scores import Scores
from nnseg.crossval.degraded import spread_evenly
from nnseg.inference.attribution import COPIES
from nnseg.network.bundle import Model
from nnseg.network.load import load_model
from nnseg.reporting.heat import draw_attribution
from nnseg.serving.explanation import ExplainedLabel, Explainer
from nnseg.storage.datasets.content import content_hash
from nnseg.storage.datasets.find_scans import find_scans
from nnseg.storage.datasets.read_case import find_unreadable
from nnseg.storage.files import read_json, write_aside, write_json
from nnseg.storage.images.read import read_scan
from nnseg.storage.images.write import write_map
from nnseg.storage.locks import locked
from nnseg.storage.overwrite import check_overwrite
from nnseg.storage.run import Run
from nnseg.storage.temporary import sweep
from nnseg.system.extras import check_extra
from nnseg.system.machine import versions
from nnseg.system.progress import progress

MOST_LABELS = 4
"""Labels that are explained without being named."""

CASES = 3
"""Held-out cases of a run that are explained by default: the best, the median and the worst."""


@dataclass(frozen=True, kw_only=True)
class ExplainOptions:
    """How predictions are explained.

    Args:
        labels: names of labels or regions; () for all, if they are not more than `MOST_LABELS`.
        method: of the maps.
        copies: noisy copies in a map of SmoothGrad.
        seed: of noise, random weights and drawn voxels.
        options: folds, device, and which files are scans.
        force: also write into a folder with files that nnseg did not make.
    """

    labels: tuple[str, ...] = ()
    method: ExplanationMethod = "smoothgrad"
    copies: int = COPIES
    seed: int = 0
    options: Options = field(default_factory=Options)
    force: bool = False

    def __post_init__(self) -> None:
        if self.method not in (known := get_args(ExplanationMethod)):
            raise NnsegError(f'method: "{self.method}" is none of {", ".join(known)}')
        if self.copies < 2 or self.seed < 0:
            raise NnsegError(f"copies: {self.copies} and seed: {self.seed}; expected 2 or more copies, and a seed of 0 or more")
        if self.method == "smoothgrad":
            check_extra("explain", "maps of SmoothGrad")


class ExplainedFolder(FrozenModel):
    """What ``nnseg explain`` does.

    Args:
        folder: of the maps.
        explanations: of this command.
        findings: scans that could not be explained, and maps that were withheld.
    """

    folder: Path
    explanations: tuple[Explanation, ...]
    findings: tuple[Finding, ...] = Field(default=(), exclude=True)

    @property
    def written(self) -> int:
        """Number of maps that were written."""
        return sum(bool(explanation.file) for explanation in self.explanations)


def explain_scans(model: Path, scans: Path, out: Path, settings: ExplainOptions) -> ExplainedFolder:
    """Explain what a model predicts for a scan, or each of a folder of scans.

    Args:
        model: run folder or exported file.
        scans: as for ``nnseg predict``.
        out: folder for maps, pictures and their record.

    Raises:
        ModelError: there is no model.
        DatasetError: there is no scan.
        RunError: ``out`` has files that ``nnseg explain`` did not make, or cannot be written.
        NnsegError: there is no such label.
    """
    loaded = load_model(model, folds=settings.options.folds)
    names = _choose_labels(loaded.labels, settings.labels)
    reading = Reading.of(settings.options)
    found = find_scans(scans.absolute(), channels=len(loaded.channels), names=loaded.channels, reading=reading)
    _check_place(out, force=settings.force)
    unreadable = find_unreadable(found.cases, workers=settings.options.workers)
    cases = [case for case in found.cases if case.name not in unreadable]
    lost = [case for case in found.cases if case.name in unreadable]
    findings = [Finding.read(unreadable[case.name], "NS-S001", case=case.name, files=case.images) for case in lost]
    with locked(out, busy="another nnseg is writing to {}; wait for it, or choose another folder"):
        sweep(out)
        key = loaded.key()
        made = _explain([(loaded, cases)], names, out, settings, lambda case: digest([key, content_hash(case.images)]))
    return made.model_copy(update={"findings": (*findings, *made.findings)})


def explain_run(path: Path, settings: ExplainOptions, *, cases: int = CASES) -> ExplainedFolder:
    """Explain held-out cases of a run, each by the networks that were not trained on it, into ``RUN/explanations``.

    Args:
        path: of the run.
        cases: number of cases, evenly spaced from the best to the worst by mean Dice.

    Raises:
        ModelError: a network of the run is missing.
        RunError: the run is not scored yet, or cannot be written.
        NnsegError: there is no such label.
    """
    run = Run(path)
    scores, records, known = run.require_scores(), run.predictions(), run.cases
    names = _choose_labels(run.dataset.labels, settings.labels)
    by_fold: dict[int, list[Case]] = {}
    for name in rank_cases(scores, cases):
        if name in records and name in known:
            by_fold.setdefault(run.fold_of[name], []).append(known[name])
    with run.locked():
        models = ((load_model(path, folds=(fold,)), held_out) for fold, held_out in by_fold.items())
        return _explain(models, names, run.explanations_folder, settings, lambda case: records[case.name].prediction_key)


def rank_cases(scores: Scores, count: int) -> tuple[str, ...]:
    """Names of so many cases, evenly spaced from the best to the worst by mean Dice; of all if there are not more."""
    known = [case for case in scores.cases if case.mean_dice is not None]
    ranked = [case.name for case in sorted(known, key=lambda case: (-(case.mean_dice or 0.0), case.name))]
    return spread_evenly(ranked, count)


def _choose_labels(labels: Labels, named: Sequence[str]) -> tuple[str, ...]:
    """The labels to explain.

    Raises:
        NnsegError: there is no such label, or there are too many to explain all of them.
    """
    known = labels.foreground
    labels.check_known(named)
    if not named and len(known) > MOST_LABELS:
        raise NnsegError(f"the model has {len(known)} labels, each of which takes its time; name some, like --label {known[0]!r}")
    return tuple(dict.fromkeys(named)) or known


def _check_place(out: Path, *, force: bool) -> None:
    check_overwrite(out / EXPLANATIONS, "record of explanations", force=force)
    if not force and out.is_dir() and not (out / EXPLANATIONS).exists() and any(out.iterdir()):
        raise RunError.at(out, "has files that nnseg explain did not make", "a new folder", "choose another, or write with --force")


def _explain(
    models: Iterable[tuple[Model, Sequence[Case]]],
    names: Sequence[str],
    out: Path,
    settings: ExplainOptions,
    key: Callable[[Case], str],
) -> ExplainedFolder:
    """Explain cases, each by its model, and add them to the record of a folder."""
    record, made, findings = _Record(out), list[Explanation](), list[Finding]()
    for model, cases in models:
        explainer = Explainer(model, settings.method, device=settings.options.device, copies=settings.copies, seed=settings.seed)
        for case in progress(cases, total=len(cases), label="explaining"):
            try:
                scan = read_scan(case.images, repair=True, spacing=case.spacing)
                for found in explainer.explain(scan, case.name, names):
                    made.append(record.add(found, scan, key(case)))
            except NnsegError as error:
                if error.is_fault:
                    raise
                findings.append(Finding.read(str(error), "NS-S001", case=case.name, files=case.images))
    withheld = (Finding.of("NS-M002", f"the map of {one.label} is withheld: {one.withheld}", case=one.case) for one in made)
    findings += [finding for finding, one in zip(withheld, made, strict=True) if one.withheld]
    return ExplainedFolder(folder=out, explanations=tuple(made), findings=tuple(findings))


class _Record:
    """The record of a folder of explanations; one of the same scan, label and method replaces an earlier one, with its files."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._file = folder, folder / EXPLANATIONS
        self._known: dict[tuple[str, str, str], Explanation] = {}
        if self._file.exists():
            with suppress_unless_fault(RunError):  # damaged, or of another version: its maps stay, and get no other names
                earlier = read_json(self._file, Explanations).explanations
                self._known = {(one.case, one.label, one.method): one for one in earlier}

    def add(self, found: ExplainedLabel, scan: Scan, key: str) -> Explanation:
        """Write the record, then the map and its picture, unless it is withheld; returns what was recorded."""
        explanation, place = found.explanation, (found.explanation.case, found.explanation.label, found.explanation.method)
        stem, own = _stem(explanation), set[str]()
        if earlier := self._known.pop(place, None):  # a record may name any file of the folder
            of_stem = re.compile(rf"{re.escape(stem)}(_\d+)?\.(nii\.gz|png)")
            own = {name for name in (earlier.file, earlier.picture) if of_stem.fullmatch(name)}
        stem, files = self._free(stem, own), dict[str, str]()
        if not explanation.withheld:
            files = {"file": f"{stem}.nii.gz", "picture": f"{stem}.png"}
        for name in own - {*files.values()}:
            (self._folder / name).unlink(missing_ok=True)
        self._known[place] = explanation.model_copy(update={"key": key, **files})
        write_json(self._file, Explanations(nnseg=versions()["nnseg"], explanations=tuple(self._known.values())))
        if files:  # after the record: a killed process leaves no file that the next would take for that of another program
            write_map(found.values, self._folder / files["file"], like=scan.source)
            with write_aside(self._folder / files["picture"]) as aside:
                aside.write_bytes(draw_attribution(scan, found.structure, found.values))
        return self._known[place]

    def _free(self, stem: str, own: Collection[str]) -> str:
        """A name that begins so, whose files are own ones or not there: others are of other labels, lost records or programs."""
        names = chain([stem], (f"{stem}_{number}" for number in count(2)))
        return next(name for name in names if not any(self._is_taken(f"{name}{end}", own) for end in (".nii.gz", ".png")))

    def _is_taken(self, name: str, own: Collection[str]) -> bool:
        return name not in own and os.path.lexists(self._folder / name)


def _stem(explanation: Explanation) -> str:
    """The beginning of the names of an explanation's files."""
    label = shortened(re.sub(r"[^\w.-]+", "_", explanation.label), 60)
    return f"{shortened(explanation.case, 120)}_{label}_{explanation.method}"
