import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nnseg.core.errors import PlanError
from nnseg.core.fingerprint import Fingerprint
from nnseg.core.labels import Labels, Region
from nnseg.core.plan import Budget, Plan
from nnseg.core.validation import parse
from nnseg.planning import network_size as memory
from nnseg.planning.network_size import make_topology
from nnseg.planning.planner import make_plans
from nnseg.planning.recipe import Recipe, load_recipe

MakeFingerprint = Callable[..., Fingerprint]
CPU, CUDA = Budget(device="cpu"), Budget(device="cuda")
SHORT = Budget(seconds=1200, device="cpu")


def make_plan(fingerprint: Fingerprint, budget: Budget, recipe: Recipe, *, dimensions: int) -> Plan:
    return make_plans(fingerprint, budget, recipe, kinds=(f"{dimensions}d",))[0]


def test_hippocampus_on_a_cpu_gets_the_small_network_known_to_work(make_fingerprint: MakeFingerprint):
    plan = make_plan(make_fingerprint((36, 50, 35)), SHORT, load_recipe("auto"), dimensions=3)
    assert plan.patch == (40, 56, 40)
    assert plan.network.features == (16, 32, 64, 128)
    assert plan.network.blocks == (2, 2, 2, 2)
    assert plan.network.decoder_blocks == (2, 2, 2)
    training = plan.training
    assert (training.batch_size, training.steps, training.epoch_steps) == (2, None, 50)
    assert (training.optimizer, training.learning_rate, training.schedule) == ("muon", 3e-3, "cosine")
    assert (training.warmup_steps, training.weight_decay, training.averaging) == (100, 1e-2, 0.999)
    assert (training.loss, training.clip_norm, training.precision) == ("dice_ce", 12.0, "auto")
    assert training.augmentation.rotation_degrees == 30.0
    assert training.augmentation.mirror_axes == plan.inference.mirror_axes == (0, 1, 2)


def test_dropout_is_planned_where_the_recipe_has_it(make_fingerprint: MakeFingerprint, tmp_path: Path):
    (tmp_path / "dropped.toml").write_text('based_on = "auto"\n[planner]\ndropout = 0.1\n')
    recipes = load_recipe(tmp_path / "dropped.toml"), load_recipe("auto")
    with_it, without = (make_plan(make_fingerprint((36, 50, 35)), SHORT, recipe, dimensions=3) for recipe in recipes)
    assert (with_it.network.dropout, without.network.dropout) == (0.1, 0.0)
    assert with_it.key("network") != without.key("network")


def test_nnunet_recipe_gives_nnunets_hippocampus_plans(make_fingerprint: MakeFingerprint):
    flat, volume = make_plans(make_fingerprint((36, 50, 35)), CUDA, load_recipe("nnunet"), kinds=("2d", "3d"))
    assert (flat.name, flat.patch, flat.training.batch_size, flat.training.batch_dice) == ("2d", (56, 40), 281, True)
    assert (volume.name, volume.patch, volume.training.batch_size, volume.training.batch_dice) == ("3d", (40, 56, 40), 7, False)
    for plan in (flat, volume):
        training = plan.training
        assert (training.optimizer, training.learning_rate, training.momentum, training.schedule) == ("sgd", 0.01, 0.99, "poly")
        assert (training.steps, training.epoch_steps, training.weight_decay) == (250_000, 250, 3e-5)
        assert (training.foreground_share, training.averaging, training.warmup_steps) == (0.33, 0.0, 0)
        assert plan.network.features == (32, 64, 128, 256)
        assert plan.preprocessing.image_order == 3


def test_batch_is_scored_as_one_volume_where_a_patch_shows_little(make_fingerprint: MakeFingerprint):
    liver = make_fingerprint((482, 512, 512), (1, 0.767578125, 0.767578125), count=131)
    plan = make_plan(liver, CUDA, load_recipe("nnunet"), dimensions=3)
    assert plan.training.batch_dice
    assert "1.7%" in plan.training.why["batch_dice"]  # 128^3 of 482 x 512 x 512


def test_thick_slices_are_turned_in_their_plane(make_fingerprint: MakeFingerprint):
    heart = make_fingerprint((18, 237, 208), (5, 1.5625, 1.5625), labels=4)
    augmentation = make_plan(heart, CUDA, load_recipe("nnunet"), dimensions=3).training.augmentation
    assert (augmentation.in_plane, augmentation.rotation_degrees, augmentation.mirror_axes) == (True, 180.0, (0, 1, 2))


