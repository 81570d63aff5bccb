from typing import Any, get_args

import pytest

from nnseg.core.errors import PlanError
from nnseg.core.labels import Labels
from nnseg.core.plan import Inference, Network, Normalization, Plan, Preprocessing, Training
from nnseg.core.validation import parse
from nnseg.network.build import NETWORKS
from nnseg.preprocessing.normalize import NORMALIZERS
from nnseg.training.losses import LOSSES
from nnseg.training.optimizer import OPTIMIZERS

Content = dict[str, Any]


def test_reasons_change_no_key_and_decisions_do(plan: Plan) -> None:
    assert plan.model_copy(update={"why": {}}).key() == plan.key()
    assert plan.model_copy(update={"patch": (32, 24, 16)}).key() != plan.key()
    assert plan.model_copy(update={"patch": (32, 24, 16)}).key("preprocessing") == plan.key("preprocessing")


def test_plans_keep_the_keys_they_had_before_there_were_these_settings():
    plan = Plan(
        name="3d",
        dataset="a",
        recipe="b",
        channels=("c",),
        patch=(8, 8, 8),
        labels=Labels(names=("x", "y"), values=(0, 1)),
        preprocessing=Preprocessing(axes=(0, 1, 2), spacing=(1.0, 1.0, 1.0), normalization=(Normalization(scheme="zscore"),)),
        network=Network(kind="plain", features=(8,), strides=((1, 1, 1),), kernels=((3, 3, 3),), blocks=(1,), decoder_blocks=()),
        training=Training(batch_size=2),
        inference=Inference(),
    )
    sections = {
        (): "793769481f445987f3805ff86ddb51f2",
        ("preprocessing",): "2b26c20a8989aca57998fbf1e4b7113c",
        ("training",): "8280b5b1aea8982fffc9461646ec1343",
    }
    assert {names: plan.key(*names) for names in sections} == sections, "name a setting that is new in _ADDED"
    swapped = plan.training.augmentation.model_copy(update={"elastic_probability": 0.1})
    assert plan.model_copy(update={"training": plan.training.model_copy(update={"augmentation": swapped})}).key() != plan.key()


@pytest.mark.parametrize(
    ("model", "setting", "shipped"),
    [
        (Network, "kind", NETWORKS),
        (Normalization, "scheme", NORMALIZERS),
        (Training, "loss", LOSSES),
        (Training, "optimizer", OPTIMIZERS),
    ],
)
def test_a_plan_can_name_what_is_shipped_and_nothing_else(model: Any, setting: str, shipped: Content) -> None:
    assert list(get_args(model.model_fields[setting].annotation)) == list(shipped)


def test_settings_that_do_not_go_together_are_all_named(content: Content) -> None:
    content["patch"] = [51, 24, 1]
    content["inference"]["mirror_axes"] = [3]
    content["training"]["augmentation"]["mirror_axes"] = [0, 0]
    assert refusal(content) == (
        "plan: (1) patch.0 = 51 must be divisible by 2, the product of network.strides along it; choose 50 or 52"
        " (2) patch.2 = 1 must be divisible by 2, the product of network.strides along it; choose 2"
        " (3) training.augmentation.mirror_axes = [0, 0] must be some of [0, 1, 2], each at most once"
        " (4) inference.mirror_axes = [3] must be some of [0, 1, 2], each at most once"
    )


def test_a_patch_of_other_dimensions_names_all_that_has_to_change(content: Content) -> None:
    content["patch"] = [24, 16]
    assert refusal(content) == (
        "plan: (1) preprocessing.spacing = [1.0, 1.0, 1.5] must have 2 values, one for each axis of patch"
        " (2) network.strides.0, network.strides.1 must have 2 values, one for each axis of patch"
        " (3) network.kernels.0, network.kernels.1 must have 2 values, one for each axis of patch"
    )


def test_a_removed_stage_names_all_that_has_to_change(content: Content) -> None:
    content["network"]["features"] = [8]
    assert refusal(content) == (
        "plan: (1) network.strides has 2 entries, but 1 are needed for the 1 stages of network.features"
        " (2) network.kernels has 2 entries, but 1 are needed for the 1 stages of network.features"
        " (3) network.blocks has 2 entries, but 1 are needed for the 1 stages of network.features"
        " (4) network.decoder_blocks has 1 entries, but 0 are needed for the 1 stages of network.features"
    )


@pytest.mark.parametrize(
    ("section", "setting", "value", "words"),
    [
        ("network", "strides", [[2, 1, 1], [2, 2, 2]], "network.strides.0 = [2, 1, 1] must be ones"),
        ("network", "kernels", [[3, 3, 3], [3, 2, 3]], "network.kernels.1 = [3, 2, 3] must be odd"),
        ("network", "features", [], "network.features = [] must be a list of 1 to 16 values"),
        ("network", "blocks", [2, 0], "network.blocks.1 = 0 must be a whole number from 1 to 65536"),
        ("preprocessing", "axes", [0, 0, 2], "preprocessing.axes = [0, 0, 2]: 0, 1 and 2 must be there once each"),
        ("preprocessing", "normalization", [{"scheme": "ct"}] * 2, "has 2 entries, but 1 are needed, one for each of channels"),
        (
            "preprocessing",
            "normalization",
            [{"scheme": "ct", "low": 2}],
            "normalization.0: low = 2.0 must not lie above high = 1.0",
        ),
        (
            "preprocessing",
            "why",
            {"spaceing": "?"},
            "preprocessing.why.spaceing is not a setting; did you mean preprocessing.why.spacing?",
        ),
        ("preprocessing", "why", {"why": "?"}, "preprocessing.why.why is not a setting"),
        ("labels", "names", ["background"], "labels: 1 names for 2 values"),
    ],
)
def test_a_section_that_contradicts_itself_is_named(content: Content, section: str, setting: str, value: Any, words: str) -> None:
    content[section][setting] = value
    assert words in refusal(content)


@pytest.mark.parametrize("version", [2, True, "1"])
def test_a_plan_of_another_format_is_not_guessed_at(content: Content, version: Any) -> None:
    content["format"] = version
    assert "this nnseg reads plans of format 1; have the plan made anew" in refusal(content)


@pytest.mark.parametrize(
    ("section", "setting", "value", "words"),
    [
        (None, "patch", [100_000] * 3, "patch.2 = 100000 must be a whole number from 1 to 65536"),
        (None, "patch", [65_536] * 3, "4.5e+15 values in one feature map, the most is 6.9e+10"),  # 2 x 2^48 x 8
        ("training", "batch_size", 10**9, "4.9e+13 values in one feature map"),  # 10^9 x 6144 x 8
        ("network", "features", [8, 10**9], "network.features.1 = 1000000000 must be"),
        ("network", "features", [8, 65_536], "2.3e+11 weights, the most is 4.3e+09"),  # 65536^2 x 27 x 2 blocks
        ("network", "features", [8] * 17, "must be a list of 1 to 16 values"),
    ],
)
def test_a_plan_cannot_ask_for_terabytes(content: Content, section: str | None, setting: str, value: Any, words: str) -> None:
    (content[section] if section else content)[setting] = value
    assert words in refusal(content)


def refusal(content: Content) -> str:
    with pytest.raises(PlanError) as caught:
        parse(Plan, content, "plan")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_networks_that_are_drawn_are_unets(plan: Plan) -> None:
    assert plan.network.is_unet
    assert not plan.network.model_copy(update={"kind": "flat"}).is_unet
