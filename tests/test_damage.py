"""Damage of the files of a run: what can be made again is, to the same bytes; what cannot is refused, with a way out that works."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from warm import nnseg

from nnseg.commands import train as training
from nnseg.core.options import Options
from nnseg.storage import cases

LIKE = ("--no-probe", "--device", "cpu", "--workers", 1, "--folds", "0,1")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, ball_dataset: Path, tiny_recipe: Path) -> Path:
    """A finished run of two folds; not to be changed."""
    run = tmp_path_factory.mktemp("whole") / "run"
    nnseg("run", ball_dataset, run, "--recipe", tiny_recipe, *LIKE)
    return run


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


@pytest.fixture
def again(ball_dataset: Path, tiny_recipe: Path, run: Path) -> Callable[..., str]:
    """Repeats the command of the run; returns what it printed to stderr."""
    return lambda *more, check=0: nnseg("run", ball_dataset, run, "--recipe", tiny_recipe, *LIKE, *more, check=check).stderr


def flip(path: Path, share: float = 0.5) -> None:
    """Flip a bit of a file, at a share of its length."""
    content = bytearray(path.read_bytes())
    content[int(share * len(content))] ^= 4
    path.write_bytes(content)


def contents(folder: Path, *patterns: str) -> dict[str, bytes]:
    """The bytes of the files of a folder that a pattern finds, by path."""
    return {str(p.relative_to(folder)): p.read_bytes() for pattern in patterns for p in sorted(folder.glob(pattern)) if p.is_file()}


RESULTS = ("plan.toml", "cases/*", "fold_*/model.nnseg", "fold_*/predictions/*.nii.gz", "scores.json")


def test_a_damaged_preprocessed_case_of_a_finished_run_is_made_again(run: Path, again: Callable[..., str]) -> None:
    before = contents(run, *RESULTS)
    flip(run / "cases" / "ball_01.case")
    assert "ball_01: its preprocessed file for 3d is damaged; it is made again" in again()
    assert contents(run, *RESULTS) == before


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_case_that_is_damaged_while_a_network_trains_is_made_again(
    run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, in_memory: bool
) -> None:
    before, preprocess_plans, calls = contents(run, *RESULTS), training.preprocess_plans, []
    shutil.rmtree(run / "fold_1")

    def preprocess_and_damage(*arguments, **options):
        found = preprocess_plans(*arguments, **options)
        if not calls:
            flip(run / "cases" / "ball_02.case", 0.3)
        calls.append(arguments)
        return found

    monkeypatch.setattr(training, "preprocess_plans", preprocess_and_damage)
    monkeypatch.setattr(cases, "IN_MEMORY_BYTES", cases.IN_MEMORY_BYTES if in_memory else 0)
    training.train(run, Options(device="cpu", workers=1, folds=(1,)), predict=lambda *_: ())
    assert len(calls) == 2
    assert "ball_02.case: this preprocessed case is damaged" in caplog.text
    assert contents(run, "cases/*", "fold_1/model.nnseg") == {
        name: content for name, content in before.items() if name.startswith("cases/") or name == "fold_1/model.nnseg"
    }


def test_a_case_that_is_damaged_again_and_again_stops_with_the_suspicion(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preprocess_plans = training.preprocess_plans
    shutil.rmtree(run / "fold_1")

    def preprocess_and_damage(*arguments, **options):
        found = preprocess_plans(*arguments, **options)
        flip(run / "cases" / "ball_02.case", 0.3)
        return found

    monkeypatch.setattr(training, "preprocess_plans", preprocess_and_damage)
    with pytest.raises(training.RunError, match="check disk and memory"):
        training.train(run, Options(device="cpu", workers=1, folds=(1,)), predict=lambda *_: ())
