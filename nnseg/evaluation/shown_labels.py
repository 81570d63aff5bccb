"""What the label maps of a folder show, by labels that are known or by the files, and how they are read by other labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from nnseg.core.dataset import Case, counted
from nnseg.core.errors import EvaluationError, ScanError
from nnseg.core.image import Integers
from nnseg.core.label_files import LabelFiles, LabelSource, label_paths
from nnseg.core.labels import Labels
from nnseg.evaluation.label_folder import SEGMENTATION, LabelFolder
from nnseg.storage.datasets.labels.meaning import find_meaning
from nnseg.storage.datasets.labels.request import BLACK, LabelMeaning, ShownLabels, show_labels
from nnseg.storage.images.formats import suffix_of
from nnseg.storage.images.read import read_marks, read_scan
from nnseg.system.parallel import map_items

FEW_VALUES = 16
"""No image with so few values is taken for a scan."""

ROUGH = 0.5
"""Where more than this share of neighbouring voxels differ, the values are intensities: labels are areas of one value."""

WITH_NAMES = (SEGMENTATION, ".nrrd", ".nhdr", ".mha", ".png", ".tif", ".tiff", ".bmp", ".gif")
"""Suffixes of files that may say which label a voxel has by names or colours."""

Named = tuple[str, frozenset[int]]
"""A name as it is written, and the values that headers give it."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """What the label maps of a folder show besides background.

    Args:
        labels: by which they are read; None if they show none.
        sources: the label maps, by case.
        shown: of the cases that were read.
        values: those of the labels that have no names.
        names: of the other labels, with the values that headers give them, by `plain` names.
        objects: labels whose values were numbers of objects.
    """

    labels: Labels | None
    sources: Mapping[str, LabelSource]
    shown: Mapping[str, ShownLabels]
    values: frozenset[int]
    names: Mapping[str, Named]
    objects: tuple[str, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)
    inferred: tuple[str, ...] = ()

    @property
    def shows_labels(self) -> bool:
        """True if there is more than background."""
        return bool(self.values or self.names)

    @property
    def only(self) -> int | None:
        """The value, if there is just one and no name."""
        return next(iter(self.values)) if len(self.values) == 1 and not self.names else None

    def targets(self, labels: Labels) -> dict[int, int]:
        """The value in the labels of both sides of each value of its own."""
        if self.labels is None:
            return {}
        if len(labels.values) == 2 and self.only not in (None, labels.values[1]):
            return {self.labels.values[0]: labels.values[0], self.labels.values[1]: labels.values[1]}
        by_name = by_plain_name(labels)
        found = {value: by_name.get(plain(name), value) for name, value in self.labels.by_name.items()}
        return found | {self.labels.values[0]: labels.values[0]}

    def of(self, labels: Labels) -> set[int]:
        """The values of the labels of both sides that it shows."""
        shown = {value for name, value in by_plain_name(self.labels).items() if name in self.names} if self.labels else set[int]()
        targets = self.targets(labels)
        return {targets[value] for value in shown | (self.values & set(targets))} & set(labels.values)

    def coded(self, labels: Labels) -> dict[str, LabelSource]:
        """Its label maps, read so that voxels have the values of the labels of both sides."""
        targets = self.targets(labels)
        return {name: self._coded(source, self.shown.get(name), targets) for name, source in self.sources.items()}

    def _coded(self, source: LabelSource, shown: ShownLabels | None, targets: Mapping[int, int]) -> LabelSource:
        moved = {value: target for value, target in targets.items() if value != target}
        if not moved:
            return source
        if isinstance(source, LabelFiles) and source.coding != "values":
            values, overlaps = ({key: targets.get(v, v) for key, v in of.items()} for of in (source.values, source.overlaps))
            return source.model_copy(update={"values": values, "overlaps": overlaps})
        if shown and shown.segments:
            names = {segment.name: targets.get(segment.value, segment.value) for segment in shown.segments}
            return LabelFiles(paths=label_paths(source), coding="segments", values=names)
        return LabelFiles(paths=label_paths(source), coding="masks", values={"0": next(iter(moved.values()))})


def look_at(folder: LabelFolder, own: Labels | None, known: Labels | None, workers: int) -> Side:
    """What a folder shows: by its own labels where values are these, else by its files, which are read.

    Args:
        own: the labels that its values are.
        known: the labels as far as both folders are known, for the value of the background.
    """
    sources, mask_labels = _numbered_masks(folder, known)
    own = mask_labels or own
    to_read = [name for name, source in sorted(sources.items()) if own is None or name in folder.masks or _may_name(source)]
    if not to_read:
        assert own is not None
        return Side(labels=own, sources=sources, shown={}, values=frozenset(), names=trusted(own), objects=folder.instances)
    outcomes = list(map_items(partial(_show, sources), to_read, workers=workers, label=f"reading labels of {folder.path.name}"))
    contents = {outcome.item: outcome.result for outcome in outcomes if outcome.result}
    failed = {outcome.item: outcome.reason for outcome in outcomes if outcome.reason}
    _check_no_scans(folder, contents, list(failed.values()))
    shown = {name: content for name, content in contents.items() if isinstance(content, ShownLabels)}
    if own is None and all(set(one.marks) <= {(), ("0",), (BLACK,)} for one in shown.values()):
        return Side(labels=None, sources=sources, shown={}, values=frozenset(), names={}, failed=failed)
    cases = [Case(name=name, images=label_paths(source), labels=source) for name, source in sources.items()]
    meaning = find_meaning(folder.path, cases, shown, declared=own, instances=folder.instances)
    side = _side(sources, shown, meaning, own, mask_labels)
    return replace(side, inferred=tuple(f"{folder.path}: {line}" for line in side.inferred))


def _side(
    sources: Mapping[str, LabelSource],
    shown: Mapping[str, ShownLabels],
    meaning: LabelMeaning,
    own: Labels | None,
    mask_labels: Labels | None,
) -> Side:
    labels, headers = meaning.labels, dict[str, set[int]]()
    failed = {finding.case: finding.message for finding in meaning.problems}
    for segment in (segment for one in shown.values() for segment in one.segments):
        headers.setdefault(plain(segment.name), set()).add(segment.value)
    unnamed = {value for name, value in labels.named.items() if own is None and name in ("foreground", f"label {value}")}
    numbered = any(one.coding != "values" for one in shown.values())  # in an order of its own, if not by a header
    names = {
        plain(name): (name, frozenset(headers.get(plain(name), () if numbered and (own is None or mask_labels) else (value,))))
        for name, value in labels.named.items()
        if value not in unnamed
    }
    return Side(
        labels=labels,
        sources={name: source for name, source in {**sources, **meaning.sources}.items() if name not in failed},
        shown=shown,
        values=frozenset(unnamed),
        names=names,
        objects=tuple(meaning.instances),
        failed=failed,
        inferred=meaning.inferred,
    )


def _numbered_masks(folder: LabelFolder, known: Labels | None) -> tuple[Mapping[str, LabelSource], Labels | None]:
    """The label maps of a folder with masks, and the labels by which the masks are numbered; None for other folders."""
    if not folder.masks:
        return folder.files, None
    by_name = by_plain_name(known) if known else {}
    names = {plain(name): name for masks in folder.masks.values() for name in masks}
    taken = [*(known.values if known else (0,))]
    for key in sorted(names.keys() - by_name.keys()):
        by_name[key] = next(value for value in range(len(taken) + 1) if value not in taken)
        taken.append(by_name[key])
    sources = {
        case: LabelFiles(
            paths=label_paths(folder.files[case]),
            coding="masks",
            values={str(i): by_name[plain(mask)] for i, mask in enumerate(masks)},
        )
        for case, masks in folder.masks.items()
        if case in folder.files
    }
    ordered = sorted((by_name[key], name) for key, name in names.items())
    return sources, Labels(names=("background", *(name for _, name in ordered)), values=(0, *(value for value, _ in ordered)))


def _may_name(source: LabelSource) -> bool:
    """True for a file that may say which label a voxel has by other means than its value."""
    return isinstance(source, Path) and suffix_of(source) in WITH_NAMES


def _show(sources: Mapping[str, LabelSource], name: str) -> ShownLabels | str:
    """What a label map shows, or how its values look like a scan's.

    Raises:
        ScanError: it cannot be read.
    """
    path = label_paths(sources[name])[0]
    try:
        marked, _ = read_marks(sources[name], sheared=True)
    except ScanError:
        if not _is_scan(path):
            raise
        return f"{path.name} has voxels that are no whole numbers"
    shown = show_labels(marked)
    if marked.coding == "values" and _is_rough(marked.codes, len(shown.marks)):
        values = sorted(int(value) for (value,) in shown.marks)
        return f"{path.name} has {len(values)} different values, {values[0]} to {values[-1]}, in no areas"
    return shown


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


def _check_no_scans(folder: LabelFolder, contents: Mapping[str, ShownLabels | str], failed: Sequence[str]) -> None:
    """Raise EvaluationError if most files are scans, or none can be read."""
    scans = [content for content in contents.values() if isinstance(content, str)]
    if 2 * len(scans) > len(contents):
        raise EvaluationError(f"{folder.path} holds scans, not label maps: {scans[0]}; give the folder with the label maps")
    if failed and len(failed) == len(folder.files):
        raise EvaluationError(f"none of {counted(len(failed), 'label map')} in {folder.path} can be read; the first: {failed[0]}")


def trusted(labels: Labels) -> dict[str, Named]:
    """The names of labels whose values are what they are called by."""
    return {plain(name): (name, frozenset((value,))) for name, value in labels.named.items()}


def by_plain_name(labels: Labels) -> dict[str, int]:
    """Values by `plain` name, without the background's."""
    return {plain(name): value for name, value in labels.named.items()}


def plain(name: str) -> str:
    """A name to compare: without case, spaces and separators."""
    return "".join(letter for letter in name.casefold() if letter.isalnum()) or name
