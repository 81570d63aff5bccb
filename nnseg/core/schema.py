"""A model's JSON schema: what is allowed where, said once, for editors and for messages.

Fields are described in their class's docstring, under ``Args:``; the schema carries those words.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core.core_schema import ModelSchema, NullableSchema

DRAFT = "https://json-schema.org/draft/2020-12/schema"


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of files that hold a model; a setting that may be None may be absent, never null."""
    return {"$schema": DRAFT, **model.model_json_schema(schema_generator=_Described)}


def descriptions(model: type[BaseModel]) -> dict[str, str]:
    """What the docstrings of a model and its parents say of each field."""
    found: dict[str, str] = {}
    for parent in reversed(model.__mro__):
        _, _, below = inspect.cleandoc(parent.__dict__.get("__doc__") or "").partition("\nArgs:\n")
        arguments = re.split(r"\n(?=\S)", below)[0]
        for names, words in re.findall(r"^ {4}(\w[\w, ]*): (.+(?:\n {5,}.+)*)", arguments, re.MULTILINE):
            found |= dict.fromkeys(names.split(", "), " ".join(words.split()))
    return found


class _Described(GenerateJsonSchema):
    """Pydantic's generator with our descriptions, without titles and nulls, and with reasons for nothing but settings."""

    def model_schema(self, schema: ModelSchema) -> JsonSchemaValue:
        result, model = super().model_schema(schema), schema["cls"]
        result.pop("title", None)
        result["description"] = inspect.cleandoc(model.__doc__ or "").partition("\n")[0]
        known = descriptions(model)
        properties = result["properties"]
        for name, field in model.model_fields.items():
            setting = properties[field.alias or name]
            if name in known:
                setting["description"] = known[name]
            if isinstance(setting.get("default"), dict | None):
                setting.pop("default", None)
        if "why" in properties:
            reasons = {name: {"type": "string"} for name in properties if name != "why"}
            properties["why"] |= {"properties": reasons, "additionalProperties": False}
        return result

    def nullable_schema(self, schema: NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False
