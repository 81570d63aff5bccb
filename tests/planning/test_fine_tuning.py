"""Plans that begin with a trained model, for data of another spacing, size, naming or modality."""

from collections.abc import Callable
from pathlib import Path

import pytest

from nnseg.core.errors import PlanError
from nnseg.core.fingerprint import Fingerprint
from nnseg.core.labels import Labels
from nnseg.core.plan import Budget, Plan
from nnseg.planning.fine_tuning import FROM_MODEL, describe_adoption
from nnseg.planning.planner import make_candidates, make_plans
from nnseg.planning.recipe import load_recipe

MakeFingerprint = Callable[..., Fingerprint]
CPU = Budget(device="cpu")


def _named(fingerprint: Fingerprint, *names: str) -> Fingerprint:
    """With labels of other names."""
    labels = Labels(names=("background", *names), values=tuple(range(1 + len(names))))
    cases = tuple(case.model_copy(update={"voxels": dict.fromkeys(labels.names, 50)}) for case in fingerprint.cases)
    return fingerprint.model_copy(update={"labels": labels, "cases": cases})


@pytest.fixture(scope="module")
def model(make_fingerprint: MakeFingerprint) -> Plan:
    """Of isotropic CT scans with a liver and a spleen."""
    fingerprint = _named(make_fingerprint((36, 50, 35), channels=("CT",)), "liver", "spleen")
    return make_plans(fingerprint, CPU, load_recipe("nnunet"), kinds=("3d",))[0]


def _adopted(fingerprint: Fingerprint, *models: Plan, kinds: tuple[str, ...] = ("auto",), recipe: str = "auto") -> list[Plan]:
    found = make_candidates(fingerprint, CPU, load_recipe(recipe), kinds=kinds, models=models)
    assert all(len(candidates) == 1 for candidates in found)
    return [candidates[0].plan for candidates in found]


@pytest.mark.parametrize(
    ("shape", "spacing"), [((120, 400, 300), (0.4, 0.3, 0.3)), ((12, 320, 320), (6.0, 0.8, 0.8)), ((300, 20, 300), (1.0, 5.0, 1.0))]
)
def test_grid_patch_and_network_are_the_models_whatever_spacing_and_size(
    make_fingerprint: MakeFingerprint, model: Plan, shape: tuple[int, int, int], spacing: tuple[float, float, float]
) -> None:
    other = make_plans(make_fingerprint(shape, spacing, channels=("CT",)), CPU, load_recipe("auto"), kinds=("3d",))[0]
    (plan,) = _adopted(make_fingerprint(shape, spacing, channels=("CT",)), model)
    assert (
        plan.network.model_dump(exclude={"why"})
        == model.network.model_dump(exclude={"why"})
        != other.network.model_dump(exclude={"why"})
    )
    assert (plan.name, plan.patch) == (model.name, model.patch) != (other.name, other.patch)
    assert plan.preprocessing.model_dump(exclude={"why"}) == model.preprocessing.model_dump(exclude={"why"})
    assert plan.training.batch_size == model.training.batch_size
    assert plan.training.optimizer == other.training.optimizer  # the recipe's, as ever
    assert plan.why["patch"] == plan.preprocessing.why["spacing"] == plan.network.why["features"] == FROM_MODEL


def test_a_trained_network_gets_whole_patches_unless_the_recipe_says_otherwise(
    make_fingerprint: MakeFingerprint, model: Plan, tmp_path: Path
) -> None:
    fingerprint = make_fingerprint((36, 50, 35), channels=("CT",))
    assert make_plans(fingerprint, CPU, load_recipe("auto"), kinds=("3d",))[0].training.growing
    (plan,) = _adopted(fingerprint, model)
    assert not plan.training.growing
    assert "growing" in plan.training.why
    (own := tmp_path / "own.toml").write_text('based_on = "auto"\n[training]\ngrowing = true\n')
    assert _adopted(fingerprint, model, recipe=str(own))[0].training.growing


def test_what_depends_on_the_patch_follows_it(make_fingerprint: MakeFingerprint) -> None:
    flat = make_plans(make_fingerprint((18, 237, 208), (5, 1.5625, 1.5625)), CPU, load_recipe("nnunet"), kinds=("3d",))[0]
    (plan,) = _adopted(make_fingerprint((90, 90, 90)), flat)
    assert plan.training.augmentation.in_plane
    assert plan.preprocessing.spacing == flat.preprocessing.spacing


def test_a_channel_that_the_model_lacks_is_normalized_by_its_own_data(make_fingerprint: MakeFingerprint, model: Plan) -> None:
    two = make_fingerprint((36, 50, 35), channels=("ct", "PET"), intensities=make_fingerprint((9, 9, 9)).intensities * 2)
    (plan,) = _adopted(two, model)
    assert plan.preprocessing.normalization[0] == model.preprocessing.normalization[0]
    assert plan.preprocessing.normalization[1].scheme == "zscore"
    assert plan.preprocessing.why["normalization"].startswith(f"{FROM_MODEL}; PET, which it does not have: ")


def test_labels_and_channels_that_were_matched_are_said_in_one_line(make_fingerprint: MakeFingerprint, model: Plan) -> None:
    (plan,) = _adopted(_named(make_fingerprint((30, 30, 30), channels=("CT",)), "Liver", "tumour"), model)
    assert describe_adoption(plan, model) == (
        "3d: network, patch (40 x 56 x 40), grid (1 x 1 x 1 mm) and normalization are the model's; "
        "labels matched by name: Liver (liver in the model); new: tumour; in the model only: spleen; channels matched: CT"
    )
    assert "in the model only" not in describe_adoption(model, model)


def test_plans_are_those_of_the_model_unless_others_are_asked_for(make_fingerprint: MakeFingerprint) -> None:
    fingerprint = make_fingerprint((36, 50, 35))
    flat, volume = make_plans(fingerprint, CPU, load_recipe("nnunet"), kinds=("2d", "3d"))
    assert [plan.name for plan in _adopted(fingerprint, flat, volume)] == ["2d", "3d"]
    assert [plan.patch for plan in _adopted(fingerprint, flat, volume, kinds=("2d",))] == [flat.patch]
    (coarse,) = _adopted(fingerprint, flat, volume, kinds=("3d_lowres",))
    assert (coarse.name, coarse.patch) == ("3d_lowres", volume.patch)
    with pytest.raises(PlanError, match="the model to begin with has no 3D network but 2d; use --plans 2d"):
        _adopted(fingerprint, flat, kinds=("3d",))
    with pytest.raises(PlanError, match='there is no plan "4d"'):
        _adopted(fingerprint, flat, kinds=("4d",))


def test_single_images_take_2d_models_only(make_fingerprint: MakeFingerprint, model: Plan) -> None:
    images = make_fingerprint((1, 300, 200))
    sagittal = make_plans(make_fingerprint((60, 60, 12), (1, 1, 5)), CPU, load_recipe("nnunet"), kinds=("2d",))[0]
    assert sagittal.preprocessing.axes == (2, 0, 1)
    (plan,) = _adopted(images, sagittal)
    assert (plan.preprocessing.axes, plan.patch) == ((0, 1, 2), sagittal.patch)
    with pytest.raises(PlanError, match="the model's network is 3D, and Example consists of single 2D images"):
        _adopted(images, model)
