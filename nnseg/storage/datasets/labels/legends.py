"""Names of the colours of label maps: legends that lie beside them, and the palettes of pictures."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from nnseg.core.errors import DatasetError, is_fault
from nnseg.core.limits import PILLOW_FORMATS
from nnseg.storage.bounded import parse_json, read_text
from nnseg.system.regular import open_regular

CODE = re.compile(r"#[0-9a-f]{6}")
NAMES, COLOURS = ("name", "label", "class", "title"), ("color", "colour", "rgb", "color_rgb")
"""Keys of a legend's entries in JSON and in tables."""


@dataclass(frozen=True, kw_only=True)
class ColourLegend:
    """The names of colours.

    Args:
        names: by colour, "#rrggbb", in the order of the file.
    """

    path: Path
    names: Mapping[str, str]

    def below(self, folder: Path) -> str:
        """Its path, in a folder if it lies there."""
        return str(self.path.relative_to(folder) if self.path.is_relative_to(folder) else self.path)


def find_legend(folders: Iterable[Path]) -> ColourLegend | None:
    """The legend in the first of some folders that has one.

    Raises:
        DatasetError: it cannot be read as names and colours.
    """
    for folder in dict.fromkeys(folders):
        for name, read in LEGENDS.items():
            path = folder / name
            if path.is_file():
                return ColourLegend(path=path, names=_names(path, read))
    return None


def _names(path: Path, read: Callable[[str], list[tuple[str, Any]]]) -> dict[str, str]:
    try:
        entries = [(name, colour_code(colour)) for name, colour in read(read_text(path))]
    except (OSError, ValueError, LookupError, TypeError, ArithmeticError, RecursionError, StopIteration, csv.Error) as error:
        found, expected = f"is no legend of colours ({error})", "a name and a colour a line"
        raise DatasetError.at(path, found, expected, "correct or remove it") from error
    names = {code: name for name, code in entries}
    if len(names) < len(entries) or len(set(names.values())) < len(entries) or not entries:
        raise DatasetError.at(path, "names a colour twice, or none", "each name and each colour once", "correct or remove it")
    return names


def colour_code(colour: Any) -> str:
    """A colour as "#rrggbb", of that or of three numbers 0 to 255.

    Raises:
        ValueError: it is none.
    """
    if isinstance(colour, str) and CODE.fullmatch(colour.strip().lower()):
        return colour.strip().lower()
    parts = re.split(r"[,; ]+", colour.strip("()[] ")) if isinstance(colour, str) else list(colour)
    red, green, blue = (int(part) for part in parts[:3])
    if not all(0 <= part < 256 for part in (red, green, blue)):
        raise ValueError(f"{colour!r} is no colour")
    return f"#{red:02x}{green:02x}{blue:02x}"


def read_palette(path: Path) -> dict[int, str]:
    """The colours of a picture's palette by index; {} if it has none."""
    try:
        with open_regular(path) as file, Image.open(file, formats=PILLOW_FORMATS) as image:
            flat = (image.getpalette() if image.mode == "P" else None) or []
    except OSError as error:
        if is_fault(error):
            raise
        return {}
    return {i: colour_code(flat[3 * i : 3 * i + 3]) for i in range(len(flat) // 3)}


def _labelmap(text: str) -> list[tuple[str, Any]]:
    """CVAT's labelmap.txt: "name:r,g,b:parts:actions" a line, comments behind #. Source: CVAT, format "segmentation mask"."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(parts[0], parts[1]) for parts in (line.split(":") for line in lines)]


def _table(text: str) -> list[tuple[str, Any]]:
    """A table of names and colours, with a header or without: "name,r,g,b" a line."""
    rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines()) if any(row)]
    return [(row[0], row[1] if CODE.fullmatch(row[1].lower()) else row[1:4]) for row in rows if not _is_header(row)]


def _is_header(row: list[str]) -> bool:
    return not any(cell.isdecimal() or CODE.fullmatch(cell.lower()) for cell in row[1:])


def _json(text: str) -> list[tuple[str, Any]]:
    """An object of colours by name, or a list of objects with a name and a colour."""
    content = parse_json(text)
    if isinstance(content, dict) and all(not isinstance(value, dict) for value in content.values()):
        return list(content.items())
    entries = content.values() if isinstance(content, dict) else content
    return [(next(e[k] for k in NAMES if k in e), next(e[k] for k in COLOURS if k in e)) for e in entries]


LEGENDS: dict[str, Callable[[str], list[tuple[str, Any]]]] = {
    "labelmap.txt": _labelmap,
    **dict.fromkeys(("classes.csv", "colors.csv", "colours.csv", "class_dict.csv", "labels.csv"), _table),
    **dict.fromkeys(("classes.json", "colors.json", "colours.json", "labels.json"), _json),
}
"""Files that name colours, and how each is read: (text) -> names and colours."""
