"""What the planner decides of the augmentation beyond nnU-Net's rules: policies by modality, and left and right."""

from collections.abc import Callable
from pathlib import Path

import pytest

from nnseg.core.errors import PlanError
from nnseg.core.fingerprint import Fingerprint
from nnseg.core.labels import Labels, Region
from nnseg.core.plan import Augmentation, Budget, Plan
from nnseg.core.validation import parse
from nnseg.planning.planner import make_plans
from nnseg.planning.recipe import load_recipe

MakeFingerprint = Callable[..., Fingerprint]
CPU, CUDA = Budget(device="cpu"), Budget(device="cuda")
SIDES = Labels(names=("background", "left kidney", "right kidney", "spine"), values=(0, 1, 2, 3))


def plan_for(fingerprint: Fingerprint, budget: Budget = CUDA, recipe: str | Path = "auto", kind: str = "3d") -> Plan:
    return make_plans(fingerprint, budget, load_recipe(recipe), kinds=(kind,))[0]


def changed(augmentation: Augmentation) -> set[str]:
    by_patch = {"rotation_degrees", "in_plane", "mirror_axes", "why"}
    return {n for n in Augmentation.model_fields if getattr(augmentation, n) != getattr(Augmentation(), n)} - by_patch


def test_mr_gets_the_artefacts_of_its_scanners(make_fingerprint: MakeFingerprint):
    fingerprint = make_fingerprint((36, 50, 35))
    fingerprint = fingerprint.model_copy(update={"channels": ("T1", "FLAIR"), "intensities": fingerprint.intensities * 2})
    augmentation = plan_for(fingerprint).training.augmentation
    assert (augmentation.bias_field_probability, augmentation.rician_noise_probability) == (0.3, 0.1)
    assert augmentation.noise_probability == 0.0
    assert augmentation.why["motion_probability"] == "T1, FLAIR: such artefacts occur in MR"


def test_ct_is_not_inverted(make_fingerprint: MakeFingerprint):
    augmentation = plan_for(make_fingerprint((36, 50, 35), channels=("CT",))).training.augmentation
    assert changed(augmentation) == {"noise_probability", "noise", "brightness", "inverted_gamma_probability"}
    assert augmentation.inverted_gamma_probability == 0


def test_microscopy_gets_elastic_deformation_and_quarter_turns(make_fingerprint: MakeFingerprint):
    plan = plan_for(make_fingerprint((1, 512, 512), channels=("EM",)), kind="2d")
    augmentation = plan.training.augmentation
    assert (augmentation.elastic_probability, augmentation.quarter_turn_probability) == (0.2, 0.75)
    assert plan.patch[0] == plan.patch[1]
    assert augmentation.quarter_turn_axes == (0, 1)


@pytest.mark.parametrize(
    ("shape", "spacing", "axes"),
    [((64, 64, 64), (1, 1, 1), (0, 1, 2)), ((64, 64, 64), (1.5, 1, 1), (1, 2)), ((64, 40, 90), (1, 1, 1), ())],
)
def test_quarter_turns_are_about_axes_of_equal_length(make_fingerprint: MakeFingerprint, shape, spacing, axes):
    augmentation = plan_for(make_fingerprint(shape, spacing, channels=("EM",))).training.augmentation
    assert augmentation.quarter_turn_axes == axes
    assert bool(augmentation.quarter_turn_probability) == bool(axes)


@pytest.mark.parametrize("recipe", ["nnunet", "resenc-m", "resenc-l", "resenc-xl"])
@pytest.mark.parametrize("channel", ["T1", "CT", "EM"])
def test_nnunets_recipes_stay_nnunets(make_fingerprint: MakeFingerprint, recipe: str, channel: str):
    augmentation = plan_for(make_fingerprint((36, 50, 35), channels=(channel,), labels=4), recipe=recipe).training.augmentation
    assert changed(augmentation) == set()
    sided = make_fingerprint((36, 50, 35), channels=(channel,)).model_copy(update={"labels": SIDES})
    assert changed(plan_for(sided, recipe=recipe).training.augmentation) == set()


@pytest.mark.parametrize("channel", ["MRI", "CT", "EM"])
def test_on_a_cpu_settings_by_modality_are_off_by_default(make_fingerprint: MakeFingerprint, tmp_path: Path, channel: str):
    fingerprint = make_fingerprint((36, 50, 35), channels=(channel,))
    assert changed(plan_for(fingerprint, CPU).training.augmentation) == {"blur_probability", "low_resolution_probability"}
    path = tmp_path / "mine.toml"
    path.write_text('based_on = "auto"\n[on_cpu]\nby_modality = true\n')
    assert len(changed(plan_for(fingerprint, CPU, path).training.augmentation)) > 2


