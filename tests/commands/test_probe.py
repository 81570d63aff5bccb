"""Tests of measuring candidates: real processes, real steps, on a dataset of tiny balls."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nnseg.commands import probe as verb
from nnseg.commands.probe import cases_to_measure, free_resources, known_probe, probe
from nnseg.core.dataset import Dataset
from nnseg.core.fingerprint import Fingerprint
from nnseg.core.plan import Budget, Plan
from nnseg.core.probe import Probe, trial_key
from nnseg.planning.measure import measure
from nnseg.planning.planner import make_candidates
from nnseg.planning.recipe import load_recipe
from nnseg.storage.datasets.read import read_dataset
from nnseg.storage.run import Run
from nnseg.system import process


@pytest.fixture(scope="module")
def balls(ball_dataset: Path) -> tuple[Dataset, Fingerprint]:
    dataset = read_dataset(ball_dataset)
    return dataset, measure(dataset)


@pytest.fixture(scope="module")
def tiny_plan(balls: tuple[Dataset, Fingerprint], tiny_recipe: Path) -> Plan:
    proposals = make_candidates(balls[1], Budget(seconds=60), load_recipe(tiny_recipe), kinds=("auto",))
    return proposals[0][0].plan


@pytest.fixture(scope="module")
def measured(balls: tuple[Dataset, Fingerprint], tiny_plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Probe]:
    """A run with a probe of the tiny plan, made by real processes, which measure steps and tiles for a short time."""
    run = Run(tmp_path_factory.mktemp("run"))
    command = process.own_process

    def briefly(module: str, end_signal: process.EndSignal) -> list[str]:
        python, safe, _, code, *arguments = command(module, end_signal)
        return [
            python,
            safe,
            "-c",
            code.replace("run_child(", f"import {module} as w; w.TILES_SECONDS, w.STEPS_SECONDS = 0.1, 0.3; run_child("),
            *arguments,
        ]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "own_process", briefly)
        return run, probe(run, *balls, [tiny_plan], device="cpu")


def killed(monkeypatch: pytest.MonkeyPatch) -> None:
    suicide = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    monkeypatch.setattr(process, "own_process", lambda *_: (sys.executable, "-c", suicide))


def test_a_trial_measures_steps_tiles_memory_and_files(measured: tuple[Run, Probe], tiny_plan: Plan) -> None:
    trial = measured[1].trial_of(tiny_plan)
    assert trial is not None
    assert not trial.failed
    assert trial.key == trial_key(tiny_plan)
    assert trial.precision in ("float32", "bfloat16")
    assert 0 < trial.step_seconds < 10
    assert 0 < trial.pause_seconds < 10
    assert 0 < trial.tile_seconds < 10
    assert 0.1 < trial.memory_gb < 3
    assert trial.device_gb == 0
    weights = 4 * tiny_plan.network.weights  # about; a checkpoint has them, their average, and two moments
    assert weights / 3 < trial.model_bytes < 3 * weights + 20_000
    assert trial.checkpoint_bytes > 3 * trial.model_bytes - 40_000


def test_handling_measures_cases_and_predictions(measured: tuple[Run, Probe], tiny_plan: Plan) -> None:
    handling = measured[1].case_cost_of(tiny_plan)
    assert handling is not None
    assert not handling.failed
    assert handling.seconds > 0
    assert handling.predict_seconds > 0
    assert 0.1 < handling.packed < 3  # positions and the zip are much beside such tiny cases
    assert handling.label_bytes > 0


def test_a_probe_says_what_was_measured(measured: tuple[Run, Probe], balls: tuple[Dataset, Fingerprint]) -> None:
    found = measured[1]
    assert found.device == "cpu"
    assert found.threads >= 1
    assert 0.1 < found.base_gb < 2
    assert found.ram_gb > 0
    assert found.dataset == balls[1].key


def test_nothing_is_left_beside_the_record(measured: tuple[Run, Probe]) -> None:
    assert [path.name for path in measured[0].path.iterdir()] == ["probe.json"]


def test_what_is_known_is_not_measured_again(
    measured: tuple[Run, Probe],
    balls: tuple[Dataset, Fingerprint],
    tiny_plan: Plan,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    killed(monkeypatch)
    before = (measured[0].path / "probe.json").read_bytes()
    assert probe(measured[0], *balls, [tiny_plan], device="cpu") == measured[1]
    assert (measured[0].path / "probe.json").read_bytes() == before


def test_a_changed_dataset_or_device_is_measured_anew(measured: tuple[Run, Probe], balls: tuple[Dataset, Fingerprint]) -> None:
    fewer = balls[1].model_copy(update={"cases": balls[1].cases[1:]})
    assert known_probe(measured[0], balls[1], device="cpu") == measured[1]
    assert known_probe(measured[0], fewer, device="cpu") is None
    assert known_probe(measured[0], balls[1], device="cuda:1") is None


def test_a_process_that_is_killed_is_a_trial_that_failed(
    balls: tuple[Dataset, Fingerprint], tiny_plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(monkeypatch)
    [trial] = probe(Run(tmp_path), *balls, [tiny_plan], device="cpu").trials
    assert "killed (SIGKILL)" in trial.failed
    assert trial.key == trial_key(tiny_plan)
    assert [path.name for path in tmp_path.iterdir()] == ["probe.json"]
    assert known_probe(Run(tmp_path), balls[1], device="cpu") is None  # nothing worked: worth another attempt


def test_a_process_that_fails_says_why(
    balls: tuple[Dataset, Fingerprint], tiny_plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "own_process", lambda *_: (sys.executable, "-c", "raise ValueError('no such thing')"))
    [trial] = probe(Run(tmp_path), *balls, [tiny_plan], device="cpu").trials
    assert trial.failed == "its process failed: ValueError: no such thing"


def test_trying_ends_when_it_is_enough(
    balls: tuple[Dataset, Fingerprint], tiny_plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(monkeypatch)
    made = []

    def candidates() -> Iterator[Plan]:
        for batch in (2, 3, 4):
            made.append(batch)
            yield tiny_plan.model_copy(update={"training": tiny_plan.training.model_copy(update={"batch_size": batch})})

    found = probe(Run(tmp_path), *balls, candidates(), device="cpu", enough=lambda plan, _: plan.training.batch_size == 3)
    assert made == [2, 3]
    assert len(found.trials) == 2


def test_an_interruption_leaves_no_cases_behind(
    balls: tuple[Dataset, Fingerprint], tiny_plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        assert list(tmp_path.iterdir())
        raise KeyboardInterrupt

    monkeypatch.setattr(verb, "launch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        probe(Run(tmp_path), *balls, [tiny_plan], device="cpu")
    assert not list(tmp_path.iterdir())


def test_the_largest_and_the_median_case_are_lent_first(balls: tuple[Dataset, Fingerprint]) -> None:
    dataset, fingerprint = balls
    cases = tuple(c.model_copy(update={"shape": (i + 1, 9, 9)}) for i, c in enumerate(fingerprint.cases))
    names = [case.name for case in cases_to_measure(dataset, fingerprint.model_copy(update={"cases": cases}))]
    assert names[:2] == ["ball_05", "ball_02"]
    assert sorted(names) == [f"ball_0{i}" for i in range(6)]


def test_room_is_what_is_free(tmp_path: Path) -> None:
    free = free_resources(Run(tmp_path / "new"), "cpu")
    assert free.ram_gb > 0
    assert free.disk_gb > 0
    assert free.device_gb == 0
