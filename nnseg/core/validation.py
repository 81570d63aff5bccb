"""Validation of settings that people write: messages that name each wrong setting, JSON schemas, ranges of numbers.

Messages are our own, made from pydantic's errors and the JSON schema. Of the mistakes in ``tests/core/test_input_validation.py``
pydantic's own messages name the nearest setting for none of 12 unknown ones, and all that is allowed for 12 of 34 wrong values.
"""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher, get_close_matches
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import PydanticCustomError
from pydantic_core.core_schema import ModelSchema, NullableSchema

from nnseg.core.errors import PlanError
from nnseg.core.names import COMPARED

DRAFT = "https://json-schema.org/draft/2020-12/schema"


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of files that hold a model; a setting that may be None may be absent, never null."""
    return {"$schema": DRAFT, **model.model_json_schema(schema_generator=_Described)}


def descriptions(model: type[BaseModel]) -> dict[str, str]:
    """The text of each field in the docstrings of a model and its parents."""
    found: dict[str, str] = {}
    for parent in reversed(model.__mro__):
        _, _, below = inspect.cleandoc(parent.__dict__.get("__doc__") or "").partition("\nArgs:\n")
        arguments = re.split(r"\n(?=\S)", below)[0]
        for names, words in re.findall(r"^ {4}(\w[\w, ]*): (.+(?:\n {5,}.+)*)", arguments, re.MULTILINE):
            found |= dict.fromkeys(names.split(", "), " ".join(words.split()))
    return found


class _Described(GenerateJsonSchema):
    """Pydantic's generator with descriptions from docstrings, without titles and nulls, and with reasons only for settings."""

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


def _ascending(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] > ends[1]:
        raise ValueError("the lower end comes first")
    return ends


def _whole_number(value: Any) -> Any:
    if type(value) is not int:  # Python takes True for 1
        raise PydanticCustomError("not_a_number", "must be a whole number")
    return value


Number = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Moderate = Annotated[float, Field(ge=-1e30, le=1e30)]  # products of a few are numbers
Probability = Annotated[float, Field(ge=0, le=1)]
Displaced = Annotated[float, Field(ge=0, le=0.1)]  # of control points a fourth apart: more, and patches fold
Thick = Annotated[float, Field(ge=1, allow_inf_nan=False)]
Range = Annotated[tuple[NotNegative, NotNegative], AfterValidator(_ascending)]
Factor = Annotated[float, Field(ge=0, le=1e30)]
Factors = Annotated[tuple[Factor, Factor], AfterValidator(_ascending)]
PositiveRange = Annotated[tuple[Positive, Positive], AfterValidator(_ascending)]
Shares = Annotated[tuple[Probability, Probability], AfterValidator(_ascending)]
Displacement = Annotated[tuple[Displaced, Displaced], AfterValidator(_ascending)]
Thickness = Annotated[tuple[Thick, Thick], AfterValidator(_ascending)]
SplineOrder = Annotated[Literal[0, 1, 3], BeforeValidator(_whole_number)]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
Counts = tuple[Annotated[int, Field(ge=1, le=65_536)], ...]


def agree(problems: Iterable[str]) -> None:
    """Raise an error with all problems if there are any: settings do not go together.

    Args:
        problems: each names its settings by their whole paths; `parse` puts them into its message as they are.
    """
    listed = list(problems)
    if listed:
        raise PydanticCustomError("disagreement", "{text}", {"text": "; ".join(listed), "problems": listed})


Model = TypeVar("Model", bound=BaseModel)
Named = TypeVar("Named")
Path = tuple[str | int, ...]
Schema = Mapping[str, Any]

MOST_PROBLEMS = 50
"""Offending settings that a message names."""

LONGEST = 60
"""Largest number of characters of a value in a message."""

OWN_SECTION, OTHER_SECTION = 0.5, 0.8
"""Least similarity (0 to 1) of two keys of the same section, or of different ones, for one to be suggested for the other."""


