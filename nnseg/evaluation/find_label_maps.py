"""The label maps in a folder, by case: which of its files they are, and what is known of their values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from nnseg.core.dataset import counted
from nnseg.core.errors import DatasetError, EvaluationError, RunError, suppress_unless_fault
from nnseg.core.label_files import LabelFiles
from nnseg.core.names import shortened
from nnseg.evaluation.label_folder import SEGMENTATION, LabelFolder
from nnseg.storage.datasets.dataset_json import DESCRIPTION, read_description
from nnseg.storage.datasets.names import folder_role
from nnseg.storage.datasets.read import read_dataset
from nnseg.storage.images.formats import FOLDER_FORMATS, FORMATS, folder_stem, stem_of, suffix_of
from nnseg.storage.predictions import RECORD, own_files, read_all_records
from nnseg.system.regular import folders_below

NO_LABELS = ("uncertainty map", "probabilities", "objects", "prepared channel")
"""Kinds of own files (`own_files`) that are no label maps."""


def find_label_maps(folder: Path) -> LabelFolder:
    """The label maps of a folder: its own files; or those of a dataset, or of folders in it, one for each case.

    A folder with several files that have the same names in every folder holds a mask for each label.

    Raises:
        EvaluationError: it is no folder, or two files have one name.
        DatasetError: it is a dataset that cannot be read.
    """
    if not folder.is_dir():
        raise EvaluationError(f"{folder} is not a folder; give the folder that holds the label maps")
    found = _of_files(folder)
    if found.files:
        return _named(found)
    if _is_dataset(folder):
        return _of_dataset(folder)
    below = {place.name: files for place in sorted(folder.iterdir()) if place.is_dir() and (files := _files_below(place))}
    if any(len(files) > 1 for files in below.values()):
        with suppress_unless_fault(DatasetError):  # layouts of scans and label maps together
            return _of_dataset(folder)
    return _named(_of_folders(folder, below))


def _of_files(folder: Path) -> LabelFolder:
    """The label maps that lie in a folder itself."""
    files, beside = dict[str, Path](), 0
    for path in sorted(_label_files(folder), key=lambda path: (suffix_of(path) == SEGMENTATION, path)):
        name = shortened(folder_stem(path) if path.is_dir() else stem_of(path))
        other = files.setdefault(name, path)
        if other != path and suffix_of(path) != SEGMENTATION:
            raise EvaluationError(f"{other.name} and {path.name} in {folder} are both called {name}; remove one")
        beside += other != path
    kinds = Counter(own_files(folder).values())
    notes = [f"{counted(kinds['uncertainty map'], 'uncertainty map')}"] if kinds["uncertainty map"] else []
    notes += [f"{counted(kinds['probabilities'], 'file')} of probabilities"] if kinds["probabilities"] else []
    notes += [f"{counted(kinds['objects'], 'file')} of objects"] if kinds["objects"] else []
    notes += [f"{counted(kinds['prepared channel'], 'prepared channel')}"] if kinds["prepared channel"] else []
    notes += [f"{counted(beside, 'DICOM-SEG file')} beside the same label map in another format"] if beside else []
    return LabelFolder(path=folder, files=files, notes=(f"{folder}: not read: {', '.join(notes)}",) if notes else ())


def _label_files(folder: Path) -> Iterator[Path]:
    """Files, and folders that are one image, in a folder that may be label maps; hidden ones are remains of interrupted writing."""
    own = own_files(folder)
    for path in folder.iterdir():
        known = suffix_of(path) in FORMATS or suffix_of(path) == SEGMENTATION
        found = _is_image(path) if path.is_dir() else known and path.is_file()
        if found and not path.name.startswith(".") and own.get(path) not in NO_LABELS:
            yield path


def _is_image(folder: Path) -> bool:
    """True for a folder that is one image, as of OME-Zarr."""
    return any(form.is_image is not None and form.is_image(folder) for form in FOLDER_FORMATS.values())


def _files_below(folder: Path) -> tuple[Path, ...]:
    """Files that may be label maps in a case's folder and its folders, by path."""
    places = [folder, *(place for place in folders_below(folder) if not place.name.startswith("."))]
    return tuple(sorted(path for place in places for path in _label_files(place)))


def _of_folders(folder: Path, below: Mapping[str, Sequence[Path]]) -> LabelFolder:
    """The label maps of folders for cases.

    Args:
        below: the files in each folder, by its name.
    """
    if all(len(files) == 1 for files in below.values()):
        return LabelFolder(path=folder, files={name: files[0] for name, files in below.items()})
    masks = {name: tuple(_without(name, stem_of(path)) for path in files) for name, files in below.items()}
    labels = sorted({label for names in masks.values() for label in names})
    by_stem = {stem_of(path): path for files in below.values() for path in files}
    count, scattered = sum(map(len, below.values())), any(len({path.parent for path in files}) > 1 for files in below.values())
    if len(by_stem) == count and (scattered or (len(below) > 1 and len(labels) == count)):  # of several examinations of a patient
        return LabelFolder(path=folder, files=by_stem)
    files = {name: LabelFiles(paths=tuple(paths), coding="masks") for name, paths in below.items()}
    note = f"{folder}: {counted(len(files), 'folder')} with a mask for each label: {', '.join(labels)}"
    return LabelFolder(path=folder, files=files, masks=masks, notes=(note,))


def _without(case: str, stem: str) -> str:
    """The label's name in the name of a file that may begin with the case's."""
    rest = stem.removeprefix(case)
    return rest.strip("_-. ") or stem if rest[:1] in (*"_-. ", "") else stem


def _is_dataset(folder: Path) -> bool:
    roles = {folder_role(path.name) for path in folder.iterdir() if path.is_dir()}
    return (folder / DESCRIPTION).is_file() or {"image", "label"} <= roles


def _of_dataset(folder: Path) -> LabelFolder:
    dataset = read_dataset(folder)
    labels = dataset.labels
    cases = [case for case in dataset.cases if case.labels is not None]
    numbered = all(name in ("foreground", f"label {value}") for name, value in labels.named.items())
    return LabelFolder(
        path=folder,
        files={case.name: case.labels for case in cases if case.labels is not None},
        labels=None if numbered else labels,
        named_by=str(folder),
        instances=dataset.instances,
        annotated={case.name: case.annotated for case in cases if case.annotated is not None},
        notes=(f"{folder}: {dataset.layout}; its {counted(len(cases), 'label map')} are the references",),
    )


def _named(found: LabelFolder) -> LabelFolder:
    """With the labels that the folder's record names, its dataset.json, or that of the dataset it lies in."""
    record = None
    try:
        record = read_all_records(found.path)
    except RunError as error:  # there is none, or it is damaged or of another program
        if error.is_fault:
            raise
        if (found.path / RECORD).exists():
            note = f"{found.path / RECORD} is damaged, or of another program or version: it names no labels here"
            found = replace(found, notes=(*found.notes, note))
    cases = record.cases if record else {}
    objects = {name: found.path / case.objects_file for name, case in cases.items() if case.objects_file}
    found = replace(found, predicted=record is not None, objects=objects)
    if record and record.labels:
        return replace(found, labels=record.labels, named_by=str(found.path / RECORD))
    files = [found.path / DESCRIPTION, *([found.path.parent / DESCRIPTION] if folder_role(found.path.name) == "label" else [])]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        return found
    try:
        about = read_description(file)
    except DatasetError as error:
        if error.is_fault:
            raise
        return replace(found, notes=(*found.notes, f"{error}; until then it names no labels here"))
    return replace(found, labels=about.labels, named_by=str(file), instances=about.instances)
