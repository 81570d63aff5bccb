"""``manifest.jsonl``: size and hash of every file of a run, so that damage is found.

`nnseg.storage.files.write_aside` appends a line for each file before it gets its final name. A run that is begun or ended makes the
manifest anew from these lines. In between, a file is as it was written if it has the hash of any line: files are renamed, and a
process may be killed between a line and its file. What a person may edit is not damaged when it has changed.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal, Self

from pydantic import ValidationError

from nnseg.core.errors import RunError
from nnseg.core.frozen import FrozenModel
from nnseg.core.limits import check_limit
from nnseg.storage.bounded import read_text_bytes
from nnseg.storage.files import MANIFEST, file_hash, write_text
from nnseg.system.regular import files_below

State = Literal["intact", "edited", "damaged", "missing", "foreign"]

EDITABLE = ("plan.toml", "folds.json", "choice.json", "postprocessing.json", "objects.json")
"""Names of files that people may edit."""


class Entry(FrozenModel):
    """A line of the manifest."""

    path: str
    bytes: int
    hash: str


class CheckedFile(FrozenModel):
    """A file, and what became of it: "foreign" ones are not in the manifest."""

    path: Path
    state: State

    @classmethod
    def of(cls, path: Path, digest: str) -> Self:
        """A file that was written with a hash."""
        present = path.is_file()
        return cls(path=path, state="missing" if not present else "intact" if file_hash(path) == digest else "damaged")


def check_files(folder: Path, *, besides: str = "\0") -> Iterator[CheckedFile]:
    """Every file of a folder and of its manifest, by path; reads all of them, except those whose names end with ``besides``."""
    entries = _read(folder)
    written = {(entry.bytes, entry.hash) for entry in entries}
    sizes = {entry.bytes for entry in entries}
    recorded, present = {entry.path for entry in entries}, _files(folder)
    for name in sorted(name for name in recorded | set(present) if not name.endswith(besides)):
        yield CheckedFile(path=folder / name, state=_state(folder / name, name in recorded, name in present, sizes, written))


def _state(path: Path, recorded: bool, present: bool, sizes: set[int], written: set[tuple[int, str]]) -> State:
    if not present:
        return "missing"
    size = path.stat().st_size
    if size in sizes and (size, file_hash(path)) in written:
        return "intact"
    return "foreign" if not recorded else "edited" if path.name in EDITABLE else "damaged"


def renew_manifest(folder: Path) -> None:
    """Make the manifest anew: one line for each file that is there.

    Files are read only where their lines are not clear. Where there is no manifest yet, all are read and taken as they are.
    """
    known = _read(folder) if (folder / MANIFEST).is_file() else None
    lines: defaultdict[str, list[Entry]] = defaultdict(list)
    for entry in known or ():
        lines[entry.path].append(entry)
    present = _files(folder)
    written, sizes = {(entry.bytes, entry.hash) for entry in known or ()}, {entry.bytes for entry in known or ()}
    kept: list[Entry] = []
    for name in present:
        path, entries = folder / name, {(e.bytes, e.hash): e for e in lines[name]}
        if known is not None and len(entries) == 1:
            kept += entries.values()
            continue
        size = path.stat().st_size
        if known is not None and not entries and size not in sizes:  # foreign: of no file that was written
            continue
        here = (size, file_hash(path))
        if here in written or known is None:
            kept.append(Entry(path=name, bytes=here[0], hash=here[1]))
        elif entries:
            kept.append(lines[name][-1])
    write_text(folder / MANIFEST, "".join(f"{json.dumps(entry.model_dump())}\n" for entry in kept))


def _read(folder: Path) -> list[Entry]:
    """The lines of the manifest; those that are damaged are left out."""
    entries = []
    try:
        lines = read_text_bytes(folder / MANIFEST, "run").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunError(
            f"cannot read {folder / MANIFEST}: {error.strerror or error}; delete it, and nnseg run makes it anew"
        ) from error
    advice = "delete it, and nnseg run makes it anew"
    check_limit("manifest_lines", len(lines), folder / MANIFEST, "has {:,} lines", RunError, advice)
    for line in lines:
        with suppress(ValidationError):
            entries.append(Entry.model_validate_json(line))
    return entries


def _files(folder: Path) -> list[str]:
    """The paths of all files below a folder, except hidden ones and the manifest, sorted."""
    paths = (path.relative_to(folder) for path in files_below(folder))
    return sorted(p.as_posix() for p in paths if p.as_posix() != MANIFEST and not any(part.startswith(".") for part in p.parts))
