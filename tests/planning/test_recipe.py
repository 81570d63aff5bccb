from pathlib import Path

import pytest

from nnseg.core.errors import PlanError
from nnseg.planning.recipe import Recipe, load_recipe, shipped_recipes


def test_shipped_recipes_are_found_by_name():
    assert {"auto", "nnunet"} <= set(shipped_recipes())


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
def test_shipped_recipe_is_valid_on_every_device_and_fits_a_page(name: str, device: str):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description
    assert recipe.for_device(device).training.deep_supervision
    assert len(shipped_recipes()[name].read_text().splitlines()) <= 150


def test_auto_halves_channels_on_a_cpu_only():
    recipe = load_recipe("auto")
    assert [recipe.for_device(d).planner.base_features for d in ("cpu", "cuda", "mps")] == [16, 32, 32]
    assert recipe.for_device("cpu").planner.smallest_batch == recipe.planner.smallest_batch


def test_recipe_survives_json():
    recipe = load_recipe("auto")
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(PlanError, match=r"recipe nnnet: no recipe of this name; .* one of .*, auto, nnunet"):
        load_recipe("nnnet")


def test_missing_file_is_named(tmp_path: Path):
    with pytest.raises(PlanError, match=r"mine\.toml: no such file"):
        load_recipe(tmp_path / "mine.toml")


def test_recipe_based_on_another_states_only_differences(tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_text('based_on = "auto"\n[planner.3d]\nlargest_batch = 3\n[training]\nlearning_rate = 1e-3\n')
    mine, auto = load_recipe(path), load_recipe("auto")
    assert mine.name == "mine"
    assert (mine.planner.volume.largest_batch, mine.training.learning_rate) == (3, 1e-3)
    assert mine.planner.flat == auto.planner.flat
    assert mine.training.weight_decay == auto.training.weight_decay


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[training]\nlearning_rat = 1.0", r"training.learning_rat is not a setting; did you mean training.learning_rate\?"),
        (
            "[training.augmentation]\ngama = [0.7, 1.5]",
            r"training.augmentation.gama is not a setting; did you mean training.augmentation.gamma\?",
        ),
        ("[planner]\nbase_featurs = 32", r"planner.base_featurs is not a setting; did you mean planner.base_features\?"),
        ("[on_cpu.planner]\nbase_featurs = 8", r"\[on_cpu\].*base_featurs is not a setting; did you mean planner.base_features\?"),
        ("[planner.3d]\nfirst_edge = 0", "planner.3d.first_edge = 0 must be a whole number of at least 1"),
        (
            "[planner.3d]\nfirst_egde = 9",
            r"recipe mine.toml: planner.3d.first_egde is not a setting; did you mean planner.3d.first_edge\?",
        ),
        ("[training]\nlearning_rate = -1.0", "training.learning_rate = -1.0"),
        ("[training\n", "is not valid TOML"),
    ],
)
def test_mistakes_are_named_with_their_path(tmp_path: Path, text: str, message: str):
    path = tmp_path / "mine.toml"
    path.write_text('based_on = "auto"\n' + text)
    with pytest.raises(PlanError, match=message):
        load_recipe(path)


def test_recipe_without_planner_constants_is_refused(tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_text("[training]\nlearning_rate = 1e-3\n")
    with pytest.raises(PlanError, match=r"recipe mine.toml: planner is missing"):
        load_recipe(path)


@pytest.mark.parametrize("base", ['"mine"', '"../auto"', "3", "{auto = 1}"])
def test_base_must_be_a_shipped_recipe(tmp_path: Path, base: str):
    path = tmp_path / "mine.toml"
    path.write_text(f"based_on = {base}\n")
    with pytest.raises(PlanError, match=r"must be one of .*, auto, nnunet"):
        load_recipe(path)
