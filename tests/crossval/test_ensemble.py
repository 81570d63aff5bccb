"""Plans of a run alone and together: every network answers once, the held-out cases decide, and the run and its model follow."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nnseg import pipeline
from nnseg.commands.export import export, read_card
from nnseg.core.dataset import Case, Dataset, Fold
from nnseg.core.decisions import Choice, candidate_ensembles, ensemble_name
from nnseg.core.errors import ModelError, RunError
from nnseg.core.geometry import Grid
from nnseg.core.image import LabelMap, Source
from nnseg.core.labels import Labels
from nnseg.core.options import Options
from nnseg.crossval.ensemble import choose_model, describe_choice
from nnseg.crossval.predict import predict_folds
from nnseg.crossval.score import score
from nnseg.inference import predict as room
from nnseg.inference.predict import Predictor
from nnseg.network.bundle import load_model_file, save_model
from nnseg.network.load import load_model, with_own_window
from nnseg.storage.datasets.read import read_dataset
from nnseg.storage.files import file_hash, read_json, write_json
from nnseg.storage.images.read import read_label_map, read_scan
from nnseg.storage.images.write import write_label_map
from nnseg.storage.predictions import RECORD, Predictions, ScanRecord, read_predictions
from nnseg.storage.run import Run

CPU = torch.device("cpu")
NAMES = ["2d", "3d", "2d+3d", "2x2d+3d", "2d+2x3d"]


@pytest.fixture(scope="module")
def options(tiny_recipe: Path) -> Options:
    return Options(recipe=str(tiny_recipe), kinds=("2d", "3d"), probe=False, device="cpu", workers=1, folds=(0, 1))


@pytest.fixture(scope="module")
def finished(ball_dataset: Path, options: Options, tmp_path_factory: pytest.TempPathFactory) -> Run:
    done = pipeline.run(ball_dataset, tmp_path_factory.mktemp("choose") / "run", options)
    assert not done.problems
    return done.run


@pytest.fixture
def copied(finished: Run, tmp_path: Path) -> Run:
    shutil.copytree(finished.path, tmp_path / "run")
    return Run(tmp_path / "run")


def folder_of(run: Run, name: str) -> Path:
    return run.path / name if name in ("2d", "3d") else run.path / "ensembles" / name


def weights_of(name: str) -> dict[str, float]:
    return next(plans for plans in candidate_ensembles(["2d", "3d"]) if ensemble_name(plans) == name)


def held_out(run: Run, number: int) -> tuple[str, ...]:
    return run.folds[number].held_out


def folds_of(run: Run, *numbers: int) -> dict[int, Fold]:
    return {n: run.folds[n] for n in numbers}


def choose_by_hand(run: Run, **plans: float) -> None:
    file = run.path / "choice.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"plans": {name.strip("_"): weight for name, weight in plans.items()}}))


def predicted(run: Run) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in run.path.rglob("predictions/*.nii.gz")}


@pytest.mark.parametrize("name", NAMES)
def test_an_ensembles_label_maps_are_those_of_the_weighted_model(finished: Run, ball_dataset: Path, name: str):
    choose, folder = weights_of(name), folder_of(finished, name)
    members = [
        replace(
            with_own_window(load_model_file(finished.path / plan / "fold_0" / "model.nnseg").members[0], finished), weight=weight
        )
        for plan, weight in choose.items()
    ]
    predictor = Predictor(room.Model(members=tuple(members)), device=CPU)
    record = read_predictions(folder / "fold_0" / "predictions")
    assert set(record) == set(held_out(finished, 0))
    for case, written in record.items():
        expected = predictor(read_scan(ball_dataset / "imagesTr" / f"{case}.nii.gz")).label_map.labels
        found = read_label_map(folder / "fold_0" / "predictions" / written.file).labels
        assert (found == expected).mean() > 0.999
        assert written.confidence.surprise
        assert set(written.seconds) == {"read", "preprocess", "network", "restore", "write"}


def test_the_run_ends_with_a_choice_and_follows_it(finished: Run, ball_dataset: Path):
    choice = finished.choice
    assert sorted(c.name for c in choice.candidates) == sorted(NAMES)
    assert choice.cases == 3
    assert "at least 10 are needed" in choice.reason
    assert list(choice.plans) == [choice.best_single]
    assert finished.predictions_folder == finished.path / choice.best_single
    assert {m.plan.name for m in load_model(finished.path).members} == {choice.best_single}
    ours, theirs = (json.loads((folder / "scores.json").read_text()) for folder in (finished.path, finished.predictions_folder))
    assert ours == theirs
    dice = {c.name: c.dice for c in choice.candidates}
    assert dice[choice.best_single] == pytest.approx(ours["averages"]["per_mask"]["dice"]["mean"])
    seconds = {c.name: c.seconds for c in choice.candidates}
    assert seconds["2d+3d"] > max(seconds["2d"], seconds["3d"])
    assert choice_lines(choice)[0].startswith("plans")
    assert sum("<- chosen" in line for line in choice_lines(choice)) == 1


def choice_lines(choice: Choice) -> list[str]:
    return list(describe_choice(choice))


def test_each_network_answers_once_for_all_ensembles(copied: Run, ball_dataset: Path, monkeypatch):
    for name in NAMES:
        shutil.rmtree(folder_of(copied, name) / "fold_0" / "predictions")
    real, calls = room.sliding_window, []
    monkeypatch.setattr(room, "sliding_window", lambda *given: calls.append(1) or real(*given))
    assert predict_folds(copied, folds_of(copied, 0), device="cpu") == ()
    assert len(calls) == 2 * len(held_out(copied, 0))


def test_what_is_done_stays_and_a_lost_label_map_is_made_again(copied: Run, ball_dataset: Path):
    before = predicted(copied)
    case, kept = held_out(copied, 0)
    lost = copied.path / "ensembles" / "2x2d+3d" / "fold_0" / "predictions" / f"{case}.nii.gz"
    content = lost.read_bytes()
    predict_folds(copied, folds_of(copied, 0, 1), device="cpu")
    assert predicted(copied) == before
    lost.unlink()
    predict_folds(copied, folds_of(copied, 0, 1), device="cpu")
    assert lost.read_bytes() == content
    same = {path for path, time in predicted(copied).items() if before[path] == time}
    assert {path for path in before if path not in same} == {
        folder_of(copied, name) / "fold_0" / "predictions" / f"{case}.nii.gz" for name in NAMES
    }
    assert any(kept in path.name for path in same)


def test_a_scan_that_cannot_be_read_fails_in_every_ensemble(copied: Run, ball_dataset: Path, tmp_path: Path):
    shutil.copytree(ball_dataset, tmp_path / "balls")
    case, other = held_out(copied, 0)
    copied.dataset = read_dataset(tmp_path / "balls")
    (tmp_path / "balls" / "imagesTr" / f"{case}.nii.gz").write_bytes(b"nothing")
    (problem,) = predict_folds(copied, folds_of(copied, 0), device="cpu")
    assert problem.case == case
    for name in NAMES:
        place = folder_of(copied, name) / "fold_0" / "predictions"
        record = read_predictions(place)
        assert (record[case].status, record[other].status) == ("failed", "done")
        assert not (place / f"{case}.nii.gz").exists()


def test_a_label_map_that_one_ensemble_cannot_write_is_a_failure(copied: Run):
    case, _ = held_out(copied, 0)
    place = folder_of(copied, "2x2d+3d") / "fold_0" / "predictions" / f"{case}.nii.gz"
    records = read_json(place.parent / RECORD, Predictions)
    write_json(place.parent / RECORD, records.model_copy(update={"cases": {n: r for n, r in records.cases.items() if n != case}}))
    place.unlink()
    place.mkdir()
    (problem,) = predict_folds(copied, folds_of(copied, 0), device="cpu")
    assert problem.case == case
    assert f"cannot write {place}" in problem.message
    assert read_predictions(folder_of(copied, "2d") / "fold_0" / "predictions")[case].status == "done"
    place.rmdir()
    assert predict_folds(copied, folds_of(copied, 0), device="cpu") == ()
    assert place.is_file()


def test_the_run_and_its_model_follow_an_edited_choice(copied: Run, ball_dataset: Path, options: Options):
    choose_by_hand(copied, _2d=1.0, _3d=5.0)
    weighted = load_model(copied.path)
    assert {m.plan.name: m.weight for m in weighted.members} == {"2d": 1.0, "3d": 5.0}
    pipeline.run(ball_dataset, copied.path, options)
    assert copied.predictions_folder == copied.path / "ensembles" / "2d+5x3d"
    assert copied.choice.plans == {"2d": 1.0, "3d": 5.0}
    assert "overruled by hand: 2d+5x3d is used" in copied.card_file.read_text()
    assert len(json.loads((copied.path / "scores.json").read_text())["cases"]) == 3
    exported = load_model_file(copied.model_file)
    assert {m.plan.name: m.weight for m in exported.members} == {"2d": 1.0, "3d": 5.0}


def test_a_choice_of_a_plan_that_is_not_there_is_refused(copied: Run):
    choose_by_hand(copied, _2d=1.0, _3d_lowres=1.0)
    with pytest.raises(RunError, match="names the plan 3d_lowres, and the run has 2d, 3d; correct or delete the file"):
        load_model(copied.path)


def test_without_a_choice_all_plans_answer_alike(copied: Run):
    (copied.path / "choice.json").unlink()
    assert copied.predictions_folder == copied.path / "ensembles" / "2d+3d"
    assert [(m.plan.name, m.weight) for m in load_model(copied.path, folds=(0,)).members] == [("2d", 1.0), ("3d", 1.0)]


def test_a_finished_run_holds_its_model_and_the_models_card(finished: Run, ball_dataset: Path, tmp_path: Path):
    model = load_model_file(finished.model_file)
    assert model.key() == load_model(finished.path, folds=(0, 1)).key() == model.card.model
    assert finished.card_file.read_text() == read_card(finished.model_file)
    assert model.card.choice == finished.choice
    before = finished.model_file.stat().st_mtime_ns
    export(finished, finished.model_file, folds=(0, 1))
    assert finished.model_file.stat().st_mtime_ns == before
    export(finished, tmp_path / "one.nnseg", folds=(0,))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.json", "one.md", "one.nnseg"]
    assert load_model_file(tmp_path / "one.nnseg").card.networks[0].folds == (0,)


def test_a_card_says_what_its_run_knows(finished: Run):
    card = load_model_file(finished.model_file).card
    assert (card.material.cases, card.material.labels, card.held_out) == (6, (("ball", 6),), 3)
    assert card.material.spacing == ((1.5, 1.0, 1.0), (1.5, 1.0, 1.0))
    assert card.material.shape == ((12, 20, 16), (12, 20, 16))
    text = "\n".join(card.limits)
    assert "not a medical device" in text
    assert "It has the networks of only 2 of 5 folds" in text
    assert "The label ball is in 6 cases only" in text
    assert "Its scores are those of 3 cases" in text
    dice = next(of for of in card.scores if (of.title, of.average) == ("Dice", "per_mask"))
    assert dice.mean == json.loads((finished.path / "scores.json").read_text())["averages"]["per_mask"]["dice"]["mean"]
    assert all(len(networks.hashes) == 2 for networks in card.networks)
    page = finished.card_file.read_text()
    for heading in ("Model details", "Intended use", "Factors", "Metrics", "Evaluation data", "Training data"):
        assert f"\n## {heading}\n" in page
    assert "Licence: not stated" in page


def test_a_model_without_a_card_says_where_to_get_one(finished: Run, tmp_path: Path):
    save_model(replace(load_model_file(finished.model_file), card=None), tmp_path / "m.nnseg")
    with pytest.raises(ModelError, match="has no card"):
        read_card(tmp_path / "m.nnseg")


LABELS = Labels(names=("background", "a"), values=(0, 1))


@pytest.fixture
def by_hand(finished: Run, tmp_path: Path):
    """Twelve cases of one fold: 2d sees 8 or 7 of a bar's 16 voxels, 3d as many of the other side, and together they see 14."""
    run = Run(tmp_path / "run")
    for plan in ("2d", "3d"):
        run.path.joinpath(plan).mkdir(parents=True)
        shutil.copy(finished.path / plan / "plan.toml", run.path / plan / "plan.toml")
    grid = Grid(shape=(1, 1, 16))
    bar = np.ones(grid.shape, np.uint8)
    cases, names = [], [f"case_{i:02d}" for i in range(12)]
    for i, name in enumerate(names):
        cases.append(Case(name=name, images=(tmp_path / f"{name}.nii.gz",), labels=tmp_path / f"{name}_labels.nii.gz"))
        write(bar, grid, cases[-1].labels)
        for candidate in NAMES:
            place, found = folder_of(run, candidate) / "fold_0" / "predictions", bar.copy()
            if candidate in ("2d", "3d"):
                found[..., slice(8 + i % 2) if candidate == "2d" else slice(8 - i % 2, None)] = 0
            else:
                found[..., : 2 if candidate == "2d+3d" else 3] = 0
            write(found, grid, place / f"{name}.nii.gz")
    for candidate in NAMES:
        place, seconds = folder_of(run, candidate) / "fold_0" / "predictions", {"2d": 1.0, "3d": 2.0}.get(candidate, 3.0)
        known = {"status": "done", "seconds": {"network": seconds, "read": 9.0}}
        written = {name: ScanRecord(file=f"{name}.nii.gz", hash=file_hash(place / f"{name}.nii.gz"), **known) for name in names}
        write_json(place / RECORD, Predictions(cases=written))
    dataset = Dataset(
        name="bars", folder=tmp_path, layout="", cases=tuple(cases), channels=("CT",), labels=LABELS, suffix=".nii.gz"
    )
    run.dataset = dataset
    return run, {0: Fold(training=(), held_out=tuple(names))}


