"""``nnseg verify``: whether every file of a run, a model or a folder of predictions is as it was written."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from nnseg.core.errors import ModelError, NewerVersionError, NnsegError, RunError
from nnseg.network.bundle import load_model_file
from nnseg.network.checkpoint import load_tensors
from nnseg.storage.cases import SUFFIX
from nnseg.storage.files import MANIFEST, read_json, record_file
from nnseg.storage.manifest import EDITABLE, CheckedFile, check_files, renew_manifest
from nnseg.storage.overwrite import is_made
from nnseg.storage.path_kinds import kind_of
from nnseg.storage.plan_folder import PLAN_FILE, FoldFolder, read_plan
from nnseg.storage.predictions import RECORD, read_all_records
from nnseg.storage.run import Run
from nnseg.volumetry.volumes import VOLUMES, Volumetry

log = logging.getLogger(__name__)

OTHER_COMMANDS = {
    "distilled": "nnseg distill",
    "distilled_small": "nnseg distill",
    "learning_curve": "nnseg learn-curve",
    "figures": "nnseg figure",
    "groups.json": "nnseg evaluate --groups",
}
"""Names of files and folders in a run, and the commands that make them where that is not nnseg run."""


def verify(path: Path) -> list[CheckedFile]:
    """The state of each file of a run folder, of a model file, or of a folder that scans were predicted into. Changes nothing.

    Raises:
        RunError: there is nothing to verify.
    """
    if kind_of(path) == "a model of nnseg":
        return [CheckedFile(path=path, state="intact" if _holds(load_model_file, path) else "damaged")]
    if (path / MANIFEST).is_file():
        return [_as_read(file) for file in check_files(path)]
    if (path / RECORD).is_file():
        return _verify_predictions(path)
    if Run(path).exists:
        raise RunError(f"{path} is the run of an earlier version, which kept no hashes of its files; nnseg run adds them")
    raise RunError(f"{path} is no run, model or folder of predictions of nnseg; name one")


def _as_read(file: CheckedFile) -> CheckedFile:
    """A file that a person may edit is damaged where it cannot be read."""
    if file.state != "edited":
        return file
    readers: dict[str, Callable[[], object]] = {PLAN_FILE: lambda: read_plan(file.path)}
    run = Run(file.path.parent)
    readers |= {
        "folds.json": lambda: run.folds,
        "choice.json": lambda: run.choice,
        "postprocessing.json": lambda: run.postprocessing,
        "objects.json": lambda: run.objects,
    }
    try:
        readers[file.path.name]()
    except NnsegError as error:
        if error.is_fault:
            raise
        return file.model_copy(update={"state": "damaged"})
    return file


def _verify_predictions(folder: Path) -> list[CheckedFile]:
    """The files of a folder of predictions and of a report on them, by the hashes in their records."""
    try:
        records = read_all_records(folder).cases.values()
    except RunError as error:
        if error.is_fault:
            raise
        return [CheckedFile(path=folder / RECORD, state="damaged")]
    found = [CheckedFile(path=folder / RECORD, state="intact")]
    found += [CheckedFile.of(folder / name, digest) for record in records for name, digest in record.hashes.items()]
    found += _verify_report(folder)
    others = {path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")} - {file.path for file in found}
    return [*found, *(CheckedFile(path=path, state="foreign") for path in sorted(others))]


def _verify_report(folder: Path) -> list[CheckedFile]:
    """The files of a report on predictions, by the hashes in its record; empty without one."""
    if not is_made(folder / VOLUMES, "volumes"):
        return []
    try:
        hashes = read_json(folder / VOLUMES, Volumetry).files
    except RunError as error:
        if error.is_fault:
            raise
        return [CheckedFile(path=folder / VOLUMES, state="damaged")]
    files = [CheckedFile.of(folder / name, digest) for name, digest in hashes.items()]
    return [CheckedFile(path=folder / VOLUMES, state="intact"), *files]


def remove_damaged(run: Run) -> None:
    """Remove the damaged files of a run, so that the stages make them again; what they cannot make is said.

    Files that people may edit stay, and preprocessed cases, which are verified before a training. A file with a hash of its own
    counts by that one: an earlier version of nnseg may have written it.
    """
    for file in check_files(run.path, besides=SUFFIX):
        path = file.path
        if file.state != "damaged" or path.name in EDITABLE:
            continue
        if _holds(load_tensors, path):
            record_file(path, path)
        elif path.name == "history.jsonl":
            fold = FoldFolder(path.parent)
            fold.write_history(fold.history())
            log.warning("%s was damaged: epochs from the damage on may be lost; weights are not affected", path)
        else:
            path.unlink()
            log.warning("%s was damaged and is removed; %s", path, _consequence(path.relative_to(run.path)))
    renew_manifest(run.path)


def _consequence(path: Path) -> str:
    if any(part.startswith("replaced_") for part in path.parts):
        return "it was of a training that is no longer used"
    consequences = {
        "best.nnseg": "the weights of the best epoch are lost, those of the last are not",
        "checkpoint.safetensors": "the training would be continued from what was saved before",
        "checkpoint_before.safetensors": "it was the last checkpoint but one",
    }
    command = next((OTHER_COMMANDS[part] for part in path.parts if part in OTHER_COMMANDS), "nnseg run")
    return consequences.get(path.name, f"{command} makes it again")


def _holds(read: Callable[[Path], object], path: Path) -> bool:
    """True for a file of tensors that matches its own hash, or is of a later version of nnseg."""
    try:
        read(path)
    except NewerVersionError:
        return True
    except ModelError as error:
        if error.is_fault:
            raise
        return False
    return True
