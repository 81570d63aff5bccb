"""Layouts of dataset folders, each a function that returns the cases and what is wrong with them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

from nnseg.core.dataset import Case, Finding
from nnseg.core.errors import DatasetError
from nnseg.storage.datasets.dataset_json import CaseEntry, Description, read_description
from nnseg.storage.datasets.find_cases import by_channel, by_name, case_name, image_files, image_name, suffixes_found
from nnseg.storage.images.formats import known_suffixes

PAIRS = (("imagesTr", "labelsTr"), ("images", "labels"), ("images", "masks"))
"""Folders of images and of label maps that belong together."""


@dataclass(frozen=True, kw_only=True)
class FoundDataset:
    """What a dataset folder holds, before any image was opened.

    Args:
        cases: usable by their names, sorted.
        description: of its dataset.json, if it has one.
    """

    layout: str
    cases: tuple[Case, ...]
    findings: tuple[Finding, ...]
    description: Description | None


def find_layout(folder: Path) -> FoundDataset:
    """The cases of a folder, by the first of the `LAYOUTS` that it has.

    Raises:
        DatasetError: no such folder, an unreadable dataset.json, no known layout, or no usable case.
    """
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "there is no such folder"
        raise DatasetError.at(folder, found, "a folder with a dataset", "check the path")
    path = folder / "dataset.json"
    description = read_description(path) if path.is_file() else None
    dataset = next(filter(None, (layout(folder, description) for layout in LAYOUTS)), None)
    if dataset is None:
        folders = (p.name + "/" for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
        inside = ", ".join(sorted(folders)) or "no folders"
        wrong = f"has no known layout of a dataset; found {inside} and files: {suffixes_found(folder)}"
        expected = "dataset.json, or images/ with labels/"
        raise DatasetError.at(folder, wrong, expected, "arrange it so; the README shows the layouts")
    if not dataset.cases:
        errors = [f for f in dataset.findings if f.level == "error"]
        first = f"; the first of {len(errors)} problems: {errors[0]}" if errors else ""
        wrong = f"has no usable case ({dataset.layout}; {len(errors)} errors){first}"
        raise DatasetError.at(folder, wrong, "at least one image with a label map", "correct the files named")
    return replace(dataset, cases=tuple(sorted(dataset.cases, key=lambda c: c.name)))


def listed_cases(folder: Path, description: Description | None) -> FoundDataset | None:
    """The cases that dataset.json lists; None if it lists none."""
    if description is None or description.entries is None:
        return None
    findings = [_error(e.problem, case=e.name, file=description.path) for e in description.entries if e.problem]
    entries = [e for e in description.entries if not e.problem]
    cases: dict[str, Case] = {}
    for name, entry in zip(_entry_names(entries), entries, strict=True):
        problem = _entry_problem(entry, known=name in cases)
        if problem:
            findings.append(_error(problem, case=name, file=entry.images[0]))
        else:
            cases[name] = Case(name=name, images=_existing(entry.images), labels=entry.labels)
    findings += [*_unlisted(description, entries), *_wrong_count(description, len(entries))]
    return FoundDataset(layout=description.layout, cases=tuple(cases.values()), findings=tuple(findings), description=description)


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


def _unlisted(description: Description, entries: Sequence[CaseEntry]) -> list[Finding]:
    """Images and label maps that lie beside the listed ones."""
    findings = []
    listed = {f.resolve() for e in entries for f in (*_existing(e.images), *e.images, *([e.labels] if e.labels else []))}
    for kind, files in (("image", [f for e in entries for f in e.images]), ("label map", [e.labels for e in entries if e.labels])):
        for folder in sorted({f.parent for f in files if f.parent.is_dir()}):
            extra = [p for p in image_files(folder) if p.resolve() not in listed]
            advice = f"is not listed in {description.path.name}; expected an entry per case; add one or remove the file"
            findings += [Finding(level="warning", message=f"{kind} {p} {advice}", case=image_name(p), file=str(p)) for p in extra]
            listed.update(p.resolve() for p in extra)
    return findings


def paired_folders(folder: Path, description: Description | None) -> FoundDataset | None:
    """The cases of a folder of images and a folder of label maps with equal names; None if no such pair is there."""
    pairs = ((folder / images, folder / labels) for images, labels in PAIRS)
    folders = next(((images, labels) for images, labels in pairs if images.is_dir() and labels.is_dir()), None)
    if folders is None:
        return None
    for place in folders:
        if not image_files(place):
            found = f"holds no image; found {suffixes_found(place)}"
            raise DatasetError.at(place, found, f"files with one of {known_suffixes()}", "convert the files")
    files, doubled_images = by_name(image_files(folders[0]))
    maps, doubled_maps = by_name(p for p in image_files(folders[1]) if p.is_file())
    doubled = {**doubled_images, **doubled_maps}
    findings = [_doubled(name, paths) for name, paths in doubled.items()]
    cases = []
    groups = by_channel(files, {*maps, *doubled_maps})
    count = _files_per_case(groups.values(), description)
    lost = {case_name(name) for name in doubled} | set(doubled)
    for name in sorted((set(groups) | set(maps)) - lost):
        group = groups.get(name, {})
        problem, file = _pair_problem(name, group, maps.get(name), count, folders)
        if problem:
            findings.append(_error(problem, case=name, file=file))
        else:
            cases.append(Case(name=name, images=tuple(group[i] for i in sorted(group)), labels=maps[name]))
    if description:
        findings += _wrong_count(description, len(groups))
    return FoundDataset(
        layout=_pair_layout(*folders, description), cases=tuple(cases), findings=tuple(findings), description=description
    )


def _pair_layout(images: Path, labels: Path, description: Description | None) -> str:
    if description and (images.name, labels.name) == PAIRS[0] and description.channels:
        return "nnU-Net raw layout"
    return f"pair of folders layout ({images.name}/ and {labels.name}/)"


def _files_per_case(groups: Iterable[dict[int, Path]], description: Description | None) -> int:
    """How many files each case must have: one where every case has just one, which may hold several channels."""
    most = max((max(group) + 1 for group in groups), default=1)
    if most == 1:
        return 1
    return len(description.channels) if description and description.channels else most


def _pair_problem(
    name: str, group: dict[int, Path], label: Path | None, count: int, folders: tuple[Path, Path]
) -> tuple[str, Path]:
    """What is wrong with one case ("" for nothing), and the file to name."""
    images, labels = folders
    if not group and label is not None:
        return f"label map {label} has no image; expected {name} in {images.name}/; add the image or remove the label map", label
    first = next(iter(group.values()))
    if label is None:
        return f"image {first} has no label map; expected {name} in {labels.name}/; add it or remove the image", first
    missing = [f"{name}_{i:04d}" for i in range(count) if i not in group]
    if missing:
        return f"channel file {missing[0]} is missing; expected {count} files a case; restore it or remove the case", first
    if len(group) > count:
        extra = group[max(group)]
        return f"{extra} is one channel too many; expected {count} as declared; remove it or correct dataset.json", extra
    return "", first


def _doubled(name: str, paths: Sequence[Path]) -> Finding:
    listed = " and ".join(p.name for p in paths)
    message = f"{listed} share one name; expected one file per case and channel; remove or rename one"
    return _error(message, case=case_name(name), file=paths[0])


def _wrong_count(description: Description, count: int) -> list[Finding]:
    if description.count in (None, count):
        return []
    message = f"numTraining is {description.count}, but there are {count} cases; the number was ignored"
    return [Finding(level="note", message=message, file=str(description.path))]


def _error(message: str, *, case: str, file: Path) -> Finding:
    return Finding(level="error", message=message, case=case, file=str(file))


LAYOUTS = (listed_cases, paired_folders)
"""Each (folder, description) -> FoundDataset, or None for a folder of another layout."""