def parse(model: type[Model], content: Any, where: str) -> Model:
    """Content as a model, strictly: neither "20" nor true is a number, and 2.0 is not a whole one.

    Args:
        content: as read from TOML or JSON, or as a planner made it.
        where: begins the message.

    Raises:
        PlanError: naming every offending setting by its dotted path, what is there and what is allowed.
    """
    try:  # as JSON, because strict validation of Python's own types would refuse a list for a tuple
        return model.model_validate_json(json.dumps(content, default=str), strict=True)
    except ValidationError as error:
        schema = schema_of(model)
        schema = inlined(schema, schema.get("$defs", {}))
        problems = list(dict.fromkeys(text for e in _innermost(error) for text in _problems(schema, e)))
        listed = problems if len(problems) == 1 else [f"({n}) {text}" for n, text in enumerate(problems, 1)]
        listed += [f"and {error.error_count() - MOST_PROBLEMS} more"] if error.error_count() > MOST_PROBLEMS else []
        raise PlanError(f"{where}: " + " ".join(listed)) from None


def inlined(node: Any, definitions: Schema) -> Any:
    """A schema with its references replaced by what they refer to."""
    if isinstance(node, list):
        return [inlined(inner, definitions) for inner in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return inlined(definitions[node["$ref"].rpartition("/")[2]], definitions)
    return {key: inlined(inner, definitions) for key, inner in node.items() if key != "$defs"}


def _problems(schema: Schema, error: Mapping[str, Any]) -> list[str]:
    """An error of pydantic's in plain words; several if it is about several settings."""
    if error["type"] == "unknown_reasons":
        return [_unknown(schema, (*error["loc"], name)) for name in error["ctx"]["names"]]
    return list(error["ctx"]["problems"]) if error["type"] == "disagreement" else [_problem(schema, error)]


def _problem(schema: Schema, error: Mapping[str, Any]) -> str:
    kind, path, value = error["type"], error["loc"], error["input"]
    node, found = _at(schema, path), f"{dotted(path)} = {shown(value)}" if path else "this"
    if kind == "json_invalid":
        return "lists or tables are nested too deeply"
    if kind == "extra_forbidden" or not node:
        return _unknown(schema, path)
    if kind == "missing" and isinstance(path[-1], str):
        return f"{dotted(path)} is missing: it must be {allowed_values(node)}"
    if kind == "missing":  # a list that is too short
        return f"{dotted(path[:-1])} = {shown(value)} must be {allowed_values(_at(schema, path[:-1]))}"
    if kind == "value_error":
        place = f"{dotted(path) if isinstance(value, dict) else found}: " if path else ""
        return f"{place}{error['ctx']['error']}"
    return f"{found} must be {allowed_values(node)}{_hint(node, value)}"


def _unknown(schema: Schema, path: Path) -> str:
    section = [str(part) for part in path[:-1]]
    schematic = ["*" if isinstance(part, int) else part for part in path]
    near = nearest(schematic, [s for s in _settings(schema) if ("why" in s[:-1]) == ("why" in section)])
    text = f"{dotted(path)} is not a setting"
    if near is None:
        place = f"of {dotted(path[:-1])}" if section else "at the top level"
        return f"{text}; the settings {place} are {', '.join(_at(schema, path[:-1])['properties'])}"
    place = ", at the top level" if section and len(near) == 1 else ""
    actual = (*path[:-1], near[-1]) if near[:-1] == schematic[:-1] else tuple(0 if p == "*" else p for p in near)
    return f"{text}; did you mean {dotted(actual)}{place}?"


def _settings(node: Schema) -> Iterator[list[str]]:
    """Paths of all settings of a schema, with a star for each place in a list."""
    for name, setting in node.get("properties", {}).items():
        yield [name]
        inner, place = setting, [name]
        while "items" in inner:
            inner, place = inner["items"], [*place, "*"]
        yield from ([*place, *rest] for rest in _settings(inner))


def _at(node: Schema, path: Path) -> Schema:
    """The part of a schema about one setting; empty if there is none."""
    for part in path:
        if isinstance(part, int):
            node = [*node.get("prefixItems", ()), *[node.get("items", {})] * (part + 1)][part]
        else:
            others = node.get("additionalProperties")
            node = node.get("properties", {}).get(part) or (others if isinstance(others, dict) else {})
    return node


def allowed_values(node: Schema) -> str:
    """What a setting may be, in words."""
    if "enum" in node:
        return "one of " + ", ".join(map(shown, node["enum"]))
    if "const" in node:
        return shown(node["const"])
    kind = node.get("type", "object")
    if kind == "array":
        inner = (node.get("prefixItems") or [node.get("items", {})])[0]
        if "properties" in inner:
            return "a list of tables, [[...]] in TOML"
        least, most = node.get("minItems", 0), node.get("maxItems")
        count = f"{least} to {most}" if most else f"at least {least}" if least else "any number of"
        return f"a list of {least if least == most else count} values, each {allowed_values(inner)}"
    words = {"boolean": "true or false", "string": "text in quotes", "object": "a table"}
    return words.get(kind) or ("a whole number" if kind == "integer" else "a number") + _range_in_words(node)


def _hint(node: Schema, value: Any) -> str:
    if node.get("type") == "integer" and isinstance(value, float) and value.is_integer():
        return f"; write {int(value)}"
    if "enum" in node and isinstance(value, str):
        names = {str(name).casefold(): shown(name) for name in node["enum"]}
        near = get_close_matches(value[:COMPARED].casefold(), names, n=1, cutoff=OWN_SECTION)
        return f"; did you mean {names[near[0]]}?" if near else ""
    return ""


def _innermost(error: ValidationError) -> list[Mapping[str, Any]]:
    """Its errors, without those of a list that is too short only because of others inside it."""
    found = error.errors(include_url=False)[:MOST_PROBLEMS]
    return [dict(e) for e in found if not any(o["loc"][: len(e["loc"])] == e["loc"] != o["loc"] for o in found)]


def function_table(names: Any, functions: Mapping[str, Named]) -> dict[str, Named]:
    """The functions in the order of a Literal's names.

    Args:
        names: the Literal of the names that files may hold.

    Raises:
        TypeError: a name has no function, or a function's name is not in the Literal: a mistake in the source, found at import.
    """
    allowed = get_args(names)
    if set(allowed) != set(functions):
        raise TypeError(f"names without a function, or the reverse: {sorted(set(allowed) ^ set(functions))}")
    return {name: functions[name] for name in allowed}


def nearest(wrong: Sequence[str], known: Iterable[Sequence[str]]) -> Sequence[str] | None:
    """The known path whose last part is most like that of ``wrong``; None if none is like it. The same section has precedence."""
    ranked, word = [], wrong[-1][:COMPARED].casefold()
    for path in known:
        similarity = SequenceMatcher(None, word, path[-1].casefold()).ratio()
        sibling = path[:-1] == wrong[:-1]
        if similarity >= (OWN_SECTION if sibling else OTHER_SECTION):
            shared = sum(a == b for a, b in zip(path, wrong[:-1], strict=False))
            ranked.append((similarity + 0.25 * sibling, shared, path))
    return max(ranked, key=lambda r: r[:2])[2] if ranked else None


def dotted(path: Iterable[str | int]) -> str:
    """A path as TOML writes it, places in lists as numbers: ``preprocessing.normalization.0.scheme``."""
    return ".".join(str(p) if re.fullmatch(r"[\w-]+", str(p)) else json.dumps(p) for p in path)


def shown(value: Any) -> str:
    """A value as TOML writes it, long ones cut."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else text[: LONGEST - 4] + " ..."


def _range_in_words(node: Schema) -> str:
    low, high, above = node.get("minimum"), node.get("maximum"), node.get("exclusiveMinimum")
    if low is not None and high is not None:
        return f" from {low:.15g} to {high:.15g}"
    ends = {"of at least": low, "above": above, "at most": high}
    words = " and ".join(f"{word} {end:.15g}" for word, end in ends.items() if end is not None)
    return f" {words}" if words else ""
