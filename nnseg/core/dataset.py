"""Cases, datasets, and their division into folds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from nnseg.core.labels import Labels


class Finding(BaseModel):
    """Something seen while looking through a dataset.

    Args:
        level: "error" costs the case, "warning" deserves a look, "note" says what was done about it.
        message: what was found, what was expected, what to do, in one line.
        case: the case's name, if it is about one.
        file: the file it is about.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    level: Literal["error", "warning", "note"]
    message: str
    case: str = ""
    file: str = ""

    def __str__(self) -> str:
        place = f"case {self.case}: " if self.case else ""
        return f"{place}{self.message}" + (f" ({self.file})" if self.file and self.file not in self.message else "")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One examination on disk.

    Args:
        name: unique in its dataset.
        images: one file, or one file per channel, in channel order; a folder stands for a DICOM series.
        labels: the file of its label map, if known.
    """

    name: str
    images: tuple[Path, ...]
    labels: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A collection of labelled cases.

    Args:
        name: as its folder or its dataset.json calls it.
        folder: where it lies; never written to.
        layout: how the folder is organised, in words: "Medical Segmentation Decathlon layout".
        cases: sorted by name.
        channels: a name per channel: "MRI", "CT", ...
        labels: what the label values mean.
        suffix: of its image files, with the dot.
        findings: what was wrong with the folder itself; cases named in errors are not in ``cases``.
    """

    name: str
    folder: Path
    layout: str
    cases: tuple[Case, ...]
    channels: tuple[str, ...]
    labels: Labels
    suffix: str
    findings: tuple[Finding, ...] = ()

    def describe(self) -> str:
        """One line for people: layout, cases, channels, labels."""
        channels = f"{counted(len(self.channels), 'channel')} ({', '.join(self.channels)})"
        return f"{self.layout}, {counted(len(self.cases), 'case')}, {channels}, labels {self.labels.describe()}"


def counted(number: int, noun: str) -> str:
    """A number with its noun: "1 case", "2 cases"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


@dataclass(frozen=True, kw_only=True)
class Fold:
    """One division of the cases: names to train on, names held out to score."""

    training: tuple[str, ...]
    held_out: tuple[str, ...]


def make_folds(names: list[str], *, count: int = 5, seed: int = 12345, blocks: bool = False) -> tuple[Fold, ...]:
    """Divide cases into folds so that each is held out once.

    With the default seed the folds are nnU-Net's (scikit-learn's shuffled KFold over sorted names), so that both tools can be
    compared case by case. Fewer cases than folds give leave-one-out; a single case trains without held-out cases.

    Args:
        names: of all cases.
        count: folds wanted.
        seed: of the shuffle.
        blocks: keep neighbours in name order together instead of shuffling: for slices of one stack.
    """
    ordered = sorted(names)
    if len(ordered) == 1:
        return (Fold(training=(ordered[0],), held_out=()),)
    order = np.arange(len(ordered))
    if not blocks:
        np.random.RandomState(seed).shuffle(order)
    folds = []
    for part in np.array_split(order, min(count, len(ordered))):
        out = {ordered[i] for i in part}
        folds.append(Fold(training=tuple(n for n in ordered if n not in out), held_out=tuple(n for n in ordered if n in out)))
    return tuple(folds)
