"""``predictions.json``: the record of the scans that were predicted into a folder, and of the model and options.

While a cluster predicts, and for very many scans also afterwards, records are in the files of ``.records`` beside it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from nnseg.core.cutoffs import Answer
from nnseg.core.dataset import Fold, Unused
from nnseg.core.errors import NewerVersionError, RunError, suppress_unless_fault
from nnseg.core.frozen import FrozenModel, digest
from nnseg.core.labels import Labels
from nnseg.core.names import CaseName, FileName
from nnseg.core.population import Population
from nnseg.core.registration import Registration, StepRecord
from nnseg.core.trust import Confidence
from nnseg.storage.files import file_hash, read_json, write_json
from nnseg.storage.plan_folder import FoldFolder
from nnseg.storage.shards import Shards
from nnseg.system.machine import versions

log = logging.getLogger(__name__)

RECORD = "predictions.json"
"""Beside the label maps."""

SHARDS = ".records"
"""The folder of records that are not in the file, or later than there."""

MOST_IN_ONE_FILE = 50_000
"""Cases in ``predictions.json`` at most, if a cluster predicted some: `nnseg.core.limits` allow to read them."""

FORMAT = 4
"""Of `Predictions`. A record of another format is not used: its cases are predicted again."""

UNCERTAINTY = "_uncertainty.nii.gz"
"""End of the names of uncertainty maps, for every format of the scan."""

INTERIOR, OBJECTS, LEVEL, PREPARED = "_interior", "_objects", "_level", "_prepared"
"""Between the name of a case and the suffix of a map of its objects' interiors, of their numbers and their table, of a map of a
label's probability (`level_end`), and of a channel after a step of preparation (`prepared_end`)."""

OwnKind = Literal["label map", "uncertainty map", "probabilities", "objects", "DICOM-SEG", "spacing", "prepared channel"]
_KINDS: dict[str, OwnKind] = {
    UNCERTAINTY: "uncertainty map",
    ".npz": "probabilities",
    ".dcm": "DICOM-SEG",
    ".json": "spacing",
}
"""What a file beside a label map is, by the end of its name."""
BESIDE = tuple(_KINDS)
"""Ends of the names of files beside label maps."""
_OWN_ENDS = (UNCERTAINTY, ".npz")
"""Of these, those that no other program gives a scan or a label map."""

WRITE_INTERVAL = 1.0
"""Least seconds between two writings of the record; cases that a killed process did not record are predicted again."""

WRITE_RATIO = 20
"""The interval is at least this many times as long as the last writing took, for folders of many thousand cases."""


class ScanRecord(FrozenModel):
    """The record of one scan.

    Args:
        status: "done" or "failed".
        reason: of the failure; "" if there is none.
        file, hash: name of the label map, and digest of its bytes.
        more: digests of further files, by name.
        input: digest of the scan's files.
        key: digest of the scan, the model and the options.
        seconds: of each stage: "read", "prepare" (its steps), "preprocess", "network", "restore", "write".
        peak_gb: most RAM of the process, besides mapped files, while this case was in it, perhaps with others; 0 if not measured.
        attempts: 2 if a process died in the first.
        findings: irregularities, and what was done about them.
        confidence: in the label map, if it was computed.
        objects: number of each label's objects, where the networks have learned to tell them apart.
        answers: to the questions that the model has cut-offs for.
        registrations: how channels were moved onto the first one, where the model does that.
        preparation: steps before preprocessing, if any were asked for.
        images: the scan's files, one for each channel; of a DICOM series its folder.
    """

    status: Literal["done", "failed"]
    reason: str = ""
    file: FileName = ""
    hash: str = ""
    more: dict[FileName, str] = Field(default_factory=dict)
    input: str = ""
    key: str = ""
    seconds: dict[str, float] = Field(default_factory=dict)
    peak_gb: float = 0.0
    attempts: int = 1
    findings: tuple[str, ...] = ()
    confidence: Confidence | None = None
    objects: dict[str, int] = Field(default_factory=dict, exclude_if=lambda counts: not counts)
    answers: tuple[Answer, ...] = Field(default=(), exclude_if=lambda found: not found)
    registrations: tuple[Registration, ...] = Field(default=(), exclude_if=lambda found: not found)
    preparation: tuple[StepRecord, ...] = Field(default=(), exclude_if=lambda steps: not steps)
    images: tuple[Path, ...] = ()

    @property
    def total_seconds(self) -> float:
        """Of all stages together."""
        return sum(self.seconds.values())

    @property
    def hashes(self) -> dict[str, str]:
        """The hashes of all its files, by name."""
        return {self.file: self.hash, **self.more} if self.file else {}

    @property
    def prediction_key(self) -> str:
        """Digest of the label map and of all that it was made from."""
        return digest([self.key, self.hash])

    @property
    def objects_file(self) -> str:
        """The name of the file with numbers of its objects; "" if there is none."""
        found = (
            name for name in self.more if not name.endswith((".csv", *BESIDE)) and any(s.endswith(OBJECTS) for s in stems(name))
        )
        return next(found, "")

    def is_whole(self, folder: Path) -> bool:
        """True if all its files are in the folder, can be read, and have the same bytes as when they were written."""
        files = [(folder / name, digest) for name, digest in self.hashes.items()]
        try:
            return bool(files) and all(path.is_file() and file_hash(path) == digest for path, digest in files)
        except OSError as error:
            log.warning("%s cannot be read and is made again: %s", error.filename or self.file, error.strerror)
            return False

    def remove(self, folder: Path, *, replaced_by: ScanRecord | None = None) -> None:
        """Remove its files, except those that another prediction has written since, or that are not as they were written."""
        for name in set(self.hashes) - set(replaced_by.hashes if replaced_by else ()):
            path = folder / name
            try:
                is_own = path.is_file() and file_hash(path) == self.hashes[name]
            except OSError:
                is_own = False
            if is_own:
                path.unlink(missing_ok=True)
            elif path.exists():
                log.warning("%s is not as it was written, and stays", path)


