"""The DICOM node: series that one real node sends come back as DICOM-SEG at another, over the loopback."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_series import write_series
from pydicom import Dataset, dcmread
from pydicom.uid import BasicTextSRStorage, MRImageStorage, SegmentationStorage
from serving_api import served, until

from nnseg.core.errors import NnsegError
from nnseg.storage.images.read import read_label_map, read_scan

pytest.importorskip("pynetdicom", reason="the extra dicom-node is not installed")
pytest.importorskip("uvicorn", reason="the extra serve is not installed")

from pynetdicom import AE, evt

from nnseg.serving import server_dicom
from nnseg.serving.server_dicom import Destination, DicomNode, parse_destination

SUCCESS, OUT_OF_RESOURCES = 0x0000, 0xA700


@contextmanager
def archive(folder: Path) -> Iterator[tuple[int, list[Path]]]:
    """The port of a node that keeps the segmentations that it is sent, and their files."""
    kept: list[Path] = []

    def store(event: Any) -> int:
        file = folder / f"received_{len(kept)}.dcm"
        file.write_bytes(event.encoded_dataset())
        kept.append(file)
        return SUCCESS

    node = AE("ARCHIVE")
    node.add_supported_context(SegmentationStorage)
    server = node.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    try:
        yield server.server_address[1], kept
    finally:
        server.shutdown()


@contextmanager
def nodes(folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Iterator[tuple[int, list[Path], Any]]:
    """The port of a node of the server, what the archive behind it has received, and the server's jobs."""
    monkeypatch.setattr(server_dicom, "RELEASED_SECONDS", 0.5)
    with archive(folder) as (port, kept), served(folder, **settings) as (_, jobs):
        destination = Destination("127.0.0.1", port, "ARCHIVE")
        node = DicomNode(jobs, host="127.0.0.1", port=0, title="NNSEG", destination=destination)
        with node:
            yield node.port, kept, jobs


def send(port: int, *images: Path | Dataset, kind: str = MRImageStorage) -> list[int]:
    """The answers to images that are sent by one association."""
    node = AE("SCANNER")
    node.add_requested_context(kind)
    association = node.associate("127.0.0.1", port, ae_title="NNSEG")
    assert association.is_established
    answers = [association.send_c_store(image).Status for image in images]
    association.release()
    return answers


def test_destinations_are_read_or_refused() -> None:
    assert parse_destination("pacs.example:11112:ARCHIVE") == ("pacs.example", 11112, "ARCHIVE")
    for text in ("", "pacs", "pacs:104", "pacs:0:A", "pacs:x:A", "pacs:104:", f"pacs:104:{'A' * 17}"):
        with pytest.raises(NnsegError):
            parse_destination(text)


@pytest.mark.slow
def test_real_series_are_answered_by_segmentations_of_themselves(
    tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    series = {name: shared_data / "dicom_brain" / name for name in ("t1", "flair")}
    files = [file for pair in zip(*(sorted(folder.iterdir()) for folder in series.values()), strict=True) for file in pair]
    with nodes(tmp_path, monkeypatch) as (port, kept, jobs):
        assert set(send(port, *files[:11])) == {SUCCESS}
        assert set(send(port, *files[11:], files[0])) == {SUCCESS}  # the last one a second time
        until(lambda: len(kept) == 2 and not [*jobs])
    found = {dcmread(file).ReferencedSeriesSequence[0].SeriesInstanceUID: file for file in kept}
    for folder in series.values():
        file = found[dcmread(next(folder.iterdir())).SeriesInstanceUID]
        expected = read_scan(folder).image[0] > 0
        np.testing.assert_array_equal(read_label_map(file, like=read_scan(folder).source).labels > 0, expected)


@pytest.mark.slow
def test_series_of_which_each_image_has_an_association_are_not_taken_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(tmp_path / "series", slices=6)
    with nodes(tmp_path, monkeypatch) as (port, kept, jobs):
        for file in sorted((tmp_path / "series").iterdir()):
            assert send(port, file) == [SUCCESS]
        until(lambda: kept and not [*jobs])
    assert [len(dcmread(file).ReferencedSeriesSequence[0].ReferencedInstanceSequence) for file in kept] == [6]


@pytest.mark.slow
def test_more_series_than_allowed_and_other_objects_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = []
    for number in range(3):
        write_series(tmp_path / str(number), series=f"1.2.{number}", slices=3)
        files.append(sorted((tmp_path / str(number)).iterdir()))
    with nodes(tmp_path, monkeypatch, most=2) as (port, kept, jobs):
        monkeypatch.setattr(server_dicom, "RELEASED_SECONDS", 60.0)
        assert send(port, *(images[0] for images in files)) == [SUCCESS, SUCCESS, OUT_OF_RESOURCES]
        folder = next(iter(jobs)).folder
        folder.rename(away := folder.with_name("away"))
        assert send(port, files[0][1]) == [OUT_OF_RESOURCES]  # the disk fails
        away.rename(folder)
        assert (send(port, files[0][1]), len([*folder.iterdir()])) == ([SUCCESS], 2)
        nameless = dcmread(files[0][1])
        del nameless.SeriesInstanceUID
        assert send(port, nameless) == [0xC000]
        node = AE("SCANNER")
        node.add_requested_context(BasicTextSRStorage)
        association = node.associate("127.0.0.1", port)
        assert not association.is_established
        assert jobs.refused == 1
        assert kept == []


@pytest.mark.slow
def test_a_node_that_sends_without_end_is_not_listened_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(tmp_path / "series", slices=3)
    first = sorted((tmp_path / "series").iterdir())[0]
    with nodes(tmp_path, monkeypatch) as (port, _, _jobs):
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            connection.sendall(b"\x01\0" + b"\xff" * 4)  # a unit of 4 GB
            assert connection.recv(100) == b""
        node = AE("SCANNER")
        node.add_requested_context(MRImageStorage)
        association = node.associate("127.0.0.1", port)
        with monkeypatch.context() as changed:
            changed.setattr(server_dicom, "MOST_IMAGE_BYTES", 100)
            assert not association.send_c_store(dcmread(first))
        assert send(port, first) == [SUCCESS]
