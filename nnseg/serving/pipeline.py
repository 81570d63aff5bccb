"""`PredictionPipeline`: while one case is in the network, the next is read and preprocessed, and the previous one is written.

Threads of one process do it. A case's peak memory is computed from its grid before a voxel is read, and must fit beside the cases
that are in the pipeline.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Protocol

from nnseg.core.dataset import counted, list_some
from nnseg.core.errors import NnsegError, ScanError, coded
from nnseg.core.geometry import Grid, Vector, format_axes
from nnseg.core.image import Integers, Scan, Source
from nnseg.core.registration import StepRecord
from nnseg.inference.interruption import checked
from nnseg.inference.prediction import Prediction, PreparedScan
from nnseg.preprocessing.prepare import preparation_gb, prepare_scan
from nnseg.serving.large_images import PartPredictor, for_model, label_file, largest_part, note_large, predict_large
from nnseg.serving.messages import Finished, PredictionTask, StageReached
from nnseg.serving.outputs import OutputTarget, answer_questions, write_prediction
from nnseg.storage.datasets.content import content_hash
from nnseg.storage.datasets.find_scans import channel_files
from nnseg.storage.files import file_hash
from nnseg.storage.images.formats import suffix_of
from nnseg.storage.images.large_tiff import LargeImage, find_large, write_large_labels
from nnseg.storage.images.raw import ReadOptions
from nnseg.storage.images.read import Header, read_header, read_scan
from nnseg.storage.images.write import check_label_suffix
from nnseg.storage.predictions import ScanRecord
from nnseg.storage.prepared import write_prepared
from nnseg.storage.remote import address_of, fetch
from nnseg.system.machine import keep_freed_memory

if TYPE_CHECKING:
    from nnseg.network.bundle import Model

log = logging.getLogger(__name__)

MAX_CASES = 4
"""Cases in the pipeline at a time: read, waiting for the network, in it, written. More would only be lost with the process."""

DEVICE_LOST = "CUDA error"
"""Part of torch's error when a process can no longer use its device, for any case."""

OUT_OF_MEMORY = "can't allocate memory"
"""Part of torch's error when RAM has run out."""


class CasePredictor(Protocol):
    """The part of a `Predictor` that the pipeline uses."""

    @property
    def model(self) -> Model:
        """The model, with its channels and labels."""

    def prepare(self, scan: Scan) -> PreparedScan:
        """The scan preprocessed."""

    def infer(
        self, prepared: PreparedScan, *, probabilities: bool = ..., uncertainty: bool = ..., scratch: Path | None = ...
    ) -> Prediction:
        """The prediction of the networks."""

    def memory_gb(self, grid: Grid, *, probabilities: bool = ..., uncertainty: bool = ...) -> float:
        """RAM that a scan takes at most."""


@dataclass(kw_only=True, eq=False)
class _CaseInFlight:
    """A case in the pipeline, with its results so far."""

    task: PredictionTask
    needed_gb: float = 0.0
    admitted: bool = False
    folder: Path | None = None
    large: LargeImage | None = None
    large_labels: Integers | None = None
    source: Source | None = None
    prepared: PreparedScan | None = None
    prediction: Prediction | None = None
    record: ScanRecord = field(default_factory=lambda: ScanRecord(status="failed"))

    @property
    def name(self) -> str:
        return self.task.case.name

    def update(self, **entries: object) -> None:
        self.record = self.record.model_copy(update=entries)

    def fetch(self) -> tuple[Path, ...]:
        """Its files, those at addresses copied into a folder of its own, since the label map is written like them."""
        images = self.task.case.images
        if any(map(address_of, images)):
            self.folder = Path(tempfile.mkdtemp(prefix="nnseg-"))
            images = fetch(images, self.folder)
        return images

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        seconds = self.record.seconds.get(stage, 0.0) + time.perf_counter() - start
        self.update(seconds=self.record.seconds | {stage: round(seconds, 4)})


_Queue = SimpleQueue[_CaseInFlight | None]


