"""What the values of predictions and references mean where nobody says it: the names on record, and all values and names found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from nnseg.core.dataset import counted
from nnseg.core.errors import EvaluationError, ScanError
from nnseg.core.image import Integers
from nnseg.core.label_files import LabelCoding, LabelFiles, LabelSource, label_paths
from nnseg.core.labels import Labels, Region
from nnseg.evaluation.label_folders import SEGMENTATION, LabelFolder
from nnseg.storage.images.formats import suffix_of
from nnseg.storage.images.label_codings import count_values
from nnseg.storage.images.read import read_label_map, read_marks, read_scan
from nnseg.system.parallel import map_items

FEW_VALUES = 16
"""No image with so few values is taken for a scan."""

ROUGH = 0.5
"""Where more than this share of neighbouring voxels differ, the values are intensities: labels are areas of one value."""

WITH_NAMES = (SEGMENTATION, ".nrrd", ".nhdr", ".png", ".tif", ".tiff", ".bmp", ".gif")
"""Suffixes of files that may say which label a voxel has by names or colours."""

BLACK = "#000000"
"""The colour of the background."""

MOST_NAMED = 6
"""Labels named in a note."""


_Named = tuple[str, frozenset[int]]
"""A name as it is written, and the values that headers give it."""


@dataclass(frozen=True, kw_only=True)
class Legend:
    """What the label maps of predictions and references show.

    Args:
        labels: of both.
        predictions, references: label maps by case, read so that voxels have the values of the labels.
        notes: how that was concluded, in one line each.
    """

    labels: Labels
    predictions: Mapping[str, LabelSource]
    references: Mapping[str, LabelSource]
    notes: tuple[str, ...] = ()


def find_legend(predictions: LabelFolder, references: LabelFolder, declared: Labels | None = None, *, workers: int = 1) -> Legend:
    """The labels of two folders: those declared or on record, and all that either folder shows besides.

    Args:
        predictions, references: of the same cases.
        declared: the labels, if they are known; only these are then allowed.
        workers: processes that read label maps.

    Raises:
        EvaluationError: a folder holds scans, or nothing but background; or what one shows cannot be matched with the other.
    """
    known, notes = declared or _on_record(predictions, references), list[str]()
    made, given = (_find_shown(folder, declared or folder.labels, known, workers) for folder in (predictions, references))
    labels = declared
    if labels is None:
        if not given.values and not given.names:
            raise EvaluationError(f"no reference in {references.path} has any label but background (0)")
        labels = _all_labels(made, given, known)
        notes += [_source_of(labels, (references, predictions)), *_differences(made, given, labels)]
    sources = [
        {name: _coded(folder, name, shown, labels) for name in folder.files}
        for folder, shown in ((predictions, made), (references, given))
    ]
    return Legend(labels=labels, predictions=sources[0], references=sources[1], notes=tuple(notes))


@dataclass(frozen=True, kw_only=True)
class _Content:
    """What a label map shows.

    Args:
        values: where values are labels, with that of the background.
        coding: how labels are named, if they are.
        names: of these, with the value that a header gives each, or None.
        intensities: what its values are, if they are those of a scan.
    """

    values: frozenset[int] = frozenset()
    coding: LabelCoding = "values"
    names: Mapping[str, int | None] = field(default_factory=dict)
    intensities: str = ""


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """What the label maps of a folder show besides background.

    Args:
        values: where values are labels.
        names: where labels are named: the names, and the values that headers give them, by `_plain` names.
        contents: of the cases that were read.
    """

    values: frozenset[int]
    names: Mapping[str, _Named]
    contents: Mapping[str, _Content]

    @property
    def only(self) -> int | None:
        """The value, if there is just one and nothing else."""
        return next(iter(self.values)) if len(self.values) == 1 and not self.names else None

    def differs_from(self, labels: Labels) -> bool:
        """True if its only value is not that of the only label, though it must mean that."""
        return len(labels.values) == 2 and self.only not in (None, labels.values[1])

    def of(self, labels: Labels) -> set[int]:
        """The values of the labels that it shows."""
        if self.differs_from(labels):
            return {labels.values[1]}
        return set(self.values & set(labels.values)) | {v for name, v in _by_plain_name(labels).items() if name in self.names}


def _find_shown(folder: LabelFolder, own: Labels | None, known: Labels | None, workers: int) -> _Shown:
    """What a folder shows: by its own labels where values are these, else by its files, which are read.

    Args:
        own: the labels that its values are.
        known: the labels as far as both folders are known, for the value of the background.
    """
    to_read = [name for name, source in sorted(folder.files.items()) if own is None or name in folder.masks or _may_name(source)]
    outcomes = list(map_items(partial(_content, folder), to_read, workers=workers, label=f"read labels of {folder.path.name}"))
    contents = {outcome.item: outcome.result for outcome in outcomes if outcome.result}
    _check_no_scans(folder, contents, [outcome.reason for outcome in outcomes if outcome.reason])
    names: dict[str, _Named] = {}
    for name, value in (named for content in contents.values() for named in content.names.items()):
        first, values = names.get(_plain(name), (name, frozenset[int]()))
        names[_plain(name)] = first, values | ({value} if value is not None else set())
    found = {value for content in contents.values() for value in content.values}
    found |= set(own.values) if own and len(to_read) < len(folder.files) else set()
    nothing = {known.values[0], known.ignore} if known else {0}
    return _Shown(values=frozenset(found - nothing), names=names, contents=contents)


def _may_name(source: LabelSource) -> bool:
    """True for a file that may say which label a voxel has by other means than its value."""
    return isinstance(source, Path) and suffix_of(source) in WITH_NAMES


def _content(folder: LabelFolder, name: str) -> _Content:
    """What the label map of a case shows.

    Raises:
        ScanError: it cannot be read.
    """
    if name in folder.masks:
        return _Content(coding="masks", names=dict.fromkeys(folder.masks[name]))
    source = folder.files[name]
    path = label_paths(source)[0]
    try:
        if isinstance(source, LabelFiles):  # of a dataset, with the values of its labels
            return _Content(values=frozenset(count_values(read_label_map(source, sheared=True).labels)))
        marked, _ = read_marks(source, sheared=True)
    except ScanError:
        if not _is_scan(path):
            raise
        return _Content(intensities=f"{path.name} has voxels that are no whole numbers")
    if marked.coding != "values":
        numbers = {segment.name: segment.value for segment in marked.segments}
        names = sorted({mark for marks in marked.marks for mark in marks} - {BLACK})
        return _Content(coding=marked.coding, names={name: numbers.get(name) for name in names})
    values = tuple(count_values(marked.codes))
    if _is_rough(marked.codes, len(values)):
        return _Content(intensities=f"{path.name} has {len(values)} different values, {values[0]} to {values[-1]}, in no areas")
    return _Content(values=frozenset(values))


def _is_scan(path: Path) -> bool:
    """True for a readable image whose values are no whole numbers."""
    try:
        image = read_scan(path, repair=True).image
    except ScanError:
        return False
    return bool((image != np.rint(image)).any())


def _is_rough(labels: Integers, count: int) -> bool:
    """True if neighbours within rows mostly differ, so that the values are intensities."""
    if count <= FEW_VALUES:
        return False
    one, other = labels[..., 1:], labels[..., :-1]
    return int(np.count_nonzero(one != other)) > ROUGH * int(np.count_nonzero((one != 0) | (other != 0)))


def _check_no_scans(folder: LabelFolder, contents: Mapping[str, _Content], failed: Sequence[str]) -> None:
    """Raise EvaluationError if most files are scans, or none can be read."""
    scans = [content.intensities for content in contents.values() if content.intensities]
    if 2 * len(scans) > len(contents):
        raise EvaluationError(f"{folder.path} holds scans, not label maps: {scans[0]}; give the folder with the label maps")
    if failed and len(failed) == len(folder.files):
        raise EvaluationError(f"none of {counted(len(failed), 'label map')} in {folder.path} can be read; the first: {failed[0]}")


def _on_record(predictions: LabelFolder, references: LabelFolder) -> Labels | None:
    """The labels that the folders' files name: those of the references first, with regions of either.

    Raises:
        EvaluationError: the folders name one value differently, or give one name two values.
    """
    given, made = references.labels, predictions.labels
    if given is None or made is None:
        return given or made
    meaning = dict(zip(given.values, map(_plain, given.names), strict=True)) | (
        {given.ignore: ""} if given.ignore is not None else {}
    )
    for value, name in [*zip(made.values, made.names, strict=True), *([(made.ignore, "")] if made.ignore is not None else [])]:
        others = [other for other, plain in meaning.items() if plain == _plain(name) and value != made.values[0]]
        if meaning.get(value, _plain(name)) != _plain(name) or any(other != value for other in others):
            other = f"{value} is {_meaning(given, value)}" if value in meaning else f"{name or 'the ignore value'} is {others[0]}"
            found = f"{value} is {_meaning(made, value)} by {predictions.named_by}, but {other} by {references.named_by}"
            raise EvaluationError(f"{found}; correct one of them, or say with --labels what the values of both mean")
    whole = given.model_copy(update={"ignore": given.ignore if given.ignore is not None else made.ignore})
    if made.regions and not given.regions:
        whole = whole.model_copy(update={"regions": made.regions})
    return _extended(whole, {v: name for v, name in zip(made.values, made.names, strict=True) if v not in given.values})


def _meaning(labels: Labels, value: int | None) -> str:
    return "the ignore value" if value == labels.ignore else dict(zip(labels.values, labels.names, strict=True))[value or 0]


def _all_labels(made: _Shown, given: _Shown, known: Labels | None) -> Labels:
    """The known labels, and those that predictions or references show besides.

    Raises:
        EvaluationError: what one shows cannot be matched with what the other shows.
    """
    if None not in (made.only, given.only) and made.only != given.only and (not known or len(known.values) == 2):
        return known or Labels(names=("background", "foreground"), values=(0, given.only or 0))
    named, taken = _by_plain_name(known) if known else {}, set(known.values) if known else {0}
    names = {plain: name for plain, name in _merged(made.names, given.names).items() if plain not in named}
    values = (made.values | given.values) - taken
    more = _numbered(names, values, taken)
    labels = _extended(known, dict(sorted((more | {v: f"label {v}" for v in values - set(more)}).items())))
    if made.of(labels) and not made.of(labels) & given.of(labels):
        shown = " and references ".join(_listed(labels, side.of(labels)) for side in (made, given))
        raise EvaluationError(f"predictions show {shown}, and nothing in common; name the values of both with --labels")
    return labels


def _merged(*sides: Mapping[str, _Named]) -> dict[str, _Named]:
    found: dict[str, _Named] = {}
    for plain, (name, values) in (item for side in sides for item in side.items()):
        found[plain] = name, values | found.get(plain, (name, frozenset()))[1]
    return found


def _numbered(names: Mapping[str, _Named], values: Collection[int], taken: Collection[int]) -> dict[int, str]:
    """Names by value: that which headers agree on if it is free, else the next free one.

    Args:
        values: that other label maps show without a name.
        taken: values of other labels.

    Raises:
        EvaluationError: names without a value may be those of values without a name.
    """
    counts = Counter(value for _, headers in names.values() for value in headers)
    agreed = {plain: min(of) if len(of) == 1 and counts[min(of)] == 1 else None for plain, (_, of) in names.items()}
    if len(names) == len(values) == 1:
        agreed = dict.fromkeys(names, min(values))
    elif values and None in agreed.values():
        without, shown = ", ".join(names[plain][0] for plain, v in agreed.items() if v is None), ", ".join(map(str, sorted(values)))
        raise EvaluationError(f"nothing says which of the values {shown} are {without}; say it with --labels or in a dataset.json")
    found: dict[int, str] = {}
    for plain, (name, _) in names.items():
        value, used = agreed[plain], {*taken, *found}
        found[next(v for v in range(len(used) + 1) if v not in used) if value is None or value in used else value] = name
    return found


def _extended(labels: Labels | None, more: Mapping[int, str]) -> Labels:
    """Labels with further ones, by value, each a region of its own where there are regions."""
    if labels is None:
        return Labels(names=("background", *more.values()), values=(0, *more))
    regions = [Region(name=name, values=(value,), paint=value) for value, name in more.items()] if labels.regions else []
    return Labels(
        names=(*labels.names, *more.values()),
        values=(*labels.values, *more),
        ignore=labels.ignore,
        regions=(*labels.regions, *regions),
    )


def _by_plain_name(labels: Labels) -> dict[str, int]:
    return {_plain(name): value for name, value in zip(labels.names[1:], labels.values[1:], strict=True)}


def _plain(name: str) -> str:
    """A name to compare: without case, spaces and separators."""
    return "".join(letter for letter in name.casefold() if letter.isalnum()) or name


def _source_of(labels: Labels, folders: Iterable[LabelFolder]) -> str:
    by = list(dict.fromkeys(folder.named_by for folder in folders if folder.labels))
    how = f"by {' and '.join(by)}" if by else "found in the label maps"
    return f"labels {how}: {labels.describe()}" + ("" if by else "; --labels or a dataset.json can name them")


def _differences(made: _Shown, given: _Shown, labels: Labels) -> list[str]:
    """What predictions and references do not both show, as far as it changes the scores."""
    if made.differs_from(labels) or given.differs_from(labels):
        return [f"predictions have the value {made.only}, references {given.only}: both are taken for {labels.names[1]}"]
    missing = [value for value in labels.values[1:] if value not in given.of(labels) and value in made.of(labels)]
    return [f"no reference shows {_listed(labels, missing)}: all that is predicted of it is false positive"] if missing else []


def _listed(labels: Labels, values: Iterable[int]) -> str:
    wanted = set(values)
    names = [f"{name} ({value})" for name, value in zip(labels.names, labels.values, strict=True) if value in wanted]
    return ", ".join(names[:MOST_NAMED]) + (f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else "")


def _coded(folder: LabelFolder, name: str, shown: _Shown, labels: Labels) -> LabelSource:
    """The label map of a case, read so that voxels have the values of the labels."""
    source, content = folder.files[name], shown.contents.get(name, _Content())
    paths, values = label_paths(source), _by_plain_name(labels)
    if content.coding == "masks":
        known = [
            (path, values[_plain(mask)]) for path, mask in zip(paths, folder.masks[name], strict=True) if _plain(mask) in values
        ]
        return LabelFiles(
            paths=tuple(path for path, _ in known), coding="masks", values={str(i): value for i, (_, value) in enumerate(known)}
        )
    if content.coding != "values":
        named = {name: values[_plain(name)] for name in content.names if _plain(name) in values}
        named |= {BLACK: labels.values[0]} if content.coding == "colours" else {}
        return LabelFiles(paths=paths, coding=content.coding, values=named)
    if shown.differs_from(labels):
        return LabelFiles(paths=paths, coding="masks", values={"0": labels.values[1]})
    return source
