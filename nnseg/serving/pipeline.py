"""An assembly line: while one case is in the network, the next is read and preprocessed, and the one before is written.

Threads of one process do it. Memory decides who may enter: a case's peak is computed from its grid before a voxel is read, and must
fit beside the cases that are inside.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Protocol

from nnseg.core.dataset import counted
from nnseg.core.errors import NnsegError, ScanError
from nnseg.core.frozen import digest
from nnseg.core.geometry import Grid
from nnseg.core.image import Scan, Source
from nnseg.inference.prediction import Prediction, PreparedScan
from nnseg.serving.messages import Finished, PredictionTask, StageReached
from nnseg.serving.outputs import OutputTarget, write_prediction
from nnseg.storage.datasets.read import content_hash
from nnseg.storage.images.read import read_header, read_scan
from nnseg.storage.predictions import ScanRecord
from nnseg.system.machine import keep_freed_memory

if TYPE_CHECKING:
    from nnseg.network.bundle import Model


log = logging.getLogger(__name__)

MOST_INSIDE = 4
"""Cases on the line at a time: read, waiting for the network, in it, written. More would only be lost with the process."""

LOST = "CUDA error"
"""Begins what torch says when a device can no longer be used by this process, whatever the case."""

NO_MEMORY = "can't allocate memory"
"""What torch says when RAM has run out."""


class CasePredictor(Protocol):
    """What the line needs of a `Predictor`."""

    @property
    def model(self) -> Model:
        """Whose channels and labels they are."""

    def prepare(self, scan: Scan) -> PreparedScan:
        """The scan preprocessed."""

    def infer(
        self, prepared: PreparedScan, *, probabilities: bool = ..., uncertainty: bool = ..., scratch: Path | None = ...
    ) -> Prediction:
        """What the networks say."""

    def memory_gb(self, grid: Grid, *, probabilities: bool = ..., uncertainty: bool = ...) -> float:
        """RAM that a scan takes at most."""


@dataclass(kw_only=True, eq=False)
class _CaseInFlight:
    """A case on its way, with what is known of it so far."""

    task: PredictionTask
    needed_gb: float = 0.0
    inside: bool = False
    source: Source | None = None
    prepared: PreparedScan | None = None
    prediction: Prediction | None = None
    written: ScanRecord = field(default_factory=lambda: ScanRecord(status="failed"))

    @property
    def name(self) -> str:
        return self.task.case.name

    def note(self, **known: object) -> None:
        self.written = self.written.model_copy(update=known)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        taken = self.written.seconds.get(stage, 0.0) + time.perf_counter() - start
        self.note(seconds=self.written.seconds | {stage: round(taken, 4)})


class PredictionPipeline:
    """A line for many cases; each fails alone.

    Args:
        predictor: the model, made ready.
        target: where label maps go.
        report: is told, by any of the threads, when a case comes to a stage and when it is finished.
        room_gb: RAM that the cases inside may take.
        most_gb: RAM that a case may take that is alone.
        keep: freed memory is kept for the next use, which makes networks on a CPU a fifth to a third faster.
    """

    def __init__(
        self,
        predictor: CasePredictor,
        target: OutputTarget,
        report: Callable[[StageReached | Finished], None],
        *,
        room_gb: float = float("inf"),
        most_gb: float | None = None,
        keep: bool = False,
    ) -> None:
        self._predictor, self._target, self._report = predictor, target, report
        self._room_gb, self._most_gb = room_gb, room_gb if most_gb is None else most_gb
        self._room, self._keep = _MemoryBudget(), keep
        self._ready: SimpleQueue[_CaseInFlight | None] = SimpleQueue()
        self._answered: SimpleQueue[_CaseInFlight | None] = SimpleQueue()

    def run(self, tasks: Iterable[PredictionTask]) -> None:
        """Predict the cases; the networks compute in the calling thread.

        Args:
            tasks: may wait for more to come.

        Raises:
            RuntimeError: the device is lost to this process.
        """
        reader = threading.Thread(target=self._read, args=(tasks,), daemon=True, name="reader")
        writer = threading.Thread(target=self._write, daemon=True, name="writer")
        reader.start()
        writer.start()
        try:
            with keep_freed_memory() if self._keep else nullcontext():
                while passage := self._ready.get():
                    self._step(passage, self._infer, self._answered)
        finally:
            self._room.close()
            self._answered.put(None)
            writer.join()

    def _read(self, tasks: Iterable[PredictionTask]) -> None:
        try:
            for task in tasks:
                self._step(_CaseInFlight(task=task), self._prepare, self._ready)
                if self._room.closed:
                    break
        finally:
            self._ready.put(None)

    def _write(self) -> None:
        while passage := self._answered.get():
            self._step(passage, self._save, None)

    def _step(
        self, passage: _CaseInFlight, work: Callable[[_CaseInFlight], bool], following: SimpleQueue[_CaseInFlight | None] | None
    ) -> None:
        """Do a part of the work; pass the case on if it succeeded and there is more to do."""
        alone = False
        try:
            if work(passage) and following:
                following.put(passage)
                return
        except Exception as error:
            if LOST in str(error) and following is self._answered:
                raise
            log.debug("%s", traceback.format_exc())
            alone = _lacked_memory(error) and not passage.task.alone
            passage.note(status="failed", reason=_reason(error))
        if passage.inside:
            self._room.leave(passage.needed_gb)
        self._report(Finished(case=passage.name, written=passage.written, alone=alone))

    def _prepare(self, passage: _CaseInFlight) -> bool:
        """Read and preprocess a case; False if it is done already."""
        case, known = passage.task.case, passage.task.known
        self._at(passage, "read")
        with passage.timed("read"):
            content = content_hash(case.images)
        key = digest([content, self._target.key])
        if known and (known.status, known.key) == ("done", key) and known.is_whole(self._target.out):
            passage.written = known
            return False
        passage.note(input=content, key=key, images=tuple(path.absolute() for path in case.images))
        self._admit(passage)
        self._at(passage, "read")
        with passage.timed("read"):
            scan = read_scan(case.images, repair=True, spacing=self._target.spacing)
        passage.note(findings=scan.notes)
        self._at(passage, "preprocess")
        with passage.timed("preprocess"):
            passage.source, passage.prepared = scan.source, self._predictor.prepare(scan)
        return True

    def _at(self, passage: _CaseInFlight, stage: str) -> None:
        self._report(StageReached(case=passage.name, stage=stage, needed_gb=round(passage.needed_gb, 3)))

    def _admit(self, passage: _CaseInFlight) -> None:
        """Wait until there is room for a case; refuse one for which there never is."""
        images, target = passage.task.case.images, self._target
        header, wanted = read_header(images, repair=True, spacing=target.spacing), self._predictor.model.channels
        if header.channels != len(wanted):
            found = f"{header.channels} channel{'s' if header.channels > 1 else ''} in {counted(len(images), 'file')}"
            raise ScanError(f"{images[0].name}: {found}, but the model needs {len(wanted)} ({', '.join(wanted)}), in this order")
        grid = header.grid
        passage.needed_gb = self._predictor.memory_gb(grid, probabilities=target.probabilities, uncertainty=target.uncertainty)
        allowed = self._most_gb if passage.task.alone else self._room_gb
        if passage.needed_gb > allowed:
            shape = " x ".join(map(str, grid.shape))
            raise _TooLargeError(
                f"a scan of {shape} voxels needs {passage.needed_gb:.2f} GB of RAM, and {max(allowed, 0):.2f} GB may be used; give "
                "more with --memory, close other programs, or cut the scan",
                alone=self._most_gb > self._room_gb,
            )
        self._room.enter(passage.needed_gb, of=allowed)
        passage.inside = True

    def _infer(self, passage: _CaseInFlight) -> bool:
        assert passage.prepared is not None
        self._at(passage, "network")
        target, prepared, passage.prepared = self._target, passage.prepared, None
        passage.prediction = self._predictor.infer(
            prepared, probabilities=target.probabilities, uncertainty=target.uncertainty, scratch=target.out
        )
        passage.note(seconds=passage.written.seconds | {k: round(v, 4) for k, v in passage.prediction.seconds.items()})
        if sure := passage.prediction.confidence:
            passage.note(confidence=sure, findings=(*passage.written.findings, *sure.unlike))
        return True

    def _save(self, passage: _CaseInFlight) -> bool:
        prediction, passage.prediction = passage.prediction, None
        assert prediction is not None
        assert passage.source is not None
        self._at(passage, "write")
        labels = self._predictor.model.labels
        with passage.timed("write"):
            (file, of_it), *more = write_prediction(prediction, passage.name, passage.source, self._target, labels).items()
        passage.note(status="done", file=file, hash=of_it, more=dict(more))
        return False


class _TooLargeError(ScanError):
    def __init__(self, message: str, *, alone: bool) -> None:
        super().__init__(message)
        self.alone = alone


class _MemoryBudget:
    """Memory that the cases inside share."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside, self._taken_gb, self.closed = 0, 0.0, False

    def enter(self, gb: float, *, of: float) -> None:
        """Wait until there is room, and take it. A case that fits alone is never kept out for ever."""
        with self._changed:
            self._changed.wait_for(
                lambda: self.closed or not self._inside or (self._inside < MOST_INSIDE and self._taken_gb + gb <= of)
            )
            self._inside, self._taken_gb = self._inside + 1, self._taken_gb + gb

    def leave(self, gb: float) -> None:
        with self._changed:
            self._inside, self._taken_gb = self._inside - 1, self._taken_gb - gb
            self._changed.notify_all()

    def close(self) -> None:
        """Let nobody wait any longer: the work has ended."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()


def _lacked_memory(error: Exception) -> bool:
    """True if the case might succeed with all the memory for itself."""
    return isinstance(error, MemoryError) or NO_MEMORY in str(error) or (isinstance(error, _TooLargeError) and error.alone)


def _reason(error: Exception) -> str:
    if isinstance(error, NnsegError):
        return str(error)
    if isinstance(error, MemoryError) or NO_MEMORY in str(error):
        return f"memory ran out ({error or type(error).__name__}); give more with --memory, or close other programs"
    return f"{type(error).__name__}: {error}"
