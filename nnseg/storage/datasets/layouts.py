"""Layouts of dataset folders, each a function that returns the cases and what is wrong with them."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from nnseg.core.dataset import Finding, Reading, counted, list_some
from nnseg.core.errors import DatasetError
from nnseg.core.names import fault_of_case, shortened
from nnseg.storage.datasets.dataset_json import DESCRIPTION, Description, read_description
from nnseg.storage.datasets.infer import infer, infer_bids
from nnseg.storage.datasets.items import NUMBER, FoundDataset, Tree, case_error
from nnseg.storage.datasets.listed import listed_cases
from nnseg.storage.datasets.names import contrast, folder_role
from nnseg.storage.datasets.patterns import fit_patterns
from nnseg.storage.datasets.splits import parts_of_table
from nnseg.storage.datasets.tree import list_unused, suffixes_found, walk
from nnseg.storage.images.formats import known_suffixes
from nnseg.storage.images.label_codings import count_values
from nnseg.storage.images.read import read_marks
from nnseg.storage.images.unread import why_unread
from nnseg.system.parallel import map_items
from nnseg.system.regular import files_below

OUTLINES = (
    "outlines in .json or .xml are not read: export them as pictures of label values, such as CVAT's Segmentation mask 1.1, "
    "labelme2voc or, for COCO, pycocotools' annToMask"
)

OPTIONS = 'name them with --images and --labels, such as --images "**/image.nii.gz" --labels "**/labels.nii.gz"'


def find_layout(folder: Path, reading: Reading) -> FoundDataset:
    """The cases of a folder, by the first of the `LAYOUTS` that it has, or by the one that is asked for.

    Raises:
        DatasetError: no such folder or layout, an unreadable dataset.json, no known layout or several, or no usable case.
    """
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "there is no such folder"
        packed = why_unread(folder).partition("; ")[2] if folder.exists() else ""
        raise DatasetError.at(folder, found, "a folder with a dataset", packed or "check the path")
    if reading.layout and reading.layout not in LAYOUTS:
        raise DatasetError(f'there is no layout "{reading.layout}"; write one of {", ".join(LAYOUTS)}')
    path = folder / DESCRIPTION
    description = read_description(path) if path.is_file() else None
    tree = walk(folder)
    reading = fit_patterns(tree, reading)
    tried = [LAYOUTS[reading.layout]] if reading.layout else LAYOUTS.values()
    dataset = next(filter(None, (layout(tree, description, reading) for layout in tried)), None)
    if dataset is None:
        raise _unknown(tree, reading.layout)
    dataset = _with_checked_names(dataset, description)
    if not dataset.cases:
        errors = [f for f in dataset.findings if f.level == "error"]
        first = f"; the first of {len(errors)} problems: {errors[0]}" if errors else ""
        wrong = f"has no usable case ({dataset.layout}; {len(errors)} errors){first}"
        error = DatasetError.at(folder, wrong, "at least one image with a label map", "correct the files named", "NS-D002")
        error.findings = dataset.findings
        error.kind = errors[0].code if len(errors) == 1 else error.kind
        raise error
    dataset = _with_parts(folder, _with_channels(folder, dataset, reading))
    dataset = replace(dataset, findings=(*dataset.findings, *_same_names(dataset)))
    cases = (replace(case, spacing=reading.spacing) for case in dataset.cases)
    return replace(
        dataset, cases=tuple(sorted(cases, key=lambda c: c.name)), unused=(*dataset.unused, *list_unused(tree)), reading=reading
    )


def _with_checked_names(dataset: FoundDataset, description: Description | None) -> FoundDataset:
    """The dataset without cases whose names no file can have; long names that are made of those of folders are shortened."""
    keys = {entry.name for entry in description.entries or ()} if description else set[str]()
    cases, findings = [], [*dataset.findings]
    for case in dataset.cases:
        name = case.name if case.name in keys else shortened(case.name)
        if fault := fault_of_case(name, case.files):
            place = description.path if description and name in keys else case.images[0]
            expected = "a name without separators and control characters"
            message = f'the name "{name}" of a case {fault}; expected {expected}; rename it'
            findings.append(case_error("NS-D037", message, case=name, file=place))
        else:
            cases.append(replace(case, name=name))
    return replace(dataset, cases=tuple(cases), findings=tuple(findings))


def _same_names(dataset: FoundDataset) -> list[Finding]:
    """An error for names of cases that differ in upper and lower case only, or in how accents are coded."""
    alike: dict[str, list[str]] = {}
    for case in dataset.cases:
        alike.setdefault(unicodedata.normalize("NFC", case.name).casefold(), []).append(case.name)
    text = "differ in upper and lower case only, or in how accents are coded; expected different names; rename one"
    return [Finding.of("NS-D010", f"cases {list_some(names)} {text}") for names in alike.values() if len(names) > 1]


def _with_channels(folder: Path, dataset: FoundDataset, reading: Reading) -> FoundDataset:
    """The dataset with the wanted ones of the channels that dataset.json declares.

    Raises:
        DatasetError: one is not declared, or a case has no file of its own for each.
    """
    about = dataset.description
    if not reading.channels or not about or not (dataset.channels or about.channels or about.entries):
        return dataset
    if dataset.channels:  # words in names of files
        return replace(dataset, description=replace(about, channels=dataset.channels))
    chosen = [_number_of(name, about.channels) for name in reading.channels]
    if None in chosen:
        expected = f"some of {', '.join(about.channels)}" if about.channels else f'"channel_names" in {DESCRIPTION}'
        missing = reading.channels[chosen.index(None)]
        raise DatasetError.at(folder, f"there is no channel {missing}", expected, "correct --channels")
    if several := next((case for case in dataset.cases if len(case.images) != len(about.channels)), None):
        found = f"case {several.name} has {counted(len(several.images), 'file')} for {counted(len(about.channels), 'channel')}"
        raise DatasetError.at(folder, found, "a file for each channel, among which --channels chooses", "leave --channels out")
    numbers = [number for number in chosen if number is not None]
    cases = tuple(replace(case, images=tuple(case.images[i] for i in numbers)) for case in dataset.cases)
    return replace(dataset, cases=cases, description=replace(about, channels=tuple(about.channels[i] for i in numbers)))


def _number_of(name: str, declared: Sequence[str]) -> int | None:
    """Which of the declared channels a name means: its own, another spelling of its contrast, or nnU-Net's number."""
    for spelling in (str.casefold, contrast):
        if (low := spelling(name)) in (known := [spelling(channel) for channel in declared]):
            return known.index(low)
    return int(name) if NUMBER.fullmatch(name) and int(name) < len(declared) else None


