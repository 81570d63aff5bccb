"""Damage of the files of a run: what can be made again is, to the same bytes; what cannot is refused, with a way out that works."""

import json
import math
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from warm import fold_options, nnseg

from nnseg.commands import train as training
from nnseg.commands.preprocess import preprocessed_keys
from nnseg.commands.verify import remove_damaged
from nnseg.core.options import Options
from nnseg.storage import cases
from nnseg.storage.cases import CaseStore
from nnseg.storage.files import write_text
from nnseg.storage.manifest import check_files
from nnseg.storage.run import Run
from nnseg.training import fold


@pytest.fixture
def run(ball_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to be damaged."""
    return Path(shutil.copytree(ball_run, tmp_path / "run"))


@pytest.fixture
def again(ball_dataset: Path, tiny_recipe: Path, run: Path) -> Callable[..., str]:
    """Repeats the command of the run; returns what it printed to stderr."""
    return lambda *more, check=0: nnseg("run", ball_dataset, run, *fold_options(tiny_recipe), *more, check=check).stderr


def flip(path: Path, share: float = 0.5) -> None:
    """Flip a bit of a file, at a share of its length."""
    content = bytearray(path.read_bytes())
    content[int(share * len(content))] ^= 4
    path.write_bytes(content)


def contents(folder: Path, *patterns: str) -> dict[str, bytes]:
    """The bytes of the files of a folder that a pattern finds, by path."""
    return {str(p.relative_to(folder)): p.read_bytes() for pattern in patterns for p in sorted(folder.glob(pattern)) if p.is_file()}


RESULTS = ("plan.toml", "cases/*", "fold_*/model.nnseg", "fold_*/predictions/*.nii.gz", "scores.json")


@pytest.fixture
def damage_after(run: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], list[None]]:
    """Lets a case be damaged after it was preprocessed, the first times; returns a list that grows each time it is preprocessed."""

    def begin(times: float) -> list[None]:
        preprocess_plans, calls = training.preprocess_plans, list[None]()

        def preprocess_and_damage(*arguments, **options):
            found = preprocess_plans(*arguments, **options)
            if len(calls) < times:
                flip(run / "cases" / "ball_02.case", 0.3)
            calls.append(None)
            return found

        monkeypatch.setattr(training, "preprocess_plans", preprocess_and_damage)
        shutil.rmtree(run / "fold_0")
        return calls

    return begin


def train(run: Path) -> None:
    training.train(run, Options(device="cpu", workers=1, folds=(0,)), predict=lambda *_: ())


@pytest.mark.parametrize("in_memory", [pytest.param(True, marks=pytest.mark.slow), False])
def test_a_case_that_is_damaged_while_a_network_trains_is_made_again(
    run: Path, damage_after, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, in_memory: bool
) -> None:
    before, calls = contents(run, "cases/*", "fold_0/model.nnseg"), damage_after(1)
    monkeypatch.setattr(cases, "IN_MEMORY_BYTES", cases.IN_MEMORY_BYTES if in_memory else 0)
    train(run)
    assert len(calls) == 2
    assert "ball_02.case: this preprocessed case is damaged" in caplog.text
    assert contents(run, "cases/*", "fold_0/model.nnseg") == before


def test_a_case_that_is_damaged_again_and_again_stops_with_the_suspicion(run: Path, damage_after) -> None:
    damage_after(math.inf)
    with pytest.raises(training.RunError, match="check disk and memory"):
        train(run)


@pytest.mark.slow
def test_a_case_that_is_cut_while_a_network_trains_is_made_again(
    run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before, steps, cut = contents(run, "cases/*", "fold_0/model.nnseg"), fold.take_steps, list[None]()

    def cut_and_take_steps(*arguments):
        if not cut:
            os.truncate(run / "cases" / "ball_02.case", 1000)
        cut.append(None)
        yield from steps(*arguments)

    monkeypatch.setattr(fold, "take_steps", cut_and_take_steps)
    monkeypatch.setattr(cases, "IN_MEMORY_BYTES", 0)
    shutil.rmtree(run / "fold_0")
    train(run)
    assert len(cut) == 2
    assert "ball_02.case: this preprocessed case was cut to 1,000 of" in caplog.text
    assert contents(run, "cases/*", "fold_0/model.nnseg") == before


@pytest.mark.slow
def test_a_case_of_other_channels_that_has_the_right_key_is_made_again(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    before, store, folder = contents(run, "cases/*", "fold_0/model.nnseg"), CaseStore(run / "cases"), Run(run).plans[0]
    case = store.read("ball_02")
    store.write_levels(case, np.zeros((2, *case.labels.shape), np.uint8), preprocessed_keys(Run(run), folder)["ball_02"])
    shutil.rmtree(run / "fold_0")
    train(run)
    assert "case ball_02: its preprocessed file for 3d is damaged; it is made again from its scan" in caplog.text
    assert contents(run, "cases/*", "fold_0/model.nnseg") == before


def test_damage_of_a_run_is_listed_and_the_same_command_makes_it_good(run: Path, again: Callable[..., str]) -> None:
    before = contents(run, *RESULTS, "folds.json", "shown/*", "plan.schema.json")
    assert nnseg("verify", run).stdout.strip() == f"{len(json_lines(run / 'manifest.jsonl'))} intact"
    (run / "notes.txt").write_text("of the user")
    damaged = [
        "fold_0/best.nnseg", "fold_0/model.nnseg", "fold_0/predictions/predictions.json", "model.nnseg", "model.md", "report.html",
        "plan.schema.json", "scores.json", "shown/shown.json", "fingerprint.json", "dataset.json", "fold_0/checkpoint.safetensors",
        "cases/ball_01.case",
    ]  # fmt: skip
    for name in [*damaged, *(str(p.relative_to(run)) for p in run.glob("shown/*.nii.gz"))]:
        flip(run / name)
    (run / "fold_0" / "history.jsonl").write_bytes(b"")
    (run / "run.json").write_text("[1, 2]")
    schedule = (run / "fold_0" / "schedule.json").read_text()
    planned = json.loads(schedule)
    (run / "fold_0" / "schedule.json").write_text(schedule.replace('"precision": "', '"precision": "x'))
    said = nnseg("verify", run, check=1).stdout
    assert all(re.search(f"damaged +{run / name}", said) for name in (*damaged, "run.json", "fold_0/schedule.json"))
    assert re.search(f"foreign +{run / 'notes.txt'}", said)
    said = again()
    assert "best.nnseg was damaged and is removed; the weights of the best epoch are lost" in said
    assert "case ball_01: its preprocessed file for 3d is damaged; it is made again from its scan" in said
    assert contents(run, *RESULTS, "folds.json", "shown/*", "plan.schema.json") == before
    assert json.loads((run / "fold_0" / "schedule.json").read_text()) | {"spent": 0} == planned | {"spent": 0}
    assert not list(run.glob("replaced_*"))
    assert "1 foreign" in nnseg("verify", run).stdout


def test_a_file_of_tensors_counts_by_its_own_hash(run: Path) -> None:
    manifest = run / "manifest.jsonl"
    manifest.write_text(
        re.sub(r'(fold_0/checkpoint.safetensors", "bytes": \d+, "hash": ")....', r"\g<1>0000", manifest.read_text())
    )
    assert [file.path.name for file in check_files(run) if file.state == "damaged"] == ["checkpoint.safetensors"]
    before = (run / "fold_0" / "checkpoint.safetensors").read_bytes()
    remove_damaged(Run(run))
    assert (run / "fold_0" / "checkpoint.safetensors").read_bytes() == before
    assert [file for file in check_files(run) if file.state != "intact"] == []


def json_lines(path: Path) -> list[dict]:
    """The lines of a file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("content", [None, "[1]"])
@pytest.mark.slow
def test_a_lost_record_of_a_run_is_no_dead_end(run: Path, again: Callable[..., str], content: str | None) -> None:
    before = contents(run, *RESULTS)
    (run / "run.json").unlink()
    if content is not None:
        (run / "run.json").write_text(content)
    assert "they are kept as they are" in again()
    assert contents(run, *RESULTS) == before
    assert "kept as they are" not in again()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fold_0/checkpoint.safetensors", "fold_0/model.nnseg"])
def test_a_file_of_a_later_version_is_refused_and_nothing_is_removed(run: Path, again: Callable[..., str], name: str) -> None:
    if "checkpoint" in name:
        (run / "fold_0" / "model.nnseg").unlink()  # so that it is read
    content = (run / name).read_bytes()
    assert content.count(b'\\"format\\":1}') == 1
    (run / name).write_bytes(content.replace(b'\\"format\\":1}', b'\\"format\\":7}'))
    before = contents(run, "fold_*/*")
    assert f"{run / name}: has format 7: a later nnseg wrote it; expected at most 1; install that version" in again(check=2)
    assert contents(run, "fold_*/*") == before
    (run / name).write_bytes(content)
    again()
    assert (run / "fold_0" / "model.nnseg").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("fold_0/schedule.json", '{"format": 3}'),
        ("fold_0/predictions/predictions.json", '{"format": 5}'),
        ("fingerprint.json", '{"format": 3}'),
    ],
)  # fmt: skip
def test_a_json_file_of_a_later_version_is_refused_where_the_manifest_knows_it(
    run: Path, again: Callable[..., str], name: str, content: str
) -> None:
    (run / name).write_text(content)
    (run / "manifest.jsonl").unlink()  # as a later version leaves it, which writes its files there too
    before = contents(run, "fold_*/*", "fingerprint.json")
    assert "a later nnseg wrote it" in again(check=2)
    assert contents(run, "fold_*/*", "fingerprint.json") == before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plan.toml", "folds.json", "postprocessing.json"])
