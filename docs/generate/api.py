"""The public names of the Python package, and the classes that they return, from signatures and docstrings."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from dataclasses import is_dataclass
from functools import cached_property
from typing import Any, get_args, get_type_hints

from pydantic import BaseModel

import nnseg
from generate.docstrings import described, markdown_of, sections_of

LONGEST = 100
"""Characters of a call in one line."""


def api() -> str:
    """Markdown of all public names, and then of the classes that they return."""
    public = {name: getattr(nnseg, name) for name in nnseg.__all__}
    returned = {one.__name__: one for one in _returned(public.values()) if one not in public.values()}
    parts = ["## Public names", *(_entry(f"nnseg.{name}", one) for name, one in public.items())]
    return "\n\n".join([*parts, "## What they return", *(_entry(name, returned[name]) for name in sorted(returned))])


def _entry(name: str, documented: Any) -> str:
    if not inspect.isclass(documented):
        return f"### {name}\n\n{_call(name, documented)}\n\n{described(documented)}"
    text = f"### {name}\n\n{described(documented)}"
    if _holds_data(documented):
        lines = [f"- `{member}`: {_first_line(_function(one))}" for member, one in _members(documented)]
        return "\n\n".join([text, "Methods and properties:", "\n".join(lines)] if lines else [text])
    return "\n\n".join([text, *(_member(name, member, one) for member, one in _members(documented))])


def _holds_data(documented: type) -> bool:
    """True if a class is described by its fields; False if by what it does."""
    return is_dataclass(documented) or issubclass(documented, BaseModel)


def _members(documented: type) -> Iterator[tuple[str, Any]]:
    """The public methods and properties that a class defines itself."""
    for name, one in vars(documented).items():
        kinds = property | cached_property | classmethod | staticmethod
        if not name.startswith("_") and (isinstance(one, kinds) or inspect.isfunction(one)) and one.__doc__:
            yield name, one


def _function(member: Any) -> Any:
    """The function below a property or a class method; others as they are."""
    for name in ("fget", "func", "__func__"):
        member = getattr(member, name, member)
    return member


def _member(owner: str, name: str, member: Any) -> str:
    function = _function(member)
    is_attribute = isinstance(member, property | cached_property)
    call = f"```text\n{name}: {inspect.signature(function).return_annotation}\n```" if is_attribute else _call(name, function)
    return f"#### {owner}.{name}\n\n{call}\n\n{described(function)}"


def _first_line(function: Any) -> str:
    return markdown_of(" ".join(sections_of(function)[""].partition("\n\n")[0].split()))


class _AsWritten:
    """An annotation, which is shown as it stands in the source."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _call(name: str, function: Any) -> str:
    """A call with all parameters, one a line if they are many."""
    signature = inspect.signature(function)
    shown: list[str] = []
    for one in signature.parameters.values():
        if one.kind is one.KEYWORD_ONLY and not any(text.startswith("*") for text in shown):
            shown.append("*")
        if one.name not in ("self", "cls"):
            shown.append(str(one.replace(annotation=_AsWritten(one.annotation))))
    given = f" -> {signature.return_annotation}"
    text = f"{name}({', '.join(shown)}){given}"
    if len(text) > LONGEST:
        text = f"{name}(\n" + "".join(f"    {one},\n" for one in shown) + f"){given}"
    return f"```text\n{text}\n```"


def _returned(documented: Iterable[Any]) -> list[type]:
    """The classes of nnseg that functions return, also inside tuples and the like, and those that their methods return."""
    found: dict[type, None] = {}
    waiting = list(documented)
    while waiting:
        one = waiting.pop()
        functions = (
            [one] if not inspect.isclass(one) else [] if _holds_data(one) else [_function(member) for _, member in _members(one)]
        )
        new = [result for function in functions for result in _classes(function) if result not in found]
        found |= dict.fromkeys(new)
        waiting += new
    return list(found)


def _classes(function: Any) -> Iterator[type]:
    """The classes of nnseg in what a function returns."""
    try:
        waiting = [get_type_hints(function).get("return")]
    except NameError:  # a type that is imported for type checkers only
        return
    while waiting:
        one = waiting.pop()
        waiting += get_args(one)
        if inspect.isclass(one) and one.__module__.startswith("nnseg."):
            yield one
