"""`DicomNode`: a node that takes series which others send, and sends their DICOM-SEG on; it needs the extra "dicom-node"."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from pydicom import dcmread
from pydicom.uid import SegmentationStorage
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt

from nnseg.core.errors import NnsegError, RunError
from nnseg.core.limits import limit
from nnseg.serving.server_jobs import FullError, Job, Jobs

RELEASED_SECONDS = 2.0
"""Time without an image after which a series is complete whose associations have ended: some nodes open one for each image."""

QUIET_SECONDS = 30.0
"""Likewise while an association is still open."""

WATCH_SECONDS = 0.25
"""Time between two looks for complete series."""

SEND_ATTEMPTS = 3
SEND_DELAY = 5.0
"""Seconds before a label map is sent again."""

LONGEST_TITLE = 16
"""Source: DICOM PS3.5, table 6.2-1, AE."""

MOST_PDU_BYTES = 2**20
"""Of one protocol data unit; this node asks for 16 kB, and only requests for associations are longer."""

MOST_IMAGE_BYTES = 2**30
"""That an association may send until an image is complete, which is in memory until then."""

SUCCESS, OUT_OF_RESOURCES, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xC000
"""Source: DICOM PS3.4, table B.2-1, C-STORE."""

VERIFICATION = "1.2.840.10008.1.1"
"""Of the service by which nodes ask whether another is there."""

log = logging.getLogger(__name__)


class Destination(NamedTuple):
    """A node that label maps are sent to."""

    host: str
    port: int
    title: str


@dataclass(kw_only=True, eq=False)
class _Series:
    """A series that is being received, into the folder of its job."""

    job: Job
    last: float = 0.0
    bytes: int = 0
    images: set[str] = field(default_factory=set)
    open: set[Any] = field(default_factory=set)

    @property
    def is_complete(self) -> bool:
        return time.monotonic() - self.last > (QUIET_SECONDS if self.open else RELEASED_SECONDS)


def parse_destination(text: str) -> Destination:
    """A node as HOST:PORT:TITLE; NnsegError if it is none."""
    host, _, rest = text.partition(":")
    port, _, title = rest.partition(":")
    if not (host and port.isdecimal() and 0 < int(port) < 65536):
        raise NnsegError(f'"{text}" is no DICOM node; write HOST:PORT:TITLE')
    return Destination(host, int(port), check_title(title))


def check_title(title: str) -> str:
    """The title of an application entity; NnsegError for none."""
    if not (title.strip() and title.isascii() and title.isprintable() and "\\" not in title and len(title) <= LONGEST_TITLE):
        raise NnsegError(f'"{title}" is no title of a DICOM node; write at most {LONGEST_TITLE} letters and digits')
    return title.strip()


class DicomNode:
    """A node, within ``with``. It has no more jobs than the server allows: further images are refused for lack of resources.

    Args:
        jobs: of the server, whose first model predicts.
        host, port: to listen at; port 0 for any free one.
        title: of this node.
        destination: of the label maps.
    """

    def __init__(self, jobs: Jobs, *, host: str, port: int, title: str, destination: Destination) -> None:
        self._jobs, self._title, self._destination = jobs, title, destination
        self._series: dict[str, _Series] = {}
        self._unstored: dict[Any, int] = {}
        self._lock, self._ended = threading.Lock(), threading.Event()
        node = AE(title)
        node.add_supported_context(VERIFICATION)
        for context in AllStoragePresentationContexts:
            if context.abstract_syntax and "Image Storage" in context.abstract_syntax.name:
                node.add_supported_context(context.abstract_syntax, ALL_TRANSFER_SYNTAXES)
        handlers: list[Any] = [(evt.EVT_CONN_OPEN, self._open), (evt.EVT_C_STORE, self._store), (evt.EVT_CONN_CLOSE, self._close)]
        try:
            self._server = node.start_server((host, port), block=False, evt_handlers=handlers)
        except OSError as error:
            raise RunError(f"{host}:{port} cannot be listened at ({error.strerror}); choose another --dicom-port") from error
        assert self._server is not None
        self.port: int = self._server.server_address[1]
        self._watcher = threading.Thread(target=self._watch, daemon=True, name="DICOM series")

    def __enter__(self) -> Self:
        self._watcher.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        assert self._server is not None
        self._server.shutdown()
        self._watcher.join()

    def _open(self, event: Any) -> None:
        """Let an association end that sends more than an image may have."""
        association, connection = event.assoc, event.assoc.dul.socket
        receive, self._unstored[association] = connection.recv, 0

        def receive_some(count: int) -> Any:
            self._unstored[association] = sent = self._unstored.get(association, 0) + count
            if count > MOST_PDU_BYTES or sent > MOST_IMAGE_BYTES:
                log.warning("a node is no longer listened to: it sends more bytes than an image may have")
                raise OSError
            return receive(count)

        connection.recv = receive_some

    def _store(self, event: Any) -> int:
        """Store an image in the folder of its series' job; the status of the answer."""
        self._unstored[event.assoc] = 0
        content = event.encoded_dataset()
        try:
            about = dcmread(BytesIO(content), stop_before_pixels=True, specific_tags=["SeriesInstanceUID", "SOPInstanceUID"])
            series, image = str(about.SeriesInstanceUID), str(about.SOPInstanceUID)
        except Exception as error:  # pydicom's, of a damaged header
            log.warning("an image of %s cannot be read: %s", event.assoc.requestor.ae_title, error)
            return CANNOT_UNDERSTAND
        with self._lock:
            if series not in self._series:
                try:
                    self._series[series] = _Series(job=self._jobs.admit("", ".dcm"))
                except (FullError, OSError) as error:
                    log.warning("an image of %s is refused: %s", event.assoc.requestor.ae_title, error)
                    return OUT_OF_RESOURCES
            one = self._series[series]
            one.last = time.monotonic()
            one.open.add(event.assoc)
            if image in one.images:  # sent again
                return SUCCESS
            if one.bytes + len(content) > limit("upload_bytes") or len(one.images) >= limit("data_files"):
                log.warning("an image is refused: series %s has more bytes or images than allowed", series)
                return OUT_OF_RESOURCES
            try:
                (one.job.folder / f"{len(one.images):06d}.dcm").write_bytes(content)
            except OSError as error:
                log.error("an image of series %s is refused: %s; it cannot be stored", series, error.strerror)
                return OUT_OF_RESOURCES
            one.images.add(image)  # now: one that was not stored can be sent again
            one.bytes += len(content)
        return SUCCESS

    def _close(self, event: Any) -> None:
        """Note that an association has ended."""
        self._unstored.pop(event.assoc, None)
        with self._lock:
            for one in self._series.values():
                one.open.discard(event.assoc)

    def _watch(self) -> None:
        """Predict series as they are complete."""
        while not self._ended.wait(WATCH_SECONDS):
            with self._lock:
                complete = {name: one for name, one in self._series.items() if one.is_complete}
                for name in complete:
                    del self._series[name]
            for name, one in complete.items():
                log.info("series %s: %d images were received", name, len(one.images))
                threading.Thread(target=self._answer, args=(name, one.job), daemon=True, name="DICOM answer").start()

    def _answer(self, series: str, job: Job) -> None:
        """Predict a series, and send its label map on."""
        try:
            self._jobs.start(job, [job.folder])
            job.answer.result()
            if job.label_map is None:
                log.error("series %s: %s", series, job.failure)
            else:
                self._send(series, job.label_map)
        except (NnsegError, CancelledError) as error:  # the server ends
            log.error("series %s: %s", series, error or "was cancelled")
        finally:
            self._jobs.drop(job)

    def _send(self, series: str, label_map: Path) -> None:
        dataset = dcmread(label_map)
        node, (host, port, title) = AE(self._title), self._destination
        node.add_requested_context(SegmentationStorage, dataset.file_meta.TransferSyntaxUID)
        reason = ""
        for attempt in range(SEND_ATTEMPTS):
            if attempt and self._ended.wait(SEND_DELAY * attempt):
                break
            association = node.associate(host, port, ae_title=title)
            if not association.is_established:
                reason = "it takes no association for segmentations"
                continue
            try:
                status = association.send_c_store(dataset).get("Status")
            finally:
                association.release()
            if status == SUCCESS:
                log.info("series %s: its label map was sent to %s", series, title)
                return
            reason = "it does not answer" if status is None else f"it answers status 0x{status:04X}"
        log.error("series %s: the label map cannot be sent to %s at %s:%d: %s", series, title, host, port, reason)