class PredictionPipeline:
    """Reads, predicts and writes many cases; a case that fails does not affect the others.

    Args:
        report: called, by any of the threads, when a case reaches a stage and when it is finished.
        memory_gb: RAM that the cases in the pipeline may take together.
        exclusive_gb: RAM that a case may take that is predicted alone; by default the same.
        keep_freed: keep freed memory for the next use, which makes networks on a CPU a fifth to a third faster.
        withdrawn: names of cases for which nobody waits any more, which another thread may add to; they fail.
    """

    def __init__(
        self,
        predictor: CasePredictor,
        target: OutputTarget,
        report: Callable[[StageReached | Finished], None],
        *,
        memory_gb: float = float("inf"),
        exclusive_gb: float | None = None,
        keep_freed: bool = False,
        withdrawn: Set[str] = frozenset(),
    ) -> None:
        self._predictor, self._target, self._report, self._withdrawn = predictor, target, report, withdrawn
        self._memory_gb, self._exclusive_gb = memory_gb, memory_gb if exclusive_gb is None else exclusive_gb
        self._memory, self._keep_freed = _MemoryBudget(), keep_freed
        self._prepared, self._predicted = _Queue(), _Queue()
        self._failure: Exception | None = None  # of the reader or the writer

    def run(self, tasks: Iterable[PredictionTask]) -> None:
        """Predict the cases; the networks compute in the calling thread.

        Args:
            tasks: may block until more arrive.

        Raises:
            RuntimeError: this process can no longer use its device.
            Exception: what ``report`` raised, for instance because the disk is full; the cases that are left are not predicted.
        """
        reader = threading.Thread(target=self._keep_failure, args=(self._read_all, tasks), daemon=True, name="reader")
        writer = threading.Thread(target=self._keep_failure, args=(self._write_all,), daemon=True, name="writer")
        reader.start()
        writer.start()
        try:
            with keep_freed_memory() if self._keep_freed else nullcontext():
                while (case := self._prepared.get()) and not self._failure:
                    self._step(case, self._infer, self._predicted)
        finally:
            self._memory.close()
            self._predicted.put(None)
            writer.join()
        if self._failure:
            raise self._failure

    def _keep_failure(self, work: Callable[..., None], *given: object) -> None:
        """Do the work of a thread; after it, or an error of it, nothing more is prepared."""
        try:
            work(*given)
        except Exception as error:
            self._failure = error
            self._memory.close()
        finally:
            self._prepared.put(None)

    def _read_all(self, tasks: Iterable[PredictionTask]) -> None:
        for task in tasks:
            self._step(_CaseInFlight(task=task), self._prepare, self._prepared)
            if self._memory.closed:
                break

    def _write_all(self) -> None:
        while case := self._predicted.get():
            self._step(case, self._write, None)

    def _step(self, case: _CaseInFlight, work: Callable[[_CaseInFlight], bool], following: _Queue | None) -> None:
        """Do one stage of a case; pass it on if that succeeded and another stage follows."""
        retry = False
        try:
            self._check(case)
            if work(case) and following:
                following.put(case)
                return
        except Exception as error:
            if DEVICE_LOST in str(error) and following is self._predicted:
                raise
            log.debug("%s", traceback.format_exc())
            retry = _may_fit_alone(error) and not case.task.exclusive
            for name in case.record.more:  # channels after steps of preparation, without a label map
                (self._target.out / name).unlink(missing_ok=True)
            case.update(status="failed", reason=_reason(error), more={})
        if case.folder:
            shutil.rmtree(case.folder, ignore_errors=True)
        if case.admitted:
            self._memory.leave(case.needed_gb)
        self._report(Finished(case=case.name, record=case.record, retry_exclusive=retry))

    def _check(self, case: _CaseInFlight) -> None:
        if case.name in self._withdrawn:
            raise ScanError("nobody waits for it any more")

    def _prepare(self, case: _CaseInFlight) -> bool:
        """Read and preprocess a case; False if its prediction is already there."""
        named, previous, missing = case.task.case.images, case.task.previous, self._target.missing(case.task.case)
        if suffix := case.task.suffix or self._target.suffix:
            check_label_suffix(suffix, named[0])
        self._report_stage(case, "read")
        with case.timed("read"):
            images = case.fetch()
            content = content_hash(images)
        key = self._target.case_key(case.task.case, content, suffix=case.task.suffix)
        if previous and (previous.status, previous.key) == ("done", key) and previous.is_whole(self._target.out):
            case.record = previous
            return False
        case.update(input=content, key=key, images=tuple(path.absolute() for path in named))
        if isinstance(self._predictor, PartPredictor) and (large := find_large(images, ReadOptions(spacing=self._spacing(case)))):
            case.large = for_model(large, self._predictor.model, self._target, suffix)
        self._admit(case, images)
        if case.large:
            case.update(findings=(note_large(case.large, self._predictor.model),))
            return True
        self._report_stage(case, "read")
        with case.timed("read"):
            scan = read_scan(images, repair=True, spacing=self._spacing(case))
            if len(scan.image) < len(self._predictor.model.channels):
                scan = scan.with_missing(missing)
        if self._target.prepare:
            scan = self._after_steps(case, scan)
        case.update(findings=(*scan.notes, *_note_missing(scan, self._predictor.model)))
        self._report_stage(case, "preprocess")
        with case.timed("preprocess"):
            case.source, case.prepared = scan.source, self._predictor.prepare(scan)
        return True

    def _after_steps(self, case: _CaseInFlight, scan: Scan) -> Scan:
        """The scan after the steps of preparation, each of which is recorded, and written if that is wanted."""

        def write(step: StepRecord, after: Scan) -> None:
            files = write_prepared(after, step.step, case.name, self._target.out)
            case.update(more=case.record.more | {file.name: file_hash(file) for file in files})

        self._report_stage(case, "prepare")
        with case.timed("prepare"):
            scan = prepare_scan(scan, self._target.prepare, write if self._target.save_steps else None)
        case.update(preparation=scan.preparation)
        return scan

    def _report_stage(self, case: _CaseInFlight, stage: str) -> None:
        self._report(StageReached(case=case.name, stage=stage, needed_gb=round(case.needed_gb, 3)))

    def _spacing(self, case: _CaseInFlight) -> Vector | None:
        """Of scans whose files have none: as given for all, or as the dataset gives it for the case."""
        return case.task.case.spacing if self._target.spacing is None else self._target.spacing

    def _admit(self, case: _CaseInFlight, images: Sequence[Path]) -> None:
        """Wait until there is memory for a case; raise ScanError if there never will be, or if its channels are wrong."""
        target = self._target
        header, wanted = self._header(case, images), self._predictor.model.channels
        if header.channels not in (len(wanted), len(wanted) - len(target.missing(case.task.case))):
            found = f"has {counted(header.channels, 'channel')} in {counted(len(images), 'file')}"
            expected = f"{counted(len(wanted), 'channel')} ({', '.join(wanted)}), in this order"
            named = f"name the files {channel_files(wanted, suffix_of(images[0]))}, or give words of their names with --channels"
            advice = named if header.channels < len(wanted) else "give files of these channels alone"
            if (lost := case.task.case.missing) and header.channels == len(wanted) - len(lost):
                files = list_some([wanted[number] for number in lost])
                advice = f"add a file of {files}, or predict without it by --on-missing-channel use"
            raise ScanError.at(images[0], found, expected, advice, "NS-S024")
        grid = header.grid
        case.needed_gb = self._predictor.memory_gb(grid, probabilities=target.probabilities, uncertainty=target.uncertainty)
        if target.prepare:
            case.needed_gb = max(case.needed_gb, preparation_gb(grid, header.channels))
        allowed = self._exclusive_gb if case.task.exclusive else self._memory_gb
        if case.needed_gb > allowed:
            shape, spacing = format_axes(grid.shape, "d"), format_axes(grid.spacing)
            raise _TooLargeError(
                f"a scan of {shape} voxels needs {case.needed_gb:.2f} GB of RAM, and {max(allowed, 0):.2f} GB may be used; give "
                f"more with --memory, close other programs, cut the scan, or correct its spacing ({spacing} mm)",
                retry=self._exclusive_gb > self._memory_gb,
            )
        self._memory.enter(case.needed_gb, limit_gb=allowed)
        case.admitted = True

    def _header(self, case: _CaseInFlight, images: Sequence[Path]) -> Header:
        """Of a scan, or of the largest part of a large image that is in memory at once."""
        if case.large is None:
            return read_header(images, repair=True, spacing=self._spacing(case))
        grid = case.large.grid(largest_part(case.large, self._predictor.model))
        return Header(grid=grid, channels=case.large.channels)

    def _infer(self, case: _CaseInFlight) -> bool:
        self._report_stage(case, "network")
        if case.large:
            assert isinstance(self._predictor, PartPredictor)
            with checked(partial(self._check, case)):
                case.large_labels, seconds = predict_large(self._predictor, case.large, self._target.out)
            case.update(seconds=case.record.seconds | {stage: round(spent, 4) for stage, spent in seconds.items()})
            return True
        assert case.prepared is not None
        target, prepared, case.prepared = self._target, case.prepared, None
        with checked(partial(self._check, case)):
            prediction = self._predictor.infer(
                prepared, probabilities=target.probabilities, uncertainty=target.uncertainty, scratch=target.out
            )
        case.prediction = prediction
        case.update(seconds=case.record.seconds | {stage: round(spent, 4) for stage, spent in prediction.seconds.items()})
        found = tuple(coded(text, "NS-S032") for text in prediction.unlike)
        counts = dict(prediction.object_counts)
        case.update(confidence=prediction.confidence, objects=counts, findings=(*case.record.findings, *found))
        case.update(registrations=prediction.registrations)
        return True

    def _write_large(self, case: _CaseInFlight) -> bool:
        labels, case.large_labels = case.large_labels, None
        assert case.large is not None
        assert labels is not None
        self._report_stage(case, "write")
        file = self._target.out / label_file(case.large, case.name, case.task.suffix or self._target.suffix)
        with case.timed("write"):
            write_large_labels(labels, file, like=case.large)
        case.update(status="done", file=file.name, hash=file_hash(file))
        return False

    def _write(self, case: _CaseInFlight) -> bool:
        if case.large:
            return self._write_large(case)
        prediction, case.prediction = case.prediction, None
        assert prediction is not None
        assert case.source is not None
        self._report_stage(case, "write")
        with case.timed("write"):
            target = self._target.model_copy(update={"suffix": case.task.suffix or self._target.suffix})
            files = write_prediction(prediction, case.name, case.source, target, self._predictor.model)
            answers = answer_questions(prediction.label_map, case.source, self._predictor.model)
            (file, file_digest), *more = files.items()
        case.update(status="done", file=file, hash=file_digest, more=case.record.more | dict(more), answers=answers)
        return False


