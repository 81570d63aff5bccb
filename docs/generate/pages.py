"""What is done to each page's Markdown before Sphinx reads it: contents and generated parts are put in, links are adapted."""

from __future__ import annotations

import os.path
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from generate import api, commands, files, metrics, settings

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent

CONTENTS = {
    "index": {
        "Tutorials": ["tutorials/first-model", "tutorials/hippocampus", "tutorials/*"],
        "How to": [
            *["how-to/install", "how-to/own-folders", "how-to/training", "how-to/budgets", "how-to/predicting", "how-to/scoring"],
            *["how-to/python", "how-to/gpu", "how-to/clusters", "how-to/*"],
        ],
        "Concepts": [
            *["concepts/fingerprint", "concepts/plan", "concepts/budget", "concepts/folds", "concepts/ensembles"],
            *["concepts/trust", "concepts/*", "when-not-to-use-it"],
        ],
        "Reference": [
            *[
                "reference/index",
                "reference/commands",
                "reference/plan",
                "reference/recipes",
                "reference/challenges",
                "reference/run-folder",
            ],
            *["reference/*", "json", "layouts", "label-maps", "formats", "findings", "limits"],
        ],
        "Help": ["troubleshooting"],
        "Development": ["architecture", "development/*", "decisions/README"],
    },
    "decisions/README": {"Decisions": ["decisions/[a-z]*"]},
}
"""Sections of the contents of a page, and their pages in this order; those that a pattern finds are sorted by name."""

COPIES = {
    "reference/programs": "AGENTS.md",
    "development/contributing": "CONTRIBUTING.md",
    "development/changelog": "CHANGELOG.md",
    "development/results": "benchmarks/RESULTS.md",
    "development/scale": "benchmarks/SCALE.md",
    "development/security": "SECURITY.md",
}
"""Pages whose text is that of a file outside docs/."""

GENERATED: dict[str, Callable[[], str]] = {
    "commands": commands.commands,
    "plan-keys": settings.plan_keys,
    "recipe-keys": settings.recipe_keys,
    "weights-keys": settings.weights_keys,
    "challenge-keys": settings.challenge_keys,
    "run-folder": files.run_folder,
    "json-files": files.json_files,
    "json-results": files.json_results,
    "metrics": metrics.metrics,
    "three-averages": metrics.three_averages,
    "api": api.api,
}
"""What a line such as ``<!-- generated: commands -->`` is replaced by."""

_LINK = re.compile(r"(?<=\]\()([^)\s#:]+)(#[^)\s]*)?(?=\))")
_GENERATED = re.compile(r"^<!-- generated: ([a-z-]+) -->$", re.MULTILINE)
_FENCE = re.compile(r"^ *(```|~~~)")


def connect(app: Any) -> None:
    """Have Sphinx pass each page through `page_text`."""

    def change(_app: Any, name: str, source: list[str]) -> None:
        if name in COPIES:
            app.env.note_dependency(str(ROOT / COPIES[name]))
        source[0] = page_text(name, source[0])

    app.connect("source-read", change)


def page_text(name: str, text: str) -> str:
    """The Markdown that Sphinx reads.

    Args:
        name: of the page, its path below docs/ without suffix.
        text: of its file.
    """
    source = ROOT / COPIES[name] if name in COPIES else DOCS / f"{name}.md"
    if name in COPIES:
        text = source.read_text(encoding="utf-8")
    text = _GENERATED.sub(lambda found: GENERATED[found[1]](), text)
    text = _with_links(text, source, DOCS / name)
    return text + "".join(_tree(title, patterns) for title, patterns in CONTENTS.get(name, {}).items())


def _with_links(text: str, source: Path, page: Path) -> str:
    """Text whose relative links, which hold from ``source``, hold from ``page``."""
    homes = {ROOT / file: DOCS / f"{name}.md" for name, file in COPIES.items()} | {ROOT / "README.md": DOCS / "index.md"}

    def moved(link: re.Match[str]) -> str:
        target = Path(os.path.normpath(source.parent / link[1]))
        return os.path.relpath(homes.get(target, target), page.parent) + (link[2] or "")

    lines, fenced = [], False
    for line in text.split("\n"):
        fenced ^= bool(_FENCE.match(line))
        lines.append(line if fenced else _LINK.sub(moved, line))
    return "\n".join(lines)


def pages_of(patterns: list[str]) -> list[str]:
    """Names of the pages of a section, in order."""
    found = (file for pattern in patterns for file in sorted(DOCS.glob(f"{pattern}.md")))
    return list(dict.fromkeys(str(file.relative_to(DOCS).with_suffix("")) for file in found))


def _tree(title: str, patterns: list[str]) -> str:
    """The table of contents that makes a section of the navigation; on the page itself it is not shown."""
    names = [f"/{name}" for name in pages_of(patterns)]
    return "\n".join(["", "", "```{toctree}", f":caption: {title}", ":hidden:", "", *names, "```", ""]) if names else ""
