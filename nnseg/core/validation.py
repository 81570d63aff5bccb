"""Validation of what people write: messages that name each wrong key, JSON schemas, ranges of numbers."""

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
Probability = Annotated[float, Field(ge=0, le=1)]
Displaced = Annotated[float, Field(ge=0, le=0.1)]  # of control points a fourth apart: more, and patches fold
Thick = Annotated[float, Field(ge=1, allow_inf_nan=False)]
Range = Annotated[tuple[NotNegative, NotNegative], AfterValidator(_ascending)]
PositiveRange = Annotated[tuple[Positive, Positive], AfterValidator(_ascending)]
Shares = Annotated[tuple[Probability, Probability], AfterValidator(_ascending)]
Displacement = Annotated[tuple[Displaced, Displaced], AfterValidator(_ascending)]
Thickness = Annotated[tuple[Thick, Thick], AfterValidator(_ascending)]
SplineOrder = Annotated[Literal[0, 1, 3], BeforeValidator(_whole_number)]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
Counts = tuple[Annotated[int, Field(ge=1, le=65_536)], ...]

MOST_VALUES = 2**36
"""Of the finest feature map of a batch; far beyond real plans, so that a file from elsewhere cannot ask for terabytes."""

MOST_WEIGHTS = 2**32
"""Of a network's convolutions, for the same reason."""


def agree(problems: Iterable[str]) -> None:
    """Nothing, if settings go together.

    Args:
        problems: each naming its settings by their whole paths; `nnseg.core.validation.parse` repeats them as they are.
    """
    listed = list(problems)
    if listed:
        raise PydanticCustomError("disagreement", "{text}", {"text": "; ".join(listed), "problems": listed})


Model = TypeVar("Model", bound=BaseModel)
Named = TypeVar("Named")
Path = tuple[str | int, ...]
Schema = Mapping[str, Any]

LONGEST = 60
"""Characters of a value that a message repeats."""

OWN_SECTION, OTHER_SECTION = 0.5, 0.8
"""How alike (0 to 1) two keys of the same section, or of different ones, must be for one to be offered for the other."""


def parse(model: type[Model], content: Any, where: str) -> Model:
    """Content as a model. Numbers must be numbers: neither "20" nor true is one, and 2.0 is not a whole one.

    Args:
        model: what the content should be.
        content: as read from TOML or JSON, or as a planner made it.
        where: begins the message.

    Raises:
        PlanError: naming every offending setting by its dotted path, what is there and what is allowed.
    """
    try:  # as JSON, because strict validation of Python's own types would refuse a list for a tuple
        return model.model_validate_json(json.dumps(content, default=str), strict=True)
    except ValidationError as error:
        outline = _Outline(schema_of(model))
        problems = list(dict.fromkeys(text for e in _innermost(error) for text in outline.problems(e)))
        listed = problems if len(problems) == 1 else [f"({n}) {text}" for n, text in enumerate(problems, 1)]
        raise PlanError(f"{where}: " + " ".join(listed)) from None


