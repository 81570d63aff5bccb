"""Layouts of dataset folders, each a function that returns the cases and what is wrong with them."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

from nnseg.core.dataset import Case, Finding, Reading, Unused, counted, shown
from nnseg.core.errors import DatasetError
from nnseg.core.label_files import LabelFiles, LabelSource
from nnseg.storage.datasets.bids import bids
from nnseg.storage.datasets.dataset_json import CaseEntry, Description, read_description
from nnseg.storage.datasets.find_cases import image_files, image_name, suffixes_found
from nnseg.storage.datasets.infer import FoundDataset, infer, wrong_count
from nnseg.storage.datasets.names import folder_role
from nnseg.storage.datasets.tree import Tree, walk
from nnseg.storage.images.formats import known_suffixes

OPTIONS = 'name them with --images and --labels, such as --images "*/image.nii.gz" --labels "*/labels.nii.gz"'


def find_layout(folder: Path, reading: Reading) -> FoundDataset:
    """The cases of a folder, by the first of the `LAYOUTS` that it has, or by the one that is asked for.

    Raises:
        DatasetError: no such folder or layout, an unreadable dataset.json, no known layout or several, or no usable case.
    """
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "there is no such folder"
        raise DatasetError.at(folder, found, "a folder with a dataset", "check the path")
    if reading.layout and reading.layout not in LAYOUTS:
        raise DatasetError(f'there is no layout "{reading.layout}"; write one of {", ".join(LAYOUTS)}')
    path = folder / "dataset.json"
    description = read_description(path) if path.is_file() else None
    tree = walk(folder)
    tried = [LAYOUTS[reading.layout]] if reading.layout else LAYOUTS.values()
    dataset = next(filter(None, (layout(tree, description, reading) for layout in tried)), None)
    if dataset is None:
        raise _unknown(tree)
    if not dataset.cases:
        errors = [f for f in dataset.findings if f.level == "error"]
        first = f"; the first of {len(errors)} problems: {errors[0]}" if errors else ""
        wrong = f"has no usable case ({dataset.layout}; {len(errors)} errors){first}"
        raise DatasetError.at(folder, wrong, "at least one image with a label map", "correct the files named")
    cases = (replace(case, spacing=reading.spacing) for case in dataset.cases)
    return replace(dataset, cases=tuple(sorted(cases, key=lambda c: c.name)), reading=reading)


def _unknown(tree: Tree) -> DatasetError:
    """The error for a folder of no known layout, with what recurs in its folders."""
    folders = sorted(p for p in tree.root.iterdir() if p.is_dir() and not p.name.startswith("."))
    for folder in folders:
        role = folder_role(folder.name)
        if role in ("image", "label") and not any(item.folders[:1] == (folder.name,) or item.path == folder for item in tree.items):
            found = f"holds no image; found {suffixes_found(folder)}"
            return DatasetError.at(folder, found, f"files with one of {known_suffixes()}", "convert the files")
    recurring = Counter(item.path.name for item in tree.items if item.folders)
    repeated = [f"{name} in {n} folders" for name, n in recurring.most_common(5) if n > 1]
    inside = shown([f"{p.name}/" for p in folders], 3) or "no folders"
    names = f"; {', '.join(repeated)}" if repeated else ""
    wrong = f"has no known layout of a dataset; found {inside} and files: {suffixes_found(tree.root)}{names}"
    expected = "dataset.json, or images/ with labels/, or names that tell label maps from images"
    return DatasetError.at(tree.root, wrong, expected, OPTIONS if tree.items else "convert the files")


def listed_cases(tree: Tree, description: Description | None, reading: Reading) -> FoundDataset | None:
    """The cases that dataset.json lists; None if it lists none, or if patterns are given."""
    if description is None or description.entries is None or reading.images or reading.labels:
        return None
    findings = [_error(e.problem, case=e.name, file=description.path) for e in description.entries if e.problem]
    listed = [e for e in description.entries if not e.problem]
    entries = [e for e in listed if e.labels or e.split not in ("validation", "test")]
    cases: dict[str, Case] = {}
    for name, entry in zip(_entry_names(entries), entries, strict=True):
        problem = _entry_problem(entry, known=name in cases) or _masks_problem(entry, description)
        if problem:
            findings.append(_error(problem, case=name, file=entry.images[0]))
        else:
            cases[name] = Case(name=name, images=_existing(entry.images), labels=_label_map(entry, description), split=entry.split)
    findings += [
        *_unlisted(description, listed, entries),
        *wrong_count(description, sum(e.split in ("", *_folds(entries)) for e in entries)),
    ]
    parts = Counter(case.split for case in cases.values() if case.split)
    said = ", ".join(f"{counted(n, 'case')} in {part}" for part, n in sorted(parts.items()))
    return FoundDataset(
        layout=description.layout,
        cases=tuple(cases.values()),
        findings=tuple(findings),
        description=description,
        inferred=(f"the list puts {said}",) if said else (),
        unused=_beside_list(tree, description, listed, entries),
    )


def _folds(entries: Sequence[CaseEntry]) -> set[str]:
    return {e.split for e in entries if e.split.startswith("fold ")}


def _masks_problem(entry: CaseEntry, description: Description) -> str:
    """What is wrong with a list of masks: there must be one for each label that the description names."""
    count = len(description.labels.values) - 1 if description.labels else 0
    if not entry.masks or len(entry.masks) == count:
        return ""
    return f'lists {len(entry.masks)} label maps; expected one, or one for each of the {count} labels of "labels"; correct it'


def _label_map(entry: CaseEntry, description: Description) -> LabelSource | None:
    if not entry.masks or not description.labels:
        return entry.labels
    values = {str(i): value for i, value in enumerate(description.labels.values[1:])}
    return LabelFiles(paths=entry.masks, coding="masks", values=values)


def _beside_list(
    tree: Tree, description: Description, listed: Sequence[CaseEntry], entries: Sequence[CaseEntry]
) -> tuple[Unused, ...]:
    """What lies in the folder and is not in the list, or there without a label map; files beside listed ones are findings."""
    used = {os.path.normpath(p) for e in entries for p in (*_existing(e.images), *((e.labels,) if e.labels else ()), *e.masks)}
    without = {os.path.normpath(p) for e in listed if e not in entries for p in _existing(e.images)}
    beside = {p.rpartition(os.sep)[0] for p in used}
    items = [(os.path.normpath(item.path), item) for item in tree.items]
    unused = [Unused(path=item.path, reason="listed for testing, without a label map") for p, item in items if p in without]
    for p, item in items:
        if p not in used and p not in without and p.rpartition(os.sep)[0] not in beside:
            unused.append(Unused(path=item.path, reason=f"not listed in {description.path.name}"))
    return (*unused, *tree.unused())


def _entry_names(entries: Sequence[CaseEntry]) -> list[str]:
    """Names by the label map's file; with the folder's name before it where names would be equal."""
    files = [e.labels or e.images[0] for e in entries]
    names = [e.name or re.sub(r"_0000$", "", image_name(f)) for e, f in zip(entries, files, strict=True)]
    if len(set(names)) == len(set(files)):
        return names
    longer = [e.name or f"{f.parent.name}_{n}" for e, f, n in zip(entries, files, names, strict=True)]
    return longer if len(set(longer)) == len(set(files)) > len(set(names)) else names


def _entry_problem(entry: CaseEntry, *, known: bool) -> str:
    missing = [f for f in entry.images if not f.exists() and not _channel_files(f)]
    if known:
        return "is listed twice in dataset.json, or two cases share this name; expected one entry per case; remove or rename one"
    if missing:
        return f"image {missing[0]} is listed in dataset.json but is not there; expected the file; restore it or remove the entry"
    if entry.labels is None:
        return "has no label map in dataset.json; expected its path; add it or remove the entry"
    if not entry.labels.exists():
        return f"label map {entry.labels} is missing; expected the file that dataset.json lists; restore it or remove the entry"
    return ""


def _channel_files(listed: Path) -> tuple[Path, ...]:
    """CASE_0000, CASE_0001, ... where dataset.json lists CASE, as for nnU-Net's first version."""
    suffix = listed.name[len(image_name(listed)) :]
    paths = (listed.with_name(f"{image_name(listed)}_{i:04d}{suffix}") for i in range(10_000))
    return tuple(takewhile(Path.exists, paths))


