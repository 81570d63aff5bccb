"""The code blocks of the documentation, and what hidden comments say about running them.

A comment before a block, which no reader sees, says how tests run the page:

    <!-- skip: reason -->                          the next block is not run
    <!-- file: iou.toml -->                        the next block is the content of this file
    <!-- replace: nnseg demo => nnseg demo --steps 20 -->  in all further blocks of the page, when they are run
    <!-- setup                                     a shell script that is run here
    cp -r DATASET Task04_Hippocampus
    -->

The page's folder holds what its placeholders stand for: DATASET, SCANS, SERIES_FOLDER, REFERENCES, PREDICTIONS, RUN (trained),
model.nnseg and scan.nii.gz. Trainings are cut short: a time for all of them becomes a few steps.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "AGENTS.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [page for page in PAGES if page.exists()]

SHELL = ("sh", "bash")
"""Languages of blocks that a shell runs."""

STEPS = 12
"""Of a training."""

_PART = re.compile(
    r"^ *<!-- skip: (?P<skip>.+?) -->$"
    r"|^ *<!-- file: (?P<file>.+?) -->$"
    r"|^ *<!-- replace: (?P<old>.+?) => (?P<new>.*?) -->$"
    r"|^ *<!-- setup\n(?P<setup>.*?)^ *-->$"
    r"|^(?P<indent> *)```(?P<language>\w*)\n(?P<code>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)
_INLINE = re.compile(r"(?<!`)`(nnseg [^`]+)`(?!`)")
_OPERATORS = {"|", "||", "&", "&&", ";", ";;", "(", ")", ">", ">>", "<", "2>", "do", "then", "done", "else"}


@dataclass(frozen=True)
class Block:
    """A code block, or a hidden script.

    Args:
        line: of the page, from 1.
        language: "sh", "bash", "python", "setup", or as the page says.
        code: as the page shows it.
        skip: the reason why tests do not run it; empty if they do.
        replaced: pairs of texts, of which the second replaces the first when the block is run.
    """

    line: int
    language: str
    code: str
    skip: str = ""
    replaced: tuple[tuple[str, str], ...] = ()

    @property
    def run_as(self) -> str:
        """The code as tests run it."""
        code = re.sub(r"--budget \S+", f"--steps {STEPS}", re.sub(r"--more \S+", "--more 2s", self.code))
        for old, new in self.replaced:
            code = code.replace(old, new)
        return code


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> list[Block]:
    """The blocks and hidden scripts of a page, in order."""
    found, text, skip, file, replaced = list[Block](), page.read_text(), "", "", list[tuple[str, str]]()
    for part in _PART.finditer(text):
        line = text.count("\n", 0, part.start()) + 1
        if part["skip"]:
            skip = part["skip"]
        elif part["file"]:
            file = part["file"]
        elif part["old"]:
            replaced.append((part["old"], part["new"]))
        elif part["setup"] is not None:
            found.append(Block(line, "setup", part["setup"]))
        else:
            code = re.sub(rf"^{part['indent']}", "", part["code"], flags=re.MULTILINE)
            if file:
                found.append(Block(line, "setup", f"cat > {file} <<'END'\n{code}END\n"))
            else:
                found.append(Block(line, part["language"], code, skip, tuple(replaced)))
            skip = file = ""
    return found


def commands(script: str) -> Iterator[list[str]]:
    """The arguments of each nnseg command of a shell script, also of ``torchrun -m nnseg``."""
    for line in script.replace("\\\n", " ").splitlines():
        words = shlex.shlex(line, posix=True, punctuation_chars=True)
        words.whitespace_split = True
        arguments: list[str] | None = None
        before = ""  # the last word of the command, "" at its begin and after settings of variables
        for word in [*words, ";"]:
            if word in _OPERATORS:
                if arguments is not None:
                    yield arguments
                arguments, before = None, ""
            elif arguments is not None:
                arguments.append(word)
            elif before in ("", "-m") and (word == "nnseg" or word.endswith("bin/nnseg")):
                arguments = []
            elif before or not re.match(r"\w+=", word):
                before = word


def named_commands(page: Path) -> Iterator[str]:
    """The commands that stand in sentences and tables of a page, not in blocks."""
    text = _PART.sub("", page.read_text())
    yield from (" ".join(found.split()) for found in _INLINE.findall(text))
