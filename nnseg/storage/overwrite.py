"""What a command may overwrite: files of the kind that it writes, as nnseg makes them, and others only if it is told to."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from nnseg.core.errors import RunError, suppress_unless_fault
from nnseg.storage.files import DEEPEST, has_manifest, read_json
from nnseg.storage.temporary import sweep_ended
from nnseg.system.regular import open_regular, resolved

Kind = Literal[
    "model",
    "model card",
    "model card of ATLAS",
    "scores",
    "table of scores",
    "summary",
    "comparison",
    "groups",
    "picture",
    "volumes",
    "record of predictions",
    "record of explanations",
    "record of a submission",
    "record of a container",
    "record of a conversion",
    "record of prepared scans",
    "profile",
    "validation",
]

OWN_SCORES = ("scores.json", "groups.json")
"""Of a run, in its folder and in those of its plans."""

ENDS_BYTES = 2**16
"""Of the beginning and of the end of a file that are searched for a sign."""


def check_overwrite(file: Path, kind: Kind, *, force: bool) -> None:
    """Raise RunError if there is what nnseg did not make, or of another kind, or a part of a run, unless it may be overwritten.

    What killed processes left beside it is removed.
    """
    sweep_ended(file.parent)
    if not force and (run := _run_of_part(file, kind)):
        advice = "choose another name, or overwrite it with --force"
        raise RunError.at(file, f"is a part of the run {run}", "a file outside of it", advice)
    if not force and (file.is_symlink() or file.exists()) and not is_made(file, kind):
        found = f"is there already, and is no {kind} that nnseg made"
        raise RunError.at(file, found, f"no file, or a {kind} of nnseg", "choose another name, or overwrite it with --force")


def check_made_folder(folder: Path, record: str, kind: Kind, command: str, *, force: bool) -> None:
    """Raise RunError unless a folder is new, empty, or has a record of what an earlier such command wrote into it.

    Args:
        record: name of its file.
        command: of nnseg, for the message.
        force: the folder may also have files that nnseg did not make.
    """
    if folder.is_file():
        raise RunError(f"{folder} is a file; choose a folder")
    check_overwrite(folder / record, kind, force=force)
    of_others = folder.is_dir() and any(not path.name.startswith(".lock") for path in folder.iterdir())
    if of_others and not (folder / record).exists() and not force:
        found = f"has files that nnseg {command} did not make"
        raise RunError.at(folder, found, "a new folder", "choose another, or write with --force")


def remove_recorded(folder: Path, names: Iterable[str]) -> None:
    """Remove files of a folder, whose record may be a stranger's: none outside of it.

    Args:
        names: paths in the folder.
    """
    for name in names:
        path = folder / name
        if path.is_file() and resolved(path.parent).is_relative_to(resolved(folder)):
            path.unlink()


@contextmanager
def new_folder(folder: Path) -> Iterator[None]:
    """A context in which a folder is made, which is removed after an error.

    Raises:
        RunError: the folder exists, or cannot be made.
    """
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise RunError(f"{folder} is there already; choose another folder") from None
    except OSError as error:
        raise RunError(f"cannot write {folder}: {error.strerror}; choose a folder you may write to") from error
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _run_of_part(file: Path, kind: Kind) -> Path | None:
    """The run of which a file is a part that only its stages write: a network of a fold, or its own scores; else None."""
    place = resolved(file.parent)
    run = next((folder for folder in (place, *place.parents[:DEEPEST]) if has_manifest(folder)), None)
    if run is None or not file.exists():
        return None
    inside = place != run if kind in ("model", "model card") else kind in ("scores", "groups") and file.name in OWN_SCORES
    return run if inside else None


def is_made(file: Path, kind: Kind) -> bool:
    """True for a file of a kind that nnseg made."""
    if not file.is_file():
        return False
    sign = SIGNS[kind]
    if isinstance(sign, re.Pattern):
        with open_regular(file) as opened:
            beginning = opened.read(ENDS_BYTES)
            opened.seek(max(opened.tell(), opened.seek(0, os.SEEK_END) - ENDS_BYTES))
            return sign.search(beginning + opened.read()) is not None
    with suppress_unless_fault(RunError):
        return sign <= read_json(file, dict[str, Any]).keys()
    return False


SIGNS: dict[Kind, re.Pattern[bytes] | frozenset[str]] = {
    "model": re.compile(rb'\A.{8}\{"__metadata__":\{"nnseg":', re.DOTALL),
    "model card": re.compile(rb"\A# Model card: .*\n\n(.+\n\n){0,2}\n?## Model details\n"),
    "model card of ATLAS": frozenset({"$schema", "Model"}),
    "scores": frozenset({"labels", "metrics", "cases", "averages"}),
    "table of scores": re.compile(rb"\Acase,label,tp,fp,fn,tn,"),
    "summary": frozenset({"foreground_mean", "mean", "metric_per_case"}),
    "comparison": frozenset({"comparisons", "metric", "mean_ranks"}),
    "groups": frozenset({"groups", "tests"}),
    "picture": re.compile(rb"\A\x89PNG.*tEXtSoftware\0nnseg|\A%PDF.*/Creator \(nnseg\)", re.DOTALL),
    "record of predictions": re.compile(rb'\A\{\s*"format": ?\d+,\s*"nnseg":'),
    "volumes": frozenset({"made_by", "names", "cases"}),
    "record of explanations": frozenset({"nnseg", "explanations"}),
    "record of a submission": frozenset({"challenge", "archive", "files"}),
    "record of a container": frozenset({"nnseg", "platform", "model"}),
    "record of a conversion": frozenset({"forms", "labels", "converted"}),
    "record of prepared scans": frozenset({"steps", "scans", "nnseg"}),
    "profile": frozenset({"cases", "interval", "device"}),
    "validation": frozenset({"model", "differences", "internal_source"}),
}
"""What is at the ends of each kind of file, or the keys that it has as JSON."""
