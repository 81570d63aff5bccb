"""``llms.txt`` beside the site: a line and a link for each page and each command, for programs that read documentation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from docutils import nodes

from generate.commands import helps
from generate.pages import CONTENTS, pages_of

LONGEST = 200
"""Characters of a line."""


def connect(app: Any) -> None:
    """Have Sphinx write the file when the pages are done."""
    app.connect("build-finished", _write)


def _write(app: Any, error: Exception | None) -> None:
    if error is None and app.builder.name == "html":
        (Path(app.outdir) / "llms.txt").write_text(_text(app), encoding="utf-8")


def _text(app: Any) -> str:
    lines = [f"# {app.config.project}", "", f"> {_first_sentence(app.env.get_doctree('index'))}"]
    for section, patterns in CONTENTS["index"].items():
        lines += ["", f"## {section}", ""]
        for name in pages_of(patterns):
            sentence = _first_sentence(app.env.get_doctree(name))
            lines.append(f"- [{app.env.titles[name].astext()}]({name}.html): {sentence}")
    lines += ["", "## Commands", ""]
    lines += [f"- [nnseg {name}](reference/commands.html): {_shortened(text)}" for name, text in helps()]
    return "\n".join(lines) + "\n"


def _first_sentence(page: nodes.document) -> str:
    """The first sentence of a page below its title."""
    paragraph = next((one for one in page.findall(nodes.paragraph) if isinstance(one.parent, nodes.section)), None)
    return _shortened(" ".join(paragraph.astext().split()) if paragraph else "")


def _shortened(text: str) -> str:
    """The first sentence of a text."""
    sentence = re.split(r"(?<=[.:!?]) (?=[A-Z`])", text)[0]
    return sentence if len(sentence) <= LONGEST else sentence[:LONGEST].rpartition(" ")[0] + " ..."
