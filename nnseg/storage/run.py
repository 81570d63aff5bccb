"""A run: its folder, and what the files in it hold.

::

    RUN/
      dataset.json  fingerprint.json  folds.json  run.json     the dataset as found and measured; its folds; a record of the run
      plan.toml  plan.schema.json                              all decisions, which may be edited; a schema for editors
      probe.json                                               time and memory of candidate plans on this machine
      pseudo_labels/  predictions.json                         what a model predicted where it was not annotated (--init)
      cases/                                                   preprocessed cases
      registrations.json                                       how channels of these were moved (--register)
      fold_0/  schedule.json  history.jsonl                    planned steps; one line for each epoch
               checkpoint.safetensors  model.nnseg             the state to resume from; the trained network
               checkpoint_before.safetensors  best.nnseg       the previous checkpoint; the weights with the best validation
               predictions/  predictions.json                  label maps of the held-out cases; how each was made
               objects/                                        numbers of the objects in these, where borders were learned
      scores.json  groups.json  report.html                    scores of the held-out cases, overall and by group
      choice.json                                              which of several plans predict, and why; may be edited
      postprocessing.json                                      postprocessing steps of the predictions; may be edited
      objects.json                                             how objects are told apart, thresholds of lesions; may be edited
      windows.json                                             tiles and mirrored copies of predictions, with evidence
      trust.json                                               calibration of the predictions
      learning_curve.json  learning_curve/                     trainings on parts of the cases, by `nnseg learn-curve`
      audit.json  audit_groups.csv                             what `nnseg audit` found; groups that keep same scans in one fold
      robustness.json  channels.json                           Dice of degraded scans (`nnseg stress`), and without each channel
                                                               (`nnseg channels`)
      cutoffs.json                                             volumes by which questions about scans are answered, by
                                                               `nnseg cutoffs`
      model.nnseg  model.md  model.json                        the exported model and its model card, also as JSON of ATLAS
      distilled/  distilled_small/                             one network for those of the folds, by `nnseg distill`: its plan,
                                                               training and model; in cases/ the probabilities it learns from
      shown/                                                   uncertainty maps of the cases in the report
      explanations/                                            maps of what predictions rest on, by `nnseg explain`
      manifest.jsonl                                           size and hash of every file
      STOP                                                     create this file to end the training early

A run with several plans has one folder for each (``RUN/2d/plan.toml``, ``RUN/2d/cases/``, ``RUN/2d/fold_0/`` ...) and one for each
ensemble of plans that was tried (``RUN/ensembles/2d+3d/fold_0/predictions/`` ...). Without ``RUN/choice.json`` all plans predict
together, except those that only provide the input of a cascade.
"""

from __future__ import annotations

import logging
import platform
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nnseg.core.audit import Audit
from nnseg.core.cutoffs import CutOffs
from nnseg.core.dataset import Case, Dataset, Fold
from nnseg.core.decisions import Choice, ObjectRules, Postprocessing, WindowChoice, ensemble_name
from nnseg.core.errors import RunError
from nnseg.core.fingerprint import Fingerprint
from nnseg.core.learning_curve import LearningCurve
from nnseg.core.limits import check_limit
from nnseg.core.plan import PLAN_NAMES, Plan
from nnseg.core.robustness import Robustness
from nnseg.core.schedule import Epoch
from nnseg.core.scores import Grouped, Scores
from nnseg.core.trust import Trust
from nnseg.storage.files import (
    MANIFEST,
    PathIn,
    StoredFile,
    has_manifest,
    json_file,
    optional_json_file,
    read_json,
    write_json,
)
from nnseg.storage.locks import locked
from nnseg.storage.manifest import renew_manifest
from nnseg.storage.plan_folder import PLAN_FILE, FoldFolder, PlanFolder
from nnseg.storage.predictions import ScanRecord, held_out_predictions
from nnseg.storage.temporary import TEMPORARY, sweep
from nnseg.system.machine import peak_ram, trim_memory, versions
from nnseg.system.progress import stage as shown_stage
from nnseg.system.regular import resolved

