"""`Challenge`: what a challenge asks of the files of a submission, read from a TOML file."""

from __future__ import annotations

import datetime
import re
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Final, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from nnseg.core.frozen import FrozenModel
from nnseg.core.validation import Positive, parse
from nnseg.storage.images.formats import suffix_of
from nnseg.storage.images.write import check_label_suffix
from nnseg.storage.presets import find_preset, read_preset

NumberType = Literal["uint8", "int16", "uint16", "int32", "float32"]
"""Types of numbers that files of submissions can hold."""

UNCOMPRESSED_TOO: Final = (".mha", ".nrrd", ".tif", ".tiff")
"""Suffixes of files that may be compressed or not; of others the suffix says whether they are."""

OWN_FIELDS: Final = ("case", "ordinal")
"""What names of files may contain besides the groups of the expression for cases."""


class Names(FrozenModel):
    """How the files are named.

    Args:
        case: regular expression for the whole name of a case; its named groups may stand in ``file``.
        file: path in the archive, with {case}, {ordinal} and the expression's groups.
        words: by group, what is written for each text that it matches.
        ordinals: what {ordinal} stands for: cases that agree in all groups get these in the order of their names, one each.
        count: number of the files that are asked for; 0 if it is not fixed.
        pages: the slices of all cases, in the order of their names, are the pages of one file.
    """

    case: str = ".+"
    file: str
    words: dict[str, dict[str, str]] = {}
    ordinals: tuple[str, ...] = ()
    count: Annotated[int, Field(ge=0)] = 0
    pages: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            groups = {*re.compile(self.case).groupindex}
            fields = {name for _, name, _, _ in Formatter().parse(self.file) if name is not None}
        except (re.error, ValueError) as error:
            raise ValueError(f"case and file must be an expression and a text with names in braces: {error}") from None
        if groups & {*OWN_FIELDS}:
            raise ValueError(f"a group of the expression cannot be named {min(groups & {*OWN_FIELDS})}")
        if unknown := fields - groups - {*OWN_FIELDS}:
            raise ValueError(f"file has {{{min(unknown)}}}, which is none of {', '.join([*OWN_FIELDS, *sorted(groups)])}")
        if unknown := {*self.words} - groups:
            raise ValueError(f"words.{min(unknown)} is no group of the expression for cases")
        if bool(self.ordinals) != ("ordinal" in fields):
            raise ValueError("ordinals and {ordinal} in file go together")
        if self.pages and fields:
            raise ValueError("pages of one file: its name cannot depend on the case")
        return self


class Pixels(FrozenModel):
    """What the files hold.

    Args:
        content: label maps, or probabilities.
        probability_of: the "foreground" of all labels, the "background", or a label or region of the model by name.
        type: of the numbers.
        values: that label maps may hold.
        meaning: what each of them means, for people.
        rewrite: values that are written, by name of a label of the model, or by its value, if it has it; others keep theirs.
        shape: voxels along x, y and z, or x and y; () for those of the scan.
        orientation: letters of L, R, A, P, S, I to which the stored axes x, y, z lead; "" for the axes of the scan.
        compressed: whether the numbers are; None where it does not matter.
    """

    content: Literal["labels", "probabilities"] = "labels"
    probability_of: str = "foreground"
    type: NumberType = "uint8"
    values: tuple[int, ...] = ()
    meaning: dict[str, str] = {}
    rewrite: dict[str, int] = {}
    shape: tuple[Annotated[int, Field(ge=1)], ...] = ()
    orientation: Annotated[str, Field(pattern="^([LRAPSI]{3})?$")] = ""
    compressed: bool | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.content == "probabilities") != (self.type == "float32"):
            raise ValueError("probabilities are float32, and label maps whole numbers")
        if (self.content == "labels") != bool(self.values):
            raise ValueError("label maps need values, and probabilities have none")
        if self.content == "labels":
            held = np.iinfo(self.type)
            if wrong := [v for v in (*self.values, *self.rewrite.values()) if not held.min <= v <= held.max]:
                raise ValueError(f"{wrong[0]} is no {self.type}")
        if self.orientation and len({AXES[letter] for letter in self.orientation}) < 3:
            raise ValueError(f'orientation "{self.orientation}" needs one letter of LR, AP and SI each')
        return self


AXES: Final = {"S": 0, "I": 0, "P": 1, "A": 1, "L": 2, "R": 2}
"""The axis (z, y, x) of a grid in canonical orientation that leads to or from a side."""


class Listing(FrozenModel):
    """A JSON file with an entry for each case.

    Args:
        file: its path in the archive.
        entry: of a case; in its texts {case} stands for the name, {file} for the path in the archive, {scan} for the scan's file.
    """

    file: str
    entry: dict[str, Any]


class Limits(FrozenModel):
    """What a program may take for a scan where the challenge runs it; ``nnseg profile`` compares with it.

    Args:
        device: that it must run on.
        seconds: for a scan.
        ram_gb, device_gb: of memory at most.
    """

    device: Literal["", "cpu", "cuda"] = ""
    seconds: Positive | None = None
    ram_gb: Positive | None = None
    device_gb: Positive | None = None


class Challenge(FrozenModel):
    """The rules of a challenge.

    Args:
        name: of the file, without its suffix.
        title: of the challenge.
        source: where each rule is stated.
        checked: when that was looked at.
        remarks: what cannot be checked.
        archive: name of the archive that is submitted.
        names, pixels: of the files.
        listing: a further file.
        limits: of programs.
    """

    name: str
    title: str
    source: Annotated[tuple[str, ...], Field(min_length=1)]
    checked: datetime.date
    remarks: tuple[str, ...] = ()
    archive: Annotated[str, Field(pattern=r"^[\w.-]+\.zip$")] = "submission.zip"
    names: Names
    pixels: Pixels
    listing: Listing | None = None
    limits: Limits = Limits()

    @property
    def suffix(self) -> str:
        """Of the files."""
        return suffix_of(Path(self.names.file))

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_label_suffix(self.suffix)
        if self.pixels.compressed is not None and self.suffix not in UNCOMPRESSED_TOO:
            raise ValueError(f"pixels.compressed: of {self.suffix} the suffix says whether it is")
        if self.names.pages and self.suffix not in (".tif", ".tiff"):
            raise ValueError(f"names.pages: {self.suffix} has no pages")
        return self


def load_challenge(name: str | Path) -> Challenge:
    """The rules of a challenge by the name of its preset ("acdc", "kits", ...) or in a file.

    A file that begins with ``based_on = "acdc"`` needs only what differs from that preset.

    Raises:
        PlanError: there are no such rules, or they name a setting that does not exist.

    Example:
        >>> load_challenge("acdc").pixels.values
        (0, 1, 2, 3)
    """
    shipped = shipped_challenges()
    path = find_preset(str(name), shipped, "challenge")
    content = read_preset(path, shipped, "challenge")
    return parse(Challenge, {**content, "name": path.stem}, f"challenge {path.name}")


def shipped_challenges() -> dict[str, Path]:
    """The files of the rules that come with nnseg, by name."""
    return {path.stem: path for path in sorted(Path(__file__).parent.glob("*.toml"))}
