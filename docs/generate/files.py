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
from nnseg.core.dataset import Dataset, Fold
from nnseg.core.decisions import Choice, Postprocessing, WindowChoice
from nnseg.core.fingerprint import Fingerprint
from nnseg.core.schedule import Epoch
from nnseg.core.scores import Grouped, Scores
from nnseg.core.trust import Trust
from nnseg.core.validation import descriptions
from nnseg.storage import run
from nnseg.storage.predictions import Predictions

JSON_FILES = {
    "predictions.json": Predictions,
    "scores.json": Scores,
    "groups.json": Grouped,
    "choice.json": Choice,
    "postprocessing.json": Postprocessing,
    "windows.json": WindowChoice,
    "trust.json": Trust,
    "dataset.json": Dataset,
    "fingerprint.json": Fingerprint,
    "folds.json": Fold,
    "history.jsonl": Epoch,
}
"""Files and what they hold: of folds.json, history.jsonl and windows.json one entry."""


WORDS = {str: "text", Path: "text", int: "whole number", float: "number", bool: "true or false", type(None): "null", Any: "any"}


def run_folder() -> str:
    """Markdown of the files of a run, as the module that reads them says."""
    return markdown_of((run.__doc__ or "").partition("\n\n")[2])


def json_files() -> str:
    """Markdown of the keys of each JSON file."""
    return "\n\n".join(_file(name, model) for name, model in JSON_FILES.items())


def _file(name: str, model: type[Any]) -> str:
    rows = [f"| `{key}` | {in_table(kind)} | {in_table(markdown_of(meaning))} |" for key, kind, meaning in _keys(model, "")]
    return "\n".join(
        [f"### {name}", "", markdown_of(sections_of(model)[""]), "", "| key | value | meaning |", "|---|---|---|", *rows]
    )


def _keys(model: type[Any], place: str) -> Iterator[tuple[str, str, str]]:
    """Each key with all above it, what its value is, and its meaning; in a key ``[]`` is each entry of a list, ``*`` each name."""
    meanings = descriptions(model)
    types = get_type_hints(model)
    for name in model.model_fields if issubclass(model, BaseModel) else (field.name for field in fields(model)):
        inner, suffix = _innermost(types[name])
        key = f"{place}{name}{suffix}"
        own = sections_of(inner)[""].partition("\n\n")[0] if inner else ""
        yield key, _kind(types[name]), meanings.get(name, own)
        yield from _keys(inner, f"{key}.") if inner else ()


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
