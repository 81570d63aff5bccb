from pathlib import Path

import pytest

from nnseg.core.errors import PlanError
from nnseg.core.labels import Labels
from nnseg.core.plan import Inference, Network, Normalization, Plan, Preprocessing, Training, parse
from nnseg.storage.runs import read_plan, write_plan


@pytest.fixture
def plan() -> Plan:
    return Plan(
        name="3d",
        dataset="Balls",
        recipe="auto",
        channels=("MRI",),
        patch=(16, 24, 16),
        labels=Labels(names=("background", "ball"), values=(0, 1)),
        preprocessing=Preprocessing(
            axes=(0, 1, 2), spacing=(1, 1, 1.5), normalization=(Normalization(scheme="zscore"),), why={"spacing": "the median"}
        ),
        network=Network(
            kind="plain",
            features=(8, 16),
            strides=((1, 1, 1), (2, 2, 2)),
            kernels=((3, 3, 3),) * 2,
            blocks=(2, 2),
            decoder_blocks=(2,),
        ),
        training=Training(batch_size=2, learning_rate=1e-7),
        inference=Inference(mirror_axes=(0, 2)),
        why={"patch": "covers the largest case"},
    )


def test_a_saved_plan_is_the_same_plan(plan: Plan, tmp_path: Path) -> None:
    write_plan(tmp_path / "plan.toml", plan)
    assert read_plan(tmp_path / "plan.toml") == plan


def test_reasons_change_no_key_and_decisions_do(plan: Plan) -> None:
    assert plan.model_copy(update={"why": {}}).key() == plan.key()
    assert plan.model_copy(update={"patch": (32, 24, 16)}).key() != plan.key()
    assert plan.model_copy(update={"patch": (32, 24, 16)}).key("preprocessing") == plan.key("preprocessing")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("epoch_steps = 250", "epoch_step = 250", "training.epoch_step is not a setting; did you mean epoch_steps?"),
        ("batch_size = 2", "batch_size = 0", "training.batch_size = 0"),
        ("patch = [16, 24, 16]", "patch = [16, 24, 15]", "must be divisible by"),
        ("mirror_axes = [0, 2]", "mirror_axes = [3]", "mirror_axes"),
        ('kind = "plain"', "kind = plain", "not valid TOML"),
        ("blocks = [2, 2]", "blocks = [2, 0]", "network.blocks.1 = 0"),
        ("axes = [0, 1, 2]", "axes = [0, 0, 2]", "once each"),
        ("format = 1", "format = 2", "format"),
        ('spacing = "the median"', 'spaceing = "the median"', "spaceing"),
    ],
)
def test_a_mistake_in_an_edited_plan_is_named(plan: Plan, tmp_path: Path, old: str, new: str, words: str) -> None:
    path = tmp_path / "plan.toml"
    write_plan(path, plan)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(PlanError) as caught:
        read_plan(path)
    assert words in str(caught.value)
    assert "plan.toml" in str(caught.value)


def test_every_mistake_is_named_at_once(plan: Plan) -> None:
    content = plan.model_dump(mode="json")
    content["training"]["batch_size"] = -1
    content["colour"] = "blue"
    with pytest.raises(PlanError) as caught:
        parse(Plan, content, "plan.toml")
    assert "training.batch_size" in str(caught.value)
    assert "colour is not a setting" in str(caught.value)