@pytest.mark.parametrize(("shape", "degrees"), [((1, 256, 256), 180.0), ((1, 256, 160), 15.0)])
def test_2d_patches_are_turned_fully_only_if_nearly_square(
    make_fingerprint: MakeFingerprint, shape: tuple[int, int, int], degrees: float
):
    plan = make_plan(make_fingerprint(shape), CUDA, load_recipe("nnunet"), dimensions=2)
    assert plan.training.augmentation.rotation_degrees == degrees
    assert plan.training.augmentation.mirror_axes == (0, 1)


def test_2d_images_take_the_2d_path_with_an_affordable_patch(make_fingerprint: MakeFingerprint):
    plans = make_plans(make_fingerprint((1, 512, 512), count=24, labels=2), CPU, load_recipe("auto"))
    assert [p.name for p in plans] == ["2d"]
    assert (plans[0].patch, plans[0].training.batch_size) == ((256, 256), 6)
    assert len(plans[0].preprocessing.spacing) == 2


def test_volumes_take_the_3d_path_with_a_reason(make_fingerprint: MakeFingerprint):
    plans = make_plans(make_fingerprint((36, 50, 35)), CPU, load_recipe("auto"))
    assert [p.name for p in plans] == ["3d"]
    assert "volumes of 36 slices along z" in plans[0].why["name"]


def test_volumes_of_three_slices_take_the_2d_path(make_fingerprint: MakeFingerprint):
    plans = make_plans(make_fingerprint((300, 300, 3), (1, 1, 8)), CPU, load_recipe("auto"))
    assert [p.name for p in plans] == ["2d"]
    assert plans[0].preprocessing.axes == (2, 0, 1)
    assert "3 slices along x" in plans[0].why["name"]


@pytest.mark.parametrize("kinds", [("3d",), ("2d", "3d")])
def test_3d_of_single_images_is_refused(make_fingerprint: MakeFingerprint, kinds: tuple[str, ...]):
    with pytest.raises(PlanError, match="single 2D images"):
        make_plans(make_fingerprint((1, 64, 64)), CPU, load_recipe("auto"), kinds=kinds)


@pytest.mark.parametrize(
    ("channel", "scheme"),
    [("CT", "ct"), ("MRI", "zscore"), ("zscore", "zscore"), ("noNorm", "none"), ("rgb_to_0_1", "rgb_to_0_1"), ("T1", "zscore")],
)
def test_normalization_follows_the_channels_name(make_fingerprint: MakeFingerprint, channel: str, scheme: str):
    plan = make_plan(make_fingerprint((36, 50, 35), channels=(channel,)), CPU, load_recipe("auto"), dimensions=3)
    assert plan.preprocessing.normalization[0].scheme == scheme


def test_ct_is_scaled_by_the_datasets_foreground(make_fingerprint: MakeFingerprint):
    plan = make_plan(make_fingerprint((36, 50, 35), channels=("CT",)), CPU, load_recipe("auto"), dimensions=3)
    ct = plan.preprocessing.normalization[0]
    assert (ct.mean, ct.std, ct.low, ct.high, ct.masked) == (90.0, 30.0, -20.0, 210.0, False)


@pytest.mark.parametrize(("cropped", "masked"), [((80, 100, 90), True), ((80, 100, 100), False)])
def test_statistics_are_masked_if_cropping_leaves_less_than_three_quarters(
    make_fingerprint: MakeFingerprint, cropped: tuple[int, int, int], masked: bool
):
    whole = make_fingerprint((100, 100, 100))
    smaller = whole.model_copy(update={"cases": tuple(c.model_copy(update={"cropped_shape": cropped}) for c in whole.cases)})
    plan = make_plan(smaller, CPU, load_recipe("auto"), dimensions=3)
    assert plan.preprocessing.normalization[0].masked is masked


@pytest.mark.parametrize(("cases", "steps"), [(3, 1000), (200, 20_000), (5000, 250_000)])
def test_length_without_a_budget_follows_the_number_of_cases(make_fingerprint: MakeFingerprint, cases: int, steps: int):
    plan = make_plan(make_fingerprint((36, 50, 35), count=cases), CPU, load_recipe("auto"), dimensions=3)
    assert plan.training.steps == steps


def test_regions_and_ignore_count_as_heads_like_in_nnunet(make_fingerprint: MakeFingerprint):
    def estimate_in_words(labels: Labels) -> str:
        fingerprint = make_fingerprint((138, 170, 138)).model_copy(update={"labels": labels})
        return make_plan(fingerprint, CUDA, load_recipe("auto"), dimensions=3).why["patch"]

    three = Labels(names=("background", "a", "b"), values=(0, 1, 2))
    four = Labels(names=("background", "a", "b", "c"), values=(0, 1, 2, 3))
    regions = (Region(name="whole", values=(1, 2), paint=1), Region(name="core", values=(2,), paint=2))
    background_two_regions_and_ignore = three.model_copy(update={"regions": regions, "ignore": 3})
    assert estimate_in_words(background_two_regions_and_ignore) == estimate_in_words(four) != estimate_in_words(three)


