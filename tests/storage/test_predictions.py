"""The record of a folder: what is believed of it, and how often it is written."""

import json
import threading

import pytest

from nnseg.storage import predictions as room
from nnseg.storage.files import file_hash
from nnseg.storage.predictions import RECORD, PredictionsWriter, ScanRecord, own_files, read_predictions
from nnseg.storage.shards import Shards

DONE = ScanRecord(status="done", file="a.nii.gz", hash="h", seconds={"read": 1.0, "network": 2.5})


def of(name: str) -> ScanRecord:
    return DONE.model_copy(update={"file": f"{name}.nii.gz"})


def test_what_was_put_is_read_again(tmp_path):
    with PredictionsWriter(tmp_path, model={"key": "m"}, options={"step": 0.5}) as record:
        record.put("a", DONE)
    assert read_predictions(tmp_path) == {"a": DONE}
    assert DONE.total_seconds == 3.5
    content = json.loads((tmp_path / RECORD).read_text())
    assert (content["format"], content["model"]["key"], content["options"]["step"]) == (4, "m", 0.5)
    with PredictionsWriter(tmp_path, model={}) as record:
        record.put("b", of("b"))
    assert set(read_predictions(tmp_path)) == {"a", "b"}


def test_a_record_of_an_earlier_layout_or_a_damaged_one_is_not_believed(tmp_path):
    for text in ('{"a": {"status": "done", "file": "a.nii.gz", "hash": "h", "key": "k", "seconds": 1.0}}', "{", ""):
        (tmp_path / RECORD).write_text(text)
        assert read_predictions(tmp_path) == {}
        with PredictionsWriter(tmp_path, model={}) as record:
            record.put("b", of("b"))
        assert set(read_predictions(tmp_path)) == {"b"}


