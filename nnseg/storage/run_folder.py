"""Where everything of a run lies, and how it is read and written.

::

    RUN/
      dataset.json  fingerprint.json  folds.json  run.json     what was found, and who made this run
      plan.toml  plan.schema.json                              the decisions; edit them, the run follows; for editors
      cases/                                                   preprocessed cases
      fold_0/  schedule.json  history.jsonl                    fixed work, and one line an epoch
               checkpoint.safetensors  model.nnseg             to go on from; the result, enough alone
               checkpoint_before.safetensors  best.nnseg       the one before; the weights that were estimated best
               predictions/  predictions.json                  held-out cases, and how each was made
      scores.json  report.html
      postprocessing.json                                      what is mended in the model's answers; may be edited
      trust.json                                               how far its answers can be trusted
      model.nnseg  model.md                                    all that is needed to predict; its card, to be read first
      STOP                                                     make this file, and the training ends, as good as it is

A run with several plans keeps one folder for each (``RUN/2d/plan.toml``, ``RUN/2d/cases/``, ``RUN/2d/fold_0/`` ...), and one for
each ensemble of them that was tried (``RUN/ensembles/2d+3d/fold_0/predictions/`` ...). ``RUN/choice.json`` says which plans answer,
alone or together, and may be edited; without it all do. A plan that is only shown to a cascade is not asked.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import tomlkit
from filelock import FileLock, Timeout
from pydantic import TypeAdapter, ValidationError

from nnseg.core.dataset import Fold
from nnseg.core.decisions import Choice, name_of
from nnseg.core.errors import RunError
from nnseg.core.plan import PLAN_NAMES, Plan
from nnseg.core.schedule import Epoch, Schedule
from nnseg.core.validation import parse, schema_of
from nnseg.storage.files import read_toml, sweep, write_text

Content = TypeVar("Content")

log = logging.getLogger(__name__)

SCHEMA_FILE = "plan.schema.json"
"""Beside each plan."""


@dataclass(frozen=True)
class FoldFolder:
    """What training and predicting one fold left behind."""

    path: Path

    @property
    def number(self) -> int:
        """Which fold, from 0."""
        return int(self.path.name.removeprefix("fold_"))

    @property
    def schedule_file(self) -> Path:
        """The work that was fixed when training started."""
        return self.path / "schedule.json"

    @property
    def history_file(self) -> Path:
        """One JSON line an epoch."""
        return self.path / "history.jsonl"

    @property
    def checkpoint_file(self) -> Path:
        """Everything needed to go on training."""
        return self.path / "checkpoint.safetensors"

    @property
    def checkpoint_before_file(self) -> Path:
        """The checkpoint before the last, should that be damaged."""
        return self.path / "checkpoint_before.safetensors"

    @property
    def model_file(self) -> Path:
        """The result: of the finished training, or of one that was interrupted, as far as it came."""
        return self.path / "model.nnseg"

    @property
    def best_file(self) -> Path:
        """The weights whose estimate on held-out patches was best."""
        return self.path / "best.nnseg"

    @property
    def predictions(self) -> Path:
        """Label maps of the held-out cases."""
        return self.path / "predictions"

    def history(self) -> tuple[Epoch, ...]:
        """The epochs so far, up to the first line that is damaged."""
        epochs: list[Epoch] = []
        if self.history_file.exists():
            with suppress(ValidationError):
                for line in self.history_file.read_bytes().splitlines():
                    epochs.append(Epoch.model_validate_json(line))
        return tuple(epochs)

    def write_history(self, epochs: Sequence[Epoch]) -> None:
        """Write the record anew; a reader never sees half a line."""
        write_text(self.history_file, "".join(e.model_dump_json() + "\n" for e in epochs))


@dataclass(frozen=True)
class PlanFolder:
    """One plan of a run, with its preprocessed cases and folds."""

    path: Path

    @property
    def plan_file(self) -> Path:
        """The plan, for people and machines."""
        return self.path / "plan.toml"

    @property
    def cases(self) -> Path:
        """Preprocessed cases."""
        return self.path / "cases"

    def plan(self) -> Plan:
        """The plan as it stands in its file, which people may have edited."""
        return read_plan(self.plan_file)

    def fold(self, number: int) -> FoldFolder:
        """The folder of a fold, which need not exist yet."""
        return FoldFolder(self.path / f"fold_{number}")

    def folds(self) -> tuple[FoldFolder, ...]:
        """Folds that were begun, in order."""
        folders = [FoldFolder(p) for p in self.path.glob("fold_*") if re.fullmatch(r"fold_\d+", p.name)]
        return tuple(sorted(folders, key=lambda f: f.number))

    def trained_folds(self) -> tuple[FoldFolder, ...]:
        """Folds that have a result, in order."""
        return tuple(f for f in self.folds() if f.model_file.exists())


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run."""

    path: Path

    @property
    def dataset_file(self) -> Path:
        """The dataset as it was found."""
        return self.path / "dataset.json"

    @property
    def fingerprint_file(self) -> Path:
        """The dataset as it was measured."""
        return self.path / "fingerprint.json"

    @property
    def folds_file(self) -> Path:
        """Which cases are held out when; may be edited before training."""
        return self.path / "folds.json"

    @property
    def probe_file(self) -> Path:
        """What this machine was measured to do with candidate plans."""
        return self.path / "probe.json"

    @property
    def probe_folder(self) -> Path:
        """Where candidates are tried; gone afterwards."""
        return self.path / ".probe"

    @property
    def record_file(self) -> Path:
        """What the plans were made from, versions, and how long each stage took."""
        return self.path / "run.json"

    @property
    def scores_file(self) -> Path:
        """Scores of the held-out cases."""
        return self.path / "scores.json"

    @property
    def groups_file(self) -> Path:
        """The same by group, where groups were asked for."""
        return self.path / "groups.json"

    @property
    def postprocessing_file(self) -> Path:
        """What is mended in the model's answers, and why; may be edited."""
        return self.path / "postprocessing.json"

    @property
    def trust_file(self) -> Path:
        """How far the model can be trusted, measured on the held-out cases."""
        return self.path / "trust.json"

    @property
    def choice_file(self) -> Path:
        """Which of several plans answer, and why; may be edited."""
        return self.path / "choice.json"

    @property
    def model_file(self) -> Path:
        """The model, exported."""
        return self.path / "model.nnseg"

    @property
    def card_file(self) -> Path:
        """What people should know of the model."""
        return self.path / "model.md"

    @property
    def stop_file(self) -> Path:
        """Asks the training to end by being there."""
        return self.path / "STOP"

    @property
    def shown(self) -> Path:
        """Maps of uncertainty of the cases that the report shows."""
        return self.path / "shown"

    @property
    def report_file(self) -> Path:
        """The page to look at."""
        return self.path / "report.html"

    def plans(self) -> tuple[PlanFolder, ...]:
        """The run's plans: one at the top, or one folder for each of several.

        Raises:
            RunError: there is none yet.
        """
        if (self.path / "plan.toml").exists():
            return (PlanFolder(self.path),)
        found = tuple(PlanFolder(p.parent) for p in self.plan_files() if p.exists())
        if not found:
            raise RunError(f'{self.path} holds no plan; make one with "nnseg plan DATASET {self.path}"')
        return found

    def histories(self) -> dict[str, tuple[Epoch, ...]]:
        """The epochs of each training that has come to the end of one, by a name such as "3d fold 0"."""
        places = [(folder.plan().name, place) for folder in self.plans() for place in folder.folds()]
        return {f"{name} fold {place.number}": history for name, place in places if (history := place.history())}

    def plan_called(self, name: str) -> PlanFolder:
        """One of the run's plans.

        Raises:
            RunError: there is none of that name.
        """
        for folder in self.plans():
            if folder.plan().name == name:
                return folder
        raise RunError(f"{self.path} has no {name} plan, and another of its plans needs one; make it with nnseg plan --plans")

    def rivals(self) -> dict[str, PlanFolder]:
        """The plans that can answer, by name: not those whose answer is only shown to a cascade."""
        plans = {folder: folder.plan() for folder in self.plans()}
        shown = {plan.previous for plan in plans.values()}
        return {plan.name: folder for folder, plan in plans.items() if plan.name not in shown}

    def answering(self) -> dict[PlanFolder, float]:
        """The plans that do answer, with their weights: as was chosen, or all alike.

        Raises:
            RunError: a plan was chosen that is not there.
        """
        rivals = self.rivals()
        if len(rivals) == 1 or not self.choice_file.exists():
            return dict.fromkeys(rivals.values(), 1.0)
        chosen = read_json(self.choice_file, Choice).plans
        if unknown := set(chosen) - set(rivals):
            there = ", ".join(rivals)
            raise RunError(f"{self.choice_file} names the plan {min(unknown)}, and the run has {there}; mend or delete the file")
        return {folder: chosen[name] for name, folder in rivals.items() if name in chosen}

    @property
    def answers(self) -> Path:
        """The folder whose ``fold_0/predictions`` ... are the run's: of the only plan that answers, else of the ensemble."""
        return self.ensemble({folder.plan().name: weight for folder, weight in self.answering().items()}).path

    def ensemble(self, plans: Mapping[str, float]) -> PlanFolder:
        """The folder for the predictions of weighted plans: of one alone, its own.

        Raises:
            RunError: there is no plan of that name.
        """
        if len(plans) == 1:
            return self.plan_called(next(iter(plans)))
        return PlanFolder(self.path / "ensembles" / name_of(plans))

    def forget(self) -> None:
        """Remove what was learned from the answers of networks that there will not be any more."""
        for learned in (self.choice_file, self.trust_file, self.postprocessing_file):
            learned.unlink(missing_ok=True)

    def plan_files(self) -> tuple[Path, ...]:
        """Where plans may stand: at the top, or in a folder for each of several."""
        return (self.path / "plan.toml", *(self.path / name / "plan.toml" for name in PLAN_NAMES))

    def plan_folders(self, plans: Sequence[Plan]) -> tuple[PlanFolder, ...]:
        """Where the given plans belong, by the rule of `plans`."""
        return (PlanFolder(self.path),) if len(plans) == 1 else tuple(PlanFolder(self.path / p.name) for p in plans)

    def fold(self, number: int) -> FoldFolder:
        """The run's own folder of a fold: that of its only plan."""
        return FoldFolder(self.path / f"fold_{number}")

    @contextmanager
    def locked(self, dataset: Path | None = None) -> Iterator[None]:
        """Keep every other process out while working here; the lock dies with its owner.

        Args:
            dataset: a folder that must not be written to.

        Raises:
            RunError: another process is at work, or the folder cannot be written, lies in the dataset, or is no run's.
        """
        self._check_place(dataset)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / ".lock", timeout=0)
            lock.acquire()
        except Timeout:
            raise RunError(f"another nnseg is working in {self.path}; wait for it, or choose another run folder") from None
        except OSError as error:
            raise RunError(f"cannot write to {self.path}: {error.strerror}; choose a folder you may write to") from error
        try:
            sweep(self.path)
            shutil.rmtree(self.probe_folder, ignore_errors=True)
            yield
        finally:
            lock.release()

    def _check_place(self, dataset: Path | None) -> None:
        if dataset and dataset.resolve() in (self.path.resolve(), *self.path.resolve().parents):
            raise RunError(f"{self.path} lies in the dataset, which is never written to; choose a run folder outside of {dataset}")
        ours = self.record_file.exists() or (self.path / ".lock").exists()
        if self.path.is_dir() and not ours and any(self.path.iterdir()):
            raise RunError(f"{self.path} holds files but no run; choose a new or an empty folder")