def _note_missing(scan: Scan, model: Model) -> Iterator[str]:
    """A warning for each channel that a scan lacks."""
    for number in scan.missing:
        trained = all(member.plan.training.augmentation.channel_dropout_probability for member in model.members)
        known = "" if trained else ", which the networks were never trained without"
        found = f"there is no file of the channel {model.channels[number]}{known}"
        yield coded(f"{found}; expected one; it was predicted without: check its label map", "NS-S038")


class _TooLargeError(ScanError):
    """A scan takes more memory than allowed; ``retry`` if it might fit when predicted alone."""

    def __init__(self, message: str, *, retry: bool) -> None:
        super().__init__(message)
        self.retry = retry


class _MemoryBudget:
    """Memory shared by the cases in the pipeline."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._cases, self._taken_gb, self.closed = 0, 0.0, False

    def enter(self, gb: float, *, limit_gb: float) -> None:
        """Wait until so much memory is left, and take it; an empty pipeline admits any case."""
        with self._changed:
            self._changed.wait_for(
                lambda: self.closed or not self._cases or (self._cases < MAX_CASES and self._taken_gb + gb <= limit_gb)
            )
            self._cases, self._taken_gb = self._cases + 1, self._taken_gb + gb

    def leave(self, gb: float) -> None:
        with self._changed:
            self._cases, self._taken_gb = self._cases - 1, self._taken_gb - gb
            self._changed.notify_all()

    def close(self) -> None:
        """End all waiting: the pipeline has ended."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()


def _ran_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or OUT_OF_MEMORY in str(error)


def _may_fit_alone(error: Exception) -> bool:
    """True if the case might succeed with all memory for itself."""
    return _ran_out_of_memory(error) or (isinstance(error, _TooLargeError) and error.retry)


def _reason(error: Exception) -> str:
    if isinstance(error, NnsegError):
        return error.coded
    if _ran_out_of_memory(error):
        return f"memory ran out ({error or type(error).__name__}); give more with --memory, or close other programs"
    return f"{type(error).__name__}: {error}"