class Predictions(FrozenModel):
    """The record of a folder.

    Args:
        format: of this record.
        nnseg, made: version that wrote it last, and time.
        model, options: of the last command; of the model its key and paths.
        labels: meaning of the values in the label maps, if it is known.
        population: to compare volumes with, if the model has one.
        inferred, unused: of the last command, what was concluded from names of files, and what lay there besides scans.
        cases: by name, with which the names of its files begin: what has another name is not removed or overwritten.
    """

    format: Literal[4] = 4
    nnseg: str = ""
    made: str = ""
    model: dict[str, Any] = Field(default_factory=dict)
    options: dict[str, Any] = Field(default_factory=dict)
    labels: Labels | None = None
    population: Population | None = None
    inferred: tuple[str, ...] = ()
    unused: tuple[Unused, ...] = ()
    cases: dict[CaseName, ScanRecord] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Predictions:
        for name, record in self.cases.items():
            for file in record.hashes:
                if not file.startswith((f"{name}.", f"{name}_")):
                    raise ValueError(f'the file "{file}" cannot be of the case "{name}"')
        return self


class _Line(FrozenModel):
    """A line of `SHARDS`."""

    case: CaseName
    record: ScanRecord


def read_all_records(folder: Path) -> Predictions:
    """The record of a folder of label maps, those in `SHARDS` included.

    Raises:
        RunError: there is none, or it cannot be read.
    """
    record = read_json(folder / RECORD, Predictions)
    if not (shards := Shards(folder / SHARDS)):
        return record
    return record.model_copy(update={"cases": record.cases | _read_lines(shards)})


def _read_lines(shards: Shards) -> dict[str, ScanRecord]:
    lines = map(_Line.model_validate_json, shards.read())
    try:
        return {line.case: line.record for line in lines}
    except ValidationError as error:
        raise RunError(f"{SHARDS} is damaged ({error.errors()[0]['msg']}); delete it, and nnseg predict makes it anew") from None


def read_predictions(folder: Path) -> dict[str, ScanRecord]:
    """The records of a folder's cases, by name; empty if there are none, or in another format.

    Raises:
        RunError: there are some, and they cannot be read.
    """
    with suppress_unless_fault(RunError):
        return read_all_records(folder).cases
    return {}


def read_record(folder: Path) -> tuple[Predictions, Labels]:
    """The record of a folder of predictions, and the labels of their model.

    Raises:
        RunError: there is none, or it is of another version.
    """
    path = folder / RECORD
    if not path.exists():
        raise RunError(f"{folder} holds neither a run nor predictions; give a folder that nnseg run or nnseg predict has made")
    try:
        record = read_all_records(folder)
    except RunError as error:
        if error.is_fault:
            raise
        record = Predictions()
    if record.labels is None:
        raise RunError(f"{path} is damaged, or of another version of nnseg; run the same nnseg predict again to renew it")
    return record, record.labels


def own_files(folder: Path) -> dict[Path, OwnKind]:
    """The files of a folder that nnseg predict wrote, by what they are: none is a scan, and not all are label maps.

    The folder's record lists them. Others are known by their names: ``CASE_uncertainty.nii.gz`` and ``CASE.npz`` beside a file CASE
    of another suffix.
    """
    found: dict[Path, OwnKind] = {}
    for record in read_predictions(folder).values():
        found |= {folder / record.file: "label map"} if record.file else {}
        found |= {folder / name: kind for name in record.more if (kind := _kind_beside(name))}
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    others = {name for name in names if not name.endswith(_OWN_ENDS)}
    cases = {stem for name in others for stem in stems(name)}
    for name in names - others:
        kind = _kind_beside(name)
        if kind and name.removesuffix(UNCERTAINTY).removesuffix(".npz") in cases:
            found.setdefault(folder / name, kind)
    return {path: kind for path, kind in sorted(found.items()) if path.is_file()}


