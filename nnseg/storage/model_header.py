"""The text in a file of tensors, read without the tensors and without torch.

A file is one of safetensors; its metadata has one entry, ``nnseg``, with the JSON ``{"about": ..., "digest": ..., "format": 1}``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nnseg.core.errors import ModelError, NewerVersionError
from nnseg.core.limits import limit
from nnseg.system.regular import open_regular

FORMAT = 1
"""Version of the layout; a file of another version is refused."""

DTYPE_NAMES = frozenset({"F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL"})
"""Types of tensors that a file may hold."""


def read_model_header(path: Path) -> dict[str, Any]:
    """The entry ``nnseg`` of a file's metadata; a header that is too long is not read.

    Raises:
        ModelError: the header is damaged, of another version, or not one of nnseg.
        OSError: the file cannot be read.
    """
    size = path.stat().st_size
    with open_regular(path) as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(limit("model_header_bytes"), size - 8):
            raise damaged(path, "its header is longer than the file or than is allowed")
        text = file.read(length)
    if text.count(b'"dtype"') > limit("model_tensors") or text.count(b",") > limit("model_header_entries"):
        raise damaged(path, "it holds too many tensors, or other entries")
    try:
        entries = json.loads(text)
        written = entries.pop("__metadata__")["nnseg"]
        ours = json.loads(written)
        types = {entry["dtype"] for entry in entries.values()}
        version, _, _ = ours["format"], ours["about"], ours["digest"]
        again = compact_json(ours)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(path, "its header is not one that nnseg writes") from error
    if written != again:  # a flipped bit can turn "é" into the same letter spelled otherwise
        raise damaged(path, "its header has changed")
    check_format(path, version, FORMAT)
    if len(entries) > limit("model_tensors") or not types <= DTYPE_NAMES:
        raise damaged(path, "it holds too many tensors, or tensors of unknown types")
    return dict(ours)


def check_format(path: Path, version: object, known: int) -> None:
    """Raise ModelError, of a later version NewerVersionError, for a file of another format than the known one."""
    if isinstance(version, int) and version > known:
        raise NewerVersionError.of(path, version, known)
    if version != known:
        raise ModelError(f"{path} has format {version}, this nnseg reads format {known}; export it again with this version")


def compact_json(content: object) -> str:
    """JSON without spaces, with sorted keys."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def damaged(path: Path, reason: str) -> ModelError:
    """The error of a file that is damaged or not of nnseg."""
    return ModelError(f"{path} is damaged or not a file of nnseg: {' '.join(reason.split())}; use another copy or export it again")
