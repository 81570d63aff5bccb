"""Tests of events for TensorBoard, read back from their files; skipped where the extra is not installed."""

import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tqdm import tqdm

from nnseg.core.errors import NnsegError
from nnseg.core.schedule import Epoch
from nnseg.training.progress import TensorBoard, TrainingProgress


def epoch(number: int, **changes: object) -> Epoch:
    content = {"dice": {"front": 0.5, "back": 0.25, "rare": None}, "seconds": 20.0, "total_seconds": 20.0 * number}
    return Epoch(**{"number": number, "step": 50 * number, "steps": 500, "loss": 0.75, "learning_rate": 0.5, **content, **changes})


def records(file: Path) -> Iterator[bytes]:
    """A length, its checksum, the record, its checksum. Source: TensorFlow, "TFRecords format details"."""
    content, at = file.read_bytes(), 0
    while at < len(content):
        (length,) = struct.unpack_from("<Q", content, at)
        yield content[at + 12 : at + 12 + length]
        at += 16 + length


def events(folder: Path) -> list[tuple[int, dict[str, float]]]:
    """Step and values of each event in a folder, session starts as "start"."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    found = []
    for file in sorted(folder.iterdir()):
        for record in records(file):
            event = event_pb2.Event.FromString(record)
            if event.HasField("session_log"):
                found.append((event.step, {"start": event.session_log.status}))
            found += [(event.step, {v.tag: v.simple_value}) for v in event.summary.value]
    return found


def test_epochs_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    board = TensorBoard(tmp_path / "3d_fold_0")
    board.write(epoch(1))
    board.write(epoch(2, step=90, joules=1024.0))
    board.close()
    first = {"loss": 0.75, "learning_rate": 0.5, "Dice/mean": 0.375, "Dice/front": 0.5, "Dice/back": 0.25}
    read = events(tmp_path / "3d_fold_0")
    assert read[0] == (50, {"start": 1})
    assert {step: {k: v for s, values in read[1:] for k, v in values.items() if s == step} for step in (50, 90)} == {
        50: first | {"seconds_a_step": pytest.approx(0.4)},
        90: first | {"seconds_a_step": 0.5, "joules": 1024.0},
    }


def test_a_resumed_training_replaces_what_was_written_from_its_step_on(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    for numbers in ((1, 2, 3), (3, 4)):
        board = TensorBoard(tmp_path)
        for number in numbers:
            board.write(epoch(number))
        board.close()
    read = events(tmp_path)
    assert [step for step, values in read if "start" in values] == [50, 150]
    assert [step for step, values in read if "loss" in values] == [50, 100, 150, 150, 200]
    assert [step for step, values in read if "seconds_a_step" in values] == [50, 100, 150, 200]  # not known where it goes on


def test_without_the_extra_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(NnsegError, match=r"nnseg\[tensorboard\]"):
        TensorBoard(tmp_path)


def test_events_that_cannot_be_written_end_no_training(caplog: pytest.LogCaptureFixture) -> None:
    class FullBoard:
        def close(self) -> None:
            raise OSError("No space left on device")

    progress = TrainingProgress.__new__(TrainingProgress)
    progress.board, progress._bar = FullBoard(), tqdm(disable=True)
    progress.close()
    assert "events for TensorBoard cannot be written any more: No space left" in caplog.text
