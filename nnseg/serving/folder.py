"""``nnseg predict``: label maps for a folder of scans. No torch is loaded here, only in the worker processes."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

from pydantic import Field

from nnseg.core.dataset import AS_FOUND, Finding, Reading, Unused, counted
from nnseg.core.errors import RunError, suppress_unless_fault
from nnseg.core.frozen import FrozenModel
from nnseg.core.names import CaseName
from nnseg.serving.messages import PredictionTask, Ready
from nnseg.serving.outputs import OutputTarget
from nnseg.serving.pool import WorkerPool
from nnseg.storage.datasets.find_scans import FoundScans, find_scans
from nnseg.storage.files import read_json, write_json
from nnseg.storage.images.formats import FORMATS, suffix_of
from nnseg.storage.images.write import check_label_suffix
from nnseg.storage.locks import locked
from nnseg.storage.overwrite import check_overwrite
from nnseg.storage.predictions import BESIDE, RECORD, UNCERTAINTY, PredictionsWriter, ScanRecord, stems
from nnseg.storage.temporary import sweep
from nnseg.system.progress import progress, sizes_of, stage
from nnseg.system.regular import resolved


class PredictedFolder(FrozenModel):
    """What ``nnseg predict`` does.

    Args:
        folder: of the label maps.
        inferred: what was concluded from names of files, in one line each.
        unused: what lies among the scans besides.
        scans: the record of each scan, by name of the case.
        kept: names of the cases that were already done.
        seconds: that the others took together, from the time when the models were loaded.
    """

    folder: Path
    inferred: tuple[str, ...] = ()
    unused: tuple[Unused, ...] = ()
    scans: dict[CaseName, ScanRecord]
    kept: frozenset[str] = Field(default=frozenset(), exclude=True)
    seconds: float = Field(default=0.0, exclude=True)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Why scans failed."""
        failed = {name: record.reason for name, record in self.scans.items() if record.status == "failed"}
        return tuple(Finding.read(reason, "NS-S001", case=name) for name, reason in failed.items())

    def describe(self) -> str:
        """One line for users: how many scans, how fast, and the share of each stage."""
        new = [record for name, record in self.scans.items() if name not in self.kept]
        parts = [f"{len(self.scans) - len(self.findings)} of {counted(len(self.scans), 'scan')} predicted"]
        if self.kept:
            parts.append(f"{len(self.kept)} of them by an earlier command")
        spent: Counter[str] = Counter()
        for record in new:
            spent.update(record.seconds)
        if spent.total():
            shares = ", ".join(f"{stage} {seconds / spent.total():.0%}" for stage, seconds in spent.most_common())
            parts.append(f"{self.seconds / len(new):.2f} s a scan ({shares})")
        return "; ".join(parts)


TOLD_AT_ONCE = 60.0
"""Seconds from which on failures are logged when they happen; those of shorter commands are read in the result, which follows."""

BEGUN = ".begun"
"""The file with the names of the cases of a command that has not ended: they may have files that no record lists yet."""