def test_settings_for_every_dataset_override_those_by_modality(make_fingerprint: MakeFingerprint, tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_text('based_on = "auto"\n[training.augmentation]\nbias_field_probability = 0.05\n')
    augmentation = plan_for(make_fingerprint((36, 50, 35)), recipe=path).training.augmentation
    assert (augmentation.bias_field_probability, augmentation.motion_probability) == (0.05, 0.1)
    assert augmentation.why["bias_field_probability"] == "set by the recipe"


def test_mistakes_in_policies_are_named(tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_text('based_on = "auto"\n[modality.mr]\nbias_feild = [0.1, 0.2]\n')
    with pytest.raises(PlanError, match=r"modality.mr.bias_feild is not a setting; did you mean modality.mr.bias_field\?"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("shape", "spacing", "kind", "axis"),
    [
        ((36, 50, 35), (1, 1, 1), "3d", 2),
        ((36, 50, 35), (1, 1, 2), "3d", 0),  # the coarsest axis comes first
        ((36, 50, 35), (1, 1, 1), "2d", 1),
        ((36, 50, 35), (1, 1, 2), "2d", None),  # sagittal slices show one side each
        ((1, 512, 512), (1, 1, 1), "2d", 1),  # the columns of a picture
    ],
)
def test_left_and_right_are_swapped_along_x_wherever_the_plan_put_it(make_fingerprint: MakeFingerprint, shape, spacing, kind, axis):
    fingerprint = make_fingerprint(shape, spacing, channels=("gray",), labels=4).model_copy(update={"labels": SIDES})
    plan = plan_for(fingerprint, kind=kind)
    augmentation = plan.training.augmentation
    assert augmentation.swap_axis == axis
    assert augmentation.swapped_labels == (((1, 2),) if axis is not None else ())
    if axis is not None:
        assert plan.preprocessing.axes[axis + 3 - plan.dimensions] == 2
        assert augmentation.why["swapped_labels"] == "flips along x exchange left and right: left kidney and right kidney"


def test_patches_with_left_and_right_labels_are_not_rotated_far(make_fingerprint: MakeFingerprint):
    heart = make_fingerprint((18, 237, 208), (5, 1.5625, 1.5625), labels=4)
    assert plan_for(heart).training.augmentation.rotation_degrees == 180
    assert plan_for(heart.model_copy(update={"labels": SIDES})).training.augmentation.rotation_degrees == 30


def test_regions_without_a_counterpart_are_not_flipped(make_fingerprint: MakeFingerprint):
    regions = (Region(name="one", values=(1, 3), paint=1), Region(name="other", values=(2,), paint=2))
    fingerprint = make_fingerprint((36, 50, 35), labels=4)
    plan = plan_for(fingerprint.model_copy(update={"labels": SIDES.model_copy(update={"regions": regions})}))
    assert plan.training.augmentation.mirror_axes == plan.inference.mirror_axes == (0, 1)
    assert "not all regions have a counterpart" in plan.training.augmentation.why["mirror_axes"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"swapped_labels": [[1, 2]]}, "swapped_labels and training.augmentation.swap_axis are needed together"),
        ({"swap_axis": 2}, "are needed together"),
        ({"swapped_labels": [[1, 9]], "swap_axis": 2}, r"swapped_labels = \[\[1, 9\]\] must be pairs of 1 to 3"),
        ({"swapped_labels": [[1, 2], [2, 3]], "swap_axis": 2}, "each at most once"),
        ({"swapped_labels": [[0, 2]], "swap_axis": 2}, "swapped_labels.0.0 = 0 must be a whole number"),
        ({"quarter_turn_probability": 0.5}, r"quarter_turn_axes = \[\] must be two axes at least"),
        ({"quarter_turn_axes": [0, 1]}, r"quarter_turn_axes = \[0, 1\] must be axes along which patch = \[40, 56, 40\]"),
        ({"quarter_turn_axes": [0, 3]}, r"quarter_turn_axes = \[0, 3\] must be some of"),
        ({"elastic": [0.0, 0.5]}, "elastic.1 = 0.5 must be a number from 0 to 0.1"),
        ({"slice_thickness": [0.5, 2.0]}, "slice_thickness.0 = 0.5 must be a number of at least 1"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(make_fingerprint: MakeFingerprint, changes: dict, message: str):
    plan = plan_for(make_fingerprint((36, 50, 35), channels=("other",), labels=4))
    content = plan.model_dump(mode="json", exclude_none=True)
    content["training"]["augmentation"] |= changes
    with pytest.raises(PlanError, match=message):
        parse(Plan, content, "plan")
