"""Descriptions of weights that were trained elsewhere: a TOML file beside them."""

from __future__ import annotations

from pathlib import Path

import tomlkit

from nnseg.core.pretrained import Pretrained
from nnseg.core.validation import parse
from nnseg.storage.files import read_toml, write_text

DESCRIPTION = "weights.toml"
"""Name of the description in a folder that `nnseg pretrain` has made."""


def description_file(path: Path) -> Path | None:
    """The description at a path: a TOML file, or that of a folder; None if a path is something else, such as a run."""
    inside = path / DESCRIPTION
    return path if path.suffix == ".toml" else inside if inside.is_file() else None


def read_pretrained(file: Path) -> Pretrained:
    """The description in a TOML file.

    Raises:
        PlanError: it cannot be read; names every setting that is wrong.
    """
    return parse(Pretrained, read_toml(file), str(file))


def write_pretrained(file: Path, about: Pretrained) -> None:
    """Write a description.

    Raises:
        RunError: the file cannot be written.
    """
    write_text(file, tomlkit.dumps(about.model_dump(mode="json", exclude_none=True, exclude_defaults=True)))