def predict_scans(scans: Path, workers: WorkerPool, reading: Reading = AS_FOUND, *, force: bool = False) -> PredictedFolder:
    """Predict a file or folder of scans; a scan that fails does not affect the others, and what is done already is kept.

    Args:
        scans: a scan, or a folder of files or DICOM series.
        workers: processes that have the order, with the folder of the label maps.
        reading: which files are scans and channels, where their names do not tell it.
        force: also overwrite files that nnseg did not make.

    Raises:
        DatasetError: there is no scan.
        ScanError: label maps are not written in the format of the order.
        RunError: the folder of the label maps has the scans or other images in it, or cannot be written.
        NnsegError: a model cannot be loaded.
        Stopped: by a signal; what is done is kept.
    """
    order, scans = workers.order, scans.absolute()
    _check_place(scans, order.out, force=force)
    if order.suffix:
        check_label_suffix(order.suffix)
    with stage("loading the model"):
        ready = workers.ready()
    incomplete = order.on_missing_channel == "use"
    found = find_scans(scans, channels=ready.channels, names=ready.channel_names, reading=reading, incomplete=incomplete)
    cases = found.cases
    with (
        locked(order.out, busy="another nnseg is writing to {}; wait for it, or choose another folder"),
        begun(order.out, {case.name for case in cases}, (writer := _writer(workers, ready, found)).cases, force=force),
        writer,  # which ends first: names are kept until the record is written
    ):
        sweep(order.out, inside=False)
        start, previous = time.perf_counter(), dict(writer.cases)
        target = OutputTarget.of(order, ready.model)
        done = {
            c.name: previous[c.name]
            for c in cases
            if workers.cluster and c.name in previous and target.is_newer(c, previous[c.name])
        }
        tasks = [PredictionTask(case=case, previous=previous.get(case.name)) for case in cases if case.name not in done]
        try:
            sizes = sizes_of({case.name: case.images for case in cases})
            shown = progress(
                chain(done.items(), workers.predict(tasks)),
                total=len(cases),
                label="predicting",
                weigh=lambda done: sizes[done[0]],
                of_all=sum(sizes.values()),
            )
            for name, record in shown:
                late = time.perf_counter() - start > TOLD_AT_ONCE
                writer.put(name, record, failures=logging.ERROR if late else logging.DEBUG)
        finally:
            workers.end()  # before the lock is released, so that none still writes
            sweep(order.out, inside=False)
        records = {case.name: writer.cases[case.name] for case in cases}
        kept = frozenset(name for name, record in records.items() if previous.get(name) == record and record.status == "done")
        seconds = time.perf_counter() - start
        return PredictedFolder(
            folder=order.out, inferred=found.inferred, unused=found.unused, scans=records, kept=kept, seconds=seconds
        )


def _writer(workers: WorkerPool, ready: Ready, found: FoundScans) -> PredictionsWriter:
    """The record of the folder of label maps."""
    order = workers.order
    return PredictionsWriter(
        order.out,
        model={"key": ready.model, "paths": [str(path.absolute()) for path in order.models]},
        options=order.options() | {"folds": order.folds, "device": ready.device},
        labels=ready.labels,
        population=ready.population,
        inferred=found.inferred,
        unused=found.unused,
        sharded=workers.cluster is not None,
    )


@contextmanager
def begun(out: Path, names: set[str], done: Collection[str], *, force: bool) -> Iterator[None]:
    """Keep the names of the cases in the folder until all have their records.

    Args:
        names: of the cases.
        done: names of those that have records.
        force: also overwrite files that nnseg did not make.

    Raises:
        RunError: a file is there that has a name of a case which neither is done nor was begun by a killed command.
    """
    known = {*done}
    with suppress_unless_fault(RunError):
        known.update(read_json(out / BEGUN, list[str]))
    for path in () if force else sorted(out.iterdir()):
        own = [path.name.removesuffix(UNCERTAINTY), *stems(path.name)]
        case = max((stem for stem in own if stem in known | names), key=len, default="")
        if case in names - known and (suffix_of(path) in FORMATS or path.name.endswith(BESIDE)):
            found = f"is there already, and was not predicted by nnseg, but has the name of the case {case}"
            raise RunError.at(path, found, "a free name", "move it or choose another folder, or overwrite it with --force")
    write_json(out / BEGUN, sorted(known | names))
    yield
    (out / BEGUN).unlink(missing_ok=True)


def _check_place(scans: Path, out: Path, *, force: bool) -> None:
    if resolved(out) == resolved(scans) or resolved(scans) in resolved(out).parents:
        raise RunError(f"{out} is where the scans are; choose another folder for the label maps")
    check_label_folder(out, force=force)


def check_label_folder(out: Path, *, force: bool) -> None:
    """Raise RunError for a file in the place of the folder of label maps, or a folder that holds images or records of others."""
    if out.is_file() or (not out.exists() and suffix_of(out) in FORMATS):
        raise RunError(f"{out} must be a folder, not a file; label maps get their scans' names")
    check_overwrite(out / RECORD, "record of predictions", force=force)
    if not force and not (out / RECORD).exists() and out.is_dir() and any(suffix_of(path) in FORMATS for path in out.iterdir()):
        raise RunError(f"{out} holds images that nnseg did not make; choose another folder for the label maps")
