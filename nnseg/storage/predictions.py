"""``predictions.json``: what became of each scan of a folder, and of what made them."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field

from nnseg.core.dataset import Fold
from nnseg.core.errors import RunError
from nnseg.core.frozen import FrozenModel
from nnseg.core.labels import Labels
from nnseg.core.population import Population
from nnseg.core.trust import Confidence
from nnseg.storage.files import read_json, write_json
from nnseg.storage.plan_folder import FoldFolder
from nnseg.system.machine import versions

log = logging.getLogger(__name__)

RECORD = "predictions.json"
"""Beside the label maps."""

FORMAT = 4
"""Of `Predictions`. What one of another format says is not believed: its cases are predicted again."""

REST = 1.0
"""Seconds between two writings of the record; what a kill keeps from it is predicted again, to the same bytes."""

SHARE = 20
"""The rest is at least so many times as long as the writing took, so that many thousand cases do not spend their time on it."""


class ScanRecord(FrozenModel):
    """What became of one scan.

    Args:
        status: "done" or "failed".
        reason: why it failed.
        file: name of the label map.
        hash: of its bytes.
        more: further files that were asked for, by name, with the hashes of their bytes.
        input: digest of the scan's files.
        key: digest of the scan, the model and the options.
        seconds: of each stage: "read", "preprocess", "network", "restore", "write".
        peak_gb: most RAM that the process made for itself while it was at this case, perhaps beside others; 0 if not watched.
        attempts: 2 if a process died of the first.
        findings: what was noticed, and done about it.
        confidence: how far to trust the label map, if that was asked for.
        images: the scan's files when it was predicted, one a channel; a folder stands for a DICOM series.
    """

    status: Literal["done", "failed"]
    reason: str = ""
    file: str = ""
    hash: str = ""
    more: dict[str, str] = Field(default_factory=dict)
    input: str = ""
    key: str = ""
    seconds: dict[str, float] = Field(default_factory=dict)
    peak_gb: float = 0.0
    attempts: int = 1
    findings: tuple[str, ...] = ()
    confidence: Confidence | None = None
    images: tuple[Path, ...] = ()

    @property
    def total_seconds(self) -> float:
        """Of all stages."""
        return sum(self.seconds.values())

    @property
    def hashes(self) -> dict[str, str]:
        """Of all its files, by name."""
        return {self.file: self.hash, **self.more} if self.file else {}

    def is_whole(self, folder: Path) -> bool:
        """True if all its files are in the folder, with the bytes that were written."""
        return bool(self.hashes) and all(_has(folder / name, digest) for name, digest in self.hashes.items())

    def remove(self, folder: Path, *, but: ScanRecord | None = None) -> None:
        """Remove its files, which would be taken for an answer; but not those that another prediction has written since."""
        for name in set(self.hashes) - set(but.hashes if but else ()):
            (folder / name).unlink(missing_ok=True)


class Predictions(FrozenModel):
    """The record of a folder.

    Args:
        format: of this record.
        nnseg: version that wrote it last.
        made: when that was.
        model: its key and the paths it was loaded from, of the last command.
        options: of the last command.
        labels: what the label maps' values mean; None if nobody said.
        population: to compare volumes with; None if the model has none.
        cases: by name.
    """

    format: Literal[4] = 4
    nnseg: str = ""
    made: str = ""
    model: dict[str, Any] = Field(default_factory=dict)
    options: dict[str, Any] = Field(default_factory=dict)
    labels: Labels | None = None
    population: Population | None = None
    cases: dict[str, ScanRecord] = Field(default_factory=dict)


def read_predictions(folder: Path) -> dict[str, ScanRecord]:
    """What became of the cases of a folder, by name; nothing if there is no record that can be read, or one of another format."""
    with suppress(RunError):
        return read_json(folder / RECORD, Predictions).cases
    return {}


class PredictionsWriter:
    """The record of a folder, kept up to date while cases are predicted into it. Within ``with``; at the end all of it is on disk.

    Args:
        folder: of the label maps.
        model: what is to be known of the model.
        options: what is to be known of the command.
        labels: what the label maps' values mean.
        population: to compare volumes with.
    """

    def __init__(
        self,
        folder: Path,
        *,
        model: Mapping[str, Any],
        options: Mapping[str, Any] | None = None,
        labels: Labels | None = None,
        population: Population | None = None,
    ) -> None:
        self.folder = folder
        self.cases = read_predictions(folder)
        if not self.cases and (folder / RECORD).exists():
            log.debug("%s is of another format, or damaged: starting anew", folder / RECORD)
        asked = dict(options or {})
        self._about = Predictions(nnseg=versions()["nnseg"], model=dict(model), options=asked, labels=labels, population=population)
        self._due, self._changed, self._lock = 0.0, True, threading.Lock()

    def __enter__(self) -> Self:
        self._write()  # first, so that the folder is known to be ours whatever happens
        return self

    def __exit__(self, *_: object) -> None:
        if self._changed:
            self._write()

    def put(self, name: str, written: ScanRecord, *, quiet: bool = False) -> None:
        """Note what became of a case, from any thread; what an earlier prediction left of one that failed now is removed.

        Args:
            name: of the case.
            written: what became of it.
            quiet: another record says aloud what went wrong, or was noticed.
        """
        known = self.cases.get(name)
        if written.status == "failed" and not quiet:
            log.error("case %s: %s", name, written.reason)
        if known:
            known.remove(self.folder, but=written)
        for note in written.findings if written != known and not quiet else ():
            log.warning("case %s: %s", name, note)
        with self._lock:
            self.cases[name], self._changed = written, self._changed or written != known
            if self._changed and time.monotonic() >= self._due:
                self._write()

    def _write(self) -> None:
        start = time.monotonic()
        made = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(self.folder / RECORD, self._about.model_copy(update={"cases": self.cases, "made": made}))
        self._due, self._changed = time.monotonic() + max(REST, SHARE * (time.monotonic() - start)), False


def file_hash(path: Path) -> str:
    """A digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _has(path: Path, digest: str) -> bool:
    return path.is_file() and file_hash(path) == digest


def held_out_predictions(folder: Path, folds: Mapping[int, Fold]) -> dict[str, ScanRecord]:
    """What became of the held-out cases of the given folds, by name; ``file`` is relative to ``folder``."""
    found = {}
    for number, fold in folds.items():
        place = FoldFolder(folder / f"fold_{number}").predictions
        record = read_predictions(place)
        for name in fold.held_out:
            if name in record:
                file = (place / record[name].file).relative_to(folder)
                found[name] = record[name].model_copy(update={"file": file.as_posix()})
    return found
