"""What may be overwritten: what nnseg made, of the same kind."""

import json
from pathlib import Path

import pytest

from nnseg.core.errors import RunError
from nnseg.storage.files import write_text
from nnseg.storage.overwrite import SIGNS, check_overwrite, is_made
from nnseg.storage.predictions import RECORD, PredictionsWriter
from nnseg.storage.run import Run


@pytest.mark.parametrize("kind", SIGNS)
@pytest.mark.parametrize(
    "content", [b"", b"\x1f\x8b a scan", b"{}", b'{"labels": [], "images": []}', b"case,label\n", b"\x89PNG IDAT", b"\xff" * 9]
)
def test_a_file_of_another_program_is_overwritten_by_force_only(tmp_path: Path, kind: str, content: bytes) -> None:
    file = tmp_path / "file"
    check_overwrite(file, kind, force=False)  # nothing is there
    file.write_bytes(content)
    check_overwrite(file, kind, force=True)
    with pytest.raises(RunError, match=rf"file: is there already, and is no {kind} that nnseg made; .*--force"):
        check_overwrite(file, kind, force=False)


def test_folders_links_to_nothing_and_other_kinds_are_not_overwritten(tmp_path: Path) -> None:
    scores = tmp_path / "scores.json"
    scores.write_text(json.dumps({"labels": [], "metrics": [], "cases": [], "averages": {}, "more": 1}))
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    check_overwrite(scores, "scores", force=False)
    for file, kind in ((scores, "comparison"), (tmp_path, "scores"), (tmp_path / "link", "scores")):
        with pytest.raises(RunError, match="is there already"):
            check_overwrite(file, kind, force=False)


def test_a_record_of_predictions_is_known_though_its_end_is_damaged(tmp_path: Path) -> None:
    with PredictionsWriter(tmp_path, model={}):
        pass
    assert is_made(tmp_path / RECORD, "record of predictions")
    (tmp_path / RECORD).write_bytes((tmp_path / RECORD).read_bytes()[:60])
    assert is_made(tmp_path / RECORD, "record of predictions")


@pytest.mark.parametrize(
    ("files", "ours"),
    [
        ({}, True),
        ({".lock": "", "dataset.json": "{}", ".nnseg-01234567-1-0123abcd.run.json": ""}, True),  # of a run that was killed early
        ({"run.json": '{"versions": {}}', "anything": ""}, True),
        ({"run.json": "{", "anything": ""}, True),  # damaged
        ({"run.json": '{"experiment": 1}', ".lock": ""}, False),  # of another program
        ({".lock": "", "predictions.json": "{}", "case.nii.gz": ""}, False),
        ({"dataset.json": "{}"}, False),
        ({"manifest.jsonl": '{"path": "a", "bytes": 1, "hash": "h"}\n', ".lock": "", "plan.toml": ""}, True),
        ({"manifest.jsonl": '{"path": "a", "bytes": 1, "hash": "h"}\n', "plan.toml": ""}, False),
        ({"manifest.jsonl": '{"audio": "a.wav"}\n'}, False),  # of another program
    ],
)
def test_a_run_begins_in_an_empty_folder_or_in_that_of_a_run(tmp_path: Path, files: dict[str, str], ours: bool) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    if ours:
        with Run(tmp_path).locked():
            return
    with pytest.raises(RunError, match="holds files but no run"), Run(tmp_path).locked():
        pass
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == files


@pytest.mark.parametrize("content", ['{"audio": "a.wav"}\n', '{"path": "a.wav"}\n', ""])
def test_a_manifest_of_another_program_above_a_file_is_not_written_to(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.jsonl").write_text(content)
    write_text(tmp_path / "a" / "b" / "file.txt", "text")
    assert (tmp_path / "manifest.jsonl").read_text() == content


def test_the_networks_and_scores_of_a_run_are_overwritten_by_force_only(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "fold_0").mkdir(parents=True)
    (run / ".lock").touch()
    (run / "manifest.jsonl").touch()
    header = b"\0" * 8 + b'{"__metadata__":{"nnseg":'
    scores = json.dumps({"labels": [], "metrics": [], "cases": [], "averages": {}}).encode()
    for file, kind, content in (
        (run / "fold_0" / "best.nnseg", "model", header),
        (run / "scores.json", "scores", scores),
    ):
        check_overwrite(file, kind, force=False)  # nothing is there
        file.write_bytes(content)
        check_overwrite(file, kind, force=True)
        with pytest.raises(RunError, match=f"{file.name}: is a part of the run .*run; expected a file outside of it"):
            check_overwrite(file, kind, force=False)
    for file, kind, content in ((run / "model.nnseg", "model", header), (run / "others.json", "scores", scores)):
        file.write_bytes(content)
        check_overwrite(file, kind, force=False)
