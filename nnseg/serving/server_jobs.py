"""`Jobs`: the scans that a server was sent, from their admission to their answers; `ServedModel` predicts those of one model."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from nnseg.core.dataset import Case
from nnseg.core.errors import RunError, Stopped
from nnseg.core.label_volumes import volumes_of
from nnseg.serving.messages import PredictionTask, Ready
from nnseg.serving.pool import MAX_ASSIGNED, WorkerPool
from nnseg.storage.images.read import read_label_map
from nnseg.storage.predictions import ScanRecord

JobState = Literal["admitted", "waiting", "predicting", "done", "failed"]

KEEP_SECONDS = 600.0
"""Time for which an answer is kept that is not fetched."""

KEEP_ANSWERS = 1000
"""Answers that are kept at most."""

log = logging.getLogger(__name__)


class FullError(RunError):
    """As many scans as allowed are waiting or being predicted."""


class UnknownError(RunError):
    """There is no model of a name, or no job of an id, or none any more."""


@dataclass(kw_only=True, eq=False)
class Job:
    """One scan of a client.

    Args:
        id: chosen by the server, not to be guessed; also the case's name.
        model: that predicts it.
        folder: of the files that were uploaded, which are removed with it.
        images: a file for each channel, or a folder of DICOM slices; () while they are uploaded.
        suffix: of the label map.
        answer: its record, or the error of a server that ends.
        ended: time of the answer, by `time.monotonic`.
    """

    id: str
    model: ServedModel
    folder: Path
    suffix: str
    images: tuple[Path, ...] = ()
    state: JobState = "admitted"
    answer: Future[ScanRecord] = field(default_factory=Future)
    ended: float = 0.0

    @property
    def case(self) -> Case:
        """Its case."""
        return Case(name=self.id, images=self.images)

    @property
    def label_map(self) -> Path | None:
        """The file of the label map; None if there is none."""
        record = self.answer.result() if self.state == "done" else None
        return self.model.pool.order.out / record.file if record else None

    @property
    def failure(self) -> str:
        """Why its prediction failed; "" if it did not."""
        if self.state != "failed":
            return ""
        error = self.answer.exception()
        reason = str(error) if error else self.answer.result().reason
        return reason.replace(f"{self.folder}{os.sep}", "")  # a place that the client knows nothing of

    @cached_property
    def volumes_ml(self) -> dict[str, float]:
        """Volumes by label or region, read from the label map."""
        assert self.label_map is not None
        return volumes_of(read_label_map(self.label_map), self.model.ready.labels)


class ServedModel:
    """A model whose processes predict what clients send, in a thread of their own from `start` to `end`.

    Args:
        name: by which clients choose it.
        pool: its processes, which write into a folder that is the server's alone.
    """

    def __init__(self, name: str, pool: WorkerPool) -> None:
        self.name, self.pool = name, pool
        self.ready: Ready = pool.ready()
        self._waiting: OrderedDict[str, Job] = OrderedDict()
        self._predicting: dict[str, Job] = {}
        self._withdrawn: list[Job] = []
        self._most = MAX_ASSIGNED * pool.size
        self._lock, self._ended, self._failure = threading.Lock(), False, ""
        self._thread = threading.Thread(target=self._run, daemon=True, name=f"model {name}")
        self.outcomes, self.seconds = Counter[str](), Counter[str]()

    def start(self) -> None:
        """Begin to predict."""
        self._thread.start()

    def end(self) -> None:
        """Kill the processes; scans without an answer get an error."""
        self._ended = True
        self.pool.wake()
        if self._thread.ident is not None:
            self._thread.join()
        self.pool.end()

    @property
    def is_alive(self) -> bool:
        """True while it predicts."""
        return self._thread.is_alive()

    @property
    def states(self) -> dict[str, int]:
        """Number of scans that wait, and that are predicted."""
        return {"waiting": len(self._waiting), "predicting": len(self._predicting)}

    def put(self, job: Job) -> None:
        """Let a job wait for its prediction; RunError if the model predicts no longer."""
        with self._lock:
            if self._failure:
                raise RunError(self._failure)
            self._waiting[job.id] = job
            job.state = "waiting"
        self.pool.wake()

    def withdraw(self, job: Job) -> bool:
        """Do without the answer of a job, if it has none yet; one that waits is not predicted, others end at their next tile."""
        with self._lock:
            self._waiting.pop(job.id, None)
            withdrawn = job.answer.cancel()
            self.outcomes["cancelled"] += withdrawn and job.state != "admitted"
            if withdrawn and job.id in self._predicting:
                self._withdrawn.append(job)
                self.pool.wake()
            return withdrawn

    def remove_files(self, record: ScanRecord) -> None:
        """Remove the files of a prediction."""
        for name in record.hashes:
            (self.pool.order.out / name).unlink(missing_ok=True)

    def _run(self) -> None:
        reason = "the server ends"
        try:
            for name, record in self.pool.serve(self._take):
                self._answer(name, record)
        except Stopped:
            pass
        except Exception as error:
            reason = f"the model {self.name} predicts no longer: {error}"
            log.exception("%s", reason)
        with self._lock:
            self._failure = reason
            for job in (*self._waiting.values(), *self._predicting.values()):
                if job.answer.set_running_or_notify_cancel():
                    job.state = "failed"
                    job.answer.set_exception(RunError(reason))

    def _take(self) -> Iterator[PredictionTask]:
        """Those that are withdrawn, and as many jobs as the processes can begin."""
        if self._ended:
            raise Stopped("the server ends", 0)
        with self._lock:
            while self._withdrawn:
                yield PredictionTask(case=self._withdrawn.pop().case, withdrawn=True)
            while self._waiting and len(self._predicting) < self._most:
                name, job = self._waiting.popitem(last=False)
                self._predicting[name], job.state = job, "predicting"
                yield PredictionTask(case=job.case, suffix=job.suffix)

    def _answer(self, name: str, record: ScanRecord) -> None:
        with self._lock:
            job = self._predicting.pop(name)
            if not job.answer.set_running_or_notify_cancel():
                self.remove_files(record)
                return
            self.outcomes[record.status] += 1
            self.seconds.update(record.seconds)
            job.state, job.ended = record.status, time.monotonic()
            job.answer.set_result(record)
        if record.status == "failed":
            log.warning("scan %s: %s", name, record.reason)


class Jobs:
    """The jobs of all clients. Its methods may be called by any thread. A context, at whose end the models end.

    Args:
        models: by name, the first of which is taken where a client names none.
        folder: for what is uploaded, the server's alone.
        most: jobs without an answer that there may be at a time.
    """

    def __init__(self, models: Mapping[str, ServedModel], folder: Path, *, most: int) -> None:
        self.models, self._folder, self._most = models, folder, most
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()
        self.refused = 0

    def __enter__(self) -> Jobs:
        for model in self.models.values():
            model.start()
        return self

    def __exit__(self, *_: object) -> None:
        for model in self.models.values():
            model.end()

    def admit(self, model: str = "", suffix: str = ".nii.gz") -> Job:
        """A new job with an empty folder, whose files are uploaded next; it is ended by `drop`.

        Args:
            model: its name, without "@VERSION" where that is clear; "" for the first.
            suffix: of the label map.

        Raises:
            UnknownError: there is no such model.
            FullError: too many jobs have no answer yet.
            OSError: the folder cannot be made.
        """
        versions = [served for name, served in self.models.items() if name.partition("@")[0] == model]
        chosen = self.models.get(model or next(iter(self.models))) or (versions[0] if len(versions) == 1 else None)
        if chosen is None:
            raise UnknownError(f"there is no model {model}; there are {', '.join(self.models)}")
        with self._lock:
            self._drop_old()
            if sum(not job.answer.done() for job in self._jobs.values()) >= self._most:
                self.refused += 1
                raise FullError(f"{self._most} scans are waiting or being predicted already; try again later")
            name = secrets.token_hex(16)
            job = Job(id=name, model=chosen, folder=self._folder / name, suffix=suffix)
            job.folder.mkdir(parents=True)
            self._jobs[name] = job
        return job

    def start(self, job: Job, images: Sequence[Path]) -> None:
        """Predict a job that was admitted.

        Args:
            images: a file for each channel, or a folder of DICOM slices.
        """
        job.images = tuple(images)
        job.model.put(job)

    def find(self, name: str) -> Job:
        """The job of an id; UnknownError if there is none, or none any more."""
        with self._lock:
            self._drop_old()
            if name not in self._jobs:
                raise UnknownError("there is no such job, or its answer is no longer kept")
            return self._jobs[name]

    def drop(self, job: Job) -> None:
        """Forget a job, and remove its files; it is not predicted if it still waits."""
        with self._lock:
            self._remove(job)

    def __iter__(self) -> Iterator[Job]:
        with self._lock:
            return iter([*self._jobs.values()])

    def _remove(self, job: Job) -> None:
        if self._jobs.pop(job.id, None) is None:
            return
        if not job.model.withdraw(job) and job.state == "done":
            job.model.remove_files(job.answer.result())
        shutil.rmtree(job.folder, ignore_errors=True)

    def _drop_old(self) -> None:
        """Drop answers that nobody has fetched in time."""
        answered = [job for job in self._jobs.values() if job.answer.done()]
        now = time.monotonic()
        for number, job in enumerate(answered):
            if now - job.ended > KEEP_SECONDS or number < len(answered) - KEEP_ANSWERS:
                self._remove(job)