def write(labels: np.ndarray, grid: Grid, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_label_map(LabelMap(labels=labels, grid=grid), path, like=Source(files=(path,), grid=grid))


def test_a_better_ensemble_is_chosen_with_its_price(by_hand):
    run, folds = by_hand
    choice = choose_model(run, folds)
    assert choice.plans == {"2d": 1.0, "3d": 1.0}
    dice = {c.name: c.dice for c in choice.candidates}
    expected = {found: 2 * found / (found + 16) for found in (7, 8, 14)}  # voxels of 16
    assert dice["2d+3d"] == pytest.approx(expected[14])
    assert dice["3d"] == pytest.approx((expected[8] + expected[7]) / 2)
    assert dice["2d"] == pytest.approx((expected[8] + expected[7]) / 2)
    assert choice.nested.gain == pytest.approx(dice["2d+3d"] - dice["2d"])
    assert choice.p == pytest.approx(2**-12)
    assert choice.time_ratio == 3
    assert "3 times the time of 2d alone" in choice_lines(choice)[-1]
    assert run.predictions_folder == run.path / "ensembles" / "2d+3d"


def test_a_choice_stands_while_its_evidence_does(by_hand):
    run, folds = by_hand
    choose_model(run, folds)
    choose_by_hand(run, _2d=1.0)
    assert choose_model(run, folds).plans == {"2d": 1.0}
    write(np.zeros((1, 1, 16), np.uint8), Grid(shape=(1, 1, 16)), run.dataset.cases[0].labels)
    assert choose_model(run, folds).plans == {"2d": 1.0, "3d": 1.0}


def test_cases_that_some_candidate_lacks_are_not_asked(by_hand):
    run, folds = by_hand
    record = folder_of(run, "2d+3d") / "fold_0" / "predictions" / RECORD
    content = json.loads(record.read_text())
    content["cases"]["case_00"] = {"status": "failed", "reason": "gone"}
    record.write_text(json.dumps(content))
    assert choose_model(run, folds).cases == 11


def test_one_plan_and_no_held_out_case_leave_nothing_to_choose(by_hand):
    run, folds = by_hand
    choose_model(run, folds)
    assert choose_model(run, {}) is None
    assert not (run.path / "choice.json").exists()
    shutil.rmtree(run.path / "2d")
    assert choose_model(run, folds) is None
    assert not (run.path / "choice.json").exists()


def test_scores_of_another_nnseg_are_left_off_the_card_and_cost_no_export(copied: Run, tmp_path: Path):
    (copied.path / "scores.json").write_text('{"cases": [], "mean": {}}')
    card = export(copied, tmp_path / "m.nnseg").card
    assert (card.scores, card.held_out) == ((), 0)
    assert "It has no scores of held-out cases; its performance is unknown." in card.limits


def test_groups_stay_as_long_as_the_scores_do(copied: Run, ball_dataset: Path):
    folds = folds_of(copied, 0, 1)
    (copied.path / "groups.json").write_text("{}")
    score(copied, folds)
    assert (copied.path / "groups.json").exists()
    score(copied, folds_of(copied, 0))
    assert not (copied.path / "groups.json").exists()
