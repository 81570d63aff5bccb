"""``nnseg predict``: label maps for scans, each on its scan's own grid. No torch is loaded here, only in processes that predict."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from nnseg.core.dataset import counted
from nnseg.core.errors import RunError
from nnseg.serving.messages import PredictionTask
from nnseg.serving.pool import WorkerPool
from nnseg.storage.datasets.find_cases import find_scans
from nnseg.storage.files import sweep
from nnseg.storage.images.formats import FORMATS, suffix_of
from nnseg.storage.predictions import RECORD, PredictionsWriter, ScanRecord
from nnseg.system.parallel import progress

LOCK = ".lock"
"""In the folder of the label maps, while somebody writes there."""


@dataclass(frozen=True, kw_only=True)
class FolderResult:
    """What became of the scans.

    Args:
        written: by name of the case.
        kept: names of those that were done already.
        seconds: the others took together, from the time when the models were loaded.
    """

    written: Mapping[str, ScanRecord]
    kept: frozenset[str]
    seconds: float

    @property
    def failed(self) -> dict[str, str]:
        """Why cases failed, by name."""
        return {name: written.reason for name, written in self.written.items() if written.status == "failed"}

    def describe(self) -> str:
        """One line for people: how many, how fast, and where the time went."""
        done, new = len(self.written) - len(self.failed), len(self.written) - len(self.kept)
        parts = [f"{done} of {counted(len(self.written), 'scan')} predicted"]
        if self.kept:
            parts.append(f"{len(self.kept)} of them before")
        spent: Counter[str] = Counter()
        for written in (w for name, w in self.written.items() if name not in self.kept):
            spent.update(written.seconds)
        if new and spent.total():
            shares = ", ".join(f"{stage} {seconds / spent.total():.0%}" for stage, seconds in spent.most_common())
            parts.append(f"{self.seconds / new:.2f} s a scan ({shares})")
        return "; ".join(parts)


def predict_scans(scans: Path, workers: WorkerPool) -> FolderResult:
    """Predict a file or folder of scans; each succeeds or fails alone, and what is done already stays.

    Args:
        scans: a scan, or a folder of files or DICOM series.
        workers: processes that have been told where to and how.

    Raises:
        DatasetError: there is no scan.
        RunError: ``out`` lies where the scans are, or is not ours to write to.
        NnsegError: a model cannot be loaded.
        Stopped: somebody asked for an end; what is done stays.
    """
    order, scans = workers.order, scans.absolute()
    _check_place(scans, order.out)
    ready = workers.ready()
    cases = find_scans(scans, channels=ready.channels)
    model = {"key": ready.model, "paths": [str(path.absolute()) for path in order.models]}
    options = order.options() | {"folds": order.folds, "device": ready.device}
    known = {"model": model, "options": options}
    with _locked(order.out), PredictionsWriter(order.out, **known, labels=ready.labels, population=ready.population) as record:
        start, before = time.perf_counter(), dict(record.cases)
        tasks = [PredictionTask(case=case, known=before.get(case.name)) for case in cases]
        try:
            for name, written in progress(workers.predict(tasks), total=len(tasks), label="predicting"):
                record.put(name, written)
        finally:
            workers.end()  # so that none is still writing when the folder is left to others
        written_now = {case.name: record.cases[case.name] for case in cases}
        kept = frozenset(n for n, written in written_now.items() if before.get(n) == written and written.status == "done")
        return FolderResult(written=written_now, kept=kept, seconds=time.perf_counter() - start)


def _check_place(scans: Path, out: Path) -> None:
    if out.resolve() == scans.resolve() or scans.resolve() in out.resolve().parents:
        raise RunError(f"{out} is where the scans are; choose another folder for the label maps")
    if out.is_file() or (not out.exists() and suffix_of(out) in FORMATS):
        raise RunError(f"{out} must be a folder, not a file; label maps get their scans' names")
    if not (out / RECORD).exists() and out.is_dir() and any(suffix_of(path) in FORMATS for path in out.iterdir()):
        raise RunError(f"{out} holds images that nnseg did not make; choose another folder for the label maps")


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Keep every other process out of a folder, and what killed ones left half-written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / LOCK, timeout=0)
        lock.acquire()
    except Timeout:
        raise RunError(f"another nnseg is writing to {out}; wait for it, or choose another folder") from None
    except OSError as error:
        raise RunError(f"cannot write to {out}: {error.strerror}; choose a folder you may write to") from error
    try:
        sweep(out, inside=False)
        yield
    finally:
        sweep(out, inside=False)
        lock.release()
