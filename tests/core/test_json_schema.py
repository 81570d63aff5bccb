from typing import Any, get_args

import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel

from nnseg.core.errors import PlanError
from nnseg.core.plan import Augmentation, NetworkKind, Plan
from nnseg.core.validation import descriptions, parse, schema_of
from nnseg.planning.recipe import TrainingRecipe


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    Draft202012Validator.check_schema(schema_of(Plan))
    return Draft202012Validator(schema_of(Plan))


def test_descriptions_are_those_of_the_docstring() -> None:
    class Example(BaseModel):
        """An example.

        Args:
            one, two: of these
                and those: all.
            three: more.

        Raises:
            four: not a field.
        """

    assert descriptions(Example) == {"one": "of these and those: all.", "two": "of these and those: all.", "three": "more."}


def test_a_child_speaks_over_its_parent() -> None:
    words = descriptions(TrainingRecipe)
    assert words["batch_size"] == "0 leaves it to the planner."
    assert words["seed"] == "of every random draw."


def test_every_setting_of_a_plan_is_described() -> None:
    schema = schema_of(Plan)
    tables = {"Plan": schema, **schema["$defs"]}
    settings = {f"{t}.{name}": setting for t, table in tables.items() for name, setting in table["properties"].items()}
    assert len(settings) > 60
    assert not [name for name, setting in settings.items() if "description" not in setting and "$ref" not in setting]
    assert all("description" in table for table in tables.values())


def test_allowed_names_ranges_and_reasons_stand_in_the_schema() -> None:
    tables = schema_of(Plan)["$defs"]
    assert tables["Network"]["properties"]["kind"]["enum"] == [*get_args(NetworkKind)]
    assert tables["Training"]["properties"]["momentum"]["maximum"] == 1
    reasons = tables["Augmentation"]["properties"]["why"]
    assert set(reasons["properties"]) == set(Augmentation.model_fields) - {"why"}
    assert reasons["additionalProperties"] is False


@pytest.mark.parametrize(
    ("section", "setting", "value"),
    [
        ("training", "seed", 3),
        ("training", "learning_rate", 1),
        ("training", "steps", 100),
        ("training", "why", {"steps": "long enough"}),
        ("training", "batch_size", 0),
        ("training", "batch_size", "2"),
        ("training", "batch_size", True),
        ("training", "epoch", 3),
        ("training", "loss", "dice_cee"),
        ("training", "learning_rate", 0),
        ("training", "momentum", 1.01),
        ("training", "why", {"epoch": "a"}),
        ("training", "why", {"seed": 5}),
        ("training", "augmentation", {"gamma": [1.0]}),
        ("training", "augmentation", {"gamma": [0.5, 1.0]}),
        ("preprocessing", "image_order", True),
        ("preprocessing", "image_order", 1),
        ("preprocessing", "axes", [0, 1]),
        ("preprocessing", "normalization", {"scheme": "ct"}),
        ("preprocessing", "normalization", [{"masked": True}]),
        ("network", "features", [0, 8]),
        ("labels", "ignore", 255),
        ("labels", "ignore", 2.5),
    ],
)
def test_an_editor_and_nnseg_agree_on_an_edit(
    validator: Draft202012Validator, content: dict[str, Any], section: str, setting: str, value: Any
) -> None:
    assert validator.is_valid(content)
    content[section][setting] = value
    try:
        parse(Plan, content, "plan")
    except PlanError:
        assert not validator.is_valid(content)
    else:
        assert validator.is_valid(content)