log = logging.getLogger(__name__)

STAGES = {
    "fingerprint": "measuring the dataset",
    "plan": "planning",
    "pseudo-labels": "predicting labels that were not annotated",
    "preprocess": "preprocessing",
    "train": "training",
    "predict": "predicting held-out cases",
    "evaluate": "scoring held-out cases",
    "export": "writing the model",
    "distill": "distilling",
}
"""Words for the stages that are timed; others are called by their names."""

Folds = Mapping[int, Fold]
"""Folds of a run by number."""


def read_folds(path: Path) -> Folds:
    """The folds of a file by number.

    Raises:
        RunError: the file is missing, or a case is both trained on and held out, or held out twice.
    """
    folds = read_json(path, tuple[Fold, ...])
    check_limit("folds", len(folds), path, "has {:,} folds", RunError)
    held_out = Counter(name for fold in folds for name in fold.held_out)
    leaks = {name for fold in folds for name in set(fold.training) & set(fold.held_out)}
    if doubled := leaks or {name for name, count in held_out.items() if count > 1}:
        wrong = min(doubled)
        raise RunError(f"{path}: case {wrong} must be held out once, and not be trained on in that fold")
    return dict(enumerate(folds))


def _write_folds(path: Path, folds: Folds) -> None:
    write_json(path, tuple(folds.values()))


def _read_record(path: Path) -> dict[str, Any]:
    """The record of a run: empty if it is missing, or damaged; then the plans and folds on file are kept as if they were edited."""
    try:
        return read_json(path, dict[str, Any], "plan") if path.exists() else {}
    except RunError as error:
        if error.is_fault:
            raise
        log.warning("%s is damaged and made anew; times of earlier stages are lost", path)
        return {}