@pytest.mark.parametrize("content", [b"", b"\x00\xff", b'{"nonsense": 1}'])
def test_a_damaged_file_that_people_may_edit_is_refused_and_its_deletion_helps(
    run: Path, again: Callable[..., str], name: str, content: bytes
) -> None:
    before = contents(run, *RESULTS, name)
    (run / name).write_bytes(content)
    assert re.search(f"damaged +{run / name}", nnseg("verify", run, check=1).stdout)
    said = again(check=None)
    if "delete" in said.splitlines()[-1]:
        assert str(run / name) in said.splitlines()[-1]
        assert (run / name).read_bytes() == content
        (run / name).unlink()
        again()
    assert contents(run, *RESULTS, name) == before


@pytest.mark.parametrize("command", ["train", "run"])
def test_folds_of_unknown_cases_are_refused_by_name(run: Path, ball_dataset: Path, tiny_recipe: Path, command: str) -> None:
    folds = (run / "folds.json").read_text()
    (run / "folds.json").write_text(folds.replace("ball_05", "ball_99"))
    arguments = ("run", ball_dataset, run, *fold_options(tiny_recipe)) if command == "run" else ("train", run, "--device", "cpu")
    assert "folds.json names case ball_99, not in the dataset" in nnseg(*arguments, check=2).stderr


