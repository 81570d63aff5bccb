"""The files of a plan and of its folds, and the plan as TOML."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import tomlkit
from pydantic import ValidationError

from nnseg.core.errors import ModelError, NewerVersionError, PlanError, RunError
from nnseg.core.limits import check_limit
from nnseg.core.plan import Plan
from nnseg.core.schedule import Epoch, Schedule
from nnseg.core.validation import parse, schema_of
from nnseg.storage.bounded import read_text_bytes
from nnseg.storage.files import PathIn, StoredFile, read_json, read_toml, write_text
from nnseg.storage.model_header import read_model_header

log = logging.getLogger(__name__)

PLAN_FILE = "plan.toml"
SCHEMA_FILE = "plan.schema.json"
"""Beside each plan, for editors."""


def read_plan(path: Path) -> Plan:
    """A plan from its TOML file.

    Raises:
        PlanError: names the line, or every setting that is wrong.
    """
    return parse(Plan, read_toml(path), str(path))


def _read_own_plan(path: Path) -> Plan:
    try:
        return read_plan(path)
    except PlanError as error:
        advice = "correct the file, or delete it and repeat nnseg plan or nnseg run, which make it anew"
        raise PlanError(f"{error}; {advice}") from error


def write_plan(path: Path, plan: Plan) -> None:
    """Write a plan as TOML, with the schema for editors beside it.

    Reasons are in the ``why`` table below their section, in the order of its settings.
    """
    header = (
        f"#:schema ./{SCHEMA_FILE}\n"
        f"# nnseg plan {plan.name}. Edit any setting; its reason stands below it under [...why].\n"
    )  # editors find the schema by the first line
    write_schema(path)
    write_text(path, header + tomlkit.dumps(_toml(plan.model_dump(mode="json", exclude_none=True))))


def write_schema(path: Path) -> None:
    """Write the schema beside a plan."""
    write_text(path.with_name(SCHEMA_FILE), _schema())


@cache
def _schema() -> str:
    return json.dumps(schema_of(Plan), indent=1) + "\n"


def _toml(content: dict[str, Any]) -> dict[str, Any]:
    """Plain settings first, then tables, empty ones left out: TOML cannot return to a table's top level."""
    why = content.get("why", {})
    content = content | ({"why": {k: why[k] for k in (*content, *why) if k in why}} if why else {})  # in the settings' order
    plain = {k: v for k, v in content.items() if not _is_table(v)}
    tables = {k: _toml(v) if isinstance(v, dict) else [_toml(i) for i in v] for k, v in content.items() if _is_table(v) and v}
    return plain | tables


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and bool(value) and isinstance(value[0], dict))


@dataclass(frozen=True)
class FoldFolder:
    """The files of one fold: its training, and its predictions of held-out cases."""

    path: Path

    @property
    def number(self) -> int:
        """Which fold, from 0."""
        return int(self.path.name.removeprefix("fold_"))

    schedule_file = PathIn("schedule.json")
    """The schedule, fixed when training started."""

    def schedule(self) -> Schedule | None:
        """The schedule, from its file or a checkpoint; None if training was never begun, or by an earlier version."""
        try:
            if self.schedule_file.exists():
                return read_json(self.schedule_file, Schedule)
        except NewerVersionError:
            raise
        except RunError as error:
            if error.is_fault:
                raise
            log.debug("%s", error)
        for file in (self.checkpoint_file, self.checkpoint_before_file):
            with suppress(FileNotFoundError, NotADirectoryError, ModelError, KeyError, ValidationError):
                return Schedule.model_validate(read_model_header(file)["about"]["course"])
        return None

    history_file = PathIn("history.jsonl")
    """One line of JSON for each epoch."""
    checkpoint_file = PathIn("checkpoint.safetensors")
    """The state from which training resumes."""
    checkpoint_before_file = PathIn("checkpoint_before.safetensors")
    """The previous checkpoint, used if the last one is damaged."""
    model_file = PathIn("model.nnseg")
    """The trained network; of an interrupted training, its state at the interruption."""
    best_file = PathIn("best.nnseg")
    """The weights with the best validation estimate."""
    predictions = PathIn("predictions")
    """Label maps of the held-out cases."""

    def history(self) -> tuple[Epoch, ...]:
        """The epochs so far, up to the first damaged line."""
        epochs: list[Epoch] = []
        if self.history_file.exists():
            lines = read_text_bytes(self.history_file, "run").splitlines()
            check_limit("epochs", len(lines), self.history_file, "has {:,} epochs", RunError)
            with suppress(ValidationError):
                for line in lines:
                    epochs.append(Epoch.model_validate_json(line))
        return tuple(epochs)

    def write_history(self, epochs: Sequence[Epoch]) -> None:
        """Replace the history file as a whole, so that readers see only whole lines."""
        write_text(self.history_file, "".join(e.model_dump_json() + "\n" for e in epochs))


@dataclass(frozen=True)
class PlanFolder:
    """The files of one plan of a run: the plan, its preprocessed cases and its folds.

    Args:
        path: of the folder.
        shared: folder of the preprocessed cases, if it is that of another plan.
    """

    path: Path
    shared: Path | None = None

    plan = StoredFile(PLAN_FILE, _read_own_plan, write_plan)
    """The plan as it stands in its file, which people may have edited."""
    registrations_file = PathIn("registrations.json")
    """How channels of the preprocessed cases were moved, by case, where the plan says so."""
    plan_file = PathIn(PLAN_FILE)
    """The plan as TOML."""

    @property
    def cases(self) -> Path:
        """Folder of the preprocessed cases."""
        return self.shared or self.path / "cases"

    def fold(self, number: int) -> FoldFolder:
        """The folder of a fold; it need not exist."""
        return FoldFolder(self.path / f"fold_{number}")

    def folds(self) -> tuple[FoldFolder, ...]:
        """The folds that have a folder, by number."""
        folders = [FoldFolder(p) for p in self.path.glob("fold_*") if re.fullmatch(r"fold_\d+", p.name)]
        return tuple(sorted(folders, key=lambda f: f.number))

    def trained_folds(self) -> tuple[FoldFolder, ...]:
        """The folds that have a model, by number."""
        return tuple(f for f in self.folds() if f.model_file.exists())
