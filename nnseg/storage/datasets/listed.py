"""Cases that dataset.json lists, and what lies beside them."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from nnseg.core.dataset import Case, Finding, Reading, Unused, counted
from nnseg.core.label_files import LabelFiles, LabelSource
from nnseg.storage.datasets.dataset_json import CaseEntry, Description
from nnseg.storage.datasets.items import FoundDataset, Tree, case_error, wrong_count
from nnseg.storage.images.formats import image_files, image_name
from nnseg.system.regular import resolved


def listed_cases(tree: Tree, description: Description | None, reading: Reading) -> FoundDataset | None:
    """The cases that dataset.json lists; None if it lists none, or if patterns are given."""
    if description is None or description.entries is None or reading.images or reading.labels:
        return None
    findings = [case_error("NS-D034", e.problem, case=e.name, file=description.path) for e in description.entries if e.problem]
    listed = [e for e in description.entries if not e.problem]
    entries = [e for e in listed if e.labels or e.split not in ("validation", "test")]
    cases: dict[str, Case] = {}
    for name, entry in zip(_entry_names(entries), entries, strict=True):
        problem = _entry_problem(entry, known=name in cases) or _masks_problem(entry, description)
        if problem:
            findings.append(case_error("NS-D034", problem, case=name, file=entry.images[0]))
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
    if not count:
        names = ", ".join(f'"{name}": {i}' for i, name in enumerate(("background", *map(image_name, entry.masks))))
        return f'lists {len(entry.masks)} label maps, but no "labels"; add their names in this order, such as "labels": {{{names}}}'
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
    return tuple(unused)


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
        resolved(f) for e in all_entries for f in (*_existing(e.images), *e.images, *([e.labels] if e.labels else []), *e.masks)
    }
    for kind, files in (("image", [f for e in entries for f in e.images]), ("label map", [e.labels for e in entries if e.labels])):
        for folder in sorted({f.parent for f in files if f.parent.is_dir()}):
            extra = [p for p in image_files(folder) if resolved(p) not in listed]
            advice = f"is not listed in {description.path.name}; expected an entry per case; add one or remove the file"
            findings += [Finding.of("NS-D025", f"{kind} {p} {advice}", case=image_name(p), file=p) for p in extra]
            listed.update(resolved(p) for p in extra)
    return findings