class _Outline:
    """What a schema allows, by path."""

    def __init__(self, schema: Schema) -> None:
        self._root = schema

    def problems(self, error: Mapping[str, Any]) -> Iterator[str]:
        """An error of pydantic's in plain words; several if it is about several settings."""
        kind, path, value = error["type"], error["loc"], error["input"]
        if kind == "unknown_reasons":
            yield from (self._unknown((*path, name)) for name in error["ctx"]["names"])
        elif kind == "disagreement":
            yield from error["ctx"]["problems"]
        elif kind == "json_invalid":
            yield "lists or tables are nested too deeply"
        elif kind == "extra_forbidden" or not self._at(path):
            yield self._unknown(path)
        elif kind == "missing" and isinstance(path[-1], str):
            yield f"{dotted(path)} is missing: it must be {self._allowed(self._at(path))}"
        elif kind == "missing":  # a list that is too short
            yield f"{dotted(path[:-1])} = {shown(value)} must be {self._allowed(self._at(path[:-1]))}"
        elif kind == "value_error":
            there = dotted(path) if isinstance(value, dict) else f"{dotted(path)} = {shown(value)}"
            yield f"{there}: {error['ctx']['error']}" if path else str(error["ctx"]["error"])
        else:
            there = f"{dotted(path)} = {shown(value)}" if path else "this"
            yield f"{there} must be {self._allowed(self._at(path))}{self._hint(self._at(path), value)}"

    def _unknown(self, path: Path) -> str:
        *section, name = (str(part) for part in path)
        schematic = [*self._schematic(path[:-1]), name]
        known = [s for s in self._settings(self._root) if ("why" in s[:-1]) == ("why" in section)]
        near = nearest(schematic, known)
        text = f"{dotted(path)} is not a setting"
        if near is None:
            place = f"of {dotted(path[:-1])}" if section else "at the top level"
            return f"{text}; the settings {place} are {', '.join(self._at(path[:-1])['properties'])}"
        place = ", at the top level" if section and len(near) == 1 else ""
        actual = (*path[:-1], near[-1]) if near[:-1] == schematic[:-1] else tuple(0 if p == "*" else p for p in near)
        return f"{text}; did you mean {dotted(actual)}{place}?"

    def _schematic(self, path: Path) -> list[str]:
        """A path with a star for every place in a list."""
        return ["*" if isinstance(part, int) else part for part in path]

    def _settings(self, node: Schema) -> Iterator[list[str]]:
        for name, inner in node.get("properties", {}).items():
            yield [name]
            setting, place = self._resolved(inner), [name]
            while "items" in setting:
                setting, place = self._resolved(setting["items"]), [*place, "*"]
            yield from ([*place, *rest] for rest in self._settings(setting))

    def _at(self, path: Path) -> Schema:
        node = self._resolved(self._root)
        for part in path:
            if isinstance(part, int):
                node = [*node.get("prefixItems", ()), *[node.get("items", {})] * (part + 1)][part]
            else:
                others = node.get("additionalProperties")
                node = node.get("properties", {}).get(part) or (others if isinstance(others, dict) else {})
            node = self._resolved(node)
        return node

    def _resolved(self, node: Schema) -> Schema:
        if "$ref" not in node:
            return node
        return self._root["$defs"][node["$ref"].rpartition("/")[2]]  # type: ignore[no-any-return]

    def _allowed(self, node: Schema) -> str:
        """What a setting may be, in words."""
        if "enum" in node:
            return "one of " + ", ".join(map(shown, node["enum"]))
        if "const" in node:
            return shown(node["const"])
        kind = node.get("type", "object")
        if kind == "array":
            return self._list_in_words(node)
        words = {"boolean": "true or false", "string": "text in quotes", "object": "a table"}
        return words.get(kind) or ("a whole number" if kind == "integer" else "a number") + _range_in_words(node)

    def _list_in_words(self, node: Schema) -> str:
        inner = self._resolved((node.get("prefixItems") or [node.get("items", {})])[0])
        if "properties" in inner:
            return "a list of tables, [[...]] in TOML"
        least, most = node.get("minItems", 0), node.get("maxItems")
        count = f"{least} to {most}" if most else f"at least {least}" if least else "any number of"
        return f"a list of {least if least == most else count} values, each {self._allowed(inner)}"

    def _hint(self, node: Schema, value: Any) -> str:
        if node.get("type") == "integer" and isinstance(value, float) and value.is_integer():
            return f"; write {int(value)}"
        if "enum" in node and isinstance(value, str):
            names = {str(name).casefold(): shown(name) for name in node["enum"]}
            near = get_close_matches(value.casefold(), names, n=1, cutoff=OWN_SECTION)
            return f"; did you mean {names[near[0]]}?" if near else ""
        return ""


def _innermost(error: ValidationError) -> list[Mapping[str, Any]]:
    """Its errors, without those of a list that is too short only because of others inside it."""
    found = error.errors()
    return [dict(e) for e in found if not any(o["loc"][: len(e["loc"])] == e["loc"] != o["loc"] for o in found)]


def function_table(names: Any, functions: Mapping[str, Named]) -> dict[str, Named]:
    """The functions in the order of a Literal's names.

    Args:
        names: the Literal of the names that files may hold.
        functions: by name.

    Raises:
        TypeError: a name has no function, or a function's name is not in the Literal: a mistake in the source, found at import.
    """
    allowed = get_args(names)
    if set(allowed) != set(functions):
        raise TypeError(f"names without a function, or the reverse: {sorted(set(allowed) ^ set(functions))}")
    return {name: functions[name] for name in allowed}


def nearest(wrong: Sequence[str], known: Iterable[Sequence[str]]) -> Sequence[str] | None:
    """The known path whose last part is most like that of ``wrong``, one of the same section sooner than one of another."""

    def likeness(path: Sequence[str]) -> float:
        return SequenceMatcher(None, wrong[-1].casefold(), path[-1].casefold()).ratio()

    def is_neighbour(path: Sequence[str]) -> bool:
        return path[:-1] == wrong[:-1]

    def shared(path: Sequence[str]) -> int:
        return sum(a == b for a, b in zip(path, wrong[:-1], strict=False))

    close = [p for p in known if likeness(p) >= (OWN_SECTION if is_neighbour(p) else OTHER_SECTION)]
    return max(close, key=lambda p: (likeness(p) + 0.25 * is_neighbour(p), shared(p)), default=None)


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