def test_recipe_settings_replace_those_of_the_planner_with_a_reason(make_fingerprint: MakeFingerprint, tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'based_on = "auto"\n[training]\nbatch_size = 3\nbatch_dice = true\n[training.why]\nbatch_dice = "tiny lesions"\n'
        "[training.augmentation]\nmirror_axes = [1]\n[inference]\nstep = 0.25\n"
    )
    plan = make_plan(make_fingerprint((36, 50, 35)), CPU, load_recipe(path), dimensions=3)
    assert (plan.training.batch_size, plan.training.why["batch_size"]) == (3, "set by the recipe")
    assert (plan.training.batch_dice, plan.training.why["batch_dice"]) == (True, "tiny lesions")
    assert plan.inference.mirror_axes == plan.training.augmentation.mirror_axes == (1,)
    assert plan.inference.step == 0.25


def test_recipe_that_does_not_fit_the_dataset_is_refused(make_fingerprint: MakeFingerprint, tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_text('based_on = "auto"\n[training.augmentation]\nmirror_axes = [0, 1, 2]\n')
    with pytest.raises(PlanError, match=r"recipe mine: .*mirror_axes = \[0, 1, 2\] must be some of \[0, 1\]"):
        make_plan(make_fingerprint((1, 50, 35)), CPU, load_recipe(path), dimensions=2)


def test_every_decision_of_the_planner_has_a_reason(make_fingerprint: MakeFingerprint):
    plan = make_plans(make_fingerprint((36, 50, 35)), CPU, load_recipe("auto"))[0]
    assert {"name", "patch"} <= set(plan.why)
    assert {"axes", "spacing", "normalization", "image_order"} <= set(plan.preprocessing.why)
    assert {"features", "strides", "kernels"} <= set(plan.network.why)
    assert {"batch_size", "steps", "batch_dice", "optimizer"} <= set(plan.training.why)
    assert {"rotation_degrees", "mirror_axes"} <= set(plan.training.augmentation.why)
    assert {"mirror_axes"} <= set(plan.inference.why)


shapes = st.tuples(*[st.integers(1, 1500)] * 3)
spacings = st.tuples(*[st.floats(0.1, 10)] * 3)


@settings(max_examples=60, deadline=None)
@given(
    shapes,
    spacings,
    st.sampled_from(["auto", "nnunet", "resenc-m", "resenc-l", "resenc-xl"]),
    st.sampled_from([CPU, CUDA, SHORT]),
    st.integers(1, 3000),
)
def test_every_dataset_gets_a_valid_plan(
    make_fingerprint: MakeFingerprint,
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    recipe: str,
    budget: Budget,
    cases: int,
):
    one = make_fingerprint(shape, spacing, count=1)
    fingerprint = one.model_copy(update={"cases": one.cases * min(cases, 7)})
    for plan in make_plans(fingerprint, budget, load_recipe(recipe), kinds=("all",)):
        assert parse(Plan, plan.model_dump(mode="json"), "plan") == plan
        assert plan.training.batch_size >= 2
        assert len(plan.network.features) >= 2
        assert all(f % 16 == 0 for f in plan.network.features)
        if recipe == "auto" and budget.device == "cpu":
            assert math.prod(plan.patch) <= (600_000 if plan.dimensions == 3 else 256 * 256 * 1.5)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shapes, spacings, st.sampled_from(["auto", "nnunet", "resenc-xl"]))
def test_planning_ends_after_a_bounded_number_of_topologies(
    make_fingerprint: MakeFingerprint,
    monkeypatch: pytest.MonkeyPatch,
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    recipe: str,
):
    tried: list[object] = []
    monkeypatch.setattr(memory, "make_topology", lambda *a, **k: (tried.append(a), make_topology(*a, **k))[1])
    make_plans(make_fingerprint(shape, spacing, count=2), CUDA, load_recipe(recipe), kinds=("all",))
    assert len(tried) < 20_000


def test_planner_starts_without_torch_and_without_the_readers():
    code = "import sys, nnseg.planning.planner, nnseg.planning.describe; print({'torch', 'scipy', 'SimpleITK'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert done.stdout.strip() == "set()"


def test_plan_does_not_depend_on_the_order_of_cases(make_fingerprint: MakeFingerprint):
    cases = make_fingerprint((36, 50, 35)).cases
    rng = np.random.default_rng(0)
    varied = [c.model_copy(update={"cropped_shape": tuple(rng.integers(20, 60, 3).tolist())}) for c in cases]
    one, other = (
        make_plan(make_fingerprint((36, 50, 35), cases=tuple(order)), CPU, load_recipe("auto"), dimensions=3)
        for order in (varied, varied[::-1])
    )
    assert one == other
