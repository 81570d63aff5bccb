import datetime
import math
from typing import Annotated, Any, Literal, get_args

import pytest
from pydantic import BaseModel, ConfigDict, Field

from nnseg.core.errors import PlanError
from nnseg.core.plan import NetworkKind, Plan
from nnseg.core.validation import dotted, nearest, parse, shown

WHOLE = "must be a whole number from 1 to 1000000000"


def refusal(content: Any, model: type[BaseModel] = Plan) -> str:
    with pytest.raises(PlanError) as caught:
        parse(model, content, "mine.toml")
    message = str(caught.value)
    assert message.startswith("mine.toml: ")
    assert "\n" not in message
    assert "Input" not in message  # pydantic's own words
    return message.removeprefix("mine.toml: ")


KINDS = ", ".join(f'"{kind}"' for kind in get_args(NetworkKind))
OF_INFERENCE = "is not a setting; the settings of inference are why, step, mirror_axes, cheapest"


def changed(content: dict[str, Any], path: list[str | int], value: Any) -> dict[str, Any]:
    inner: Any = content
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = value
    return content


def test_parsing_what_was_saved_gives_the_same_plan(plan: Plan, content: dict[str, Any]) -> None:
    assert parse(Plan, content, "plan") == plan
    assert parse(Plan, plan.model_dump(), "plan") == plan  # tuples and None, as from a planner


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (["training", "epoch"], "training.epoch is not a setting; did you mean training.epoch_steps?"),
        (["training", "step"], "training.step is not a setting; did you mean training.steps?"),
        (["training", "Seed"], "training.Seed is not a setting; did you mean training.seed?"),
        (["training", "patch"], "training.patch is not a setting; did you mean patch, at the top level?"),
        (["training", "mirror_axes"], "training.mirror_axes is not a setting; did you mean training.augmentation.mirror_axes?"),
        (["batch_size"], "batch_size is not a setting; did you mean training.batch_size?"),
        (["trainning"], "trainning is not a setting; did you mean training?"),
        (["scheme"], "scheme is not a setting; did you mean preprocessing.normalization.0.scheme?"),
        (
            ["preprocessing", "normalization", 0, "maskd"],
            "preprocessing.normalization.0.maskd is not a setting; did you mean preprocessing.normalization.0.masked?",
        ),
        (["network", "why", "patch"], "network.why.patch is not a setting; did you mean why.patch?"),
        (["inference", "lr"], f"inference.lr {OF_INFERENCE}"),
        (["inference", "a\nb"], f'inference."a\\nb" {OF_INFERENCE}'),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest(content: dict[str, Any], path: list[str | int], message: str) -> None:
    content["network"]["why"] = {}
    assert refusal(changed(content, path, 1)) == message


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["training", "batch_size"], 0, f"training.batch_size = 0 {WHOLE}"),
        (["training", "batch_size"], 2.0, f"training.batch_size = 2.0 {WHOLE}; write 2"),
        (["training", "batch_size"], 2.5, f"training.batch_size = 2.5 {WHOLE}"),
        (["training", "batch_size"], "20", f'training.batch_size = "20" {WHOLE}'),
        (["training", "batch_size"], True, f"training.batch_size = true {WHOLE}"),
        (["training", "batch_size"], {"a": 1}, f'training.batch_size = {{"a": 1}} {WHOLE}'),
        (["training", "batch_size"], datetime.date(2024, 5, 6), f'training.batch_size = "2024-05-06" {WHOLE}'),
        (["training", "learning_rate"], math.nan, "training.learning_rate = nan must be a number above 0"),
        (["training", "learning_rate"], -math.inf, "training.learning_rate = -inf must be a number above 0"),
        (["training", "learning_rate"], True, "training.learning_rate = true must be a number above 0"),
        (["training", "weight_decay"], math.inf, "training.weight_decay = inf must be a number of at least 0"),
        (["training", "momentum"], math.nan, "training.momentum = nan must be a number from 0 to 1"),
        (["training", "momentum"], "0.9", 'training.momentum = "0.9" must be a number from 0 to 1'),
        (["training", "batch_dice"], 1, "training.batch_dice = 1 must be true or false"),
        (["training", "batch_dice"], "yes", 'training.batch_dice = "yes" must be true or false'),
        (["training"], 5, "training = 5 must be a table"),
        (["inference", "step"], 0, "inference.step = 0 must be a number above 0 and at most 1"),
        (["dataset"], 7, "dataset = 7 must be text in quotes"),
        (["channels"], "MRI", 'channels = "MRI" must be a list of at least 1 values, each text in quotes'),
        (["inference", "mirror_axes"], 0, "inference.mirror_axes = 0 must be a list of any number of values, each a whole number"),
        (["why"], {"patch": 5}, "why.patch = 5 must be text in quotes"),
        (["network", "kind"], "pain", f'network.kind = "pain" must be one of {KINDS}; did you mean "plain"?'),
        (["network", "kind"], "none", f'network.kind = "none" must be one of {KINDS}'),
        (["training", "optimizer"], "Adam",
            'training.optimizer = "Adam" must be one of "sgd", "adamw", "muon"; did you mean "adamw"?'),
        (["preprocessing", "image_order"], 2, "preprocessing.image_order = 2 must be one of 0, 1, 3"),
        (["preprocessing", "image_order"], True, "preprocessing.image_order = true must be one of 0, 1, 3"),
        (["preprocessing", "axes"], [0, 1], "preprocessing.axes = [0, 1] must be a list of 3 values, each a whole number"),
        (["preprocessing", "axes"], [0] * 4, "preprocessing.axes = [0, 0, 0, 0] must be a list of 3 values, each a whole number"),
        (["preprocessing", "spacing", 2], 0, "preprocessing.spacing.2 = 0 must be a number above 0"),
        (["preprocessing", "normalization"], {}, "preprocessing.normalization = {} must be a list of tables, [[...]] in TOML"),
        (["preprocessing", "normalization", 0, "mean"], math.inf, "preprocessing.normalization.0.mean = inf must be a number"),
        (["training", "augmentation", "gamma"], [1.5, 0.7], "training.augmentation.gamma = [1.5, 0.7]: the lower end comes first"),
        (["patch"], [8], "patch = [8] must be a list of 2 to 3 values, each a whole number from 1 to 65536"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_what_is_allowed(
    content: dict[str, Any], path: list[str | int], value: Any, message: str
) -> None:
    assert refusal(changed(content, path, value)) == message


def test_a_nearly_right_scheme_is_named_in_its_place_in_the_list(content: dict[str, Any]) -> None:
    message = refusal(changed(content, ["preprocessing", "normalization", 0, "scheme"], "z-score"))
    assert message.startswith('preprocessing.normalization.0.scheme = "z-score" must be one of "ct", "zscore"')
    assert message.endswith('did you mean "zscore"?')


def test_one_wrong_value_in_a_list_is_one_mistake(content: dict[str, Any]) -> None:
    assert refusal(changed(content, ["patch"], [math.nan, 8])) == "patch.0 = nan must be a whole number from 1 to 65536"


def test_a_missing_setting_is_named_with_what_it_must_be(content: dict[str, Any]) -> None:
    del content["training"]["batch_size"]
    del content["network"]
    assert refusal(content) == f"(1) network is missing: it must be a table (2) training.batch_size is missing: it {WHOLE}"


def test_every_mistake_is_named_at_once(content: dict[str, Any]) -> None:
    content["training"]["batch_size"] = -1
    content["why"]["patsh"] = "wide"
    content["colour"] = "blue"
    message = refusal(content)
    assert "training.batch_size = -1" in message
    assert "colour is not a setting; the settings at the top level are why, format, name" in message
    assert "did you mean why.patch?" in message
    assert [f"({n})" in message for n in (1, 2, 3, 4)] == [True, True, True, False]


@pytest.mark.parametrize("content", [[], 5, None])
def test_content_that_is_no_table_is_refused(content: Any) -> None:
    assert refusal(content) == "this must be a table"


def test_lists_in_hundreds_of_lists_are_refused(content: dict[str, Any]) -> None:
    deep: list[Any] = []
    for _ in range(300):
        deep = [deep]
    assert refusal(changed(content, ["patch"], deep)) == "lists or tables are nested too deeply"


def test_a_long_value_is_cut(content: dict[str, Any]) -> None:
    message = refusal(changed(content, ["training", "batch_size"], "x" * 1000))
    assert message == f'training.batch_size = "{"x" * 55} ... {WHOLE}'


class Edge(BaseModel):
    model_config = ConfigDict(extra="forbid")

    first_edge: Annotated[int, Field(ge=1)]


class Rules(BaseModel):
    model_config = ConfigDict(extra="forbid")

    volume: Edge = Field(alias="3d")
    order: Literal[1, 2] | None = None


def test_an_alias_is_the_name_that_is_spoken_of() -> None:
    assert (
        refusal({"3d": {"first_egde": 1, "first_edge": 1}}, Rules) == "3d.first_egde is not a setting; did you mean 3d.first_edge?"
    )
    assert refusal({"3d": {"first_edge": 0}}, Rules) == "3d.first_edge = 0 must be a whole number of at least 1"
    assert refusal({"2d": {}, "3d": {"first_edge": 1}}, Rules) == "2d is not a setting; did you mean 3d?"
    assert refusal({"3d": {"first_edge": 1}, "order": 3}, Rules) == "order = 3 must be one of 1, 2"


def test_a_neighbour_is_nearer_than_an_equal_elsewhere_only_if_very_like() -> None:
    known = [["step"], ["training", "steps"], ["training", "patchwork"], ["patch"]]
    assert nearest(["training", "step"], known) == ["training", "steps"]
    assert nearest(["training", "patch"], known) == ["patch"]
    assert nearest(["training", "colour"], known) is None


def test_values_and_paths_are_shown_as_toml_writes_them() -> None:
    assert [shown(v) for v in (True, "a", [1.5], math.nan, "é")] == ["true", '"a"', "[1.5]", "nan", '"é"']
    assert dotted(("planner", "3d", "a b", 0)) == 'planner.3d."a b".0'
