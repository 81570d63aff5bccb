"""The files of a run and of a folder of predictions, and the keys of those that are JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, RootModel

from generate.docstrings import in_table, markdown_of, sections_of
from nnseg.commands.audit import AuditedRun
from nnseg.commands.convert import ConvertedFolder
from nnseg.commands.correct import Correction
from nnseg.commands.cutoffs import ChosenCutOff
from nnseg.commands.evaluate import Evaluation
from nnseg.commands.explain import ExplainedFolder
from nnseg.commands.info import Information
from nnseg.commands.learn_curve import MeasuredCurve
from nnseg.commands.plan import PlannedRun
from nnseg.commands.prepare import PreparedFolder
from nnseg.commands.profile import Profile
from nnseg.commands.rank import RankedScans
from nnseg.commands.stress import StressedRun
from nnseg.commands.submit import Submission
from nnseg.commands.validate import ValidatedFolder
from nnseg.core.audit import Audit
from nnseg.core.cutoffs import CutOff, CutOffs
from nnseg.core.dataset import Dataset, Fold
from nnseg.core.decisions import Choice, ObjectRules, Postprocessing, WindowChoice
from nnseg.core.explanation import Explanation, Explanations
from nnseg.core.fingerprint import Fingerprint
from nnseg.core.learning_curve import LearningCurve
from nnseg.core.plan import Plan
from nnseg.core.robustness import Robustness
from nnseg.core.schedule import Epoch
from nnseg.core.scores import Grouped, Scores
from nnseg.core.trust import Trust
from nnseg.core.validation import descriptions
from nnseg.evaluation.external import ExternalValidation
from nnseg.planning.dataset_summary import CheckedDataset
from nnseg.serving.folder import PredictedFolder
from nnseg.storage import run
from nnseg.storage.predictions import Predictions, ScanRecord

JSON_FILES = {
    "predictions.json": Predictions,
    "scores.json": Scores,
    "groups.json": Grouped,
    "choice.json": Choice,
    "postprocessing.json": Postprocessing,
    "objects.json": ObjectRules,
    "windows.json": WindowChoice,
    "trust.json": Trust,
    "audit.json": Audit,
    "learning_curve.json": LearningCurve,
    "robustness.json": Robustness,
    "channels.json": Robustness,
    "cutoffs.json": CutOffs,
    "validation.json": ExternalValidation,
    "explanations.json": Explanations,
    "dataset.json": Dataset,
    "fingerprint.json": Fingerprint,
    "folds.json": Fold,
    "history.jsonl": Epoch,
}
"""Files and what they hold: of folds.json, history.jsonl and windows.json one entry."""

JSON_RESULTS = {
    "check": CheckedDataset,
    "plan": PlannedRun,
    "predict": PredictedFolder,
    "prepare": PreparedFolder,
    "rank": RankedScans,
    "correct": Correction,
    "convert": ConvertedFolder,
    "submit": Submission,
    "profile": Profile,
    "explain": ExplainedFolder,
    "evaluate": Evaluation,
    "audit": AuditedRun,
    "learn-curve": MeasuredCurve,
    "validate": ValidatedFolder,
    "stress": StressedRun,
    "channels": StressedRun,
    "cutoffs": ChosenCutOff,
    "info": Information,
}
"""What commands print as `result` with --json."""

_FILES = "(reference/run-folder.md#keys-of-json-files)"
DESCRIBED = {
    Plan: "[plan.toml](reference/plan.md)",
    Scores: f"[scores.json]{_FILES}",
    Grouped: f"[groups.json]{_FILES}",
    Explanation: f"[explanations.json]{_FILES}",
    Audit: f"[audit.json]{_FILES}",
    LearningCurve: f"[learning_curve.json]{_FILES}",
    Robustness: f"[robustness.json]{_FILES}",
    CutOff: f"[cutoffs.json]{_FILES}",
    ExternalValidation: f"[validation.json]{_FILES}",
    ScanRecord: f"[predictions.json]{_FILES}",
}
"""Parts of results whose keys are those of a file, and where these are listed."""


WORDS = {str: "text", Path: "text", int: "whole number", float: "number", bool: "true or false", type(None): "null", Any: "any"}


def run_folder() -> str:
    """Markdown of the files of a run, as the module that reads them says."""
    return markdown_of((run.__doc__ or "").partition("\n\n")[2])


def json_files() -> str:
    """Markdown of the keys of each JSON file."""
    return "\n\n".join(_table(name, model, {}) for name, model in JSON_FILES.items())


def json_results() -> str:
    """Markdown of the keys of the results that commands print."""
    return "\n\n".join(_table(name, model, DESCRIBED) for name, model in JSON_RESULTS.items())


def _table(name: str, model: type[Any], elsewhere: Mapping[type[Any], str]) -> str:
    keys = _keys(model, "", elsewhere)
    rows = [f"| `{key}` | {in_table(kind)} | {in_table(markdown_of(meaning))} |" for key, kind, meaning in keys]
    return "\n".join(
        [f"### {name}", "", markdown_of(sections_of(model)[""]), "", "| key | value | meaning |", "|---|---|---|", *rows]
    )


def _keys(model: type[Any], place: str, elsewhere: Mapping[type[Any], str]) -> Iterator[tuple[str, str, str]]:
    """Each key with all above it, what its value is, and its meaning; in a key ``[]`` is each entry of a list, ``*`` each name.

    Args:
        place: keys above, with a dot at the end.
        elsewhere: models whose keys are not listed, and the link to where they are.
    """
    meanings = descriptions(model)
    types = get_type_hints(model)
    for name in _names(model):
        inner, suffix = _innermost(types[name])
        key = f"{place}{name}{suffix}"
        own = sections_of(inner)[""].partition("\n\n")[0] if inner else ""
        described = elsewhere.get(inner, "") if inner else ""
        yield key, _kind(types[name]), meanings.get(name, own) + (f" Keys as in {described}." if described else "")
        yield from _keys(inner, f"{key}.", elsewhere) if inner and not described else ()


def _names(model: type[Any]) -> list[str]:
    """The fields that are written."""
    if issubclass(model, BaseModel):
        return [name for name, field in model.model_fields.items() if not field.exclude]
    return [field.name for field in fields(model)]


def _innermost(annotation: Any) -> tuple[type[Any] | None, str]:
    """The model that lists, tables or an optional value hold, if it is one, and what leads to it."""
    if isinstance(annotation, type) and issubclass(annotation, RootModel):
        return _innermost(annotation.model_fields["root"].annotation)
    if isinstance(annotation, type) and (issubclass(annotation, BaseModel) or is_dataclass(annotation)):
        return annotation, ""
    steps = {dict: ".*", Mapping: ".*", tuple: "[]", list: "[]"}
    found = [(inner, steps.get(get_origin(annotation), "") + rest) for inner, rest in map(_innermost, get_args(annotation))]
    return next((one for one in found if one[0]), (None, ""))


def _kind(annotation: Any) -> str:
    """What a value is, in words."""
    if isinstance(annotation, type) and issubclass(annotation, RootModel):
        return _kind(annotation.model_fields["root"].annotation)
    origin, inner = get_origin(annotation), [one for one in get_args(annotation) if one is not Ellipsis]
    if origin is Literal:
        return " or ".join(map(json.dumps, inner))
    if origin in (UnionType, Union):
        return " or ".join(dict.fromkeys(map(_kind, inner)))
    if origin in (tuple, list, frozenset):
        return f"list ({', '.join(dict.fromkeys(map(_kind, inner)))})"
    if origin in (dict, Mapping):
        return f"object ({_kind(inner[1])})"
    return WORDS.get(annotation, "object")