def _existing(images: Sequence[Path]) -> tuple[Path, ...]:
    return tuple(f for listed in images for f in ((listed,) if listed.exists() else _channel_files(listed)))


def _unlisted(description: Description, all_entries: Sequence[CaseEntry], entries: Sequence[CaseEntry]) -> list[Finding]:
    """Images and label maps that lie beside the listed ones with label maps."""
    findings = []
    listed = {
        f.resolve() for e in all_entries for f in (*_existing(e.images), *e.images, *([e.labels] if e.labels else []), *e.masks)
    }
    for kind, files in (("image", [f for e in entries for f in e.images]), ("label map", [e.labels for e in entries if e.labels])):
        for folder in sorted({f.parent for f in files if f.parent.is_dir()}):
            extra = [p for p in image_files(folder) if p.resolve() not in listed]
            advice = f"is not listed in {description.path.name}; expected an entry per case; add one or remove the file"
            findings += [Finding(level="warning", message=f"{kind} {p} {advice}", case=image_name(p), file=str(p)) for p in extra]
            listed.update(p.resolve() for p in extra)
    return findings


def _error(message: str, *, case: str, file: Path) -> Finding:
    return Finding(level="error", message=message, case=case, file=str(file))


LAYOUTS: dict[str, Callable[[Tree, Description | None, Reading], FoundDataset | None]] = {
    "listed": listed_cases,
    "bids": bids,
    "names": infer,
}
"""By the name that --layout takes; (tree, description, reading) -> None for another layout. The first that fits counts."""
