"""Docstrings, written in Google's form, as Markdown."""

from __future__ import annotations

import inspect
import re
from typing import Any

_SECTION = re.compile(r"^(Args|Attributes|Raises|Returns|Yields|Sources?|Example)(::?) *", re.MULTILINE)
_ENTRY = re.compile(r"^ {4}(\S[^:\n]*): (.+(?:\n {5,}.+)*)", re.MULTILINE)


def sections_of(documented: Any) -> dict[str, str]:
    """The sections of a docstring by title; what comes before the first is under ""."""
    parts = _SECTION.split(inspect.cleandoc(documented.__doc__ or ""))
    return {"": parts[0].strip()} | {title: text.rstrip() for title, text in zip(parts[1::3], parts[3::3], strict=True)}


def entries_of(section: str) -> list[tuple[str, str]]:
    """Names and texts of a section such as Args."""
    return [(names, " ".join(words.split())) for names, words in _ENTRY.findall(section)]


def markdown_of(text: str) -> str:
    """A docstring's text: literals between two backticks, and blocks that begin with "::", as Markdown has them."""
    lines: list[str] = []
    indented = ""
    for line in text.split("\n"):
        if indented and line.strip() and not line.startswith(indented):
            lines[-1:] = ["```", ""] if not lines[-1] else [lines[-1], "```", ""]
            indented = ""
        if lines and lines[-1].rstrip().endswith("::") and not line.strip():
            lines[-1] = lines[-1].rstrip()[:-1].rstrip() if lines[-1].strip() != "::" else ""
            lines += ["", "```text"]
            indented = "  "
        elif indented:
            lines.append(line.removeprefix("    " if line.startswith("    ") else indented))
        else:
            lines.append(re.sub(r"``([^`]+)``", r"`\1`", line))
    return "\n".join([*lines, "```"] if indented else lines).strip()


def described(documented: Any) -> str:
    """The whole docstring as Markdown: the text, lists of arguments and errors, example and source."""
    found = sections_of(documented)
    parts = [markdown_of(found[""])]
    for title in ("Args", "Attributes", "Raises"):
        if entries := entries_of(found.get(title, "")):
            word = "raises " if title == "Raises" else ""
            parts.append("\n".join(f"- {word}`{names}`: {markdown_of(text)}" for names, text in entries))
    parts += [f"{title}: {markdown_of(inspect.cleandoc(found[title]))}" for title in ("Returns", "Yields") if found.get(title)]
    if example := found.get("Example"):
        parts.append(f"```python\n{_code(example)}\n```")
    parts += [f"Source: {' '.join(found[title].split())}" for title in ("Source", "Sources") if found.get(title)]
    return "\n\n".join(part for part in parts if part)


def _code(example: str) -> str:
    """An example without what marks it as code in the docstring."""
    return inspect.cleandoc("\n" + example.lstrip("\n")).strip("`")


def plain(text: str) -> str:
    """Text in which Markdown finds no marks: help texts hold patterns such as "*/scan.nii.gz"."""
    return re.sub(r"([*_`<\[\]])", r"\\\1", text)


def in_table(text: str) -> str:
    """Text that can stand in a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")
