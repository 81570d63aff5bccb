"""Tests of the files of a plan and its folds."""

import json
import tomllib
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from nnseg.core.errors import PlanError, RunError
from nnseg.core.labels import Labels
from nnseg.core.plan import Augmentation, Inference, Network, Normalization, Plan, Preprocessing, Training
from nnseg.core.schedule import Epoch
from nnseg.storage.plan_folder import FoldFolder, read_plan, write_plan

EPOCH = Epoch(number=1, step=5, steps=10, loss=0.5, learning_rate=0.1, dice={"a": None, "b": 0.5}, seconds=1.0, total_seconds=2.0)


def test_a_history_of_more_epochs_than_a_training_has_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNSEG_LIMITS", "epochs=2")
    fold = FoldFolder(tmp_path / "fold_0")
    fold.write_history([EPOCH] * 3)
    with pytest.raises(RunError, match=r"history\.jsonl: has 3 epochs; expected at most 2"):
        fold.history()


def test_history_is_read_back_as_written(tmp_path: Path) -> None:
    fold = FoldFolder(tmp_path / "fold_3")
    assert fold.number == 3
    assert fold.history() == ()
    fold.write_history([EPOCH, EPOCH.model_copy(update={"number": 2})])
    assert [e.number for e in fold.history()] == [1, 2]
    assert fold.history()[0] == EPOCH
    assert EPOCH.mean_dice == 0.5


@pytest.fixture
def plan() -> Plan:
    return Plan(
        name="2d",
        dataset="Zellen (µm)",
        recipe="auto",
        channels=("phase contrast", 'the "other"'),
        patch=(32, 32),
        labels=Labels(names=("background", "cell"), values=(0, 7), ignore=255),
        preprocessing=Preprocessing(
            axes=(2, 0, 1),
            spacing=(1e-5, 2.5),
            normalization=(Normalization(scheme="zscore", masked=True), Normalization(scheme="ct", mean=-3.5, low=-1e3)),
            why={"spacing": "the median", "axes": "z is\ncoarse"},
        ),
        network=Network(kind="residual", features=(8,), strides=((1, 1),), kernels=((3, 3),), blocks=(2,), decoder_blocks=()),
        training=Training(
            batch_size=2,
            learning_rate=1e-7,
            augmentation=Augmentation(mirror_axes=(0,)),
            why={"steps": "as many as fit", "batch_size": "2"},
        ),
        inference=Inference(),
        why={"patch": "covers the largest case"},
    )


def edited(tmp_path: Path, plan: Plan, old: str, new: str) -> Path:
    path = tmp_path / "plan.toml"
    write_plan(path, plan)
    text = path.read_text("utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), "utf-8")
    return path


def test_a_saved_plan_is_the_same_plan(plan: Plan, tmp_path: Path) -> None:
    write_plan(tmp_path / "plan.toml", plan)
    assert read_plan(tmp_path / "plan.toml") == plan


def test_reasons_stand_below_their_settings_in_the_same_order(plan: Plan, tmp_path: Path) -> None:
    write_plan(tmp_path / "plan.toml", plan)
    content = tomllib.loads((tmp_path / "plan.toml").read_text("utf-8"))
    assert list(content["preprocessing"]["why"]) == ["axes", "spacing"]
    assert list(content["training"]["why"]) == ["batch_size", "steps"]  # that of a setting left open comes last


def test_an_editor_finds_a_schema_beside_the_plan_that_the_plan_obeys(plan: Plan, tmp_path: Path) -> None:
    write_plan(tmp_path / "2d" / "plan.toml", plan)
    text = (tmp_path / "2d" / "plan.toml").read_text("utf-8")
    directive, _, name = text.splitlines()[0].partition(" ")
    assert directive == "#:schema"
    schema = json.loads((tmp_path / "2d" / name).read_text("utf-8"))
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    validator = Draft202012Validator(schema)
    assert not list(validator.iter_errors(tomllib.loads(text)))
    wrong = text.replace("batch_size = 2", "batch_size = 0").replace('"residual"', '"residul"').replace("epoch_steps", "epochs")
    complaints = list(validator.iter_errors(tomllib.loads(wrong)))
    assert sorted(".".join(map(str, e.absolute_path)) for e in complaints) == ["network.kind", "training", "training.batch_size"]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "epoch_steps = 250",
            "epoch_step = 250",
            "plan.toml: training.epoch_step is not a setting; did you mean training.epoch_steps?",
        ),
        ("patch = [32, 32]", "patch = [32, nan]", "plan.toml: patch.1 = nan must be a whole number from 1 to 65536"),
        ('scheme = "ct"', 'scheme = "CT"', 'preprocessing.normalization.1.scheme = "CT" must be one of'),
        ('kind = "residual"', "kind = residual", "plan.toml is not valid TOML: Invalid value (at line 49, column 8)"),
        ("batch_size = 2\n", f"batch_size = {'9' * 5000}\n", "plan.toml holds a number of thousands of digits"),
        ("batch_size = 2\n", f"batch_size = {'[' * 3000}\n", "or lists nested too deeply"),
    ],
)
def test_a_mistake_in_an_edited_plan_is_named(plan: Plan, tmp_path: Path, old: str, new: str, words: str) -> None:
    with pytest.raises(PlanError) as caught:
        read_plan(edited(tmp_path, plan, old, new))
    assert words in str(caught.value)
    assert str(tmp_path / "plan.toml") in str(caught.value)


def test_a_plan_saved_by_another_editor_is_read(plan: Plan, tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    write_plan(path, plan)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))  # Windows' Notepad
    assert read_plan(path) == plan


def test_text_of_another_encoding_is_named_with_its_line(plan: Plan, tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    write_plan(path, plan)
    path.write_bytes(path.read_bytes().replace("µ".encode(), "µ".encode("latin-1")))
    with pytest.raises(PlanError, match=r"plan.toml is not UTF-8 text: line 5 holds byte 0xb5; save it as UTF-8"):
        read_plan(path)


@pytest.mark.parametrize(("name", "words"), [("none.toml", "there is no file"), (".", "cannot read")])
def test_a_plan_that_cannot_be_opened_is_named(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(PlanError, match=words):
        read_plan(tmp_path / name)