def read_plan(path: Path) -> Plan:
    """A plan from its TOML file.

    Raises:
        PlanError: naming the line, or every setting that is wrong.
    """
    return parse(Plan, read_toml(path), str(path))


def write_plan(path: Path, plan: Plan) -> None:
    """Write a plan as TOML, and beside it the schema that editors check it by.

    Reasons stand in the ``why`` table below their section, in the order of its settings.
    """
    header = (
        f"#:schema ./{SCHEMA_FILE}\n"
        f"# nnseg plan {plan.name}. Edit any setting; its reason stands below it under [...why].\n"
    )  # editors find the schema by the first line
    write_text(path.with_name(SCHEMA_FILE), _schema())
    write_text(path, header + tomlkit.dumps(_toml(plan.model_dump(mode="json", exclude_none=True))))


@cache
def _schema() -> str:
    return json.dumps(schema_of(Plan), indent=1) + "\n"


def read_json(path: Path, kind: type[Content]) -> Content:
    """Typed content of a JSON file.

    Raises:
        RunError: the file is missing or does not hold what it should.
    """
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes())
    except FileNotFoundError:
        raise RunError(f"{path} is missing; run the verb that makes it, or nnseg run") from None
    except ValidationError as error:
        wrong = f"{path} is damaged, or of another version of nnseg ({error.errors()[0]['msg']})"
        raise RunError(f"{wrong}; delete it, and nnseg run makes it anew") from None


