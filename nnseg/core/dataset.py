"""Cases, datasets, and their division into folds."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
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
        annotated: names of the labels that were annotated in it; None for all. The others may be there, called background.
    """

    name: str
    images: tuple[Path, ...]
    labels: Path | None = None
    annotated: tuple[str, ...] | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """All that it is made of: images, and the label map if there is one."""
        return (*self.images, self.labels) if self.labels else self.images


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
        instances: names of labels whose connected components count one by one, as lesions do.
        findings: what was wrong with the folder itself; cases named in errors are not in ``cases``.
        about: what its makers say of it: "description", "licence", "reference", "release".
    """

    name: str
    folder: Path
    layout: str
    cases: tuple[Case, ...]
    channels: tuple[str, ...]
    labels: Labels
    suffix: str
    instances: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    about: Mapping[str, str] = field(default_factory=dict)

    def describe(self) -> str:
        """One line for people: layout, cases, channels, labels."""
        channels = f"{counted(len(self.channels), 'channel')} ({', '.join(self.channels)})"
        return f"{self.layout}, {counted(len(self.cases), 'case')}, {channels}, labels {self.labels.describe()}"


def counted(number: int, noun: str) -> str:
    """A number with its noun: "1 case", "2 cases"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def listed(names: Collection[str], most: int = 5) -> str:
    """Cases by name, not too many: "case a", "cases a, b and 3 more"."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{'case' if len(names) == 1 else 'cases'} {', '.join(sorted(names)[:most])}{more}"


@dataclass(frozen=True, kw_only=True)
class Fold:
    """One division of the cases: names to train on, names held out to score."""

    training: tuple[str, ...]
    held_out: tuple[str, ...]


def make_folds(
    names: Collection[str],
    *,
    count: int = 5,
    seed: int = 12345,
    blocks: bool = False,
    groups: Mapping[str, str] | None = None,
    labels: Mapping[str, Collection[str]] | None = None,
) -> tuple[Fold, ...]:
    """Divide cases into folds so that each is held out once, and with it every case of its group.

    With the default seed the folds are nnU-Net's (scikit-learn's shuffled KFold over sorted names), so that both tools can be
    compared case by case; groups of several cases, and labels that a training part would lack, are the reasons to deviate.
    Fewer cases or groups than folds give leave-one-out; a single one trains without held-out cases.

    Args:
        names: of all cases.
        count: folds wanted.
        seed: of the shuffle.
        blocks: keep neighbours in name order together instead of shuffling: for slices of one stack. Groups have precedence.
        groups: the group of each case, its patient for instance; a group is never divided.
        labels: the labels that each case shows; every training part shows all of them if that can be, except with blocks.
    """
    ordered = sorted(names)
    units = _units(ordered, groups or {})
    if len(units) == 1:
        return (Fold(training=tuple(ordered), held_out=()),)
    sizes, count, blocks = [len(unit) for unit in units], min(count, len(units)), blocks and not groups
    order = np.arange(len(units))
    if not blocks:
        np.random.RandomState(seed).shuffle(order)
    places = _balanced(sizes, order.tolist(), count) if max(sizes) > 1 else _even(order, count)
    if labels and not blocks:
        places = _repaired(places, sizes, _carriers(units, labels))
    fold_of = {name: place for unit, place in zip(units, places, strict=True) for name in unit}
    return tuple(
        Fold(training=tuple(n for n in ordered if fold_of[n] != i), held_out=tuple(n for n in ordered if fold_of[n] == i))
        for i in range(count)
    )


def missing_labels(folds: Sequence[Fold], labels: Mapping[str, Collection[str]]) -> tuple[Finding, ...]:
    """A warning for each label that a fold cannot learn, because none of its training cases shows it.

    Args:
        folds: to be checked.
        labels: the labels that each case shows.
    """
    findings = []
    for number, fold in enumerate(folds):
        seen = {label for name in fold.training for label in labels[name]}
        for label in sorted({label for shown in labels.values() for label in shown} - seen):
            cases = [name for name in sorted(labels) if label in labels[name]]
            left = "holds out" if set(cases) <= set(fold.held_out) else "does not train on"
            message = f"label {label} occurs only in {listed(cases)}, which fold {number} {left}: that fold cannot learn it"
            findings.append(Finding(level="warning", message=f"{message}; add cases that show it"))
    return tuple(findings)


def _units(ordered: Sequence[str], groups: Mapping[str, str]) -> list[list[str]]:
    """Cases that stay together: those of each group, or each alone; in the order of their first names."""
    units: dict[str, list[str]] = {}
    for name in ordered:
        units.setdefault(groups[name] if groups else name, []).append(name)
    return list(units.values())


def _even(order: npt.NDArray[np.int_], count: int) -> list[int]:
    """The fold of each unit of one case: neighbours in the given order share one."""
    places = np.empty_like(order)
    for fold, part in enumerate(np.array_split(order, count)):
        places[part] = fold
    return [int(place) for place in places]


def _balanced(sizes: Sequence[int], order: Sequence[int], count: int) -> list[int]:
    """The fold of each unit: the largest goes first, into the fold with the fewest cases; among equals the order decides."""
    places, filled = [0] * len(sizes), [0] * count
    for unit in sorted(order, key=lambda unit: -sizes[unit]):
        places[unit] = filled.index(min(filled))
        filled[places[unit]] += sizes[unit]
    return places


def _carriers(units: Sequence[Sequence[str]], labels: Mapping[str, Collection[str]]) -> list[list[int]]:
    """The units that show each label, for labels that can be both trained on and held out: those of several units."""
    carriers: dict[str, list[int]] = {}
    for i, unit in enumerate(units):
        for label in sorted({label for name in unit for label in labels[name]}):
            carriers.setdefault(label, []).append(i)
    return [found for _, found in sorted(carriers.items()) if len(found) > 1]


def _repaired(places: Sequence[int], sizes: Sequence[int], carriers: Sequence[Sequence[int]]) -> list[int]:
    """The fold of each unit, changed as little as it takes for no label's carriers to be all in one fold.

    Step by step a label is mended by the change that leaves fewest such labels, then the one that alters the folds' sizes least.
    Four labels in five folds can always be mended; with many the search may end early, and `missing_labels` names what is left.
    """
    places = list(places)
    wanted = np.bincount(places, sizes)

    def cost(candidate: Sequence[int]) -> tuple[int, float]:
        return len(_gathered(candidate, carriers)), float(np.abs(np.bincount(candidate, sizes) - wanted).sum())

    while gathered := _gathered(places, carriers):
        changes = (min(_changes(places, found), key=cost, default=places) for found in gathered)
        better = next((changed for changed in changes if cost(changed)[0] < len(gathered)), None)
        if better is None:
            break
        places = better
    return places


def _gathered(places: Sequence[int], carriers: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    """Those carriers of a label that are all in one fold, whose training part therefore lacks it."""
    return [found for found in carriers if all(places[unit] == places[found[0]] for unit in found)]


def _changes(places: Sequence[int], movers: Sequence[int]) -> Iterator[list[int]]:
    """All ways to let one of the movers change places with a unit of another fold, or go there and leave others behind."""
    for unit in movers:
        for other, fold in enumerate(places):
            if fold != places[unit]:
                changed = list(places)
                changed[unit], changed[other] = fold, places[unit]
                yield changed
        for fold in sorted(set(places) - {places[unit]}):
            if places.count(places[unit]) > 1:
                changed = list(places)
                changed[unit] = fold
                yield changed