@dataclass(eq=False)
class Run:
    """A run. Each attribute of the class is a file: reading gives its content, assigning writes it (see `StoredFile`).

    Args:
        path: its folder, which need not exist yet.
    """

    path: Path
    _plan_folders: dict[Path, PlanFolder] = field(default_factory=dict, init=False, repr=False)

    dataset = json_file("dataset.json", Dataset)
    """The dataset as it was found."""
    fingerprint = json_file("fingerprint.json", Fingerprint)
    """The dataset as it was measured."""
    folds = StoredFile("folds.json", read_folds, _write_folds)
    """Training and held-out cases of each fold; may be edited before training."""
    scores = optional_json_file("scores.json", Scores)
    """Scores of the held-out cases."""
    groups = optional_json_file("groups.json", Grouped)
    """The same by group, if groups were given."""
    choice = optional_json_file("choice.json", Choice)
    """Which of several plans predict, and why; may be edited."""
    postprocessing = optional_json_file("postprocessing.json", Postprocessing)
    """Postprocessing steps of the predictions, and why; may be edited."""
    objects = optional_json_file("objects.json", ObjectRules)
    """The rules by which objects are told apart, thresholds of labels whose components are objects, and why; may be edited."""
    windows = optional_json_file("windows.json", dict[str, WindowChoice])
    """The sliding window of each plan's predictions, by its name, and why, where it was chosen on held-out cases."""
    trust = optional_json_file("trust.json", Trust)
    """Calibration of the predictions, measured on held-out cases."""
    audit = optional_json_file("audit.json", Audit)
    """What may explain the scores, and scans that are in the dataset twice, if that was looked for."""
    learning_curve = optional_json_file("learning_curve.json", LearningCurve)
    """How the Dice grows with the number of training cases, if that was measured."""
    robustness = optional_json_file("robustness.json", Robustness)
    """The Dice of held-out cases whose scans were degraded, if that was measured."""
    channel_scores = optional_json_file("channels.json", Robustness)
    """The Dice of held-out cases without each channel of their scans, if that was measured."""
    cutoffs = optional_json_file("cutoffs.json", CutOffs)
    """The predicted volumes by which questions about scans are answered, if any were asked."""
    record = StoredFile("run.json", _read_record)
    """What the plans were made from, versions, and the time and memory of each stage; empty for a new run, or where it is lost."""

    probe_file = PathIn("probe.json")
    """Time and memory of candidate plans on this machine."""
    probe_folder = PathIn(".probe")
    """Where candidate plans are tried; removed afterwards."""
    pseudo_labels_folder = PathIn("pseudo_labels")
    """Label maps of cases in which not all labels were annotated, predicted by the model that the training begins with."""
    model_file = PathIn("model.nnseg")
    """The exported model."""
    audit_groups_file = PathIn("audit_groups.csv")
    """The group of each case that keeps same scans in one fold."""
    card_file = PathIn("model.md")
    """Its model card."""
    stop_file = PathIn("STOP")
    """Ends the training when it is created."""
    uncertainty_folder = PathIn("shown")
    """Uncertainty maps of the cases in the report."""
    explanations_folder = PathIn("explanations")
    """Maps of what predictions of held-out cases rest on, with their record."""
    report_file = PathIn("report.html")
    """The report."""

    @property
    def exists(self) -> bool:
        """True if the folder holds a run, perhaps with a damaged record; not if its run.json is of another program."""
        return Run.record.path(self).exists() and (not self.record or "versions" in self.record)

    @property
    def has_dataset(self) -> bool:
        """False if the run was planned from a fingerprint alone."""
        return Run.dataset.path(self).exists()

    @property
    def cases(self) -> dict[str, Case]:
        """The cases of the dataset by name."""
        return {case.name: case for case in self.dataset.cases}

    @property
    def fingerprint_of_folds(self) -> Fingerprint:
        """The fingerprint without the cases that are in no fold, such as a test set."""
        fingerprint, folds = self.fingerprint, self.folds if Run.folds.path(self).exists() else {}
        used = {name for fold in folds.values() for name in (*fold.training, *fold.held_out)}
        kept = tuple(case for case in fingerprint.cases if case.name in used or not used)
        return fingerprint.model_copy(update={"cases": kept})

    @property
    def fold_of(self) -> dict[str, int]:
        """The number of the fold that holds out each case, by name."""
        return {name: number for number, fold in self.folds.items() for name in fold.held_out}

    @property
    def plans(self) -> tuple[PlanFolder, ...]:
        """The run's plans: one in the run's own folder, or several in folders of their names.

        Raises:
            RunError: there is none yet.
        """
        own, *others = self.plan_files
        found = (own,) if own.exists() else tuple(file for file in others if file.exists())
        if not found:
            raise RunError(f'{self.path} is no run: it holds no plan; give the folder that "nnseg plan" or "nnseg run" made')
        return tuple(self._plan_folders.setdefault(file.parent, PlanFolder(file.parent)) for file in found)

    @property
    def plan_files(self) -> tuple[Path, ...]:
        """Where plans may be: in the run's own folder, or in a folder for each of several."""
        return (self.path / PLAN_FILE, *(self.path / name / PLAN_FILE for name in PLAN_NAMES))

    def folders_for(self, plans: Sequence[Plan]) -> tuple[PlanFolder, ...]:
        """The folders for the given plans, by the rule of `plans`."""
        return (PlanFolder(self.path),) if len(plans) == 1 else tuple(PlanFolder(self.path / p.name) for p in plans)

    def plan_folder(self, name: str) -> PlanFolder:
        """The folder of one of the run's plans.

        Raises:
            RunError: there is no plan of this name.
        """
        for folder in self.plans:
            if folder.plan.name == name:
                return folder
        raise RunError(f"{self.path} has no {name} plan, and another of its plans needs one; make it with nnseg plan --plans")

    def predicting_plan(self, name: str | None) -> PlanFolder:
        """The folder of the named plan, or of that with the largest weight among those that predict.

        Raises:
            RunError: there is no plan of this name.
        """
        plans, weights = {folder.plan.name: folder for folder in self.plans}, self.weights
        name = name or max(weights, key=lambda one: weights[one])
        if name not in plans:
            raise RunError(f"{self.path} has no plan {name}; choose one of {', '.join(plans)}")
        return plans[name]

    def previous(self, plans: Sequence[PlanFolder]) -> tuple[PlanFolder, ...]:
        """The plans whose predictions are the input of cascades among the given plans."""
        return tuple(self.plan_folder(name) for name in dict.fromkeys(folder.plan.previous for folder in plans) if name)

    @property
    def stages(self) -> tuple[tuple[PlanFolder, ...], ...]:
        """The run's plans in the order of training: cascades come after the plans whose predictions are their input."""
        first, cascades = (tuple(f for f in self.plans if bool(f.plan.previous) is cascade) for cascade in (False, True))
        return tuple(stage for stage in (first, cascades) if stage)

    @property
    def final_plans(self) -> dict[str, PlanFolder]:
        """The plans whose predictions can be the run's, by name: not those that only provide the input of a cascade."""
        inputs = {folder.plan.previous for folder in self.plans}
        return {folder.plan.name: folder for folder in self.plans if folder.plan.name not in inputs}

    @property
    def weights(self) -> dict[str, float]:
        """The weights of the plans that predict, by name: as chosen, or all equal.

        Raises:
            RunError: a chosen plan does not exist.
        """
        plans = self.final_plans
        choice = self.choice if len(plans) > 1 else None
        if choice is None:
            return dict.fromkeys(plans, 1.0)
        if unknown := set(choice.plans) - set(plans):
            file, there = Run.choice.path(self), ", ".join(plans)
            raise RunError(f"{file} names the plan {min(unknown)}, and the run has {there}; correct or delete the file")
        return {name: choice.plans[name] for name in plans if name in choice.plans}

    def ensemble_folder(self, weights: Mapping[str, float]) -> PlanFolder:
        """The folder for the predictions of weighted plans: that of the plan if there is only one.

        Raises:
            RunError: there is no plan of this name.
        """
        if len(weights) == 1:
            return self.plan_folder(next(iter(weights)))
        return PlanFolder(self.path / "ensembles" / ensemble_name(weights))

    @property
    def predictions_folder(self) -> Path:
        """The folder whose ``fold_0/predictions`` ... are the run's."""
        return self.ensemble_folder(self.weights).path

    def predictions(self, folds: Folds | None = None) -> dict[str, ScanRecord]:
        """The run's predictions of held-out cases by name; ``file`` is relative to `predictions_folder`.

        Args:
            folds: whose held-out cases; of all folds if None.
        """
        return held_out_predictions(self.predictions_folder, self.folds if folds is None else folds)

    def require_scores(self) -> Scores:
        """The scores of the held-out cases.

        Raises:
            RunError: there are none yet.
        """
        return read_json(Run.scores.path(self), Scores)

    @property
    def histories(self) -> dict[str, tuple[Epoch, ...]]:
        """The epochs of each training that has finished one, by a name such as "3d fold 0"."""
        folders = [(plan.plan.name, fold) for plan in self.plans for fold in plan.folds()]
        return {f"{name} fold {fold.number}": epochs for name, fold in folders if (epochs := fold.history())}

    @property
    def continued(self) -> dict[str, float]:
        """Seconds by which trainings were continued after they had ended, by names as of `histories`."""
        schedules = {f"{plan.plan.name} fold {fold.number}": fold.schedule() for plan in self.plans for fold in plan.folds()}
        return {name: schedule.more for name, schedule in schedules.items() if schedule and schedule.more}

    def remove_decisions(self) -> None:
        """Remove what was decided on predictions of networks that are about to be replaced."""
        self.choice = self.trust = self.postprocessing = self.objects = self.windows = None

    def fold(self, number: int) -> FoldFolder:
        """The folder of a fold of the run's only plan."""
        return PlanFolder(self.path).fold(number)

    def update_record(self, **entries: Any) -> None:
        """Add or replace entries of the record."""
        machine = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
        self.record = {"versions": versions(), "machine": machine} | self.record | entries

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Record the seconds that a stage takes, and the most RAM that this process and its workers hold meanwhile.

        Memory that earlier stages freed is handed back to the system first, so that it is not counted as this stage's.
        """
        start = time.perf_counter()
        trim_memory()
        with peak_ram() as peak, shown_stage(STAGES.get(stage, stage), noted=not stage.startswith("train")):
            yield
        seconds = round(time.perf_counter() - start, 2)
        stages, peaks = (dict(self.record.get(name, {})) for name in ("seconds", "peak_gb"))
        if stage not in stages or seconds >= stages[stage]:  # a resumed run that finds the work done keeps the earlier figures
            stages[stage], peaks[stage] = seconds, round(peak.gb, 3)
            self.update_record(seconds=stages, peak_gb=peaks, finished=datetime.now(UTC).isoformat(timespec="seconds"))

    @contextmanager
    def locked(self, dataset: Path | None = None) -> Iterator[None]:
        """Keep every other process out of the run's folder; the lock is released when its owner dies.

        A folder that was made for it is removed after an error before which nothing but records was written.

        Args:
            dataset: a folder that must not be written to.

        Raises:
            RunError: another process holds the lock, or the folder cannot be written, lies in the dataset, or is no run's.
        """
        self._check_place(dataset)
        made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        in_vain = False
        with locked(self.path, busy="another nnseg is working in {}; wait for it, or choose another run folder"):
            sweep(self.path)
            shutil.rmtree(self.probe_folder, ignore_errors=True)
            if not has_manifest(self.path):  # of a new run, or one of an earlier version, or a link
                renew_manifest(self.path)
            try:
                yield
                sweep(self.path)  # what worker processes left that were killed, whose work was done again
            except BaseException:
                in_vain = bool(made) and self.path.is_dir() and all(_is_record(file.name) for file in self.path.iterdir())
                raise
            finally:
                if in_vain:
                    self._remove(made)
                else:
                    with suppress(RunError):  # a full disk: what stands is longer, but right
                        renew_manifest(self.path)

    def _remove(self, folders: Sequence[Path]) -> None:
        """Remove the files of the run, and folders, the inner ones first, as far as these are empty."""
        for file in self.path.iterdir():
            file.unlink(missing_ok=True)
        for folder in folders:
            with suppress(OSError):
                folder.rmdir()

    def _check_place(self, dataset: Path | None) -> None:
        if dataset and resolved(dataset) in (resolved(self.path), *resolved(self.path).parents):
            raise RunError(f"{self.path} lies in the dataset, which is never written to; choose a run folder outside of {dataset}")
        there = {file.name for file in self.path.iterdir()} if self.path.is_dir() else set[str]()
        if there and not self.exists and not has_manifest(self.path) and not (".lock" in there and all(map(_is_begun, there))):
            raise RunError(f"{self.path} holds files but no run; choose a new or an empty folder")


def _is_record(name: str) -> bool:
    """True for a file that every run has, whatever was done in it."""
    return name in (".lock", ".lock.only", "run.json", MANIFEST) or TEMPORARY.fullmatch(name) is not None


def _is_begun(name: str) -> bool:
    """True for a file of a run that ended before its record was written."""
    return (
        name in (".lock", ".lock.only", "dataset.json", "fingerprint.json", "probe.json", ".probe")
        or TEMPORARY.fullmatch(name) is not None
    )