def _with_parts(folder: Path, dataset: FoundDataset) -> FoundDataset:
    """The dataset with the parts of a split that a table beside the cases tells, if nothing else does."""
    told = parts_of_table(folder, [case.name for case in dataset.cases])
    if told is None or any(case.split for case in dataset.cases):
        return dataset
    path, parts = told
    counts = Counter(parts.values())
    said = ", ".join(f"{counted(n, 'case')} in {part or 'training'}" for part, n in sorted(counts.items()))
    cases = tuple(replace(case, split=parts[case.name]) for case in dataset.cases)
    return replace(dataset, cases=cases, inferred=(f"{path.name} puts {said}", *dataset.inferred))


def _unknown(tree: Tree, layout: str) -> DatasetError:
    """The error for a folder of no known layout, or not of the one asked for, with what recurs in its folders."""
    folders = sorted(p for p in tree.root.iterdir() if p.is_dir() and not p.name.startswith("."))
    for folder in folders:
        role = folder_role(folder.name)
        if role in ("image", "label") and not any(item.folders[:1] == (folder.name,) or item.path == folder for item in tree.items):
            found = f"holds no image; found {suffixes_found(folder)}"
            outlines = role == "label" and {".json", ".xml"} & set(tree.companions)
            advice = OUTLINES if outlines else _advice(walk(folder), "", (), repeated=False)
            return DatasetError.at(folder, found, f"files with one of {known_suffixes()}", advice, "NS-D003")
    recurring = Counter(item.path.name for item in tree.items if item.folders)
    repeated = [f"{name} in {n} folders" for name, n in recurring.most_common(5) if n > 1]
    inside = list_some([f"{p.name}/" for p in folders], 3) or "no folders"
    names = f"; {', '.join(repeated)}" if repeated else ""
    asked = f"is not of the layout {layout}" if layout else "has no known layout of a dataset"
    wrong = f"{asked}; found {inside} and files: {suffixes_found(tree.root)}{names}"
    return DatasetError.at(tree.root, wrong, EXPECTED[layout], _advice(tree, layout, folders, repeated=bool(repeated)), "NS-D003")


def _advice(tree: Tree, layout: str, folders: Sequence[Path], *, repeated: bool) -> str:
    """What to do with a folder of no known layout."""
    if layout:
        return "leave --layout out"
    if not tree.items:
        reasons = Counter(filter(None, map(why_unread, tree.unread)))
        files = tree.unread or tree.companions or tree.no_scans
        return f"each {reasons.most_common(1)[0][0]}" if reasons else "convert the files" if files else "check the path"
    if sum(path.suffix in (".json", ".xml") for path in files_below(tree.root)) > 1 and not repeated:
        return OUTLINES
    beside = [path.name for path in tree.root.parent.iterdir() if path.is_dir() and folder_role(path.name) == "label"]
    if beside and folder_role(tree.root.name) == "image":
        return f"{beside[0]}/ lies beside it: give the folder above, {tree.root.parent}"
    filled = [path.name for path in folders if any(item.folders == (path.name,) for item in tree.items)]
    if len(filled) == len(folders) == 2:
        images, labels = _images_first(tree, filled)
        return f'say which are which: --images "{images}" --labels "{labels}", or the other way round'
    return OPTIONS


def _images_first(tree: Tree, folders: Sequence[str]) -> list[str]:
    """Folders, those first that more likely hold images: by their names, or else since a file has more different values."""
    firsts = {next(item.path for item in tree.items if item.folders == (name,)): name for name in folders}
    values = {firsts[one.item]: one.result or math.inf for one in map_items(_count_values, [*firsts], workers=1)}
    return sorted(folders, key=lambda name: (LIKE_IMAGES.index(folder_role(name)), -values[name], name))


def _count_values(path: Path) -> int:
    """Number of different values, or colours, of a label map; raises ScanError if it can be none."""
    return len(count_values(read_marks(path)[0].codes))


LIKE_IMAGES = ("image", "weak", "", "label")
"""Roles of folders, those first that more likely hold images."""

EXPECTED = {
    "": "dataset.json, or images/ with labels/, or names that tell label maps from images",
    "listed": 'dataset.json with "training", a list of cases',
    "bids": "folders sub-01/, sub-02/, ... with files that begin alike",
    "names": "images/ with labels/, or names that tell label maps from images",
}
"""What each of the `LAYOUTS` needs; "" for any of them."""

LAYOUTS: dict[str, Callable[[Tree, Description | None, Reading], FoundDataset | None]] = {
    "listed": listed_cases,
    "bids": infer_bids,
    "names": infer,
}
"""By the name that --layout takes; (tree, description, reading) -> None for another layout. The first that fits counts."""
