"""Presets: TOML files of settings that come with nnseg, and files of users, which may be based on one of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnseg.core.errors import PlanError
from nnseg.storage.files import read_toml
from nnseg.system.regular import resolved


def find_preset(name: str, shipped: Mapping[str, Path], kind: str) -> Path:
    """The file of a preset.

    Args:
        name: of one that comes with nnseg, or the path of a file.
        shipped: the files that come with nnseg, by name.
        kind: what they are presets of, for messages: "recipe".

    Raises:
        PlanError: there is none.
    """
    if name in shipped:
        return shipped[name]
    path = Path(name)
    if path.is_file():
        return path
    wanted = "no such file" if path.suffix == ".toml" or len(path.parts) > 1 else f"no {kind} of this name"
    raise PlanError(f"{kind} {name}: {wanted}; give the path of a TOML file or one of {', '.join(shipped)}")


def read_preset(path: Path, shipped: Mapping[str, Path], kind: str) -> dict[str, Any]:
    """The content of a preset, not yet validated; after ``based_on = NAME`` a file needs only what differs from that preset.

    Args:
        shipped, kind: as for `find_preset`.

    Raises:
        PlanError: the file cannot be read, or is based on what is no preset.
    """
    content = read_toml(path)
    base = content.pop("based_on", None)
    if base is None:
        return content
    if not isinstance(base, str) or base not in shipped or resolved(shipped[base]) == resolved(path):
        known = ", ".join(name for name in shipped if name != path.stem)
        raise PlanError(f"{kind} {path.name}: based_on = {base!r} must be one of {known}")
    return merged(read_preset(shipped[base], shipped, kind), content)


def merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """The settings of both, those of ``over`` where both have one, table by table."""
    tables = {key for key, value in over.items() if isinstance(value, dict) and isinstance(under.get(key), dict)}
    return {**under, **{key: merged(under[key], value) if key in tables else value for key, value in over.items()}}