def test_predictions_and_models_are_verified_too(ball_run: Path, ball_dataset: Path, tmp_path: Path) -> None:
    out, model = tmp_path / "out", Path(shutil.copy(ball_run / "model.nnseg", tmp_path))
    nnseg("predict", ball_dataset / "imagesTr" / "ball_00.nii.gz", out, "--model", model, "--device", "cpu")
    assert nnseg("verify", out).stdout.strip() == "2 intact"
    assert nnseg("verify", model).stdout.strip() == "1 intact"
    flip(out / "ball_00.nii.gz")
    flip(model)
    (out / "mine.txt").write_text("x")
    assert nnseg("verify", out, check=1).stdout.splitlines()[0].split() == ["damaged", str(out / "ball_00.nii.gz")]
    assert nnseg("verify", model, check=1).stdout.splitlines()[0].split() == ["damaged", str(model)]
    (out / "ball_00.nii.gz").unlink()
    assert nnseg("verify", out, check=1).stdout.splitlines()[-1] == "1 foreign, 1 intact, 1 missing"
    assert "name one" in nnseg("verify", ball_dataset, check=2).stderr


@pytest.mark.slow
def test_clocks_and_time_stamps_decide_nothing(run: Path, ball_dataset: Path, tiny_recipe: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(ball_dataset, tmp_path / "balls"))
    nnseg("run", data, run, *fold_options(tiny_recipe))
    before = contents(run, *RESULTS)
    for moment in (86400, 4102444800):  # 1970 and 2100
        for path in [*data.rglob("*"), *run.rglob("*")]:
            os.utime(path, (moment, moment))
        nnseg("run", data, run, *fold_options(tiny_recipe))
        assert contents(run, *RESULTS) == before
        kept = [path for pattern in RESULTS[:4] for path in run.glob(pattern)]
        assert {path.stat().st_mtime for path in kept} == {moment}


@pytest.mark.slow
def test_preprocessed_cases_suffice_for_training_and_a_case_without_its_scan_is_named(
    run: Path, ball_dataset: Path, tiny_recipe: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(ball_dataset, tmp_path / "balls"))
    nnseg("run", data, run, *fold_options(tiny_recipe))
    before = contents(run, "fold_0/model.nnseg")
    shutil.rmtree(run / "fold_0")
    data.rename(tmp_path / "away")
    nnseg("train", run, "--folds", 0, "--device", "cpu")
    assert contents(run, "fold_0/model.nnseg") == before
    shutil.rmtree(run / "fold_0")
    flip(run / "cases" / "ball_02.case")
    said = nnseg("train", run, "--folds", 0, "--device", "cpu", check=2).stderr
    assert "ball_02" in said
    assert "there is no such file" in said
    assert not (run / "fold_0" / "model.nnseg").exists()


def test_the_command_that_makes_a_damaged_file_again_is_named(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    made_by = {
        "scores.json": "nnseg run",
        "groups.json": "nnseg evaluate --groups",
        "distilled/model.nnseg": "nnseg distill",
        "figures/scores.pdf": "nnseg figure",
    }
    for name in made_by:
        write_text(run / name, "of another time")
        flip(run / name)
    remove_damaged(Run(run))
    for name, command in made_by.items():
        assert f"{run / name} was damaged and is removed; {command} makes it again" in caplog.text
        assert not (run / name).exists()
