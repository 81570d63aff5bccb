"""A run that begins with an encoder that was trained elsewhere."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nnseg.commands.measure import measure_dataset
from nnseg.commands.plan import plan
from nnseg.commands.train import train
from nnseg.core.errors import ModelError, PlanError
from nnseg.core.options import Options
from nnseg.crossval.predict import predict_with_plans
from nnseg.network.build import build_network
from nnseg.network.bundle import load_model_file
from nnseg.storage.pretrained import read_pretrained
from nnseg.storage.run import Run

DESCRIPTION = """
weights = "resnet.safetensors"
licence = "MIT"
architecture = "resnet20"
channels = ["red", "green", "blue"]
spacing = [0.75, 0.75]
orientation = "any"
normalization = [{scheme = "rgb_to_0_1"}, {scheme = "rgb_to_0_1"}, {scheme = "rgb_to_0_1"}]
"""


@pytest.fixture
def begun(tmp_path: Path, ball_dataset: Path, tiny_recipe: Path) -> tuple[Run, Options]:
    """A run on scans of one channel that is planned with an encoder of three, and the options for it."""
    file = tmp_path / "encoder.toml"
    file.write_text(DESCRIPTION)
    options = Options(
        recipe=str(tiny_recipe), probe=False, device="cpu", workers=1, init=file, freeze="encoder", steps=2, folds=(0,)
    )
    run = Run(tmp_path / "run")
    measure_dataset(run, ball_dataset, 1)
    plan(run, options)
    return run, options


@pytest.mark.slow
def test_the_plan_takes_network_and_grid_and_a_frozen_encoder_stays(begun: tuple[Run, Options]) -> None:
    run, options = begun
    found = run.plans[0].plan
    assert (found.name, found.network.kind, found.preprocessing.spacing) == ("2d", "cifar_resnet", (0.75, 0.75))
    assert found.preprocessing.normalization[0].scheme == "zscore"
    assert options.init
    colours = read_pretrained(options.init).plan_for(found)
    torch.manual_seed(5)
    state = {name: value + torch.rand_like(value) * 0.01 for name, value in build_network(colours).encoder.state_dict().items()}
    save_file(state, options.init.with_name("resnet.safetensors"))
    train(run.path, options, predict=predict_with_plans)
    weights = load_model_file(run.plans[0].fold(0).model_file).members[0].weights
    assert all(torch.equal(weights[f"encoder.{name}"], value) for name, value in state.items() if name != "conv1.weight")
    torch.testing.assert_close(weights["encoder.conv1.weight"], state["conv1.weight"].sum(1, keepdim=True))


def test_another_description_leads_to_another_plan_and_a_missing_file_is_named(begun: tuple[Run, Options], tmp_path: Path) -> None:
    run, options = begun
    with pytest.raises(ModelError, match=r"there is no file .*resnet.safetensors; weights lie beside their description"):
        train(run.path, options, predict=predict_with_plans)
    assert options.init
    options.init.write_text(DESCRIPTION.replace("resnet20", "resnet32"))
    assert plan(run, options)[0].plan.network.blocks == (5, 5, 5)
    (tmp_path / "other.toml").write_text(DESCRIPTION.replace("MIT", ""))
    with pytest.raises(PlanError, match="licence"):
        plan(run, replace(options, init=tmp_path / "other.toml"))
