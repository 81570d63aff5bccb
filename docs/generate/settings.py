"""Keys of plans, recipes and rules of challenges: what each may be, its default, its meaning, from the models that read them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from generate.docstrings import in_table, markdown_of
from nnseg.core.plan import Plan
from nnseg.core.pretrained import Pretrained
from nnseg.core.validation import allowed_values, inlined, schema_of, shown
from nnseg.interop.challenges.rules import Challenge
from nnseg.planning.recipe import Recipe

Schema = dict[str, Any]


def plan_keys() -> str:
    """Markdown of all keys of plan.toml."""
    return _tables(Plan)


def recipe_keys() -> str:
    """Markdown of the keys of a recipe; those of training, inference and augmentation are the plan's."""
    return _tables(Recipe, leave_out=("training", "inference", "modality", "augmentation"))


def weights_keys() -> str:
    """Markdown of the keys of a description of weights; those of its network are the plan's."""
    return _tables(Pretrained, leave_out=("network",))


def challenge_keys() -> str:
    """Markdown of all keys of the rules of a challenge."""
    return _tables(Challenge)


def _tables(model: Any, leave_out: tuple[str, ...] = ()) -> str:
    schema = schema_of(model)
    sections = _sections(inlined(schema, schema.get("$defs", {})), "", leave_out)
    return "\n\n".join(part for title, section in sections for part in _table(title, section))


def _sections(schema: Schema, title: str, leave_out: tuple[str, ...]) -> Iterator[tuple[str, Schema]]:
    """Each table of the file, with its heading as TOML writes it."""
    yield f"[{title}]" if title else "", schema
    for name, setting in schema["properties"].items():
        key, inner = f"{title}.{name}".lstrip("."), setting.get("items", setting)
        if "properties" in inner and name not in ("why", *leave_out):
            nested = _sections(inner, key, leave_out)
            yield from ((f"[{found}]" if "items" in setting and found == f"[{key}]" else found, part) for found, part in nested)


def _table(title: str, schema: Schema) -> Iterator[str]:
    required = schema.get("required", ())
    yield f"## `{title}`" if title else "## At the top"
    yield f"{markdown_of(schema['description'])}" if title else ""
    rows = [
        f"| `{name}` | {in_table(allowed_values(setting))} | {_default(name, setting, required)} | {_meaning(setting)} |"
        for name, setting in schema["properties"].items()
        if name != "why"
    ]
    yield "\n".join(["| key | value | default | meaning |", "|---|---|---|---|", *rows])


def _default(name: str, setting: Schema, required: Any) -> str:
    if name in required:
        return "needed"
    return f"`{in_table(shown(setting['default']))}`" if "default" in setting else ""


def _meaning(setting: Schema) -> str:
    return in_table(markdown_of(setting.get("description", "")))