def write_json(path: Path, content: Any) -> None:
    """Write a noun (dataclass or pydantic model) as JSON that people can read."""
    write_text(path, TypeAdapter(type(content)).dump_json(content, indent=1).decode() + "\n")


def _toml(content: dict[str, Any]) -> dict[str, Any]:
    """Plain settings first, then tables, empty ones left out: TOML cannot return to a table's top level."""
    why = content.get("why", {})
    content = content | ({"why": {k: why[k] for k in (*content, *why) if k in why}} if why else {})  # in the settings' order
    plain = {k: v for k, v in content.items() if not _is_table(v)}
    tables = {k: _toml(v) if isinstance(v, dict) else [_toml(i) for i in v] for k, v in content.items() if _is_table(v) and v}
    return plain | tables


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and bool(value) and isinstance(value[0], dict))


def read_folds(run: RunFolder) -> tuple[Fold, ...]:
    """The run's folds, which people may have edited.

    Raises:
        RunError: they are missing, or a case is both trained on and held out, or held out twice.
    """
    folds = read_json(run.folds_file, tuple[Fold, ...])
    held_out = [name for fold in folds for name in fold.held_out]
    leaks = {name for fold in folds for name in set(fold.training) & set(fold.held_out)}
    if leaks or len(set(held_out)) != len(held_out):
        wrong = min(leaks or {n for n in held_out if held_out.count(n) > 1})
        raise RunError(f"{run.folds_file}: case {wrong} must be held out once, and not be trained on in that fold")
    return folds


def read_schedule(place: FoldFolder) -> Schedule | None:
    """The schedule of a fold; None if it was never begun, or by an earlier version."""
    if not place.schedule_file.exists():
        return None
    try:
        return read_json(place.schedule_file, Schedule)
    except RunError as error:
        log.debug("%s", error)
        return None