def level_end(number: int) -> str:
    """What stands between the name of a case and the suffix of the map of a label's probability, 255 for 1.

    Args:
        number: of the label, from 0, among those whose connected components are objects.
    """
    return f"_{number + 1}{LEVEL}"


def prepared_end(channel: int, step: str) -> str:
    """What stands between the name of a case and the suffix of a channel, by number from 0, after a step of preparation."""
    return f"_{channel:04d}_{step}{PREPARED}"


def stems(name: str) -> list[str]:
    """What is before each dot of a file's name: one of them is the case's, which may have dots too."""
    return [name[:end] for end, letter in enumerate(name) if letter == "."]


def _kind_beside(name: str) -> OwnKind | None:
    own = next((kind for end, kind in _KINDS.items() if name.endswith(end)), None)
    if own:
        return own
    if any(stem.endswith(PREPARED) for stem in stems(name)):
        return "prepared channel"
    return "objects" if any(stem.endswith((INTERIOR, OBJECTS, LEVEL)) for stem in stems(name)) else None


class PredictionsWriter:
    """Keeps the record of a folder up to date while cases are predicted into it. A context: at its end all records are written.

    Args:
        folder: of the label maps.
        model, options, labels, population, inferred, unused: see `Predictions`.
        sharded: write records into `SHARDS` first, without writing the others again; so is done where there are some.

    Raises:
        RunError: the folder's record cannot be read, or is of a later version of nnseg.
    """

    def __init__(
        self,
        folder: Path,
        *,
        model: Mapping[str, Any],
        options: Mapping[str, Any] | None = None,
        labels: Labels | None = None,
        population: Population | None = None,
        inferred: tuple[str, ...] = (),
        unused: tuple[Unused, ...] = (),
        sharded: bool = False,
    ) -> None:
        self.folder = folder
        self.cases: dict[str, ScanRecord] = {}
        self._filed, self._shards = dict[str, ScanRecord](), Shards(folder / SHARDS)
        self._sharded = sharded or bool(self._shards)
        try:
            self._filed = read_json(folder / RECORD, Predictions).cases
            self.cases = self._filed | _read_lines(self._shards)
        except NewerVersionError:
            raise
        except RunError as error:
            if error.is_fault:
                raise
            level = logging.WARNING if (folder / RECORD).exists() else logging.DEBUG
            log.log(level, "no record is used, and all cases are predicted: %s", error)
        self._about = Predictions(
            nnseg=versions()["nnseg"],
            model=dict(model),
            options=dict(options or {}),
            labels=labels,
            population=population,
            inferred=inferred,
            unused=unused,
        )
        self._due, self._changed, self._lock = 0.0, True, threading.Lock()

    def __enter__(self) -> Self:
        self._write(self._filed)  # first, so that the folder is recognised even if the process is killed
        return self

    def __exit__(self, *_: object) -> None:
        self._shards.flush()
        if len(self.cases) <= MOST_IN_ONE_FILE or not self._sharded:
            if self._changed or self._shards:
                self._write(self.cases)
            self._shards.remove()

    def put(self, name: str, record: ScanRecord, *, quiet: bool = False, failures: int = logging.ERROR) -> None:
        """Record a case, from any thread; files of an earlier prediction that are not replaced are removed.

        Args:
            quiet: the caller logs failures and findings elsewhere.
            failures: level at which a failure is logged.
        """
        known = self.cases.get(name)
        if record.status == "failed" and not quiet:
            log.log(failures, "case %s: %s", name, record.reason)
        if known:
            known.remove(self.folder, replaced_by=record)
        for finding in record.findings if record != known and not quiet else ():
            log.warning("case %s: %s", name, finding)
        with self._lock:
            self.cases[name], self._changed = record, self._changed or record != known
            if self._sharded and record != known:
                self._shards.put(_Line(case=name, record=record).model_dump_json())
            elif self._changed and not self._sharded and time.monotonic() >= self._due:
                self._write(self.cases)

    def _write(self, cases: dict[str, ScanRecord]) -> None:
        start = time.monotonic()
        made = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(self.folder / RECORD, self._about.model_copy(update={"cases": cases, "made": made}))
        self._due, self._changed = time.monotonic() + max(WRITE_INTERVAL, WRITE_RATIO * (time.monotonic() - start)), False


def held_out_predictions(folder: Path, folds: Mapping[int, Fold]) -> dict[str, ScanRecord]:
    """The records of the held-out cases of folds, by name; ``file`` is relative to ``folder``, that of the plan or ensemble."""
    found = {}
    for number, fold in folds.items():
        place = FoldFolder(folder / f"fold_{number}").predictions
        records = read_predictions(place)
        for name in fold.held_out:
            if name in records:
                file = (place / records[name].file).relative_to(folder)
                found[name] = records[name].model_copy(update={"file": file.as_posix()})
    return found
