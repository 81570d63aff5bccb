"""nnU-Net's JSON files, whose content is checked entry by entry."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from nnseg.core.errors import ModelError, PlanError
from nnseg.core.validation import parse, shown
from nnseg.storage.bounded import parse_json, read_text

M = TypeVar("M", bound=BaseModel)


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ModelError: the file cannot be read, or has no object.
    """
    try:
        content = parse_json(read_text(path))
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}; copy it beside the trained folds") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not valid JSON: {error}; copy it again") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds a {type(content).__name__}, not an object")
    return content


def checked(model: type[M], content: Any, where: str) -> M:
    """The content of another tool's file as a pydantic model.

    Raises:
        ModelError: entries are invalid; names all of them.
    """
    try:
        return parse(model, content, where)
    except PlanError as error:
        raise ModelError(str(error)) from error
    except RecursionError as error:
        raise ModelError(f"{where}: lists or objects are nested too deeply") from error


def section(content: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    """The object of that name in an object; an empty one if it is missing.

    Raises:
        ModelError: the entry is no object.
    """
    found = content.get(name)
    if not isinstance(found, dict | None):
        raise ModelError(f"{where}: {name} is {shown(found)}, it must be an object")
    return found or {}


def known_name(where: str, setting: str, value: Any, known: Any) -> Any:
    """The entry of ``value`` in a dict, or the value itself if it is in a list.

    Raises:
        ModelError: it is in neither.
    """
    if not any(value == name and type(value) is type(name) for name in known):
        raise ModelError(f"{where}: {setting} is {shown(value)}, nnseg supports {', '.join(map(shown, known))}")
    return known[value] if isinstance(known, dict) else value
