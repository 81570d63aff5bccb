"""Records of many scans, in files that are each written once."""

import pytest

from nnseg.core.errors import RunError
from nnseg.storage import predictions, shards
from nnseg.storage.predictions import SHARDS, PredictionsWriter, ScanRecord, read_predictions


def done(name: str) -> ScanRecord:
    return ScanRecord(status="done", file=f"{name}.nii.gz", hash=name)


def write(folder, names, **kept) -> PredictionsWriter:
    with PredictionsWriter(folder, model={}, **kept) as writer:
        for name in names:
            writer.put(name, done(name))
    return writer


def test_a_killed_command_leaves_its_records_for_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "MOST_LINES", 2)
    writer = PredictionsWriter(tmp_path, model={}, sharded=True).__enter__()
    for name in "abcde":
        writer.put(name, done(name))
    assert sorted(path.name for path in (tmp_path / SHARDS).iterdir()) == ["000001.jsonl", "000002.jsonl"]
    assert read_predictions(tmp_path) == {name: done(name) for name in "abcd"}
    write(tmp_path, "ef")  # on one machine
    assert read_predictions(tmp_path) == {name: done(name) for name in "abcdef"}
    assert not (tmp_path / SHARDS).exists()


def test_records_of_very_many_scans_stay_in_their_files(tmp_path, monkeypatch):
    monkeypatch.setattr(predictions, "MOST_IN_ONE_FILE", 3)
    write(tmp_path, "ab", sharded=True)
    assert not (tmp_path / SHARDS).exists()
    write(tmp_path, "cd", sharded=True)
    write(tmp_path, "e")
    assert len(list((tmp_path / SHARDS).iterdir())) == 2
    assert read_predictions(tmp_path) == {name: done(name) for name in "abcde"}


def test_a_damaged_file_is_named(tmp_path):
    write(tmp_path, "a")
    (tmp_path / SHARDS).mkdir()
    (tmp_path / SHARDS / "000001.jsonl").write_text("{}\n")
    with pytest.raises(RunError, match="records is damaged"):
        predictions.read_all_records(tmp_path)