@pytest.mark.parametrize("claimed", [{"file": "mine.nii.gz"}, {"more": {"notes.txt": "h"}}, {"file": "ab.nii.gz"}])
def test_a_record_that_claims_files_of_other_names_is_not_believed(tmp_path, claimed):
    content = {"format": 4, "cases": {"a": DONE.model_dump(mode="json") | claimed}}
    (tmp_path / RECORD).write_text(json.dumps(content))
    for name in ("mine.nii.gz", "notes.txt", "ab.nii.gz"):
        (tmp_path / name).touch()
    with PredictionsWriter(tmp_path, model={}) as record:
        record.put("a", ScanRecord(status="failed", reason="gone"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ab.nii.gz", "mine.nii.gz", "notes.txt", RECORD]
    (tmp_path / RECORD).write_text(json.dumps(content))
    assert own_files(tmp_path) == {}


def test_what_failed_leaves_no_label_map_of_an_earlier_time(tmp_path):
    for name in ("a.nii.gz", "a.npz", "other.nii.gz"):
        (tmp_path / name).touch()
    empty = file_hash(tmp_path / "other.nii.gz")
    with PredictionsWriter(tmp_path, model={}) as record:
        record.put("a", DONE.model_copy(update={"hash": empty, "more": {"a.npz": empty}}))
        record.put("a", ScanRecord(status="failed", reason="gone"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other.nii.gz", RECORD]


def test_a_record_does_not_choose_what_is_removed_that_was_not_written_so(tmp_path, caplog):
    content = {"format": 4, "cases": {"a": DONE.model_dump(mode="json") | {"more": {"a_corrected.nii.gz": "h"}}}}
    (tmp_path / RECORD).write_text(json.dumps(content))
    (tmp_path / "a_corrected.nii.gz").write_text("by hand")
    with PredictionsWriter(tmp_path, model={}) as record:
        record.put("a", ScanRecord(status="failed", reason="gone"))
    assert (tmp_path / "a_corrected.nii.gz").read_text() == "by hand"
    assert "a_corrected.nii.gz is not as it was written, and stays" in caplog.text


def test_the_files_that_were_written_are_known_by_the_record(tmp_path):
    names = ("a.nii.gz", "a_uncertainty.nii.gz", "a.npz", "a.dcm", "b.tif", "b.json", "mine.nii.gz", "mine.dcm")
    for name in names:
        (tmp_path / name).touch()
    with PredictionsWriter(tmp_path, model={}) as record:
        record.put("a", DONE.model_copy(update={"more": dict.fromkeys(("a_uncertainty.nii.gz", "a.npz", "a.dcm"), "h")}))
        record.put("b", ScanRecord(status="done", file="b.tif", hash="h", more={"b.json": "h"}))
        record.put("c", ScanRecord(status="done", file="c.nii.gz", hash="h"))
    assert {path.name: kind for path, kind in own_files(tmp_path).items()} == {
        "a.dcm": "DICOM-SEG",
        "a.nii.gz": "label map",
        "a.npz": "probabilities",
        "a_uncertainty.nii.gz": "uncertainty map",
        "b.json": "spacing",
        "b.tif": "label map",
    }


def test_without_a_record_maps_and_probabilities_are_known_by_the_label_map_beside_them(tmp_path):
    for name in ("a.b.nii.gz", "a.b_uncertainty.nii.gz", "a.b.npz", "alone.npz", "alone_uncertainty.nii.gz", "scan.dcm", "a.b.txt"):
        (tmp_path / name).touch()
    assert {path.name: kind for path, kind in own_files(tmp_path).items()} == {
        "a.b.npz": "probabilities",
        "a.b_uncertainty.nii.gz": "uncertainty map",
    }
    assert own_files(tmp_path / "nowhere") == {}


def test_many_cases_do_not_spend_their_time_on_the_record(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(room, "write_json", lambda path, content: written.append(len(content.cases)))
    clock = iter(range(10**9))
    monkeypatch.setattr(room.time, "monotonic", lambda: next(clock) / 1000)  # a look at the clock takes a millisecond
    with PredictionsWriter(tmp_path, model={}) as record:
        for i in range(5000):
            record.put(f"{i}", DONE)
    assert written[0] == 0
    assert written[-1] == 5000
    assert 3 <= len(written) <= 8


def test_threads_may_put_at_the_same_time(tmp_path):
    with PredictionsWriter(tmp_path, model={}) as record:
        threads = [
            threading.Thread(target=lambda n=n: [record.put(f"{n}_{i}", of(f"{n}_{i}")) for i in range(50)]) for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(read_predictions(tmp_path)) == 200


def test_done_means_all_files_with_their_bytes(tmp_path):
    names = ("a.nii.gz", "a.npz")
    for name in names:
        (tmp_path / name).write_text(name)
    hashes = {name: file_hash(tmp_path / name) for name in names}
    written = ScanRecord(status="done", file=names[0], hash=hashes[names[0]], more={names[1]: hashes[names[1]]})
    assert written.is_whole(tmp_path)
    (tmp_path / "a.npz").write_text("another")
    assert not written.is_whole(tmp_path)
    assert not ScanRecord(status="failed").is_whole(tmp_path)


@pytest.mark.parametrize("name", ["../victim.txt", "/etc/victim", "..\\victim", "a\x1b[2J", "x" * 256])
def test_a_record_whose_names_leave_the_folder_is_not_believed_and_nothing_is_removed(tmp_path, name):
    (tmp_path / "victim.txt").touch()
    (tmp_path / "out").mkdir()
    good = DONE.model_dump(mode="json")
    for wrong in ({"a": good | {"more": {name: "h"}}}, {"a": good | {"file": name}}, {name: good}):
        (tmp_path / "out" / RECORD).write_text(json.dumps({"format": 4, "cases": wrong}))
        with PredictionsWriter(tmp_path / "out", model={}) as record:
            assert record.cases == {}
            record.put("a", ScanRecord(status="failed", reason="gone"))
            record.put(name, ScanRecord(status="failed", reason="gone"))
    assert (tmp_path / "victim.txt").exists()


def test_a_file_that_cannot_be_read_is_predicted_again(tmp_path, monkeypatch):
    (tmp_path / "a.nii.gz").write_bytes(b"labels")
    record = DONE.model_copy(update={"hash": file_hash(tmp_path / "a.nii.gz")})
    assert record.is_whole(tmp_path)
    monkeypatch.setattr(room, "file_hash", lambda path: path.joinpath("a disk that fails").read_bytes())
    assert not record.is_whole(tmp_path)


def test_of_the_folder_of_records_only_own_files_are_read_and_removed(tmp_path):
    for name in ("000001.jsonl", "1a.jsonl", "notes.txt"):
        (tmp_path / name).write_text("{}\n")
    shards = Shards(tmp_path)
    assert [*shards.read()] == [b"{}"]
    shards.remove()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1a.jsonl", "notes.txt"]
